"""The same greedy tokens with Kveik as without, and exactly the hits that the prompts allow."""
import dataclasses
import os
import random

from compare import EXACT, all_counted, compare, judge
from engine import Request
from expect import Held
from workload import make

PROMPTS = 200 * int(os.environ.get("KVEIK_TEST_SCALE", "100")) // 100
SEED = 20
SMALL_POOL = 200  # blocks: vLLM's own prefix cache has to evict
PREFIX_CACHE = {"enable_prefix_caching": True}


def materialize(engine, batches):
    """Runs the plan without Kveik: its prompts depend on answers. Returns batches of requests, and
    the answers."""
    earlier, answers, out = {}, {}, []
    for planned in batches:
        tokens = {}
        for plan in planned:  # a prompt may begin as one of its own batch, but not with its answer
            known = earlier | {name: (prompt, []) for name, prompt in tokens.items()}
            tokens[plan.id] = plan.tokens(known)
        requests = [Request(plan.id, tokens[plan.id]) for plan in planned]
        answers |= engine.generate(from_nothing(requests))
        earlier |= {one.id: (one.tokens, answers[one.id].tokens) for one in requests}
        out.append(requests)
    return out, answers


def from_nothing(requests):
    """The same, computed whole."""
    return [dataclasses.replace(one, from_nothing=True) for one in requests]


def reshuffled(batches):
    """The same requests in other batches."""
    every = [one for batch in batches for one in batch]
    rng = random.Random(SEED)
    rng.shuffle(every)
    out = []
    while every:
        count = rng.choice((1, 3, 6, 12))
        out.append(every[:count])
        every = every[count:]
    return out


def run_batches(engine, batches):
    """All answers."""
    return {name: one for batch in batches for name, one in engine.generate(batch).items()}


def run_checked(row, name, engine, daemon, batches):
    """The answers; compares every hit with what the prompts allow, and what the daemon holds after
    each batch. Within a batch, one prompt may or may not find what another one saves."""
    held, answers, hits, exact = Held(engine.block_tokens), {}, 0, 0
    for batch in batches:
        got = engine.generate(batch)
        saved = {one.id: held.prefixes(one.tokens + got[one.id].tokens[:-1]) for one in batch}
        for one in batch:
            beside = {prefix for name, some in saved.items() if name != one.id for prefix in some}
            least, most = held.hit(one.tokens), held.hit(one.tokens, more=beside)
            cached = got[one.id].cached
            hits += cached
            exact += least == most
            row.expect(least <= cached <= most and cached % engine.block_tokens == 0,
                       f"{name}: {one.id} ({len(one.tokens)} tokens) hit {cached} tokens, "
                       f"expected {least} to {most}")
        for one in batch:
            held.add(one.tokens + got[one.id].tokens)
        there = daemon.settle(len(held.names))
        row.expect(there == len(held.names), f"{name}: the daemon holds {there} blocks after "
                   f"{batch[0].id}, expected {len(held.names)}")
        answers |= got
    row.say(f"{name}: {hits} hit tokens as expected ({exact} requests to the token)",
            **{f"{name} hit tokens": hits})
    return answers


def of_dtype(lab, dtype):
    """The row of one dtype."""
    row = lab.row(f"same-tokens-{dtype}")
    with lab.engine(dtype=dtype, **PREFIX_CACHE) as plain:
        batches, base = materialize(plain.wait_up(), make(SEED, PROMPTS))
        again = run_batches(plain, map(from_nothing, reshuffled(batches)))
        plain.reset()
        own = run_batches(plain, batches)
    noise = [compare(base, answers, float("inf")) for answers in (again, own)]
    # what moves a logarithm by x can close a gap of twice that
    tie = EXACT if dtype == "float32" else 2 * max(one.moved for one in noise)
    judge(row, "without Kveik, other batches", base, again, tie)
    judge(row, "without Kveik, vLLM's prefix cache", base, own, tie)
    for name, llm in (("Kveik", {}), ("Kveik and vLLM's prefix cache",
                                      PREFIX_CACHE | {"num_gpu_blocks_override": SMALL_POOL})):
        daemon = lab.daemon()
        with lab.engine(daemon, dtype=dtype, **llm) as engine:
            answers = run_checked(row, name, engine.wait_up(), daemon, batches)
            all_counted(row, engine, name)
        found = judge(row, name, base, answers, tie)
        row.figures[f"{name} moved"] = found.moved
    row.say(f"ties within {tie:.4f}", tie=tie)
    return row


def run(lab):
    """One row for each dtype."""
    for dtype in ("bfloat16", "float32"):
        yield of_dtype(lab, dtype)
