"""A daemon with a disk tier is restarted, in order and by kill -9: the engine that kept running
finds what was there before, and so does one that was restarted as well."""
import time

import check_ttft
from compare import all_answered, all_hit, judge
from expect import Held, after
from workload import fresh, lengths

SEED = 81
PROMPTS = 8
SIZES = (2048, 8192)
WAKES = 20
BAD = ("loads_failed", "saves_failed", "saves_dropped", "stuck")


def stopped(daemon):
    """Ends as systemd ends it; its exit code."""
    return daemon.stop_orderly()


def killed(daemon):
    """kill -9."""
    daemon.kill()
    return 0


def restart(row, daemon, end):
    """The daemon ends and is there again, with what it has on disk; seconds that took."""
    parts = daemon.durable()
    row.expect(parts > 0, "not all blocks were durable in time")
    code = end(daemon)
    row.expect(code == 0, f"kveikd ended with {code}")
    daemon.start_again()
    told = daemon.status()
    row.expect(told["disk"]["parts_on_disk_only"] == parts, f"{parts} parts were durable, "
               f"{told['disk']['parts_on_disk_only']} are there after the restart")
    return told["disk"]["start_ms"]


def awake(row, engine, daemon):
    """An idle engine sees with its next request that the daemon is another one, and computes what
    is asked at that moment. Returns its counters when it loads again."""
    for turn in range(WAKES):
        probe = fresh(SEED + 1000 + turn, [300], f"probe{turn}-", answer_tokens=1)
        engine.generate(probe)
        daemon.settle()
        if engine.generate(probe)[probe[0].id].cached > 0:
            row.say(f"awake with probe {turn + 1}")
            return engine.counters()
        time.sleep(0.2)
    row.expect(False, "the engine does not come back to the daemon")
    return engine.counters()


def again(row, name, engine, requests, base, held, before=None):
    """The same prompts find all that fills blocks and get the same answers, and no load or save
    fails after `before`."""
    answers = engine.generate(requests)
    all_answered(row, name, requests, answers)
    all_hit(row, name, requests, answers, held)
    judge(row, name, base, answers)
    none_failed(row, name, engine, before or {})


def none_failed(row, name, engine, before):
    """Since the counters were `before`."""
    now = engine.counters()
    for bad in BAD:
        count = now.get(bad, 0) - before.get(bad, 0)
        row.expect(count == 0, f"{name}: {bad} rose by {count:.0f}")


def restarted(lab, base, requests, end):
    """One row: a daemon that ends in this way, twice."""
    as_users_do = end is stopped
    row = lab.row(f"disk-{end.__name__}")
    daemon = lab.daemon(disk="2GiB")
    with lab.engine(daemon, dtype="float32", processes=as_users_do) as engine:
        first = engine.wait_up().generate(requests)
        held = after(Held(engine.block_tokens), requests, first)
        there = daemon.settle(len(held.names))
        row.expect(there == len(held.names),
                   f"the daemon holds {there} blocks, expected {len(held.names)}")
        judge(row, "before", base, first)
        took = [restart(row, daemon, end)]
        before = awake(row, engine, daemon)
        again(row, "same engine", engine, requests, base, held, before)
    took.append(restart(row, daemon, end))
    with lab.engine(daemon, dtype="float32") as engine:
        again(row, "restarted engine", engine.wait_up(), requests, base, held)
    row.expect(daemon.status()["counters"]["loads"] > 0, "nothing was read from disk")
    row.say(f"the daemon had its {there} blocks again in {max(took)} ms", start_ms=took)
    return row


def times(lab):
    """One row of figures: the first token computed, from disk, and from memory."""
    row = lab.row("disk-ttft")
    prompts = {size: fresh(SEED + size, [size + 1] * check_ttft.REPEATS, f"{size}-",
                           answer_tokens=2) for size in SIZES}
    found = {}
    with lab.engine() as plain:
        plain.wait_up().generate(fresh(SEED, [600]))
        found["computed"] = {size: check_ttft.measure(plain, requests)[0]
                             for size, requests in prompts.items()}
    daemon = lab.daemon(disk="2GiB")
    with lab.engine(daemon) as engine:
        engine.wait_up().generate(fresh(SEED, [600]))
        held = Held(engine.block_tokens)
        for requests in prompts.values():
            check_ttft.measure(engine, requests)
            for one in requests:
                held.add(one.tokens + [0])
        daemon.settle()
        restart(row, daemon, stopped)
        before = awake(lab.row(), engine, daemon)
        for name in ("disk", "memory"):
            found[name] = {}
            loads = daemon.status()["counters"]["loads"]
            for size, requests in prompts.items():
                found[name][size], answers = check_ttft.measure(engine, requests)
                for one in requests:
                    got, wanted = answers[one.id].cached, held.hit(one.tokens)
                    row.expect(got == wanted,
                               f"{name}: {size} tokens: hit {got}, expected {wanted}")
            loads = daemon.status()["counters"]["loads"] - loads
            row.expect((loads > 0) == (name == "disk"), f"{name}: {loads} parts read from disk")
        none_failed(row, "disk", engine, before)
    row.result = f"medians of {check_ttft.REPEATS}\n" + "\n".join(
        f"{size} tokens: {found['computed'][size]:.0f} ms computed, " + ", ".join(
            f"{found[name][size]:.0f} ms from {name} "
            f"({found['computed'][size] / found[name][size]:.1f}x)" for name in ("disk", "memory"))
        for size in SIZES)
    row.figures = found
    return row


def run(lab):
    """A row for each way to end, and one of times."""
    requests = fresh(SEED, lengths(SEED, PROMPTS, 400, 2600))
    base = lab.answers(requests, dtype="float32")
    for end in (stopped, killed):
        yield restarted(lab, base, requests, end)
    yield times(lab)
