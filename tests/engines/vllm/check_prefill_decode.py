"""Prefill in one vLLM server, decode in another one, with a proxy between: same tokens, and the
decode server computes only what is no whole block."""
import concurrent.futures
import statistics
import threading
import time

import proxy
from server import GENERATE, cached_of, post, question, tokens_of
from workload import fresh, lengths

SEED = 81
PROMPTS = 16
AT_ONCE = 4
BLOCK = 128  # vLLM's on a CPU


def timed(address, request):
    """(answer, ms) through the proxy."""
    began = time.monotonic()
    answer = post(address + GENERATE, question(request))
    return answer, 1000 * (time.monotonic() - began)


def ask_all(address, requests):
    """Answers and times, several at once."""
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        return dict(zip([one.id for one in requests],
                        pool.map(lambda one: timed(address, one), requests)))


def judge(row, base, requests, answers):
    """Tokens and hits of all."""
    wrong = 0
    for one in requests:
        answer = answers[one.id][0]
        same = tokens_of(answer) == base[one.id].tokens
        wrong += not same
        row.expect(same, f"{one.id}: other tokens: {tokens_of(answer)}, {base[one.id].tokens}")
        wanted, got = (len(one.tokens) - 1) // BLOCK * BLOCK, cached_of(answer)
        row.expect(got == wanted, f"{one.id} ({len(one.tokens)} tokens): the decode server hit "
                   f"{got}, expected {wanted}")
    row.say(f"{wrong} of {len(requests)} differ", differ=wrong)


def run(lab):
    """One row."""
    row = lab.row()
    requests = fresh(SEED, lengths(SEED, PROMPTS), answer_tokens=16)
    base = lab.answers(requests, dtype="float32")
    daemon = lab.daemon()
    prefill, decode = (lab.server(daemon, role=role) for role in ("kv_producer", "kv_consumer"))
    for server in (prefill, decode):
        server.wait_up()
    between = proxy.make(prefill.address, decode.address)
    serving = threading.Thread(target=between.serve_forever)
    serving.start()
    try:
        answers = ask_all(f"http://127.0.0.1:{between.server_port}", requests)
    finally:
        between.shutdown()
        serving.join()
        between.server_close()
    judge(row, base, requests, answers)
    hits = sum(cached_of(answer) for answer, _ in answers.values())
    row.say(f"decode hit {hits} of {sum(len(one.tokens) for one in requests)} tokens; median of a "
            f"whole request with 16 tokens of answer, {AT_ONCE} at once: "
            f"{statistics.median(ms for _, ms in answers.values()):.0f} ms", hit_tokens=hits,
            ms={name: ms for name, (_, ms) in answers.items()})
    for name, server in (("prefill", prefill), ("decode", decode)):
        counters = server.counters()
        row.figures[name] = counters
        for bad in ("loads_failed", "saves_failed", "saves_dropped", "stuck"):
            row.expect(not counters.get(bad), f"{name}: {bad} is {counters.get(bad)}")
    row.expect(not row.figures["decode"].get("saves"), "the decode server saved something")
    row.expect(not row.figures["prefill"].get("loads"), "the prefill server loaded something")
    yield row
