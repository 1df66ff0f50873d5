"""Prefill in one vLLM server, decode in another one, with a proxy between: same tokens, and the
decode server computes only what is no whole block.

Hits are the decode server's counter: what its answers report are those of the prefill server, by
vLLM's own choice."""
import concurrent.futures
import statistics
import threading
import time

import proxy
from server import GENERATE, post, question, tokens_of
from workload import fresh, lengths

SEED = 81
PROMPTS = 16
AT_ONCE = 4
BLOCK = 128  # vLLM's on a CPU
COUNTED_S = 20  # vLLM publishes counters with its next step


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
    row.say(f"{wrong} of {len(requests)} differ", differ=wrong)


def counted(server, hits):
    """The server's counters, once they tell of so many hits or do not for long."""
    until = time.monotonic() + COUNTED_S
    while True:
        counters = server.counters()
        if counters.get("hit_tokens") == hits or time.monotonic() > until:
            return counters
        time.sleep(0.2)


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
    wanted = sum((len(one.tokens) - 1) // BLOCK * BLOCK for one in requests)
    for name, server, hits in (("prefill", prefill, 0), ("decode", decode, wanted)):
        counters = counted(server, hits)
        row.figures[name] = counters
        row.expect(counters.get("hit_tokens", 0) == hits,
                   f"{name}: hit {counters.get('hit_tokens', 0):.0f} tokens, expected {hits}")
        for bad in ("loads_failed", "saves_failed", "saves_dropped", "stuck"):
            row.expect(not counters.get(bad), f"{name}: {bad} is {counters.get(bad)}")
    row.say(f"the decode server hit {row.figures['decode'].get('hit_tokens', 0):.0f} of "
            f"{sum(len(one.tokens) for one in requests)} tokens; median of a whole request with 16 "
            f"tokens of answer, {AT_ONCE} at once: "
            f"{statistics.median(ms for _, ms in answers.values()):.0f} ms",
            ms={name: ms for name, (_, ms) in answers.items()})
    row.expect(not row.figures["decode"].get("saves"), "the decode server saved something")
    row.expect(not row.figures["prefill"].get("loads"), "the prefill server loaded something")
    yield row
