"""What happens in every engine: prompts are computed, saved, and found by another engine."""
import random

import pytest

from verify import Reader, all_good

SHAPES = [pytest.param({"asynchronous": a, "block_size": b, "hybrid": h, "workers": w},
                       id=f"{'async' if a else 'sync'}-{b}-{'hybrid' if h else 'full'}-tp{w}")
          for a in (False, True) for b in (16, 32) for h in (False, True) for w in (1, 2)]


def prompts(seed, count=6, longest=150):
    """Some that share beginnings, in pairs."""
    draw = random.Random(seed)
    shared = [draw.randrange(509) for _ in range(longest)]
    return [shared[:draw.randrange(longest)] + [draw.randrange(509) for _ in range(
        draw.randrange(1, 60))] for _ in range(count)]


@pytest.mark.parametrize("shape", SHAPES)
def test_compute_then_replay(make, daemon, shape):
    first, asked = make(engine="one", **shape), []
    for prompt in prompts(1):
        asked.append(first.add(prompt, 20))
    first.run()
    all_good(first, daemon)

    second = make(engine="two", **shape)
    again = [second.add(one.prompt, 20) for one in asked]
    second.run()
    all_good(second, daemon)
    assert [one.tokens for one in again] == [one.tokens for one in asked]
    assert second.faults.pulled_keys > 0
