"""Time to the first token: computed, and with a warm cache in the daemon."""
import statistics

from compare import all_counted
from expect import Held
from workload import fresh

SEED = 71
SIZES = (512, 1024, 2048, 4096, 8192)
REPEATS = 5


def measure(engine, requests):
    """(median in ms, answers), one request at a time."""
    answers = {one.id: engine.generate([one])[one.id] for one in requests}
    return 1000 * statistics.median(one.first_s for one in answers.values()), answers


def warmed(row, name, engine, daemon, prompts):
    """Medians by size with everything in the daemon."""
    medians, held = {}, Held(engine.block_tokens)
    for size, requests in prompts.items():
        for one in requests:
            held.add(one.tokens + [0])
    for size, requests in prompts.items():
        if name == "async":  # the first engine with Kveik computes them once
            measure(engine, requests)
        daemon.settle()
        medians[size], answers = measure(engine, requests)
        for one in requests:
            got, wanted = answers[one.id].cached, held.hit(one.tokens)
            row.expect(got == wanted, f"{name}: {size} tokens: hit {got}, expected {wanted}")
    all_counted(row, engine, name)
    return medians


def run(lab):
    """One row: figures only, since a busy machine must not fail a test."""
    row = lab.row()
    # one token more: it is left to compute when all others are found
    prompts = {size: fresh(SEED + size, [size + 1] * REPEATS, f"{size}-", answer_tokens=2)
               for size in SIZES}
    times = {}
    with lab.engine(processes=True) as plain:
        plain.wait_up().generate(fresh(SEED, [600]))
        times["computed"] = {size: measure(plain, requests)[0]
                             for size, requests in prompts.items()}
    daemon = lab.daemon()
    for load in ("async", "layerwise"):
        with lab.engine(daemon, extra={"load": load}, processes=True) as engine:
            engine.wait_up().generate(fresh(SEED, [600]))
            times[load] = warmed(row, load, engine, daemon, prompts)
    lines = [f"{size} tokens: {times['computed'][size]:.0f} ms computed, " + ", ".join(
        f"{times[load][size]:.0f} ms {load} ({times['computed'][size] / times[load][size]:.1f}x)"
        for load in ("async", "layerwise")) for size in SIZES]
    row.result = f"medians of {REPEATS}\n" + "\n".join(lines)
    row.figures = times
    yield row
