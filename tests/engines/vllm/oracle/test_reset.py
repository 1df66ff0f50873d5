"""Resets of the engine's prefix cache, with and without the connector's, with copies under way."""
import pytest

from spy import Scripted, Verdict
from verify import Reader, all_good

BOTH = pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
SLOW = {"none": {}, "held": {"push": [Verdict(hold=9)]}, "delayed": {"push": [Verdict(delay=9)]}}


def settle(engine):
    """No step is on its way: as the engine is when it is asked to reset."""
    while engine._queue:
        engine._take_output()


@BOTH
@pytest.mark.parametrize("slow", SLOW)
def test_reset_when_idle(make, daemon, prompt, asynchronous, slow):
    """Succeeds although saves hold blocks, and the next step writes none that is still read."""
    engine = make(Scripted(**SLOW[slow]), asynchronous=asynchronous, blocks=24)
    first = engine.add(prompt(1), 10)
    engine.run(lambda: first.reason is not None)
    settle(engine)
    assert engine.reset()
    second = engine.add(prompt(2, 250), 10)
    engine.run()
    assert second.tokens
    all_good(engine, daemon)


@BOTH
@pytest.mark.parametrize("slow", SLOW)
@pytest.mark.parametrize("connector", [False, True], ids=["own", "all"])
def test_reset_of_running_requests(make, daemon, prompt, asynchronous, slow, connector):
    engine = make(Scripted(**SLOW[slow]), asynchronous=asynchronous, blocks=40)
    asked = [engine.add(prompt(number), 40) for number in (1, 2)]
    for count in (5, 15):
        engine.run(lambda count=count: len(asked[0].tokens) >= count)
        settle(engine)
        assert engine.reset(running=True, connector=connector)
    engine.run()
    all_good(engine, daemon)


@BOTH
def test_reset_fails_while_requests_run(make, daemon, prompt, asynchronous):
    engine = make(asynchronous=asynchronous)
    asked = engine.add(prompt(1), 40)
    engine.run(lambda: len(asked.tokens) >= 5)
    assert not engine.reset()
    engine.run()
    all_good(engine, daemon)


def test_other_weights_find_nothing_of_before(make, daemon, prompt):
    engine = make(engine="same")
    engine.add(prompt(1), 5)
    engine.run()
    assert engine.reset(connector=True)
    engine.add(prompt(1), 5)
    engine.run()
    assert engine.faults.pulls == 0
    assert engine.reset()
    engine.add(prompt(1), 5)
    engine.run()
    assert engine.faults.pulled_keys == 149 // 16  # saved since
    all_good(engine, daemon)


def test_nothing_is_saved_while_the_engine_keeps_old_kv(make, daemon, prompt):
    """Its own reset fails under a running request: the weights are others, its KV is not."""
    engine = make()
    asked = engine.add(prompt(1), 60)
    engine.run(lambda: len(asked.tokens) >= 2)
    assert not engine.reset(connector=True)
    engine.run()
    pushes = engine.faults.pushes
    engine.add(prompt(2), 30)
    engine.run()
    assert engine.faults.pushes == pushes
    assert engine.reset()
    engine.add(prompt(3), 30)
    engine.run()
    assert engine.faults.pushes > pushes
    reader = Reader(engine, daemon.socket)
    assert reader.held(prompt(3)) == 0  # that of the old weights' space
    reader.close()
    all_good(engine, daemon)
