"""Properties of a whole run."""
import numpy

import kveik
from kveik.vllm import options, space

import spy
from configs import HEADS, LAYERS
from engine import Broken
from model import ROW_WORDS, Sequence


def tokens_equal(engine):
    """P4: what was generated is what the model says without a cache."""
    known = {}
    for name, asked in engine.asked.items():
        count = asked.request.max_tokens
        key = tuple(asked.prompt), count, tuple(asked.extras)
        if key not in known:
            known[key] = engine.shape.generate(asked.prompt, count, asked.extras)
        right = known[key]
        if asked.tokens != right[:len(asked.tokens)]:
            raise Broken(f"P4: {name}: {asked.tokens} instead of {right}")
        if not asked.aborted and (len(asked.tokens) != count or asked.reason is None):
            raise Broken(f"P0: {name} ended with {asked.reason} after {len(asked.tokens)} tokens")


def tables_empty(engine):
    """P0: no request, no job, no block, no lease is left."""
    scheduler, manager = engine.scheduler, engine.scheduler.kv_cache_manager
    left = [scheduler.requests, scheduler.running, list(scheduler.waiting),
            list(scheduler.kv_holding_waiting), scheduler.deferred_frees,
            scheduler.finished_recving_kv_req_ids, scheduler.failed_recving_kv_req_ids,
            scheduler._inflight_prefills]
    if any(left):
        raise Broken(f"P0: left in the scheduler: {left}")
    used = manager.block_pool.num_gpu_blocks - manager.block_pool.get_num_free_blocks()
    if used != 1:
        raise Broken(f"P0: {used - 1} blocks are not free")
    if engine.connector is None:
        return
    side = engine.connector._scheduler
    left = [side._requests, side._flights, side._loads_new, side._saves_unsure, side._saves_new,
            side._blocks.held]
    left += [[worker.connector._worker._work, worker.connector._worker._stuck]
             for worker in engine.workers if worker.connector._worker._work]
    if any(left):
        raise Broken(f"P0: left in the connector: {left}")


def leases_given_back(engine):
    """P0: each exactly once, but those of a daemon that is no more."""
    side = engine.connector._scheduler
    while side._client.orders:  # answers that nobody waits for any more
        engine.faults.tick()
        side._lookups.poll()
    side._lookups.poll()
    if side._lookups.leases or side._lookups.unsent:
        raise Broken(f"P0: the connector holds {side._lookups.leases} leases")
    boot_id = side._client.info().boot_id
    for lease in {lease for lease in side._client.given + side._client.released
                  if lease[1] == boot_id}:
        times = side._client.released[lease]
        if times != 1 or side._client.given[lease] != 1:
            raise Broken(f"P0: lease {lease[0]} was given back {times} times")


def daemon_leases(socket):
    """How many the daemon holds."""
    with spy.Real(socket) as client:
        return client.daemon_status()["index"]["leases"]


class Reader:
    """An independent engine that keeps whole heads of all layers, whatever the workers' split."""

    def __init__(self, engine, socket):
        self.engine = engine
        self.client = spy.Real(socket)
        chosen = options.read(engine.config.kv_transfer_config.kv_connector_extra_config)
        shape = space.describe(_whole(engine.config), engine.kv_cache, chosen)
        self.space = shape.register(self.client)
        self.size = engine.block_size
        self.pages = 80
        row = ROW_WORDS * 8
        self.words, self.layouts = [None] * LAYERS, []
        for number, group in enumerate(shape.groups):
            planes = []
            for name in group.layer_names:
                words = numpy.zeros((self.pages, HEADS, self.size, ROW_WORDS), numpy.uint64)
                self.words[int(name.split(".")[2])] = words
                planes.append(kveik.Plane(self.client.export(words), 0,
                                          page_stride=HEADS * self.size * row,
                                          head_stride=self.size * row))
            self.layouts.append(self.client.register_layout(
                self.space, group=number, page_tokens=self.size, page_count=self.pages,
                planes=planes, head_count=HEADS, page_bytes=self.size * row))
        self.groups = shape.groups

    def close(self):
        self.client.close()

    def keys(self, tokens):
        """One a block."""
        grains = kveik.hash_tokens(tokens[:len(tokens) // self.size * self.size])
        step = self.size // kveik.GRAIN_TOKENS * 32
        return b"".join(grains[at:at + 32] for at in range(step - 32, len(grains), step))

    def held(self, tokens):
        """Leading blocks that a lookup finds."""
        found = self.client.lookup(self.space, self.keys(tokens), key_tokens=self.size,
                                   lease=False).check()
        return found.hit_tokens // self.size

    def push(self, tokens, wrong_block=None):
        """As an engine that computed it would, but for one block."""
        keys, sequence = self.keys(tokens), Sequence(tokens)
        count = len(keys) // 32
        for layer in range(LAYERS):
            rows = self.engine.shape.rows(sequence.states[:count * self.size], layer,
                                          slice(0, HEADS))
            self.words[layer][:count] = rows.reshape(HEADS, count, self.size, -1).transpose(
                1, 0, 2, 3)
            if wrong_block is not None:
                self.words[layer][wrong_block] ^= numpy.uint64(1)
        for layout in self.layouts:
            self.client.push(kveik.PushRun(layout, keys, list(range(count)), block_count=count,
                                           block_tokens=self.size)).check()

    def check(self, tokens, extras=()):
        """P3: pulls every block of the sequence that is there, group by group and one by one, and
        compares. How many there were, by group."""
        keys, sequence = self.keys(tokens), Sequence(tokens, extras)
        return [self._check_group(number, keys, sequence) for number in range(len(self.groups))]

    def _check_group(self, number, keys, sequence):
        there = 0
        for at in range(0, len(keys), 32):
            block = at // 32
            page = block % self.pages
            done = self.client.pull(kveik.PullRun(self.layouts[number], keys[at:at + 32], [page],
                                                  key_tokens=self.size)).check()
            if done.failed_indices():
                continue
            there += 1
            states = sequence.states[block * self.size:(block + 1) * self.size]
            for name in self.groups[number].layer_names:
                layer = int(name.split(".")[2])
                right = self.engine.shape.rows(states, layer, slice(0, HEADS))
                if (self.words[layer][page] != right).any():
                    raise Broken(f"P3: block {block} of layer {layer} is not that of its tokens")
        return there


def _whole(config):
    import copy
    whole = copy.deepcopy(config)
    whole.parallel_config.tensor_parallel_size = whole.parallel_config.world_size = 1
    return whole


def all_good(engine, daemon=None):
    """P0, P3 and P4 of a run that has ended."""
    tables_empty(engine)
    tokens_equal(engine)
    if engine.connector is not None:
        leases_given_back(engine)
    if daemon is not None:
        reader = Reader(engine, daemon.socket)
        try:
            for asked in engine.asked.values():
                if not asked.extras:
                    reader.check(asked.prompt + asked.tokens)
        finally:
            reader.close()
