"""Kveik for Python: an engine's way to the KV cache daemon of its node.

    client = kveik.Client()
    space = client.register_space("model", "bf16", [kveik.Group(32, heads=8, kinds=(128, 128))])
    region = client.export(kv_cache)
    layout = client.register_layout(space, page_tokens=16, page_count=pages, head_count=8,
                                    planes=kveik.planes_of(kv_cache, region, "layer kind page ..."))
    keys = kveik.hash_tokens(prompt)
    found = client.lookup(space, keys)
    client.pull(kveik.PullRun(layout, keys[:32 * found.hit_keys], pages), lease=found.lease)
    client.push(kveik.PushRun(layout, keys, pages))

A thin layer over libkveik: the daemon moves the bytes, and Python's lock is not held meanwhile.
kveik.aio has the client for asyncio; `python -m kveik` tries a daemon out.
"""
try:
    from ._native import ffi as _ffi, lib as _lib
except ModuleNotFoundError as error:
    raise ImportError(f"{__path__[0]} holds the sources of the package, not an installed one: "
                      "`pip install ./client/python`, and start Python in another folder"
                      ) from error
from .arrays import planes_of
from .client import Client
from .errors import (Busy, Cancelled, Closed, Corrupt, Deadline, Error, Forked, Invalid, IOFailed,
                     Limit, Lost, MemoryFailed, Mismatch, NoMemory, NoSpace, Permission, Protocol,
                     Quota, Shutdown, Status, Stuck, Unavailable, UnknownId, Unsupported, Version)
from .hashing import Hasher, hash_tokens
from .memory import Memory
from .types import (GRAIN_TOKENS, KEY_BYTES, Admission, Completion, Dtype, Group, Info, Kind,
                    Mode, Origin, Plane, PullRun, PushRun, Region, Rule, Want)

__version__: str = _ffi.string(_lib.kveik_version()).decode()
"""Of libkveik, "0.1.0"."""

__all__ = [
    "Admission", "Busy", "Cancelled", "Client", "Closed", "Completion", "Corrupt", "Deadline",
    "Dtype", "Error", "Forked", "GRAIN_TOKENS", "Group", "Hasher", "IOFailed", "Info", "Invalid",
    "KEY_BYTES", "Kind", "Limit", "Lost", "Memory", "MemoryFailed", "Mismatch", "Mode", "NoMemory",
    "NoSpace", "Origin", "Permission", "Plane", "Protocol", "PullRun", "PushRun", "Quota", "Region",
    "Rule", "Shutdown", "Status", "Stuck", "Unavailable", "UnknownId", "Unsupported", "Version",
    "Want", "hash_tokens", "planes_of",
]
