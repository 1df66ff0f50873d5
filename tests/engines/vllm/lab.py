"""What the checks of vLLM share: daemons that can be killed, engines beside them, models."""
import contextlib
import functools
import json
import pathlib
import shutil
import signal
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[2]
sys.path[:0] = [str(ROOT / "tests/e2e"), str(HERE.parent)]
import kveik_test  # noqa: E402 (starts daemons for all end-to-end tests)
from engine import Engine, Processes  # noqa: E402
from server import Server  # noqa: E402
from table import Row  # noqa: E402

SETTLE_S = 60
IDLE_S = 3  # several times disk-sync-time: what was written has been committed by then
MODEL_S = 300
# Kveik gives up early and computes. Where hits are counted, a busy machine must not make misses.
PATIENT = {"lookup_timeout_ms": 30000, "load_deadline_ms": 60000, "save_deadline_ms": 60000,
           "handover_timeout_ms": 60000}


class Daemon(kveik_test.Daemon):
    """A kveikd that can be killed, stopped, paused, and started again at the same place."""

    def __init__(self, *arguments, cpu_bytes="3GiB", disk=None):
        super().__init__(*arguments, cpu_bytes=cpu_bytes, disk=disk)
        self.down = False
        self.starts = 1

    def start_again(self):
        """At the same socket, with nothing in memory, what is on its disk, and a log of its own."""
        self.socket.unlink(missing_ok=True)
        self.starts += 1
        self.log = self.log.with_name(f"{self.folder.name}-{self.starts}.log")
        self.__enter__()
        self.down = False

    def kill(self):
        """As kill -9."""
        self.process.kill()
        self.process.wait()
        self.down = True

    def stop_orderly(self):
        """As systemd does; its exit code."""
        self.down = True
        return self.stop()

    def pause(self):
        """It does not answer from now on, and is not gone."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self):
        """It goes on."""
        self.process.send_signal(signal.SIGCONT)

    def status(self):
        """What `kveik status --json` says; None while the daemon does not answer it."""
        done = kveik_test.kveik("status", "--json", socket=self.socket)
        if done.returncode == kveik_test.UNREACHABLE:
            return None
        if done.returncode != kveik_test.GOOD:
            raise RuntimeError(f"kveik status: {done.stdout}{done.stderr}")
        return json.loads(done.stdout)

    def settle(self, blocks=None, limit_s=SETTLE_S):
        """Waits until nothing is under way and, if given, exactly so many blocks are held. Returns
        how many there are."""
        until, held = time.monotonic() + limit_s, 0
        while time.monotonic() < until:
            now = self.status()
            if now is not None:
                held = now["index"]["blocks"]
                idle = now["requests"] == 0 and now["copies_in_flight"] == 0
                if idle and blocks in (None, held):
                    break
            time.sleep(0.05)
        return held

    def durable(self, limit_s=SETTLE_S):
        """Waits until all that it holds is on disk and would outlive a kill. Returns how many parts
        that is; 0 when it did not come to that."""
        until, epoch, since = time.monotonic() + limit_s, None, 0
        while time.monotonic() < until:
            now = self.status()
            disk, parts = now["disk"], now["index"]["parts"]
            written = disk["queued"] == 0 and disk["stores_in_flight"] == 0
            if not written or disk["parts"] != parts:
                epoch = None
            elif epoch is None:
                epoch, since = disk["epoch"], time.monotonic()
            elif disk["committed_epoch"] >= epoch:
                return parts
            elif time.monotonic() > since + IDLE_S and disk["committed_epoch"] + 1 == epoch:
                return parts  # the open epoch is empty: there was nothing left to commit
            time.sleep(0.05)
        return 0

    def __exit__(self, *why):
        if self.down:
            shutil.rmtree(self.folder)
            return
        if self.process.poll() is None:
            self.resume()
        super().__exit__(*why)


class Lab:
    """A check's place: everything that it starts ends with it."""

    def __init__(self, check, version, folder, shared):
        """`shared` has what checks share: vLLM's `python`, and a `nursery()`."""
        self.check = check
        self.shared = shared
        self.version = version
        self.folder = pathlib.Path(folder)
        self.logs = self.folder / "logs" / check
        self.stack = contextlib.ExitStack()
        self.engines = 0

    def __enter__(self):
        shutil.rmtree(self.logs, ignore_errors=True)
        self.logs.mkdir(parents=True)
        return self

    def __exit__(self, *why):
        return self.stack.__exit__(*why)

    @property
    def python(self):
        """The words that run vLLM's Python."""
        return self.shared.python

    @functools.cached_property
    def processes(self):
        """Starts engines as users do."""
        made = Processes(self.python, self.folder / "cache")
        self.stack.callback(made.close)
        return made

    def row(self, name=None):
        """A line of the table, to be filled."""
        return Row("vllm", self.version, f"vllm-{name or self.check}")

    def daemon(self, *arguments, **options):
        """A daemon of this check's own; its log is kept."""
        daemon = Daemon(*arguments, **options)
        daemon.log = self.logs / f"{daemon.folder.name}-1.log"
        return self.stack.enter_context(daemon)

    def model(self, kind):
        """The folder of a tiny model, made once."""
        made = self.folder / "models" / kind
        if not made.exists():
            part = made.with_suffix(".part")
            shutil.rmtree(part, ignore_errors=True)
            part.parent.mkdir(parents=True, exist_ok=True)
            self.script("make_model.py", kind, part)
            part.rename(made)
        return made

    def script(self, name, *arguments):
        """Runs a script of this folder in vLLM's environment, to its end."""
        done = subprocess.run([*self.python, HERE / name, *map(str, arguments)], timeout=MODEL_S,
                              capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"{name}: {done.stdout[-1000:]}{done.stderr[-3000:]}")
        return done.stdout

    def engine(self, daemon=None, kind="llama", extra=None, processes=False, **llm):
        """An engine that is starting; without a daemon, one without Kveik. `extra` are Kveik's
        settings. `processes` starts it as users do, which takes longer."""
        self.engines += 1
        given = {"dtype": "bfloat16", "enable_prefix_caching": False} | llm
        kveik = None
        if daemon is not None:
            kveik = {"socket": str(daemon.socket)} | (PATIENT if extra is None else extra)
        options = {"model": str(self.model(kind)), "llm": given, "kveik": kveik}
        log = self.logs / f"engine{self.engines}{'-kveik' if kveik else ''}.log"
        start = self.processes if processes else self.shared.nursery()
        return self.stack.enter_context(Engine(start, options, log))

    def server(self, daemon, *arguments, role="kv_both", kind="llama"):
        """`vllm serve` with Kveik, that is starting."""
        self.engines += 1
        transfer = {"kv_connector": "KveikConnector", "kv_connector_module_path": "kveik.vllm",
                    "kv_role": role,
                    "kv_connector_extra_config": {"socket": str(daemon.socket)} | PATIENT}
        return self.stack.enter_context(Server(
            self.python, self.model(kind), self.logs / f"server{self.engines}-{role}.log",
            self.folder / "cache", "--dtype", "float32", "--kv-transfer-config",
            json.dumps(transfer), *arguments))

    def listener(self, endpoint):
        """A process that prints vLLM's events; it is connected when this returns."""
        with open(self.logs / "listener.log", "wb") as log:
            listener = subprocess.Popen([*self.python, HERE / "listen.py", endpoint],
                                        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                        stderr=log, text=True)
        self.stack.callback(listener.wait)
        self.stack.callback(listener.kill)
        self.stack.callback(listener.stdout.close)
        listener.stdout.readline()
        return listener

    def answers(self, requests, **options):
        """What an engine without Kveik answers."""
        with self.engine(**options) as plain:
            return plain.wait_up().generate(requests)

    def up(self, *arguments, **options):
        """An engine that is up."""
        return self.engine(*arguments, **options).wait_up()
