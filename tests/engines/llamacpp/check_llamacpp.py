"""The rows of llama.cpp: each class of test_llamacpp.py, and what bench.py measures."""
import os
import pathlib
import re
import subprocess
import sys

from table import Row

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[2]
LIMIT_S = 600


def version():
    """Of llama-cpp-python, whose sources libllama is built from."""
    return re.search(r"^version (\S+)", (HERE / "release.txt").read_text(), re.M).group(1)


def script(lab, name, *arguments):
    """Runs a script of this folder; its output is kept."""
    damaged = pathlib.Path(os.environ["KVEIK_BIN"]).parent / "tests/kveik-llama-damaged"
    done = subprocess.run([sys.executable, "-B", HERE / name, *arguments], timeout=LIMIT_S,
                          env=os.environ | {"KVEIK_DAMAGED": str(damaged)}, check=False,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    (lab.logs / f"{name}-{'-'.join(arguments)}.log").write_text(done.stdout)
    return done


def tests(lab, name):
    """One class of tests."""
    row = Row("llama.cpp", version(), f"llamacpp-{name.lower()}")
    done = script(lab, "test_llamacpp.py", name)
    ran = re.search(r"^Ran (\d+) tests? in", done.stdout, re.M)
    row.say(f"{ran.group(1) if ran else 0} tests, logits bit for bit")
    row.expect(done.returncode == 0 and ran, f"test_llamacpp.py ended with {done.returncode}: "
               f"{done.stdout[-400:]}")
    return row


def times(lab):
    """Time to the first token."""
    row = Row("llama.cpp", version(), "llamacpp-ttft")
    done = script(lab, "bench.py")
    row.expect(done.returncode == 0, f"bench.py ended with {done.returncode}: {done.stdout[-400:]}")
    row.result = done.stdout.strip()
    return row


def run(lab):
    """A row for each class of tests, and the times."""
    text = (HERE / "test_llamacpp.py").read_text()
    for name in re.findall(r"^class (\w+)\(LlamaTest\):", text, re.M):
        yield tests(lab, name)
    yield times(lab)
