"""An engine that was restarted finds what it computed before, and answers as before."""
from compare import all_answered, all_counted, all_hit, judge
from expect import Held, after
from workload import fresh, lengths

SEED = 31
PROMPTS = 12


def run(lab):
    """One row."""
    row = lab.row()
    requests = fresh(SEED, lengths(SEED, PROMPTS))
    base = lab.answers(requests, dtype="float32")
    daemon = lab.daemon()
    with lab.engine(daemon, dtype="float32", processes=True) as engine:
        first = engine.wait_up().generate(requests)
        held = after(Held(engine.block_tokens), requests, first)
        there = daemon.settle(len(held.names))
        row.expect(there == len(held.names),
                   f"the daemon holds {there} blocks, expected {len(held.names)}")
    judge(row, "first engine", base, first)
    with lab.engine(daemon, dtype="float32", processes=True) as engine:
        second = engine.wait_up().generate(requests)
        all_counted(row, engine, "second engine")
    all_answered(row, "second engine", requests, second)
    all_hit(row, "second engine", requests, second, held)
    judge(row, "second engine", base, second)
    yield row
