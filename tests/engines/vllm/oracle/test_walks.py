"""Random walks over everything at once: arrivals that share beginnings, aborts, preemptions,
resets, answers that are late or never come, loads and saves that fail, daemons that die. A walk
prints its seed; --seed SEED draws the same again (how fast the daemon is, no seed says). Then all
prompts once more, on an engine that has nothing: every byte that the walk left in the daemon is one
that a right engine would have left."""
import os
import random

import pytest

from engine import Engine
from spy import Chance
from verify import all_good, daemon_leases

WALKS = 24
STEPS = 250


def seeds():
    """As many as KVEIK_TEST_SCALE (percent) says."""
    return range(1, 1 + max(1, WALKS * int(os.environ.get("KVEIK_TEST_SCALE", "100")) // 100))


def pytest_generate_tests(metafunc):
    if "seed" in metafunc.fixturenames:
        chosen = metafunc.config.getoption("--seed")
        metafunc.parametrize("seed", seeds() if chosen is None else [chosen])


class Walk:
    """One, from its seed."""

    def __init__(self, seed, folder, daemon):
        self.draw = random.Random(seed)
        self.daemon = daemon
        self.faults = Chance(seed, self.draw.choice([0, 0.1, 0.4]))
        one = self.draw.choice
        self.options = {"blocks": one([22, 40, 90]), "block_size": one([16, 32]),
                        "hybrid": one([False, True]), "asynchronous": one([False, True]),
                        "late": one([False, True]), "workers": one([1, 1, 2]),
                        "save_blocks_percent": one([10, 50, 100]), "max_tokens": one([32, 64])}
        if not (self.options["hybrid"] or self.options["asynchronous"]):
            self.options["load"] = one(["async", "async", "layerwise"])
        if self.options["hybrid"] or self.options["block_size"] == 32:
            self.options["blocks"] = max(self.options["blocks"], 40)
        self.deaths = one([0, 0, 0, 1, 2])
        self.engine = Engine(folder, daemon.socket, self.faults, engine="walker", **self.options)
        self.bases = [[self.draw.randrange(509) for _ in range(160)] for _ in range(3)]

    def arrive(self):
        base = self.draw.choice(self.bases)
        own = [self.draw.randrange(509) for _ in range(self.draw.randrange(1, 50))]
        self.engine.add(base[:self.draw.randrange(161)] + own, self.draw.randrange(1, 50),
                        salt=self.draw.choice([None, None, None, "a"]))

    def abort(self):
        alive = [asked for asked in self.engine.asked.values()
                 if asked.reason is None and not asked.aborted]
        if alive:
            self.engine.abort(self.draw.choice(alive))

    def preempt(self):
        running = [self.engine.asked[request.request_id]
                   for request in self.engine.scheduler.running]
        if running:
            self.engine.preempt(self.draw.choice(running))

    def reset(self):
        """vLLM itself has no way to preempt requests that wait and hold blocks."""
        engine = self.engine
        while engine._queue:
            engine._take_output()
        loading = bool(engine.scheduler.kv_holding_waiting) or any(
            request.is_finished() for request in engine.scheduler.requests.values())
        side = engine.connector._scheduler
        stuck = any(flight.stuck or flight.load for flight in side._flights.values())
        engine.reset(running=not (loading or stuck), connector=self.draw.random() < 0.3)

    def die(self):
        if self.deaths > 0 and not self.daemon.dead:
            self.deaths -= 1
            self.daemon.kill()
        elif self.daemon.dead:
            self.daemon.start_again()

    def go(self):
        deeds = [(self.arrive, 0.12), (self.abort, 0.02), (self.preempt, 0.02),
                 (self.reset, 0.01), (self.die, 0.02)]
        self.arrive()
        for _ in range(STEPS):
            for deed, chance in deeds:
                if self.draw.random() < chance:
                    deed()
            if self.engine.works():
                self.engine.step()
        self.faults.quiet = True
        if self.daemon.dead:
            self.daemon.start_again()
        self.engine.run()


@pytest.mark.own_daemon
def test_walk(folder, daemon, seed):
    walk = Walk(seed, folder, daemon)
    print(f"seed {seed}: {walk.options}, trouble {walk.faults.trouble}")
    engine = walk.engine
    try:
        walk.go()
        all_good(engine, daemon)
    finally:
        engine.close()
    replay(folder, daemon, walk)


def replay(folder, daemon, walk):
    """P4 again, with what the walk saved."""
    options = {**walk.options, "blocks": 90}
    again = Engine(folder, daemon.socket, engine="replay", **options)
    try:
        for asked in walk.engine.asked.values():
            again.add(asked.prompt, 3, salt=asked.request.cache_salt)
        again.run()
        all_good(again, daemon)
        assert daemon_leases(daemon.socket) == 0
    finally:
        again.close()
