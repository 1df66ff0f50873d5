"""Names for weights: other weights must give another name, or engines would share wrong KV.

The name is a SHA-256 over the files, whole. Hashing takes about a second per gigabyte, so digests
are remembered by path, size, inode and time of change, in a file under the user's cache folder.
"""
from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import pathlib
from collections.abc import Iterator

_SUFFIXES = {".safetensors", ".bin", ".pt", ".pth", ".gguf", ".json"}
_NOT_WEIGHTS = {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
                "added_tokens.json", "vocab.json", "generation_config.json",
                "preprocessor_config.json", "chat_template.json"}
_REMEMBERED_MAX = 4096


def _store() -> pathlib.Path:
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return pathlib.Path(base) / "kveik" / "digests.json"


@contextlib.contextmanager
def _remembered() -> Iterator[dict[str, str]]:
    """The digests of before; what is added is kept, if the file can be written. One process at a
    time, so that the workers of an engine hash its weights once and not once each."""
    path = _store()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = open(path.with_suffix(".lock"), "w")
    except OSError:
        yield {}
        return
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            known = json.loads(path.read_text())
            known = {str(k): str(v) for k, v in known.items()}
        except (OSError, ValueError, AttributeError):
            known = {}
        before = dict(known)
        yield known
        if known != before:
            kept = dict(list(known.items())[-_REMEMBERED_MAX:])
            with contextlib.suppress(OSError):
                fresh = path.with_suffix(f".{os.getpid()}")
                fresh.write_text(json.dumps(kept))
                fresh.replace(path)


def _file_digest(path: pathlib.Path, known: dict[str, str]) -> str:
    path = path.resolve()
    now = path.stat()
    name = f"{path}:{now.st_size}:{now.st_ino}:{now.st_mtime_ns}:{now.st_ctime_ns}"
    if name not in known:
        with open(path, "rb") as file:
            known[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return known[name]


def folder_digest(folder: str) -> str:
    """The digest of all weights and configuration files in a folder, or of one file. ValueError if
    there are none."""
    root = pathlib.Path(folder)
    files = [root] if root.is_file() else sorted(
        path for path in root.iterdir()
        if path.suffix in _SUFFIXES and path.name not in _NOT_WEIGHTS and path.is_file())
    if not files:
        raise ValueError(f"no weights in {folder}")
    with _remembered() as known:
        rows = [f"{path.name} {_file_digest(path, known)}\n" for path in files]
    return hashlib.sha256("".join(rows).encode()).hexdigest()


def adapter_digest(path: str) -> str:
    """Of a LoRA adapter's files; "" for one that is no local folder, whose name must do."""
    return folder_digest(path) if os.path.isdir(path) else ""
