"""A model with sliding windows: same tokens, and hits after a restart, also of prompts that begin
as others do and go on differently."""
from compare import all_answered, all_counted, all_hit, judge
from engine import Request
from expect import Held, after
from workload import fresh, lengths

SEED = 91
PROMPTS = 10


def branches(requests):
    """Prompts that leave others' at a quarter and at two thirds, at no block's end."""
    return [Request(f"{one.id}-{at}", one.tokens[:len(one.tokens) * at // 12] + tail.tokens)
            for one, tail in zip(requests, fresh(SEED + 1, [200] * len(requests)))
            for at in (3, 8)]


def run(lab):
    """One row."""
    row = lab.row()
    requests = fresh(SEED, lengths(SEED, PROMPTS))
    more = branches(requests)
    base = lab.answers(requests + more, kind="gemma", dtype="float32")
    first, others = ({one.id: base[one.id] for one in some} for some in (requests, more))
    daemon = lab.daemon()
    with lab.engine(daemon, kind="gemma", dtype="float32") as engine:
        answers = engine.wait_up().generate(requests)
        held = after(Held(engine.block_tokens), requests, answers)
        judge(row, "first engine", first, answers)
        all_counted(row, engine, "first engine")
    daemon.settle()
    with lab.engine(daemon, kind="gemma", dtype="float32") as engine:
        engine.wait_up()
        for name, some, wanted in (("restarted", requests, first), ("branches", more, others)):
            answers = engine.generate(some)
            all_answered(row, name, some, answers)
            all_hit(row, name, some, answers, held)
            judge(row, name, wanted, answers)
        all_counted(row, engine, "second engine")
    yield row
