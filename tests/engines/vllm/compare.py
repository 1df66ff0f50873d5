"""Whether two runs of the same requests gave the same tokens; and if not, whether two logits that
are as good as equal explain it.

A batch of another shape adds numbers up in another order, so logarithms of probability move a
little, with or without a cache. Where the two best tokens of a step are closer than that, either
may win, and everything behind them differs.
"""
import dataclasses

EXACT = 1e-3  # float32: sums in another order move a logarithm by less


@dataclasses.dataclass
class Difference:
    """Of one run from another, over all requests."""

    requests: int = 0
    other_tokens: int = 0  # requests with another answer
    unexplained: list = dataclasses.field(default_factory=list)
    widest_gap: float = 0.0  # between the two best tokens, where answers part
    moved: float = 0.0  # the most that the best token's logarithm moved before that

    def text(self):
        return f"{self.other_tokens} of {self.requests} differ"


def _parting(one, other):
    """The first step with another token, or None."""
    for step, (left, right) in enumerate(zip(one.tokens, other.tokens)):
        if left != right:
            return step
    return None if len(one.tokens) == len(other.tokens) else min(len(one.tokens), len(other.tokens))


def _moved(one, other, upto):
    most = 0.0
    for left, right in zip(one.ranked[:upto], other.ranked[:upto]):
        there = dict(map(tuple, right))
        most = max([most] + [abs(value - there[token]) for token, value in left[:1]
                             if token in there])
    return most


def compare(base, run, tie):
    """How `run` differs from `base`. A step where base's two best tokens are at most `tie` apart
    may go either way."""
    found = Difference(requests=len(base))
    for name, one in base.items():
        other = run[name]
        step = _parting(one, other)
        upto = len(one.tokens) if step is None else step
        found.moved = max(found.moved, _moved(one, other, upto))
        if step is None:
            continue
        found.other_tokens += 1
        ranked = one.ranked[step] if step < len(one.ranked) else []
        gap = ranked[0][1] - ranked[1][1] if len(ranked) > 1 else float("inf")
        second = step < len(other.tokens) and other.tokens[step] in dict(map(tuple, ranked))
        found.widest_gap = max(found.widest_gap, gap)
        if gap > tie or not second:
            found.unexplained.append(f"{name} at token {step}, gap {gap:.4f}")
    return found


def judge(row, name, base, answers, tie=EXACT):
    """Notes how many answers differ, and any that a near tie does not explain."""
    found = compare(base, answers, tie)
    row.expect(not found.unexplained, f"{name}: other tokens: {', '.join(found.unexplained[:5])}")
    row.say(f"{name}: {found.text()}", **{f"{name} differ": found.other_tokens})
    return found


def all_answered(row, name, requests, answers):
    """Whether every request got all its tokens."""
    for one in requests:
        got = answers.get(one.id)
        row.expect(got is not None and got.reason == "length" and
                   len(got.tokens) == one.answer_tokens,
                   f"{name}: {one.id} failed: {got.reason if got else 'no answer'}")


def all_hit(row, name, requests, answers, held):
    """Whether every request found exactly what is held. Returns the tokens found."""
    for one in requests:
        wanted, got = held.hit(one.tokens, one.salt or ""), answers[one.id].cached
        row.expect(got == wanted, f"{name}: {one.id} ({len(one.tokens)} tokens) hit {got} tokens, "
                   f"expected {wanted}")
    total = sum(answers[one.id].cached for one in requests)
    row.say(f"{name}: {total} of {sum(len(one.tokens) for one in requests)} tokens hit",
            **{f"{name} hit tokens": total})
    return total


def all_counted(row, engine, name):
    """No load or save may have failed, where the daemon was always there."""
    counters = engine.counters()
    for bad in ("loads_failed", "saves_failed", "saves_dropped", "stuck", "uncacheable"):
        row.expect(not counters.get(bad), f"{name}: {bad} is {counters.get(bad)}")
