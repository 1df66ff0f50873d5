"""python -m kveik: does a daemon answer, and do bytes come back from it as they went?"""
from __future__ import annotations

import argparse
import secrets
import sys

from . import Client, Error, Group, Plane, PullRun, PushRun, Unavailable, __version__, hash_tokens

PAGES, PAGE_TOKENS, HEADS, ELEMENTS = 8, 16, 4, 64
ROW = HEADS * ELEMENTS * 2
PLANE = PAGES * PAGE_TOKENS * ROW
HALF = PLANE // 2


def try_out(client: Client) -> bool:
    """Pushes four pages of noise under keys that nobody else has, and pulls them into others."""
    info = client.info()
    print(f"connected   to {info.daemon}, protocol {info.protocol_version}, as {info.instance}")
    # a space of its own, which no engine looks into and which holds a few KiB for a short time
    space = client.register_space("python -m kveik", "bf16",
                                  [Group(layers=1, heads=HEADS, kinds=(ELEMENTS, ELEMENTS))])
    memory = client.allocate(2 * PLANE)
    region = client.export(memory)
    print(f"allocated   {memory.nbytes} bytes, exported: {region.mode.name.lower()}")
    layout = client.register_layout(
        space, page_tokens=PAGE_TOKENS, page_count=PAGES, head_count=HEADS,
        planes=[Plane(region, offset, PAGE_TOKENS * ROW, ROW, ELEMENTS * 2, 2)
                for offset in (0, PLANE)])
    for begin in (0, PLANE):
        memory.view[begin:begin + HALF] = secrets.token_bytes(HALF)
    keys = hash_tokens(range(4 * PAGE_TOKENS), extras=[(0, secrets.token_bytes(16))])
    pushed = client.push(PushRun(layout, keys, range(4))).check()
    print(f"pushed      {pushed.bytes} bytes in {pushed.latency_us} us")
    found = client.lookup(space, keys).check()
    print(f"looked up   {found.hit_tokens} of {4 * PAGE_TOKENS} tokens in {found.latency_us} us")
    pulled = client.pull(PullRun(layout, keys, range(4, 8)), lease=found.lease,
                         release_lease=True).check()
    print(f"pulled      {pulled.bytes} bytes in {pulled.latency_us} us")
    same = all(memory.view[begin:begin + HALF] == memory.view[begin + HALF:begin + PLANE]
               for begin in (0, PLANE))
    print("compared    the same bytes" if same else "compared    OTHER BYTES")
    return same and found.hit_tokens == 4 * PAGE_TOKENS


def main() -> int:
    """0: all well; 1: something is wrong; 3: no daemon."""
    parser = argparse.ArgumentParser(prog="python -m kveik", description=__doc__)
    parser.add_argument("--socket", metavar="PATH", help="of the daemon (default: $KVEIK_SOCKET, "
                        "else the usual place)")
    parser.add_argument("--version", action="version", version=f"kveik {__version__}")
    socket_path = parser.parse_args().socket
    try:
        with Client(socket_path, name="python -m kveik") as client:
            return 0 if try_out(client) else 1
    except Unavailable as error:
        print(f"no daemon: {error}\nstart one with `kveikd`, or say where it is: --socket PATH, "
              "or KVEIK_SOCKET", file=sys.stderr)
        return 3
    except Error as error:
        print(f"{error.status.name}: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
