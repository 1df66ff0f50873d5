"""Preempted, aborted, waiting: whatever becomes of requests, their KV is right, nothing stays."""
import pytest

from spy import Scripted, Verdict
from verify import Reader, all_good, daemon_leases

BOTH = pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
LONG = 150  # three chunks


@BOTH
def test_preempted_before_the_first_chunk_is_back(make, daemon, prompt, asynchronous):
    engine = make(asynchronous=asynchronous)
    asked, other = engine.add(prompt(1), 8), engine.add(prompt(2), 8)
    engine.run(lambda: asked.request in engine.scheduler.running)
    engine.preempt(asked)
    engine.run()
    assert other.tokens and asked.request.num_preemptions == 1
    all_good(engine, daemon)


@BOTH
@pytest.mark.parametrize("hybrid", [False, True], ids=["full", "hybrid"])
def test_preempted_three_times(make, daemon, prompt, asynchronous, hybrid):
    engine = make(asynchronous=asynchronous, hybrid=hybrid)
    asked = [engine.add(prompt(number), 40) for number in (1, 2)]
    for count in (4, 12, 25):
        engine.run(lambda count=count: len(asked[0].tokens) >= count and
                   asked[0].request in engine.scheduler.running)
        engine.preempt(asked[0])
    engine.run()
    assert asked[0].request.num_preemptions == 3
    all_good(engine, daemon)


@BOTH
def test_resumed_request_loads_what_its_engine_lost(make, daemon, prompt, asynchronous):
    """P5: blocks of a preempted request that others took come back from the daemon."""
    engine = make(asynchronous=asynchronous, blocks=24)
    asked = engine.add(prompt(1), 60)
    engine.run(lambda: len(asked.tokens) >= 20 and asked.request in engine.scheduler.running)
    engine.preempt(asked)
    engine.scheduler.waiting.remove_requests([asked.request])
    other = engine.add(prompt(2, 300), 60)  # needs nearly all blocks
    engine.run(lambda: other.reason is not None)
    local = engine.scheduler.kv_cache_manager.get_computed_blocks(asked.request)[1] // 16
    engine.scheduler.waiting.add_request(asked.request)
    engine.run()
    assert local < 10 and engine.faults.pulled_keys == 10 - local
    all_good(engine, daemon)


ABORTS = ["waiting", "asking", "loading", "running", "preempted"]


@BOTH
@pytest.mark.parametrize("when", ABORTS)
def test_aborted(make, daemon, stored, prompt, asynchronous, when):
    stored(prompt(1), prompt(2))
    slow = {"asking": {"lookup": [Verdict(hold=5), Verdict()]},
            "loading": {"pull": [Verdict(hold=5), Verdict()]}}.get(when, {})
    engine = make(Scripted(**slow), asynchronous=asynchronous, engine="reader")
    asked = engine.add(prompt(1), 30)
    if when == "asking":
        engine.step()
    elif when == "loading":
        engine.run(engine.is_in(asked, "WAITING_FOR_REMOTE_KVS"))
        engine.step()
    elif when != "waiting":
        engine.run(lambda: len(asked.tokens) > 5)
        if when == "preempted":
            engine.preempt(asked)
    engine.abort(asked)
    engine.add(prompt(2), 5)
    engine.run()
    all_good(engine, daemon)
    assert daemon_leases(daemon.socket) == 0


def test_abort_while_asking_costs_nobody_else_a_hit(make, stored, prompt):
    stored(prompt(1), prompt(2))
    engine = make(engine="reader")
    engine.abort(engine.add(prompt(1), 5))
    asked = engine.add(prompt(2), 5)
    engine.run()
    assert engine.faults.pulled_keys == (len(asked.prompt) - 1) // 16


def test_the_answer_may_take_many_steps(make, daemon, stored, prompt):
    stored(prompt(1))
    engine = make(Scripted(lookup=[Verdict(hold=7), Verdict()]), engine="reader")
    asked, other = engine.add(prompt(1), 5), engine.add(prompt(2), 20)
    engine.run()
    assert engine.faults.pulled_keys == (len(asked.prompt) - 1) // 16 and other.tokens
    all_good(engine, daemon)


@BOTH
def test_a_pool_full_of_saves_is_no_deadlock(make, daemon, prompt, asynchronous):
    slow = Scripted(push=[Verdict(hold=6)])
    engine = make(slow, asynchronous=asynchronous, blocks=20, save_blocks_percent=100)
    for number in range(6):
        engine.add(prompt(number, 100), 40)
    engine.run()
    all_good(engine, daemon)


def test_prompts_that_share_a_beginning_within_a_step(make, daemon, stored, prompt):
    base = prompt(1, 100)
    stored(base)
    engine = make(engine="reader")
    for number in range(4):
        engine.add(base[:96] + prompt(number, 20), 8)
    engine.run()
    assert engine.faults.pulled_keys >= 6
    all_good(engine, daemon)


@pytest.mark.parametrize("length", [1, 15, 16, 17, 31, 32, 33])
def test_short_prompts(make, daemon, prompt, length):
    for name in ("one", "two"):
        engine = make(engine=name)
        engine.add(prompt(1, length), 3)
        engine.run()
        all_good(engine, daemon)
    assert engine.faults.pulled_keys == (length - 1) // 16


@pytest.mark.parametrize("hybrid", [False, True], ids=["full", "hybrid"])
def test_what_is_there_is_hit(make, daemon, stored, prompt, hybrid):
    """Every full block but that of the last token; of windows, what attention will read."""
    stored(prompt(1, LONG), hybrid=hybrid)
    engine = make(engine="reader", hybrid=hybrid)
    asked = engine.add(prompt(1, LONG), 3)
    engine.run()
    full = (LONG - 1) // 16
    window = full - (full * 16 - 40 + 1) // 16
    assert engine.faults.pulled_keys == full + (window if hybrid else 0)
    assert asked.request.num_computed_tokens >= full * 16
    reader = Reader(engine, daemon.socket)
    assert reader.held(prompt(1, LONG)) == LONG // 16
    reader.close()
    all_good(engine, daemon)


def test_prefill_engine_hands_over(make, daemon, prompt):
    """What a proxy does: the prompt to the one, its parameters to the other, at once."""
    prefill = make(Scripted(push=[Verdict(hold=4)]), engine="p", role="kv_producer")
    decode = make(engine="d", role="kv_consumer")
    first = prefill.add(prompt(1), 1, params={"do_remote_decode": True})
    prefill.run(lambda: first.params is not None)
    assert first.params["do_remote_prefill"] and first.params["kveik_tokens"] == 150
    second = decode.add(prompt(1), 10, params=first.params)
    while decode.works():
        decode.step()
        if prefill.works():
            prefill.step()
    prefill.run()
    assert decode.faults.pulled_keys == 149 // 16 and decode.faults.pushes == 0
    assert second.tokens[0] == first.tokens[0]
    for engine in (prefill, decode):
        all_good(engine, daemon)
