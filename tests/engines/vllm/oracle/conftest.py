"""A kveikd for the oracle, and what its tests share."""
import json
import os
import pathlib
import shutil
import signal
import sys

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest  # noqa: E402 (vLLM reads the environment when it is imported)

ROOT = pathlib.Path(__file__).resolve().parents[4]
sys.path.insert(0, str(ROOT / "tests/e2e"))
import kveik_test  # noqa: E402 (it starts daemons for all end-to-end tests)


def pytest_addoption(parser):
    parser.addoption("--seed", type=int, help="run this random walk only")


def pytest_configure(config):
    config.addinivalue_line("markers", "own_daemon: of a test that kills or stops its daemon")


class Daemon(kveik_test.Daemon):
    """One that can be killed, stopped, and started again at the same place."""

    dead = False

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.dead = True

    def start_again(self):
        self.socket.unlink(missing_ok=True)
        self.dead = False
        self.__enter__()

    def pause(self):
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self):
        self.process.send_signal(signal.SIGCONT)

    def status(self):
        return json.loads(kveik_test.kveik("status", "--json", socket=self.socket).stdout)

    def __exit__(self, *why):
        if self.dead:
            shutil.rmtree(self.folder)
        else:
            super().__exit__(*why)


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """The model's."""
    import configs
    return configs.make_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def shared_daemon():
    with Daemon(cpu_bytes="256MiB") as one:
        yield one


@pytest.fixture
def daemon(request):
    """Everybody's, or, for tests that kill it, one of their own."""
    if request.node.get_closest_marker("own_daemon") is None:
        yield request.getfixturevalue("shared_daemon")
        return
    with Daemon(cpu_bytes="64MiB") as one:
        yield one


@pytest.fixture
def make(request, folder, daemon):
    """Makes engines over the daemon; ends their sessions. Each test has a model of its own, so that
    it finds nothing of another's."""
    import engine
    made = []

    def build(faults=None, **options):
        made.append(engine.Engine(folder, daemon.socket, faults, model_id=request.node.nodeid,
                                  **options))
        return made[-1]
    yield build
    for one in made:
        one.close()


@pytest.fixture
def prompt():
    """Makes prompts: other numbers, other tokens."""
    def build(number, length=150):
        return [(number * 97 + at * 31 + at * at) % 509 for at in range(length)]
    return build


@pytest.fixture
def stored(make):
    """Has an engine compute prompts, so that the daemon has their KV."""
    def build(*prompts, **options):
        writer = make(engine="writer", **options)
        for one in prompts:
            writer.add(one, 2)
        writer.run()
    return build
