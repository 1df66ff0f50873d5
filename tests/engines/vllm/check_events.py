"""What vLLM publishes: BlockStored events of what the daemon holds, and counters at /metrics."""
import json
import queue
import threading
import time

from engine import EngineFailed
from server import cached_of, free_port
from workload import fresh, lengths

SEED = 121
PROMPTS = 6
LIMIT_S = 60
BLOCK = 128  # vLLM's on a CPU


def heard(listener, blocks):
    """The events of Kveik's medium until so many blocks were named, or time is up."""
    lines, out = queue.Queue(), []

    def read():
        for line in listener.stdout:
            lines.put(json.loads(line))
        lines.put(None)

    reader = threading.Thread(target=read)
    reader.start()
    until = time.monotonic() + LIMIT_S
    try:
        while sum(one["blocks"] for one in out) < blocks:
            told = lines.get(timeout=max(until - time.monotonic(), 0.01))
            if told is None:
                raise EngineFailed("the listener ended; see its log")
            if told["kind"] == "BlockStored" and told["medium"] == "CPU":
                out.append(told)
    except queue.Empty:
        pass  # the caller sees how many there are
    finally:
        listener.terminate()
        reader.join()
    return out


def run(lab):
    """One row."""
    row = lab.row("events-metrics")
    requests = fresh(SEED, lengths(SEED, PROMPTS), answer_tokens=2)
    blocks = sum(len(one.tokens) // BLOCK for one in requests)
    daemon = lab.daemon()
    port = free_port()
    listener = lab.listener(f"tcp://127.0.0.1:{port}")
    server = lab.server(daemon, "--kv-events-config", json.dumps(
        {"enable_kv_cache_events": True, "publisher": "zmq",
         "endpoint": f"tcp://*:{port}"})).wait_up()  # with a star vLLM binds, else it connects
    for one in requests:
        server.ask(one)
    events = heard(listener, blocks)
    named = sum(one["blocks"] for one in events)
    row.expect(named == blocks, f"events name {named} blocks, expected {blocks}")
    row.expect(all(one["tokens"] == one["blocks"] * BLOCK for one in events),
               "events do not carry the tokens of their blocks")
    row.say(f"{len(events)} BlockStored events with medium CPU name {named} blocks", blocks=named)
    found = sum(cached_of(server.ask(one)) for one in requests)
    counters = server.counters()
    wanted = sum((len(one.tokens) - 1) // BLOCK * BLOCK for one in requests)
    row.expect(found == wanted, f"usage says {found} tokens hit, expected {wanted}")
    row.expect(counters.get("hit_tokens") == wanted,
               f"vllm:kveik_hit_tokens is {counters.get('hit_tokens')}, expected {wanted}")
    for name in ("loads", "saves", "lookups", "load_bytes", "save_bytes"):
        row.expect(counters.get(name, 0) > 0, f"vllm:kveik_{name} is {counters.get(name)}")
    row.say(f"{len(counters)} counters vllm:kveik_*; hit_tokens {wanted} as expected",
            counters=counters)
    yield row
