"""A daemon with a disk: what engines stored is there when it comes back; and what goes to disk."""
import time

import pytest
from conftest import Daemon

from kveik.vllm.options import read
from verify import Reader, all_good

BOTH = pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
WAIT_S = 30
LONG_S = 2  # several times disk-sync-time


@pytest.fixture
def daemon():
    with Daemon("--disk-segment-bytes", "4MiB", cpu_bytes="64MiB", disk="64MiB") as one:
        yield one


def parts_on_disk(daemon, wanted=1):
    """How many, when nothing waits to be written any more."""
    until, since = time.monotonic() + WAIT_S, None
    while time.monotonic() < until:
        told = daemon.status()["disk"]
        if told["queued"] + told["stores_in_flight"] or told["parts"] < wanted:
            since = None
        elif since is None:
            since = time.monotonic()
        elif time.monotonic() > since + LONG_S:
            return told["parts"]
        time.sleep(0.02)
    return told["parts"]


def held_of(engine, daemon, prompts):
    """Leading blocks of each that another client finds."""
    reader = Reader(engine, daemon.socket)
    held = [reader.held(one) for one in prompts]
    reader.close()
    return held


@BOTH
@pytest.mark.parametrize("hybrid", [False, True], ids=["full", "hybrid"])
def test_blocks_outlive_the_daemon(make, daemon, stored, prompt, asynchronous, hybrid):
    """An engine that was there before the daemon ended loads from the next one, as does a new
    one; every byte is compared."""
    prompts = [prompt(number) for number in range(3)]
    stored(*prompts, hybrid=hybrid)
    parts = parts_on_disk(daemon)
    assert parts > 0
    engine = make(asynchronous=asynchronous, hybrid=hybrid, engine="reader")
    engine.add(prompt(9), 4)  # it is connected by then
    engine.run()
    parts = parts_on_disk(daemon, parts + 1)
    held = held_of(engine, daemon, prompts)
    assert any(held)  # on a busy machine a save may have come too late, which is no matter here
    for end in (daemon.kill, daemon.stop):
        end()
        daemon.start_again()
        assert daemon.status()["disk"]["parts_on_disk_only"] == parts
        assert held_of(engine, daemon, prompts) == held
    while not engine.connector._scheduler._client.info().connected:
        time.sleep(0.01)
    before = engine.faults.pulled_keys
    for reader in (engine, make(asynchronous=asynchronous, hybrid=hybrid, engine="later")):
        for one in prompts:
            reader.add(one, 4)
        reader.run()
        all_good(reader, daemon)
        assert reader.faults.pulled_keys > (before if reader is engine else 0)
    assert daemon.status()["counters"]["loads"] > 0


@pytest.mark.parametrize("admission", ["default", "at-once", "second-use", "eviction", "never"])
def test_admission(make, daemon, prompt, admission):
    engine = make(admission=admission)
    engine.add(prompt(1), 4)
    engine.run()
    at_once = admission in ("default", "at-once")
    assert (parts_on_disk(daemon, 1 if at_once else 0) > 0) == at_once
    all_good(engine, daemon)


def test_another_admission_is_refused():
    with pytest.raises(ValueError, match="admission is 'at_once', must be one of: default, at-on"):
        read({"admission": "at_once"}, {})
