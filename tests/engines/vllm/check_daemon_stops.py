"""The daemon is stopped and started again while an engine works: no request fails."""
from compare import all_answered, all_hit, judge
from engine import Answer
from expect import Held, after
from workload import fresh, lengths

SEED = 51
PROMPTS = 48
CYCLES = 3
LIMIT_S = 600


def run(lab):
    """One row."""
    row = lab.row("daemon-stops-starts")
    requests = fresh(SEED, lengths(SEED, PROMPTS, most=1200), answer_tokens=24)
    base = lab.answers(requests, dtype="float32", max_num_seqs=8)
    daemon = lab.daemon()
    engine = lab.up(daemon, dtype="float32", max_num_seqs=8, extra={})
    engine.generate(requests)  # so that there is something to load
    engine.submit(requests)
    answers, every = {}, PROMPTS // (2 * CYCLES + 1)
    for event in engine.events(LIMIT_S):
        if not isinstance(event, Answer):
            continue
        answers[event.id] = event
        turn, rest = divmod(len(answers), every)
        if rest == 0 and turn <= 2 * CYCLES:
            if turn % 2:
                code = daemon.stop_orderly()
                row.expect(code == 0, f"kveikd ended with {code}")
            else:
                daemon.start_again()
    all_answered(row, "under load", requests, answers)
    judge(row, f"{CYCLES} stops under load", base, answers)
    counters = engine.counters()
    row.say(f"{counters.get('lookup_timeouts', 0):.0f} lookups without an answer, "
            f"{counters.get('loads_failed', 0):.0f} loads and "
            f"{counters.get('saves_failed', 0):.0f} saves failed", counters=counters)
    row.expect(counters.get("lookup_timeouts", 0) > 0, "the engine noticed nothing")
    again = engine.generate(requests)
    held = after(Held(engine.block_tokens), requests, again)
    there = daemon.settle(len(held.names))
    row.expect(there == len(held.names),
               f"the daemon holds {there} blocks afterwards, expected {len(held.names)}")
    last = engine.generate(requests)
    all_hit(row, "afterwards", requests, last, held)
    judge(row, "afterwards", base, last)
    yield row
