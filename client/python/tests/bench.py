"""What Python costs a request: python client/python/tests/bench.py [--socket PATH] [--rounds N]

Lookups and pushes are submitted and polled one at a time, and the processor time of this thread is
taken, so that the daemon's part is left out. "C" calls libkveik with structs that were made before;
"Python" goes through the package; the difference is what the package adds. The best of 15 batches
each, which take turns.
"""
import argparse
import select
import time

import kveik
from kveik._native import lib
from kveik.structs import completion, lookup_of, push_of

BATCHES = 15


def engine(client):
    space = client.register_space("bench", "u8", [kveik.Group(1, 1, (64,))])
    memory = client.allocate(64 * 16 * 64)
    region = client.export(memory)
    layout = client.register_layout(space, page_tokens=16, page_count=64,
                                    planes=[kveik.Plane(region, 0, 1024, 64, 64, 1)])
    return space, layout


def us_each(work, rounds):
    begin = time.thread_time_ns()
    for _ in range(rounds):
        work()
    return (time.thread_time_ns() - begin) / rounds / 1000


def compared(name, plain, package, rounds):
    us_each(plain, rounds), us_each(package, rounds)
    times = [(us_each(plain, rounds), us_each(package, rounds)) for _ in range(BATCHES)]
    in_c, in_python = (min(column) for column in zip(*times))
    print(f"{name:32} C {in_c:6.2f} us   Python {in_python:6.2f} us   "
          f"more {in_python - in_c:5.2f} us")


def ways(client, submit_c, submit_python):
    """The same request in both ways, submit to completion; waiting costs both the same."""
    raw, watch = completion(), select.epoll()
    watch.register(client.fileno(), select.EPOLLIN)

    def in_c():
        submit_c()
        while lib.glue_poll(client._native, raw) != 0:
            watch.poll()
        lib.kveik_completion_finish(raw)

    def in_python():
        submit_python()
        while client.poll() is None:
            watch.poll()
    return in_c, in_python


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--socket")
    parser.add_argument("--rounds", type=int, default=500)
    options = parser.parse_args()
    with kveik.Client(options.socket) as client:
        space, layout = engine(client)
        for grains in (1, 64, 1000):
            keys = kveik.hash_tokens(range(16 * grains))
            lookup, held = lookup_of(space, keys, 16, 0, 0, (), False, False, 0)
            compared(f"lookup of {grains} keys", *ways(
                client, lambda: lib.glue_submit_lookup(client._native, lookup, 0),
                lambda: client.submit_lookup(space, keys, lease=False)), options.rounds)
        keys, pages = kveik.hash_tokens(range(1024)), list(range(64))
        table, held = push_of(kveik.PushRun(layout, keys, pages))
        compared("push of 64 blocks, pages a list", *ways(
            client, lambda: lib.glue_submit_push(client._native, table, 1, 0, 0),
            lambda: client.submit_push(kveik.PushRun(layout, keys, pages), user=client)),
            options.rounds)


if __name__ == "__main__":
    main()
