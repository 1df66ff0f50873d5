"""Two engines at once, on one daemon: each finds what the other one computed."""
from compare import all_answered, all_counted, all_hit, judge
from engine import Request
from expect import Held, after
from workload import fresh, lengths

SEED = 41
PROMPTS = 8


def longer(requests, tail):
    """Prompts that begin as these do."""
    return [Request(f"{one.id}+", one.tokens[:len(one.tokens) * 2 // 3] + tail.tokens)
            for one in requests]


def run(lab):
    """One row."""
    row = lab.row()
    ours, theirs = (fresh(SEED + at, lengths(SEED + at, PROMPTS), name)
                    for at, name in enumerate("ab"))
    tail = fresh(SEED + 2, [150])[0]
    more = longer(ours + theirs, tail)
    base = lab.answers(ours + theirs + more, dtype="float32")
    daemon = lab.daemon()
    one = lab.engine(daemon, dtype="float32", processes=True)
    two = lab.engine(daemon, dtype="float32")
    for engine in (one, two):
        engine.wait_up()
    held = Held(one.block_tokens)
    for engine, requests in ((one, ours), (two, theirs)):  # both compute at the same time
        engine.submit(requests)
    first = {answer.id: answer for engine in (one, two) for answer in engine.events()
             if not isinstance(answer, str)}
    after(held, ours + theirs, first)
    there = daemon.settle(len(held.names))
    row.expect(there == len(held.names),
               f"the daemon holds {there} blocks, expected {len(held.names)}")
    for name, engine, requests in (("the other one's prompts", one, theirs),
                                   ("the first one's prompts", two, ours),
                                   ("longer ones", two, more)):
        answers = engine.generate(requests)
        all_answered(row, name, requests, answers)
        all_hit(row, name, requests, answers, held)
        judge(row, name, {one.id: base[one.id] for one in requests}, answers)
    all_counted(row, one, "first engine")
    all_counted(row, two, "second engine")
    yield row
