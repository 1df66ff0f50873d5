"""What the tests and the benchmark of kveik-llama share: models, prompts, and a running engine."""
import json
import pathlib
import random
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "e2e"))
# pylint: disable=wrong-import-position
import kveik_test  # noqa: E402

PROGRAM = kveik_test.BIN / "kveik-llama"
VOCABULARY = 512
ANSWER_S = 120


def make_model(path, *arguments):
    subprocess.run([sys.executable, HERE / "make_model.py", path, *map(str, arguments)], check=True)
    return path


def prompt(seed, count, vocabulary=VOCABULARY):
    rng = random.Random(seed)
    return [rng.randrange(vocabulary) for _ in range(count)]


class Llama:
    """A kveik-llama that is asked prompt by prompt; a context manager."""

    def __init__(self, model, socket, *arguments, program=PROGRAM, **extra):
        where = ["--no-cache"] if socket is None else ["--socket", socket]
        # ggml's threads spin while they wait for one another: on busy cores two are slower than one
        words = [program, "--model", model, "--json", "--threads", "1", *where, *arguments]
        self.summary = None
        self.code = None
        self.process = subprocess.Popen([str(word) for word in words], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True,
                                        env={**kveik_test.environment(), **extra})

    def ask(self, tokens, **members):
        """What it says about one prompt."""
        self.process.stdin.write(json.dumps({"tokens": tokens, **members}) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def end(self):
        """Ends its input; everything is pushed when this returns. The summary."""
        if self.code is None:
            rest, _ = self.process.communicate(timeout=ANSWER_S)
            self.code = self.process.returncode
            self.summary = json.loads(rest) if rest.strip() else None
        return self.summary

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind is not None:
            self.process.kill()
        self.end()


def serve(model, socket, prompts, *arguments, **extra):
    """One engine from start to end: its answers."""
    with Llama(model, socket, *arguments, **extra) as engine:
        return [engine.ask(tokens) for tokens in prompts]
