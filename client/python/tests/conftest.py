"""A kveikd of the tests' own, and engines beside it."""
import json
import pathlib
import shutil
import sys
import time

import pytest

import kveik

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[3] / "tests/e2e"))
import kveik_test  # noqa: E402 (it starts daemons for all end-to-end tests)

LAYERS, HEADS, ELEMENTS = 2, 2, 8
PAGES, PAGE_TOKENS = 32, 16
ROW = HEADS * ELEMENTS * 2
PAGE = PAGE_TOKENS * ROW
PLANE = PAGES * PAGE
PLANES = 2 * LAYERS
DURABLE_S = 30
IDLE_S = 3  # several times disk-sync-time: an epoch that is still open by then is empty


class Daemon(kveik_test.Daemon):
    """One that can be killed, and started again at the same place."""

    dead = False

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.dead = True

    def start_again(self):
        self.socket.unlink(missing_ok=True)
        self.dead = False
        self.__enter__()

    def durable(self):
        """Waits until all that it holds is on disk, and for a commit, or for long enough."""
        epoch, until = None, time.monotonic() + DURABLE_S
        while time.monotonic() < until:
            told = json.loads(kveik_test.kveik("status", "--json", socket=self.socket).stdout)
            disk = told["disk"]
            if disk["queued"] + disk["stores_in_flight"] or disk["parts"] < told["index"]["parts"]:
                epoch = None
            elif epoch is None:
                epoch, until = disk["epoch"], time.monotonic() + IDLE_S
            elif disk["committed_epoch"] >= epoch:
                return
            time.sleep(0.05)
        assert epoch is not None, "not all blocks are on disk"

    def __exit__(self, *why):
        if self.dead:
            shutil.rmtree(self.folder)
        else:
            super().__exit__(*why)


class Engine:
    """A client with a small model's memory: [layer][kind][page][token][head][element], bf16."""

    def __init__(self, socket, **options):
        self.client = kveik.Client(socket, reconnect_backoff_ms=10, **options)
        self.space = self.client.register_space("tests", "bf16", [
            kveik.Group(layers=LAYERS, heads=HEADS, kinds=(ELEMENTS, ELEMENTS))])
        self.memory = self.client.allocate(PLANES * PLANE)
        self.region = self.client.export(self.memory)
        self.layout = self.client.register_layout(
            self.space, page_tokens=PAGE_TOKENS, page_count=PAGES, head_count=HEADS,
            planes=self.planes())

    def planes(self):
        return [kveik.Plane(self.region, plane * PLANE, PAGE, ROW, ELEMENTS * 2, 2)
                for plane in range(PLANES)]

    def page(self, page):
        """Its bytes, of all planes."""
        return b"".join(self.memory.view[at:at + PAGE] for at in
                        range(page * PAGE, PLANES * PLANE, PLANE))

    def fill(self, page, number):
        for plane in range(PLANES):
            at = plane * PLANE + page * PAGE
            self.memory.view[at:at + PAGE] = bytes((number + plane + i) % 251 for i in range(PAGE))

    def keys(self, name, pages=1):
        return kveik.hash_tokens(range(16 * pages), extras=[(0, name.encode())])

    def push(self, name, pages=(0,)):
        return self.client.push(kveik.PushRun(self.layout, self.keys(name, len(pages)), pages))

    def pull(self, name, pages=(8,)):
        return self.client.pull(kveik.PullRun(self.layout, self.keys(name, len(pages)), pages))


@pytest.fixture(scope="session")
def daemon():
    with Daemon() as one:
        yield one


@pytest.fixture
def own_daemon():
    """For tests that kill it."""
    with Daemon(cpu_bytes="64MiB") as one:
        yield one


@pytest.fixture
def disk_daemon():
    """With a disk tier, which it keeps when it is started again."""
    with Daemon("--disk-segment-bytes", "4MiB", disk="64MiB") as one:
        yield one


@pytest.fixture
def engine(daemon):
    one = Engine(daemon.socket)
    with one.client:
        yield one


@pytest.fixture(params=["llama", "gemma"])
def model(request):
    """Of transformers, tiny."""
    pytest.importorskip("transformers")
    import tiny_models
    return tiny_models.MODELS[request.param]()


@pytest.fixture
def cache(daemon, model):
    """A PrefixCache that nobody else shares."""
    import tiny_models
    with tiny_models.connect(model, daemon) as one:
        yield one
