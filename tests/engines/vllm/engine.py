"""A vLLM engine in a child process: start it, give it requests, see what comes back.

Everything has a deadline; after it, or after a failure, the child and all that it started are
killed.
"""
import contextlib
import dataclasses
import json
import os
import pathlib
import signal
import socket
import subprocess
import time

HERE = pathlib.Path(__file__).resolve().parent
START_S = 300
ANSWER_S = 300
STOP_S = 60


class EngineFailed(Exception):
    """The engine could not do what was asked, or is gone; with the end of its log."""


@dataclasses.dataclass
class Request:
    """A prompt, and how many tokens are wanted. `adapter` is (number, folder)."""

    id: str
    tokens: list
    answer_tokens: int = 8
    salt: str | None = None
    adapter: tuple | None = None
    from_nothing: bool = False  # finds nothing in any cache


@dataclasses.dataclass
class Answer:
    """What came back. `ranked` has the likeliest tokens of each step, with their logarithms of
    probability."""

    id: str
    tokens: list
    ranked: list
    cached: int
    reason: str
    first_s: float
    all_s: float


def environment(cache):
    """Ours, with what makes vLLM run offline on a CPU. vLLM's threads are not bound to processors:
    engines share them."""
    kept = {name: value for name, value in os.environ.items()
            if not name.startswith(("KVEIK_", "VLLM_")) or name == "KVEIK_VLLM_ENV"}
    return kept | {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind",
                   "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1",
                   "XDG_CACHE_HOME": str(cache)}


def end_of(log, count=2500):
    """The last lines of a log."""
    return pathlib.Path(log).read_text(errors="replace")[-count:]


class Processes:
    """Starts engines as users do: vLLM's engine core and workers are processes of their own."""

    def __init__(self, python, cache):
        self.python = python
        self.cache = cache
        self.started = []

    def __call__(self, link, log):
        """Starts one; its process id."""
        with open(log, "wb") as out:
            one = subprocess.Popen([*self.python, HERE / "engine_child.py", str(link.fileno())],
                                   stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                                   pass_fds=[link.fileno()], start_new_session=True,
                                   env=environment(self.cache))
        self.started.append(one)
        return one.pid

    def close(self):
        """Engines have ended by now; so have their processes."""
        for one in self.started:
            one.wait()


class Nursery:
    """Starts engines that are one process each, in a moment; see nursery.py."""

    def __init__(self, python, cache, log):
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.link = ours
        self.link.settimeout(START_S)
        with theirs, open(log, "wb") as out:
            self.process = subprocess.Popen(
                [*python, HERE / "nursery.py", str(theirs.fileno())], stdin=subprocess.DEVNULL,
                stdout=out, stderr=out, pass_fds=[theirs.fileno()], start_new_session=True,
                env=environment(cache) | {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"})

    def __call__(self, link, log):
        """Starts one; its process id."""
        socket.send_fds(self.link, [str(log).encode()], [link.fileno()])
        found = self.link.recv(64)
        if not found:
            raise EngineFailed("the nursery's process ended; see its log")
        return int(found)

    def close(self):
        """Ends the nursery."""
        self.link.close()
        self.process.kill()
        self.process.wait()


class Engine:
    """A context manager. The engine is starting when this is made, and up after wait_up()."""

    def __init__(self, start, options, log):
        """`start(socket, log)` starts the process: a Nursery or Processes."""
        self.log = pathlib.Path(log)
        self.block_tokens = 0
        ours, theirs = socket.socketpair()
        self.link = ours
        self.stream = ours.makefile("rwb")
        with theirs:
            self.pid = start(theirs, self.log)
        self.order(**options)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def order(self, **values):
        """Sends one order. An engine that is gone says so when its answer is read."""
        try:
            self.stream.write(json.dumps(values).encode() + b"\n")
            self.stream.flush()
        except OSError:
            pass

    def event(self, limit_s=ANSWER_S):
        """The next event, whole."""
        self.link.settimeout(limit_s)
        try:
            line = self.stream.readline()
        except OSError as error:
            self.kill()
            raise EngineFailed(f"no answer in {limit_s:.0f} s ({error}):\n"
                               f"{end_of(self.log)}") from error
        if not line:
            self.kill()
            raise EngineFailed(f"the engine's process ended:\n{end_of(self.log)}")
        found = json.loads(line)
        if found["event"] == "error":
            raise EngineFailed(f"{found['text']}\n{end_of(self.log)}")
        return found

    def wait_up(self):
        """Returns when the engine takes requests."""
        self.block_tokens = self.event(START_S)["block_tokens"]
        return self

    def submit(self, requests, show_steps=False):
        """Gives it requests, all at once; events() tells what becomes of them."""
        self.order(do="generate", show_steps=show_steps,
                   requests=[dataclasses.asdict(one) for one in requests])

    def events(self, limit_s=ANSWER_S):
        """Until all requests of submit() are answered: answers, and the names of other events."""
        until = time.monotonic() + limit_s
        while True:
            found = self.event(max(until - time.monotonic(), 0.1))
            name = found.pop("event")
            if name == "end":
                return
            yield Answer(**found) if name == "answer" else name

    def generate(self, requests, limit_s=ANSWER_S):
        """The answers, by the names of the requests."""
        self.submit(requests)
        return {one.id: one for one in self.events(limit_s) if isinstance(one, Answer)}

    def counters(self):
        """What vllm:kveik_* say by now, without the prefix."""
        self.order(do="metrics")
        found = self.event()["metrics"]
        return {name.removeprefix("vllm:kveik_"): value for name, value in found.items()
                if name.startswith("vllm:kveik_")}

    def reset(self):
        """Lets vLLM forget its own prefix cache."""
        self.order(do="reset")
        return self.event()["good"]

    def stop(self):
        """Ends it in an orderly way; kills what does not end."""
        if not self.pid:
            return
        self.link.shutdown(socket.SHUT_WR)
        self.link.settimeout(STOP_S)
        try:
            while self.link.recv(65536):
                pass
        except OSError:
            pass  # killed below
        self.kill()

    def kill(self):
        """Ends it at once, and all that it started."""
        if self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
        self.pid = 0
        self.stream.close()
        self.link.close()
