"""Loads and saves that fail, a daemon that is gone, dead, stopped, and there again."""
import pytest

from spy import Faults, Scripted, Verdict
from verify import Reader, all_good

BOTH = pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
HYBRID = pytest.mark.parametrize("hybrid", [False, True], ids=["full", "hybrid"])
FAILS = {"lost": Verdict(lose=True), "refused": Verdict(refuse=True), "first": Verdict(miss=0),
         "later": Verdict(miss=4), "last": Verdict(miss=-1), "late": Verdict(hold=4, miss=2)}


@BOTH
@HYBRID
@pytest.mark.parametrize("how", FAILS)
def test_load_fails(make, daemon, stored, prompt, asynchronous, hybrid, how):
    stored(prompt(1), hybrid=hybrid)
    engine = make(Scripted(pull=[FAILS[how], Verdict()]), asynchronous=asynchronous,
                  hybrid=hybrid, engine="reader")
    engine.add(prompt(1), 20)
    engine.add(prompt(2), 20)
    engine.run()
    assert engine.faults.pulls == 1
    all_good(engine, daemon)


@pytest.mark.parametrize("how", ["lost", "first", "later"])
def test_load_of_one_rank_fails(make, daemon, stored, prompt, how):
    stored(prompt(1), workers=2)
    engine = make(Scripted(pull=[Verdict(hold=3), FAILS[how], Verdict()]), workers=2,
                  engine="reader")
    engine.add(prompt(1), 20)
    engine.run()
    all_good(engine, daemon)


@pytest.mark.parametrize("how", ["lost", "refused", "first", "later"])
def test_layerwise_load_fails(make, daemon, stored, prompt, how):
    """What was computed in that step, and by whom it shares blocks with, is never saved."""
    stored(prompt(1))
    engine = make(Scripted(pull=[FAILS[how], Verdict()]), load="layerwise", engine="reader")
    engine.add(prompt(1), 20)
    engine.add(prompt(1)[:100] + prompt(3, 30), 20)
    engine.add(prompt(2), 20)
    engine.run()
    assert engine.excused
    all_good(engine, daemon)


