"""`vllm serve` in a process of its own, asked over HTTP with tokens in and tokens out."""
import contextlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request

from engine import ANSWER_S, HERE, START_S, EngineFailed, end_of, environment

GENERATE = "/inference/v1/generate"


def free_port():
    """One that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def post(address, body, limit_s=ANSWER_S):
    """Sends JSON, returns JSON."""
    asked = urllib.request.Request(address, json.dumps(body).encode(),
                                   {"Content-Type": "application/json"})
    with urllib.request.urlopen(asked, timeout=limit_s) as answer:
        return json.load(answer)


def question(request, **more):
    """The body that asks for `request`."""
    return {"token_ids": request.tokens,
            "sampling_params": {"max_tokens": request.answer_tokens, "temperature": 0,
                                "ignore_eos": True, "detokenize": False}} | more


def tokens_of(answer):
    """The tokens that came back."""
    return answer["choices"][0]["token_ids"]


def cached_of(answer):
    """The tokens of the prompt that were found."""
    return (answer["usage"]["prompt_tokens_details"] or {}).get("cached_tokens") or 0


class Server:
    """A context manager. It is starting when this is made, and up after wait_up()."""

    def __init__(self, python, model, log, cache, *arguments):
        self.log = pathlib.Path(log)
        port = free_port()
        self.address = f"http://127.0.0.1:{port}"
        words = [*python, HERE / "serve.py", "serve", model, "--host", "127.0.0.1",
                 "--port", port, "--tokens-only", "--enforce-eager", "--max-model-len", 8448,
                 "--no-enable-prefix-caching", "--enable-prompt-tokens-details", *arguments]
        with open(self.log, "wb") as out:
            self.process = subprocess.Popen([str(word) for word in words], stdout=out, stderr=out,
                                            stdin=subprocess.DEVNULL, start_new_session=True,
                                            env=environment(cache))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def wait_up(self):
        """Returns when it answers."""
        until = time.monotonic() + START_S
        while True:
            if self.process.poll() is not None or time.monotonic() > until:
                raise EngineFailed(f"vllm serve did not start:\n{end_of(self.log)}")
            with contextlib.suppress(OSError), \
                    urllib.request.urlopen(f"{self.address}/health", timeout=5):
                return self
            time.sleep(0.1)

    def ask(self, request, **more):
        """The answer, as vLLM gives it."""
        return post(self.address + GENERATE, question(request, **more))

    def counters(self):
        """What vllm:kveik_* say by now at /metrics, without the prefix."""
        with urllib.request.urlopen(f"{self.address}/metrics", timeout=ANSWER_S) as answer:
            lines = answer.read().decode().splitlines()
        found = {}
        for line in lines:
            if line.startswith("vllm:kveik_"):
                name = line.split("{")[0].removeprefix("vllm:kveik_").removesuffix("_total")
                found[name] = found.get(name, 0) + float(line.rsplit(" ", 1)[1])
        return found
