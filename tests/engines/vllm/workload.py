"""A seeded workload: batches of prompts that share prefixes with earlier ones, in all ways."""
import dataclasses
import random

from engine import Request

VOCABULARY = 4096
LONGEST = 3000


@dataclasses.dataclass
class Planned:
    """One prompt: `keep` tokens of an earlier prompt (`with_answer`: and of its answer), then
    `fresh` tokens. keep None keeps all."""

    id: str
    seed: int
    parent: str | None = None
    with_answer: bool = False
    keep: int | None = 0
    fresh: int = 0

    def tokens(self, earlier):
        """`earlier` gives (prompt, answer) by id."""
        if self.parent is None:
            begin = []
        else:
            prompt, answer = earlier[self.parent]
            begin = (prompt + answer if self.with_answer else prompt)[:self.keep]
        end = [random.Random(self.seed + at).randrange(VOCABULARY) for at in range(self.fresh)]
        return begin + end


def _length(rng):
    """16 to LONGEST, mostly short, sometimes at or beside the end of a block."""
    if rng.random() < 0.25:
        return max(16, rng.randint(1, 8) * 128 + rng.choice((-3, -1, 0, 1)))
    return min(LONGEST, 16 + int(rng.expovariate(1 / 400)))


def _child(rng, name, parent, length_of):
    """A prompt that begins as an earlier one does."""
    plan = Planned(name, rng.randrange(1 << 30), parent)
    kind = rng.random()
    if kind < 0.15:
        plan.keep = None  # the very same prompt
    elif kind < 0.4:
        plan.keep, plan.with_answer, plan.fresh = None, True, 16 + int(rng.expovariate(1 / 60))
    else:
        plan.keep = rng.randint(1, max(1, length_of[parent]))
        plan.fresh = 1 + int(rng.expovariate(1 / 300))
    return plan


def make(seed, prompts):
    """Batches of 1 to 16 planned prompts. In every fifth one, prompts may share with each other;
    in the others only with those of earlier batches."""
    rng = random.Random(seed)
    batches, length_of, number = [], {}, 0
    while number < prompts:
        tangled = len(batches) % 5 == 4
        batch, roots = [], list(length_of)
        used = set()
        for _ in range(min(rng.choice((1, 2, 4, 8, 16)), prompts - number)):
            name, number = f"p{number:03}", number + 1
            free = [one for one in roots if one not in used]
            if free and rng.random() < 0.6:
                parent = rng.choice(free)
                used.add(parent)
                plan = _child(rng, name, parent, length_of)
            else:
                plan = Planned(name, rng.randrange(1 << 30), fresh=_length(rng))
            kept = length_of[plan.parent] if plan.keep is None and plan.parent else plan.keep or 0
            length_of[name] = min(kept + plan.fresh, LONGEST)
            if tangled:
                roots.append(name)
            batch.append(plan)
        batches.append(batch)
    return batches


def fresh(seed, lengths, prefix="f", **more):
    """Requests with nothing in common, of given lengths."""
    rng = random.Random(seed)
    return [Request(f"{prefix}{at:02}", [rng.randrange(VOCABULARY) for _ in range(length)], **more)
            for at, length in enumerate(lengths)]


def lengths(seed, count, least=16, most=LONGEST):
    """Mixed ones."""
    rng = random.Random(seed)
    return [rng.randint(least, most) for _ in range(count)]