def test_layerwise_load(make, daemon, stored, prompt):
    stored(prompt(1))
    engine = make(load="layerwise", engine="reader")
    asked = engine.add(prompt(1), 20)
    engine.run()
    reader = Reader(engine, daemon.socket)
    assert reader.held(asked.prompt + asked.tokens) == (150 + 20 - 1) // 16  # what it saved, too
    reader.close()
    assert engine.faults.pulls == 2 and engine.faults.pulled_keys == 2 * (149 // 16)
    all_good(engine, daemon)


@pytest.mark.parametrize("options", [{"hybrid": True}, {"asynchronous": True}],
                         ids=["windows", "asynchronous"])
def test_layerwise_is_refused_where_a_failure_has_no_way_out(make, options):
    """With windows vLLM ends when such a load fails; with asynchronous scheduling it delivers what
    the next step computed on top of it."""
    with pytest.raises(ValueError, match="load is layerwise.*async"):
        make(load="layerwise", **options)


@BOTH
def test_saves_fail(make, daemon, prompt, asynchronous):
    engine = make(Scripted(push=[Verdict(lose=True), Verdict(refuse=True), Verdict()]),
                  asynchronous=asynchronous)
    engine.add(prompt(1), 40)
    engine.run()
    all_good(engine, daemon)


@pytest.mark.own_daemon
@BOTH
def test_daemon_dies_between_the_answer_and_the_load(make, daemon, stored, prompt, asynchronous):
    """The blocks are gone, the lease too: the load misses."""
    stored(prompt(1))
    engine = make(Scripted(pull=[Verdict(hold=6), Verdict()]), asynchronous=asynchronous,
                  engine="reader")
    asked = engine.add(prompt(1), 20)
    engine.run(engine.is_in(asked, "WAITING_FOR_REMOTE_KVS"))
    daemon.kill()
    daemon.start_again()
    engine.run()
    all_good(engine, daemon)


@pytest.mark.own_daemon
@BOTH
def test_daemon_dies_under_loads_and_saves(make, daemon, stored, prompt, asynchronous):
    stored(*(prompt(number) for number in range(4)))
    engine = make(Scripted(pull=[Verdict(), Verdict(delay=9), Verdict()],
                           push=[Verdict(), Verdict(delay=9), Verdict(hold=3), Verdict()]),
                  asynchronous=asynchronous, engine="reader")
    asked = [engine.add(prompt(number), 60) for number in range(6)]
    engine.run(lambda: len(asked[0].tokens) >= 5)
    daemon.kill()
    engine.run(lambda: len(asked[0].tokens) >= 30)
    daemon.start_again()
    engine.run()
    all_good(engine, daemon)
    lookups = engine.connector._scheduler._lookups
    engine.run(lambda: engine.connector._scheduler._client.info().connected) \
        if engine.works() else None
    assert lookups.leases == 0


@pytest.mark.own_daemon
@BOTH
def test_daemon_comes_later(make, daemon, prompt, asynchronous):
    daemon.kill()
    engine = make(asynchronous=asynchronous)
    asked = engine.add(prompt(1), 300)
    engine.run(lambda: len(asked.tokens) >= 5)
    daemon.start_again()
    engine.run()
    extra = engine.add(prompt(2), 5)
    while engine.faults.pushes == 0:  # it looks for the daemon twice a second
        engine.run()
        extra = engine.add(prompt(2), 5)
    engine.run()
    assert extra.tokens
    all_good(engine, daemon)
    reader = Reader(engine, daemon.socket)
    assert reader.held(prompt(2)) > 0
    reader.close()


class Stopping(Faults):
    """Stops the daemon right before the first request of a kind is sent."""

    def __init__(self, daemon, kind):
        super().__init__()
        self.daemon, self.kind, self.done = daemon, kind, False

    def decide(self, kind, spy):
        if kind == self.kind and not self.done:
            self.done = True
            self.daemon.pause()
        return Verdict()


def go_on(engine, daemon, prompt):
    """The daemon is back; the engine serves until no job is left."""
    daemon.go_on()
    while engine.connector._scheduler._flights:
        engine.add(prompt(9, 20), 1)
        engine.run()
    all_good(engine, daemon)


SHORT = {"load_deadline_ms": 150, "save_deadline_ms": 150, "lookup_timeout_ms": 100}


@pytest.mark.own_daemon
@BOTH
def test_daemon_stops_under_a_load(make, daemon, stored, prompt, asynchronous):
    """Quarantine: until the daemon says that the copy is over, its pages are nobody else's; the
    engine goes on meanwhile, with those that are left."""
    stored(prompt(1))
    engine = make(Stopping(daemon, "pull"), asynchronous=asynchronous, engine="reader", blocks=48,
                  **SHORT)
    asked = engine.add(prompt(1), 30)
    side = engine.connector._scheduler
    try:
        engine.run(lambda: any(flight.stuck for flight in side._flights.values()))
        pages = {page for flight in side._flights.values() if flight.stuck
                 for page in flight.blocks}
        for number in range(2, 6):
            engine.add(prompt(number), 20)
        engine.run(lambda: not engine.scheduler.has_unfinished_requests())
        assert asked.reason and pages <= {
            page for flight in side._flights.values() for page in flight.blocks}
    finally:
        go_on(engine, daemon, prompt)


@pytest.mark.own_daemon
@BOTH
def test_daemon_stops_under_a_save(make, daemon, prompt, asynchronous):
    """The save is over at its deadline, its blocks are others' then; what the daemon reads when it
    goes on, it does not keep."""
    engine = make(Stopping(daemon, "push"), asynchronous=asynchronous, blocks=28, **SHORT)
    for number in range(5):
        engine.add(prompt(number), 20)
    engine.run(lambda: not engine.scheduler.has_unfinished_requests())
    assert engine.faults.done
    go_on(engine, daemon, prompt)
