#!/usr/bin/env python3
"""Fail when the documentation names an option that no program has, or a page that is not there.

Options are taken from code in Markdown: those that stand alone, and those of our own commands.
Programs that are not built yet are left out, with a note.
"""
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")
SPAN = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)(?:\s+\"[^\"]*\")?\)")
HEADING = re.compile(r"^#+\s+(.*?)\s*#*$")
SCRIPTS = ("deploy/quickstart", "deploy/quickstart-daemon", "deploy/install-packages", "tests/run",
           "tests/engines/run")
OURS = re.compile(r"^(?:\S*/)?(kveikd?|quickstart|install-packages|run)$")
PREFIX = re.compile(r"^(?:\$\s+|#\s+)?(?:sudo\s+)?(?:\w+=\S*\s+)*")


def pages():
    listed = subprocess.run(["git", "-C", ROOT, "ls-files", "-z", "--cached", "--others",
                             "--exclude-standard", "*.md"], capture_output=True, check=True)
    return [ROOT / name for name in sorted(set(listed.stdout.decode().split("\0")) - {""})
            if (ROOT / name).is_file()]


def help_of(*words):
    try:
        done = subprocess.run([*words, "--help"], cwd=ROOT, capture_output=True, text=True,
                              timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout + done.stderr


def known_options():
    """Every option of every program and subcommand, and the programs that are missing."""
    texts, missing = [help_of(ROOT / script) for script in SCRIPTS], []
    for name in ("kveikd", "kveik"):
        found = [path for preset in ("release", "debug") if
                 (path := ROOT / "build" / preset / "bin" / name).exists()]
        if not found:
            missing.append(name)
            continue
        text = help_of(found[0])
        texts.append(text)
        if name == "kveik":
            commands = set(re.findall(r"^\s{1,4}([a-z][a-z-]+)\b", text, re.M))
            texts += [help_of(found[0], command) for command in sorted(commands)]
            for bench in ("local", "disk"):  # commands of a command
                texts.append(help_of(found[0], "bench", bench))
    return set(OPTION.findall("\n".join(texts))), missing


def code_of(lines):
    """(line number, code) of spans and of lines in fenced blocks."""
    fenced = False
    for number, line in enumerate(lines, 1):
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif fenced:
            yield number, line.strip()
        else:
            for span in SPAN.findall(line):
                yield number, span.strip()


def check_options(page, lines, known):
    for number, code in code_of(lines):
        words = PREFIX.sub("", code).split()
        if not words or not (words[0].startswith("--") or OURS.match(words[0])):
            continue
        for option in OPTION.findall(code):
            if option not in known:
                yield f"{page}:{number}: no program has {option}"


def anchors(path):
    """The names that headings of a page can be linked by."""
    found = set()
    for line in path.read_text().splitlines():
        match = HEADING.match(line)
        if match:
            text = re.sub(r"[^\w\- ]", "", match.group(1).lower())
            found.add(text.replace(" ", "-"))
    return found


def check_links(path, lines):
    page = path.relative_to(ROOT)
    for number, line in enumerate(lines, 1):
        for target in LINK.findall(SPAN.sub("", line)):
            if re.match(r"^[a-z]+:", target):
                continue
            name, _, anchor = target.partition("#")
            there = (path.parent / name).resolve() if name else path
            if not there.exists():
                yield f"{page}:{number}: {name} is not there"
            elif anchor and there.suffix == ".md" and anchor not in anchors(there):
                yield f"{page}:{number}: {target} has no such heading"


def main():
    known, missing = known_options()
    found = []
    for path in pages():
        lines = path.read_text().splitlines()
        found += check_links(path, lines)
        if not missing:
            found += check_options(path.relative_to(ROOT), lines, known)
    if missing:
        print(f"docs: options not checked: {' and '.join(missing)} not built")
    print("\n".join(found) or "docs: links and options resolve")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
