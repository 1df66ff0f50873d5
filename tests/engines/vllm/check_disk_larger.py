"""More prompts than the daemon's memory holds: they come back from disk, without any restart."""
from compare import all_answered, all_counted, all_hit, judge
from expect import Held, after
from workload import fresh

SEED = 91
PROMPTS = 12
TOKENS = 2049
CPU_BYTES = 32 << 20
TIMES = 3  # the blocks are at least so many CPU tiers
TOGETHER = 2  # what the engine loads at once must fit into the tier
CROWD = 4  # takes all of the tier at once: some are computed


def one_by_one(engine, requests):
    """Answers, with one prompt in the engine at a time."""
    return {one.id: engine.generate([one])[one.id] for one in requests}


def by(count, engine, requests):
    """Answers, with so many prompts at a time."""
    answers = {}
    for at in range(0, len(requests), count):
        answers |= engine.generate(requests[at:at + count])
    return answers


def check(row, name, requests, answers, base, held):
    """All there, and right."""
    all_answered(row, name, requests, answers)
    all_hit(row, name, requests, answers, held)
    judge(row, name, base, answers)


def run(lab):
    """One row."""
    row = lab.row()
    requests = fresh(SEED, [TOKENS] * PROMPTS)
    base = lab.answers(requests, dtype="float32")
    daemon = lab.daemon(cpu_bytes=str(CPU_BYTES), disk="2GiB")
    engine = lab.up(daemon, dtype="float32")
    first = one_by_one(engine, requests)
    held = after(Held(engine.block_tokens), requests, first)
    there = daemon.settle(len(held.names))
    row.expect(there == len(held.names),
               f"the daemon holds {there} blocks, expected {len(held.names)}")
    row.expect(daemon.durable() > 0, "not all blocks were durable in time")
    judge(row, "first pass", base, first)
    told = daemon.status()
    data = told["disk"]["part_bytes"]
    row.expect(data >= TIMES * CPU_BYTES, f"{data} bytes are no {TIMES} tiers of {CPU_BYTES}")
    row.say(f"{data >> 20} MiB of blocks, a CPU tier of {CPU_BYTES >> 20} MiB", bytes=data)
    check(row, "second pass", requests, one_by_one(engine, requests), base, held)
    check(row, f"{TOGETHER} at a time", requests, by(TOGETHER, engine, requests), base, held)
    name, crowded = f"{CROWD} at a time", by(CROWD, engine, requests)
    all_answered(row, name, requests, crowded)
    judge(row, name, base, crowded)
    found = sum(answer.cached for answer in crowded.values())
    row.say(f"{name}: {found} tokens hit", crowd_hit_tokens=found)
    all_counted(row, engine, "larger than memory")
    counters = daemon.status()["counters"]
    row.expect(counters["loads"] > there, f"only {counters['loads']} parts were read from disk")
    row.say(f"{counters['loads']} parts read from disk, {counters['demoted']} left memory",
            counters=counters)
    yield row
