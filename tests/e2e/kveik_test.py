"""What end-to-end tests share: a kveikd of their own on a private socket, and `kveik` beside it.

The programs are looked for in $KVEIK_BIN, which ctest sets, or in build/debug/bin.
"""
import json
import os
import pathlib
import shutil
import socket
import subprocess
import tempfile
import time
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BIN = pathlib.Path(os.environ.get("KVEIK_BIN", ROOT / "build/debug/bin"))
SAMPLE = ROOT / "tests/data/mooncake/conversation-200.jsonl"
START_S = 30
STOP_S = 30
RUN_S = 240

GOOD, FAILED, USAGE, UNREACHABLE = 0, 1, 2, 3


def environment():
    """Ours, without settings that would reach the programs."""
    return {name: value for name, value in os.environ.items()
            if not name.startswith("KVEIK_") and name != "XDG_RUNTIME_DIR"}


class Daemon:
    """A kveikd with a small pool; a context manager. `disk`: bytes of a tier beside its log."""

    def __init__(self, *arguments, cpu_bytes="256MiB", disk=None):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="kveik-e2e-"))
        self.socket = self.folder / "engine.sock"
        self.log = self.folder / "kveikd.log"
        tier = ["--disk=no"] if disk is None else [
            "--disk=yes", "--disk-path", self.folder / "disk", "--disk-bytes", disk]
        self.arguments = ["--socket", self.socket, "--cpu-bytes", cpu_bytes, *tier, *arguments]
        self.process = None

    def __enter__(self):
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen([BIN / "kveikd", *self.arguments], stderr=log,
                                            stdin=subprocess.DEVNULL, env=environment())
        deadline = time.monotonic() + START_S
        while not self.accepts():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.process.kill()
                raise RuntimeError(f"kveikd did not start:\n{self.log.read_text()}")
            time.sleep(0.01)
        return self

    def accepts(self):
        """The path alone is there a moment sooner."""
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(self.socket)) == 0

    def stop(self):
        """Asks it to end; its exit code."""
        self.process.terminate()
        try:
            return self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise

    def __exit__(self, *_):
        try:
            code = self.process.poll()
            code = self.stop() if code is None else code
            if code != 0:
                raise RuntimeError(f"kveikd ended with {code}:\n{self.log.read_text()[-4000:]}")
        finally:
            shutil.rmtree(self.folder)


def kveik(*arguments, socket=None, given=None):
    """Runs the command line; a CompletedProcess with text output."""
    words = [BIN / "kveik", *(["--socket", socket] if socket else []), *arguments]
    return subprocess.run([str(word) for word in words], input=given, capture_output=True,
                          text=True, timeout=RUN_S, env=environment(), check=False)


class TestCase(unittest.TestCase):
    """With what is asked of most runs."""

    def good(self, *arguments, socket=None, given=None):
        done = kveik(*arguments, socket=socket, given=given)
        self.assertEqual(done.returncode, GOOD, f"{arguments}:\n{done.stdout}\n{done.stderr}")
        return done.stdout

    def good_json(self, *arguments, socket=None, given=None):
        return json.loads(self.good(*arguments, "--json", socket=socket, given=given))

    def refused(self, code, words, *arguments, socket=None, given=None):
        """The run ends with `code`, and says every one of `words` on stderr."""
        done = kveik(*arguments, socket=socket, given=given)
        self.assertEqual(done.returncode, code, f"{arguments}:\n{done.stdout}\n{done.stderr}")
        for word in words:
            self.assertIn(word, done.stderr)
        return done
