"""python -m kveik, and the page of instructions taken by its word."""
import os
import pathlib
import re
import subprocess
import sys

import pytest

README = pathlib.Path(__file__).resolve().parents[1] / "README.md"


def python(*arguments, **environment):
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=300,
                          cwd="/", env={**os.environ, **environment}, check=False)


def test_it_tries_a_daemon(daemon):
    done = python("-m", "kveik", "--socket", str(daemon.socket))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the same bytes" in done.stdout and "64 of 64 tokens" in done.stdout


def test_it_says_when_there_is_none(tmp_path):
    done = python("-m", "kveik", KVEIK_SOCKET=str(tmp_path / "none.sock"))
    assert done.returncode == 3 and "none.sock" in done.stderr and "kveikd" in done.stderr
    assert done.stdout == "" and "Traceback" not in done.stderr


def test_torch_and_numpy_are_not_imported():
    done = python("-c", "import kveik, kveik.aio, sys\n"
                  "print({'torch', 'numpy'} & set(sys.modules))")
    assert done.stdout.strip() == "set()", done.stderr


@pytest.mark.parametrize("number", range(len(re.findall("```python\n", README.read_text()))))
def test_the_examples_of_the_page_run(daemon, number):
    pytest.importorskip("numpy")
    example = re.findall(r"```python\n(.*?)```", README.read_text(), re.S)[number]
    for module in re.findall(r"^from (transformers)", example, re.M):
        pytest.importorskip(module, reason=f"{module} is not installed here")
    done = python("-c", example, KVEIK_SOCKET=str(daemon.socket))
    assert done.returncode == 0, f"{example}\n{done.stdout}{done.stderr}"
