"""Negative controls: an oracle that finds nothing must not be one that looks at nothing. A poisoned
block, and connectors with a mistake each, are found."""
import pytest

from kveik.vllm import blocks, keys, lookups, scheduler, worker
from engine import Broken
from spy import Scripted, Verdict
from verify import Reader, all_good, daemon_leases


def run(make, daemon, prompt, faults=None, reset=False, numbers=(1, 2, 3, 4),
        **options):
    """An engine under pressure, and what it leaves."""
    engine = make(faults, engine="mutant", blocks=28, **options)
    # the first computes full blocks on top of what it loads
    asked = [engine.add(prompt(number) + prompt(9, 40) * (number == 1), 30)
             for number in numbers]
    if reset:
        engine.run(lambda: asked[2].tokens and asked[2].request in engine.scheduler.running)
        while engine._queue:
            engine._take_output()
        engine.reset(running=True)
    engine.run()
    all_good(engine, daemon)
    if daemon_leases(daemon.socket):
        raise Broken("P0: the daemon holds leases")


def test_poison_is_found(make, daemon, prompt):
    """Someone pushed other bytes under a prompt's key."""
    victim = make(engine="victim")
    reader = Reader(victim, daemon.socket)
    reader.push(prompt(1), wrong_block=3)
    with pytest.raises(Broken, match="P3"):
        reader.check(prompt(1))
    reader.close()
    victim.add(prompt(1), 5)
    with pytest.raises(Broken, match="layer=0, position=48"):
        victim.run()


def test_poison_changes_the_tokens(make, daemon, prompt):
    """Also when nobody compares bytes."""
    victim = make(engine="victim")
    reader = Reader(victim, daemon.socket)
    reader.push(prompt(1), wrong_block=3)
    reader.close()
    victim.add(prompt(1), 5)
    victim._check_reads = lambda *_: None
    victim.run()
    with pytest.raises(Broken, match="P4"):
        all_good(victim)


# ---- connectors with a mistake -------------------------------------------------------------------
def held_by_nobody(patch):
    patch.setattr(blocks.Blocks, "hold", lambda self, pages: None)
    patch.setattr(blocks.Blocks, "free", lambda self, pages: None)


def saved_before_it_is_computed(patch):
    def plan(self, output, real=scheduler.SchedulerSide._plan_saves):
        real(self, output)
        self._saves_new += self._saves_unsure
        self._saves_unsure = []
    patch.setattr(scheduler.SchedulerSide, "_plan_saves", plan)


def saved_whatever_failed(patch):
    def judge(self, step, failed, real=scheduler.SchedulerSide._judge_saves):
        real(self, step, False)
    patch.setattr(scheduler.SchedulerSide, "_judge_saves", judge)


def let_go_before_it_is_copied(patch):
    def submit(self, work, real=worker.WorkerSide._submit):
        real(self, work)
        if not work.load:
            self._report.done[work.job.id] = scheduler.Outcome()
    patch.setattr(worker.WorkerSide, "_submit", submit)
    patch.setattr(worker.WorkerSide, "_finish", lambda self, work: self._work.pop(work.job.id)
                  if not work.load else self._report.done.update(
                      {work.job.id: scheduler.Outcome()}) or self._work.pop(work.job.id))


def no_fence(patch):
    patch.setattr(worker.WorkerSide, "_fence", lambda self: None)


def released_twice(patch):
    def release(self, lease, real=lookups.Lookups.release):
        real(self, lease)
        if lease is not None:
            self._send_release(lease)
    patch.setattr(lookups.Lookups, "release", release)


def never_released(patch):
    def forget(self, lease):
        self.leases -= lease is not None
    patch.setattr(lookups.Lookups, "release", forget)


def failed_blocks_kept_secret(patch):
    patch.setattr(worker.WorkerSide, "take_bad_pages", lambda self: set())


def received_when_asked_for(patch):
    def submit(self, work, real=worker.WorkerSide._submit):
        real(self, work)
        if work.load:
            self._received.add(work.job.request)
    patch.setattr(worker.WorkerSide, "_submit", submit)
    patch.setattr(worker.WorkerSide, "_tell_load", lambda self, work: None)


def keys_of_tokens_alone(patch):
    patch.setattr(keys, "extras_of", lambda request: [])


def pages_in_another_order(patch):
    def runs(self, tracked, tables, first, last, real=scheduler.SchedulerSide._runs):
        made = real(self, tracked, tables, first, last)
        for run in made:
            run.pages.reverse()
        return made
    patch.setattr(scheduler.SchedulerSide, "_runs", runs)


SLOW_SAVES = {"push": [Verdict(hold=8)]}
MUTANTS = {
    held_by_nobody: {"verdicts": SLOW_SAVES},
    saved_before_it_is_computed: {},
    saved_whatever_failed: {"verdicts": {"pull": [Verdict(miss=0)]}, "load": "layerwise",
                            "numbers": (1,)},
    let_go_before_it_is_copied: {"verdicts": SLOW_SAVES},
    no_fence: {"verdicts": SLOW_SAVES, "reset": True},
    released_twice: {},
    never_released: {},
    failed_blocks_kept_secret: {"verdicts": {"pull": [Verdict(miss=0)]}},
    received_when_asked_for: {"verdicts": {"pull": [Verdict(hold=8)]}},
    pages_in_another_order: {},
}


@pytest.mark.parametrize("mutant", [None, *MUTANTS], ids=lambda one: one.__name__ if one else "-")
@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_mutant_is_found(make, daemon, stored, prompt, monkeypatch, mutant, asynchronous):
    """Under what provokes it; the connector as it is passes all of that (mutant None)."""
    stored(prompt(1), prompt(2))
    if mutant is None:
        for given in MUTANTS.values():
            if asynchronous and given.get("load") == "layerwise":
                continue
            given = dict(given)
            run(make, daemon, prompt, Scripted(**given.pop("verdicts", {})),
                asynchronous=asynchronous, **given)
        return
    if asynchronous and MUTANTS[mutant].get("load") == "layerwise":
        return  # refused: see test_failures.py
    mutant(monkeypatch)
    given = dict(MUTANTS[mutant])
    with pytest.raises(Broken):
        run(make, daemon, prompt, Scripted(**given.pop("verdicts", {})),
            asynchronous=asynchronous, **given)


def test_mutant_without_extras_is_found(make, daemon, prompt, monkeypatch):
    keys_of_tokens_alone(monkeypatch)
    first = make(engine="one")
    first.add(prompt(1), 5, salt="a")
    first.run()
    second = make(engine="two")
    second.add(prompt(1), 5, salt="b")
    with pytest.raises(Broken):
        second.run()
