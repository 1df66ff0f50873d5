"""Engines that are cut in another way share: tensor-parallel, and pipeline-parallel if vLLM can."""
import re

from compare import all_answered, all_counted, all_hit, judge
from engine import EngineFailed
from expect import Held, after
from workload import fresh, lengths

SEED = 111
PROMPTS = 8


def cut(lab, row, **how):
    """Fills `row`: an engine in two ranks, and one in a single process, each after the other."""
    ours, theirs = (fresh(SEED + at, lengths(SEED + at, PROMPTS, most=1500), name)
                    for at, name in enumerate("ab"))
    base = lab.answers(ours + theirs, dtype="float32")
    daemon = lab.daemon()
    ranks = lab.engine(daemon, dtype="float32", processes=True, **how)
    single = lab.engine(daemon, dtype="float32")
    for engine in (ranks, single):
        engine.wait_up()
    held = Held(single.block_tokens)
    for name, saver, finder, requests in (
            ("two ranks push, one hits", ranks, single, ours),
            ("one pushes, two ranks hit", single, ranks, theirs)):
        first = saver.generate(requests)
        after(held, requests, first)
        there = daemon.settle(len(held.names))
        row.expect(there == len(held.names),
                   f"{name}: the daemon holds {there} blocks, expected {len(held.names)}")
        answers = finder.generate(requests)
        all_answered(row, name, requests, answers)
        all_hit(row, name, requests, answers, held)
        judge(row, name, {one.id: base[one.id] for one in requests}, answers)
    all_counted(row, ranks, "two ranks")
    all_counted(row, single, "one rank")
    return row


def reason(text):
    """The line of a log that names the error in the worker or the engine core."""
    found = re.findall(r"^.*?\b((?:\w+Error|AssertionError)\b:?.*)$", text, re.M)
    told = [line for line in found if "EngineDead" not in line]
    return (told or found or [text.splitlines()[-1]])[-1].strip()[:200]


def pipeline(lab):
    """Only if vLLM's own pipeline works here."""
    row = lab.row("pipeline-parallel")
    how = {"pipeline_parallel_size": 2, "distributed_executor_backend": "mp"}
    try:
        with lab.engine(dtype="float32", processes=True, **how) as plain:
            plain.wait_up().generate(fresh(SEED, [700]))
    except EngineFailed as error:
        row.cannot = f"vLLM itself fails with two stages, without any connector: " \
                     f"{reason(plain.log.read_text(errors='replace') or str(error))}"
        return row
    return cut(lab, row, **how)


def run(lab):
    """Two rows."""
    yield cut(lab, lab.row("tensor-parallel"), tensor_parallel_size=2)
    yield pipeline(lab)
