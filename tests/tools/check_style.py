#!/usr/bin/env python3
"""The rules that neither the formatter nor the compiler knows.

    check_style.py [ROOT]       check the tree
    check_style.py --self-test  show that planted violations are found

A call that is banned but right stands with `style-ok: REASON` in a comment on its line.
"""
import json
import pathlib
import re
import subprocess
import sys
import tempfile

FUNCTION_LINES = 70
FILE_LINES_WARN, FILE_LINES = 500, 700
COLUMNS = 100
TEXT = {".c", ".h", ".inc", ".cu", ".cuh", ".py", ".sh", ".cmake", ".proto", ".txt", ".md", ".yaml",
        ".yml", ".json", ".toml", ""}
SOURCES = {".c", ".h", ".inc", ".cu", ".cuh"}
CODE = SOURCES | {".py", ".sh", ".cmake", ".proto"}
ROOMS = ("base/", "proto/", "storage/", "gpu/", "daemon/", "client/")

HEAP = "heap_alloc() and its family of base/heap.h"
# call: (what to use, where it is right all the same)
BANNED = {
    r"malloc|calloc|realloc|free|strdup|strndup|posix_memalign|aligned_alloc|asprintf|vasprintf":
        (HEAP, re.compile(r"^(base/heap\.c|tests/|client/examples/)")),
    r"atoi|atol|atoll|atof|strtol|strtoll|strtoul|strtoull|strtoimax|strtoumax":
        ("number_parse() of base/size.h", re.compile(r"^client/examples/")),
    r"sprintf|vsprintf": ("snprintf()", None),
    r"strcpy|strcat|stpcpy": ("snprintf() or memcpy() with a checked length", None),
    r"gets": ("fgets()", None),
    r"usleep": ("a timer of the loop, or nanosleep()", None),
    r"exit": ("a status to the caller", re.compile(r"(^|/)main\.c$")),
    r"rand|srand|random|drand48": ("rng_next() of base/rng.h", None),
}
MAGIC = re.compile(r"\b(\w*MAGIC\w*)\s*(?:=\s*)?\(?\s*(0x[0-9a-fA-F]+)")
COVERS = re.compile(r"\bCovers: ([^*]+)")  # in the opening comment of a test: further files
UNFINISHED = re.compile(r"\b(TODO|FIXME)\b")
# Traces of where and how a file was written, which say nothing to its reader.
TRACES = re.compile(r"\bsub-?agents?\b|\bas an AI\b|(?<![\w.])/work/|\bclaude\b", re.I)
LITERAL = re.compile(r'"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'|//[^\n]*|/\*.*?\*/', re.S)
# built where what they need is there
OPTIONAL = ("tests/fuzz/", "gpu/", "client/examples/llamacpp/", "tests/engines/llamacpp/")
HERE = "tests/tools/check_style.py"
CORPUS = "tests/fuzz/corpus/"  # inputs, not texts


def bare(text):
    """C without its comments and texts, line by line as before."""
    return LITERAL.sub(lambda found: re.sub(r"[^\n]", " ", found.group()), text)


def functions(lines):
    """(first line, lines) of each body: between a brace and its partner in one column."""
    start = {}
    for number, line in enumerate(lines, 1):
        match = re.match(r"^( {0,4})([{}])$", line)
        if match and match.group(2) == "{":
            start[match.group(1)] = number
        elif match and match.group(1) in start:
            first = start.pop(match.group(1))
            yield first, number - first


def check_calls(path, lines, code):
    for number, line in enumerate(code, 1):
        if "style-ok:" in lines[number - 1]:
            continue
        for names, (instead, free) in BANNED.items():
            found = re.search(rf"(?<![\w.>])({names})\s*\(", line)
            if found and not (free and free.search(path)):
                yield f"{path}:{number}: {found.group(1)}(): use {instead}"


def check_text(path, text):
    lines = text.splitlines()
    is_code = pathlib.PurePath(path).suffix in CODE or text.startswith("#!")
    for number, line in enumerate(lines, 1):
        if path != HERE and UNFINISHED.search(line):
            yield f"{path}:{number}: unfinished by its own words"
        if path != HERE and TRACES.search(line):
            yield f"{path}:{number}: says where or how it was written: {line.strip()[:60]}"
        if len(line) > COLUMNS and is_code:
            yield f"{path}:{number}: {len(line)} columns: at most {COLUMNS}"
        if line != line.rstrip() and not path.endswith(".md") and not path.startswith(CORPUS):
            yield f"{path}:{number}: white space at the end of the line"
    if len(lines) > FILE_LINES and not path.endswith((".json", ".jsonl")):
        yield f"{path}:1: {len(lines)} lines: at most {FILE_LINES}; find the second concept in it"


def check_source(path, text):
    lines, code = text.splitlines(), bare(text).splitlines()
    for first, count in functions(code):
        if count > FUNCTION_LINES:
            yield f"{path}:{first}: a function of {count} lines: at most {FUNCTION_LINES}"
    yield from check_calls(path, lines, code)


def check_magics(sources):
    seen = {}
    for path, text in sources.items():
        for name, number in MAGIC.findall(bare(text)):
            other = seen.setdefault(int(number, 16), (path, name))
            if other != (path, name):
                yield f"{path}:1: {name} has the number of {other[1]} in {other[0]}"


def check_companions(root, files, sources):
    """Every source has its test, every folder its README."""
    tests = {path: text for path, text in sources.items() if path.startswith("tests/")}
    tests |= {path: (root / path).read_text().removeprefix("#!/usr/bin/env python3\n\"\"\"").split(
        '"""')[0] for path in files
        if path.startswith(("tests/e2e/", "tests/engines/")) and path.endswith(".py")}
    covered = {name for text in tests.values() for names in COVERS.findall(text)
               for name in re.findall(r"[\w/.-]+\.c\b", names)}
    for name in sorted(covered - set(files)):
        yield f"{name}:1: a test says that it covers it, but it is not there"
    notes = root / "tests/tools/style_exceptions.txt"
    noted = notes.read_text().splitlines() if notes.exists() else []
    excused = {line.split(":")[0] for line in noted if ":" in line and not line.startswith("#")}
    for path in sorted(excused - set(files)):
        yield f"{path}:1: excused in style_exceptions.txt but not there"
    for path in files:
        pure = pathlib.PurePath(path)
        if path.endswith(".c") and path.startswith(ROOMS):
            tests = {f"tests/unit/check_{pure.stem}.c",
                     f"tests/unit/check_{pure.parent.name}_{pure.stem}.c"}
            if tests & set(files) or path in covered:
                if path in excused:
                    yield f"{path}:1: has a test: take it out of style_exceptions.txt"
            elif path not in excused:
                yield f"{path}:1: has no {min(tests, key=len)}, and no test covers it"
    folders = {pathlib.PurePath(path).parent for path in files
               if pathlib.PurePath(path).suffix in SOURCES | {".py", ".sh", ".proto"}}
    for folder in sorted(folders):
        shared = folder.parts[0] in ("tests", "deploy") or folder.parts[:2] == ("client", "include")
        homes = [folder, *folder.parents][:-1] if shared else [folder]
        if not any(f"{home}/README.md" in files for home in homes):
            yield f"{folder}:1: has no README.md"


def check_built(root, files):
    """Every source is known to a build that was configured here."""
    known = set()
    for database in root.glob("build/*/compile_commands.json"):
        known |= {entry["file"] for entry in json.loads(database.read_text())}
    for path in files if known else []:
        if path.endswith(".c") and str(root / path) not in known:
            if not path.startswith(OPTIONAL):
                yield f"{path}:1: no CMakeLists.txt builds it"


def tracked(root):
    """What git has or would take, as paths from the top."""
    listed = subprocess.run(["git", "-C", root, "ls-files", "-z", "--cached", "--others",
                             "--exclude-standard"], capture_output=True, check=True)
    names = sorted(set(listed.stdout.decode().split("\0")) - {""})
    return [name for name in names if (root / name).is_file()]


def check(root):
    files = tracked(root)
    found, warnings, sources = [], [], {}
    for path in files:
        pure = pathlib.PurePath(path)
        if pure.suffix not in TEXT or path in ("LICENSE", "NOTICE"):
            continue
        text = (root / path).read_text(errors="replace")
        found += check_text(path, text)
        if pure.suffix in SOURCES:
            sources[path] = text
            found += check_source(path, text)
            count = text.count("\n")
            if FILE_LINES_WARN < count <= FILE_LINES:
                warnings.append(f"{path}: {count} lines: more than {FILE_LINES_WARN}")
    found += [*check_magics(sources), *check_companions(root, files, sources),
              *check_built(root, files)]
    return found, warnings


LONG = "int f(void)\n{\n" + "    g();\n" * 70 + "}\n"
# (file, its text, a word of the finding, or None where there must be none)
PLANTED = [
    ("base/a.c", LONG, "a function of 71 lines"),
    ("base/a.c", LONG.replace("    g();\n", "", 1), None),
    ("tests/unit/check_x.c", "START_TEST(x)\n    {\n" + "        g();\n" * 71 + "    }\nEND_TEST\n",
     "a function of 72"),
    ("base/a.c", "int x;\n" * 701, "701 lines"),
    ("base/a.c", "int " + "x" * 100 + ";\n", "columns"),
    ("base/a.c", "void *p = malloc(3);\n", "heap_alloc"),
    ("base/a.c", "void *p = heap_malloc(3);\n/* malloc(3) */\nchar *t = \"malloc(3)\";\n", None),
    ("base/a.c", "free(json); /* style-ok: the library's memory */\n", None),
    ("base/heap.c", "void *p = malloc(3);\n", None),
    ("tests/unit/check_x.c", "void *p = malloc(3);\n", None),
    ("tests/unit/check_x.c", "int x = atoi(t);\n", "number_parse"),
    ("base/a.c", "long x = strtol(t, NULL, 10);\n", "number_parse"),
    ("base/a.c", "(void)sprintf(t, u);\n", "snprintf"),
    ("base/a.c", "(void)strcat(t, u);\n", "snprintf"),
    ("base/a.c", "usleep(3);\n", "nanosleep"),
    ("base/a.c", "exit(3);\n", "a status"),
    ("daemon/main.c", "exit(3);\n", None),
    ("base/a.c", "#define A_MAGIC 0x41u\n#define B_MAGIC 0x41u\n", "has the number of"),
    ("base/a.c", "int x; // TODO\n", "unfinished"),
    ("docs/a.md", "see /work/main\n", "where or how"),
    ("base/a.c", "int x; \n", "white space"),
    ("base/lonely.c", "int x;\n", "has no tests/unit/check_lonely.c"),
    ("base/a.c", "int x;\n", None),
    ("tests/unit/check_a.c", "/* Covers: base/gone.c */\n", "base/gone.c:1: a test says"),
    ("storage/x/a.c", "int x;\n", "storage/x:1: has no README.md"),
]


def self_test():
    wrong = 0
    for name, text, expected in PLANTED:
        with tempfile.TemporaryDirectory() as folder:
            root = pathlib.Path(folder)
            files = {"base/README.md": "", "daemon/README.md": "", "docs/README.md": "",
                     "tests/README.md": "", "tests/unit/check_a.c": "",
                     "tests/unit/check_heap.c": "", "tests/unit/check_main.c": "", name: text}
            for path, content in files.items():
                (root / path).parent.mkdir(parents=True, exist_ok=True)
                (root / path).write_text(content)
            subprocess.run(["git", "init", "-q", folder], check=True)
            found, _ = check(root)
            good = not found if expected is None else any(expected in line for line in found)
            if not good:
                print(f"self-test: {name}: expected {expected}, found {found}")
                wrong += 1
    print(f"self-test: {len(PLANTED) - wrong} of {len(PLANTED)} planted files judged rightly")
    return wrong


if __name__ == "__main__":
    if sys.argv[1:] == ["--self-test"]:
        sys.exit(1 if self_test() else 0)
    top = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else pathlib.Path(__file__).parents[2]
    violations, remarks = check(top.resolve())
    for remark in remarks:
        print(f"warning: {remark}")
    print("\n".join(violations) or "style: nothing to remark")
    sys.exit(1 if violations else 0)
