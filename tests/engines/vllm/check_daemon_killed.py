"""kill -9 of the daemon, and a daemon that does not answer for ten seconds, with loads in flight:
no request fails, and tokens stay right."""
import random
import threading

from compare import all_answered, all_hit, judge
from engine import Answer
from expect import Held, after
from workload import fresh, lengths

SEED = 61
PROMPTS = 24
KILLS = 6
PAUSES = 2
PAUSE_S = 10
WINDOW_S = 0.15  # loads of all prompts are under way for about so long
LIMIT_S = 600
REFILLS = 8
REFILL_S = 20


def kill(daemon):
    """It is gone and there again, with nothing in memory."""
    daemon.kill()
    daemon.start_again()


def pause(daemon):
    """Goes on after a while."""
    daemon.pause()
    timer = threading.Timer(PAUSE_S, daemon.resume)
    timer.start()
    return timer


def struck(engine, requests, strike, delay_s):
    """Answers of requests, with the daemon struck at a random moment behind their submission."""
    engine.submit(requests)
    answers, threads = {}, []
    for event in engine.events(LIMIT_S):
        if isinstance(event, Answer):
            answers[event.id] = event
        elif event == "submitted":
            threads.append(threading.Timer(delay_s, lambda: threads.append(strike())))
            threads[0].start()
    for thread in threads:
        if thread is not None:
            thread.join()
    return answers


def refill(engine, daemon, requests, held):
    """Asks until a new daemon holds all again: saves of the moment when it comes may be lost."""
    for _ in range(REFILLS):
        engine.generate(requests)
        if daemon.settle(len(held.names), REFILL_S) == len(held.names):
            return True
    return False


def run(lab):
    """One row."""
    row = lab.row()
    rng = random.Random(SEED)
    requests = fresh(SEED, lengths(SEED, PROMPTS, 800, 2600))
    base = lab.answers(requests, dtype="float32")
    daemon = lab.daemon()
    engine = lab.up(daemon, dtype="float32", processes=True, extra={})
    held = after(Held(engine.block_tokens), requests, engine.generate(requests))
    wrong, before = 0, {}
    for turn in range(KILLS + PAUSES):
        strike, name = (kill, "killed") if turn < KILLS else (pause, "paused")
        row.expect(refill(engine, daemon, requests, held),
                   f"turn {turn}: the daemon does not get all {len(held.names)} blocks again")
        answers = struck(engine, requests, lambda: strike(daemon), rng.uniform(0, WINDOW_S))
        all_answered(row, f"turn {turn}, {name}", requests, answers)
        quiet = lab.row()
        wrong += judge(quiet, f"turn {turn}, {name}", base, answers).other_tokens
        row.wrong += quiet.wrong
        if turn in (KILLS - 1, KILLS + PAUSES - 1):
            counters = engine.counters()
            told = {one: counters.get(one, 0) - before.get(one, 0) for one in
                    ("loads_failed", "saves_failed", "lookup_timeouts", "stuck")}
            before = counters
            row.expect(told["loads_failed"] > 0, f"{name}: no load was in flight")
            row.say(f"{name} {KILLS if strike is kill else PAUSES} times: "
                    f"{told['loads_failed']:.0f} loads failed in flight, "
                    f"{told['lookup_timeouts']:.0f} lookups without an answer, "
                    f"{told['stuck']:.0f} stuck", **{name: told})
    row.say(f"{wrong} of {PROMPTS * (KILLS + PAUSES)} answers differ", differ=wrong)
    row.expect(refill(engine, daemon, requests, held), "the daemon does not get all blocks again")
    last = engine.generate(requests)
    all_hit(row, "afterwards", requests, last, held)
    judge(row, "afterwards", base, last)
    yield row
