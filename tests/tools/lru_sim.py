#!/usr/bin/env python3
"""What LRU would hit on a recorded request trace, from the trace file alone.

    lru_sim.py TRACE [--cache-blocks N ...] [--block-tokens N] [--requests N] [--json]

The same question that `kveik replay` asks of a running daemon, answered without it. For each
request: the blocks of its prompt that are resident, in an unbroken run from the first, are hits
and are touched in order; then the rest is inserted in order, or touched where it is resident
already; each insertion into a full cache evicts the least recently used block. That is what
`kveik replay --plain-lru` does; with --chunk-blocks, what it does without (its --json says the
number).
"""
import argparse
import collections
import json
import sys


def blocks_of(request, id_tokens, block_tokens):
    """Names of a prompt's blocks; equal names mean equal content and prefix."""
    ids = request["hash_ids"]
    tokens = min(request["input_length"], len(ids) * id_tokens)
    count = -(-tokens // block_tokens)
    if block_tokens <= id_tokens:
        share = id_tokens // block_tokens
        return [(ids[i // share], i % share) for i in range(count)]
    joined = block_tokens // id_tokens
    return [tuple(ids[i * joined:(i + 1) * joined]) for i in range(count)]


def read(path, requests=0):
    """The requests of a trace and the tokens that one of its ids names."""
    with open(path, encoding="utf-8") as file:
        lines = [json.loads(line) for line in file if line.strip()]
    id_tokens = 16 if "chat_id" in lines[0] else 512
    return (lines[:requests] if requests else lines), id_tokens


def simulate(trace, id_tokens, block_tokens, cache_blocks, chunk_blocks=0):
    """Block references and hits with room for `cache_blocks` (0: without end).

    chunk_blocks 0 is plain LRU. Otherwise blocks are used in groups, as Kveik's daemon sees them,
    each group from its last block to its first: the hits of a prompt, then the rest in chunks of
    so many blocks, of each chunk first what is resident already and then what is inserted.
    """
    cache = collections.OrderedDict()
    references = hits = 0
    for request in trace:
        names = blocks_of(request, id_tokens, block_tokens)
        references += len(names)
        hit = 0
        while hit < len(names) and names[hit] in cache:
            hit += 1
        hits += hit
        for name in names[:hit] if chunk_blocks == 0 else reversed(names[:hit]):
            cache.move_to_end(name)
        step = chunk_blocks or 1
        for begin in range(hit, len(names), step):
            use_chunk(cache, names[begin:begin + step], cache_blocks)
    return references, hits


def use_chunk(cache, names, cache_blocks):
    """Touches or inserts blocks together; what is in use cannot be evicted."""
    held, fresh = [], []
    for name in names:
        if name in cache:
            del cache[name]
            held.append(name)
            continue
        if cache_blocks and len(cache) + len(held) + len(fresh) == cache_blocks:
            if not cache:
                continue  # all in use: refused
            cache.popitem(last=False)
        fresh.append(name)
    for name in [*reversed(held), *reversed(fresh)]:
        cache[name] = True


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("trace")
    parser.add_argument("--cache-blocks", type=int, nargs="+", default=[0], metavar="N",
                        help="room in blocks; 0: without end")
    parser.add_argument("--block-tokens", type=int, default=0, metavar="N",
                        help="tokens of a block (default: what an id of the trace names)")
    parser.add_argument("--chunk-blocks", type=int, default=0, metavar="N",
                        help="use blocks in chunks, the last of each first (default: plain LRU)")
    parser.add_argument("--requests", type=int, default=0, metavar="N",
                        help="take only so many, from the beginning (default: all)")
    parser.add_argument("--json", action="store_true", help="one JSON array")
    options = parser.parse_args()
    trace, id_tokens = read(options.trace, options.requests)
    block_tokens = options.block_tokens or id_tokens
    if block_tokens % id_tokens and id_tokens % block_tokens:
        parser.error(f"blocks of {block_tokens} tokens neither divide nor join ids of {id_tokens}")
    rows = []
    for cache_blocks in options.cache_blocks:
        references, hits = simulate(trace, id_tokens, block_tokens, cache_blocks,
                                    options.chunk_blocks)
        rows.append({"cache_blocks": cache_blocks, "requests": len(trace),
                     "references": references, "hits": hits, "hit_ratio": hits / references})
    if options.json:
        json.dump(rows, sys.stdout, indent=2)
        print()
        return 0
    for row in rows:
        print(f"{row['cache_blocks'] or 'unlimited':>10} blocks: {row['hits']:>8} of "
              f"{row['references']} references hit, {100 * row['hit_ratio']:.2f} %")
    return 0


if __name__ == "__main__":
    sys.exit(main())
