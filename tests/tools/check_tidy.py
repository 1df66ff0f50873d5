#!/usr/bin/env python3
"""clang-tidy over the project's files of a compile database, in parallel.

    check_tidy.py [DATABASE-FOLDER]     default: build/clang

A file that passed is not checked again until it, a header of it, its flags, the rules or
clang-tidy change: build/tidy keeps one empty file for each passed state.
"""
import concurrent.futures
import hashlib
import json
import os
import pathlib
import shlex
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
CACHE = ROOT / "build/tidy"
NOISE = ("warnings generated", "Suppressed ", "Use -header-filter", "warning generated")


def command_of(entry):
    """The compile command without its output."""
    words = shlex.split(entry["command"]) if "command" in entry else list(entry["arguments"])
    if "-o" in words:
        at = words.index("-o")
        del words[at:at + 2]
    return words


def headers_of(entry):
    """The files that the compiler reads for this one, itself included; [] when it cannot say."""
    words = [word for word in command_of(entry) if word not in ("-c", "-MD")]
    for flag in ("-MF", "-MT"):
        if flag in words:
            at = words.index(flag)
            del words[at:at + 2]
    listed = subprocess.run([*words, "-M"], cwd=entry["directory"], capture_output=True,
                            text=True, check=False)
    return listed.stdout.replace("\\\n", " ").split()[1:] if listed.returncode == 0 else []


def rules_text(path):
    """Every .clang-tidy that holds for the file."""
    folders = [folder for folder in path.parents if folder == ROOT or ROOT in folder.parents]
    texts = [folder / ".clang-tidy" for folder in folders]
    return b"".join(text.read_bytes() for text in texts if text.exists())


def state_of(entry, version):
    headers = headers_of(entry)
    if not headers:
        return None
    state = hashlib.sha256(version.encode() + rules_text(pathlib.Path(entry["file"])))
    state.update(" ".join(command_of(entry)).encode())
    for header in sorted(set(headers)):
        path = pathlib.Path(entry["directory"], header).resolve()
        if ROOT in path.parents:
            state.update(path.read_bytes())
        else:
            state.update(f"{path} {path.stat().st_mtime_ns}".encode())
    return CACHE / state.hexdigest()


def check(entry, folder, version):
    """(file, what clang-tidy says, whether it was known already)."""
    state = state_of(entry, version)
    if state is not None and state.exists():
        return entry["file"], "", True
    done = subprocess.run(["clang-tidy", "-p", folder, "--quiet", entry["file"]], cwd=ROOT,
                          capture_output=True, text=True, check=False)
    lines = [line for line in (done.stdout + done.stderr).splitlines()
             if line and not any(word in line for word in NOISE)]
    if done.returncode == 0 and not lines and state is not None:
        state.touch()
    elif done.returncode != 0 and not lines:
        lines = [f"clang-tidy ended with {done.returncode}"]
    return entry["file"], "\n".join(lines), False


def main():
    folder = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "build/clang")
    folder = folder if folder.is_absolute() else ROOT / folder
    CACHE.mkdir(parents=True, exist_ok=True)
    version = subprocess.run(["clang-tidy", "--version"], capture_output=True, text=True,
                             check=True).stdout
    database = json.loads((folder / "compile_commands.json").read_text())
    entries = {entry["file"]: entry for entry in database
               if pathlib.Path(entry["file"]).is_relative_to(ROOT)
               and not pathlib.Path(entry["file"]).is_relative_to(ROOT / "build")
               # written to fit a page, in the style of those who will copy them
               and not pathlib.Path(entry["file"]).is_relative_to(ROOT / "client/examples")}
    bad = known = 0
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = [pool.submit(check, entry, folder, version) for entry in entries.values()]
        for job in concurrent.futures.as_completed(jobs):
            file, said, was_known = job.result()
            known += was_known
            if said:
                bad += 1
                print(said.replace(f"{ROOT}/", ""), flush=True)
    print(f"tidy: {len(entries)} files, {known} unchanged since they passed, {bad} with findings")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
