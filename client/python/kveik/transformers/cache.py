"""PrefixCache: what a user calls."""
from __future__ import annotations

import concurrent.futures
import functools
import os
import threading
import time
import weakref
from collections.abc import Sequence
from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicCache, StaticCache

import kveik

from . import prompts, static
from .layers import cache_in
from .mover import Mover
from .pool import Pool
from .slab import GRAIN, Slab
from .space import check_model, shape_of, weights_name, weights_state
from .stage import staged
from .stats import Stats
from .traffic import Traffic

Extras = Sequence[tuple[int, bytes]]
_THREADS = 2
_TIMEOUT_MS = 1000
_RESERVE = 256  # tokens that are computed after a prompt, unless somebody says how many


class PrefixCache:
    """Prompts' beginnings, kept by kveikd for every process of this machine that runs the model.

    model           a decoder-only model of transformers, on the CPU, in evaluation mode
    name            names the weights and whatever else decides the KV (adapters); None: the digest
                    of their files or, without files, of their bytes
    salt            other bytes share nothing
    client          a connection to use; None: one of its own, which close() ends
    socket_path     of that one; None: where kveikd usually is
    timeout_ms      what load() and save() wait for the daemon at most
    pending_bytes   of saves that are under way; more are dropped
    spare_bytes     of memory that is kept for the next caches

    Raises Unsupported, with the reason, for a model whose KV cannot be kept. A daemon that is away,
    slow or restarting is no error: load() finds nothing and save() keeps nothing, both return
    within their time, and `stats` counts it. Any number of threads may use it at once. A context
    manager: close() at its end.
    """

    def __init__(self, model: Any, *, name: str | None = None, salt: str | bytes = b"",
                 client: kveik.Client | None = None, socket_path: str | None = None,
                 timeout_ms: int = _TIMEOUT_MS, pending_bytes: int = 1 << 30,
                 spare_bytes: int = 256 << 20):
        self.model = model
        self.timeout_ms = timeout_ms
        self._name = name
        self._salt = salt.encode() if isinstance(salt, str) else salt
        self._shape = shape_of(model)
        self._lock = threading.Lock()
        self._state: Any = None
        self._traffic: Traffic | None = None
        self._own_client = client is None
        self.client = client if client is not None else kveik.Client(
            socket_path, name="transformers", connect_timeout_ms=min(timeout_ms, 1000),
            wait_for_daemon=True)
        self._pid = os.getpid()
        self._counts = Stats(pending_bytes)
        self._pool = Pool(self.client, spare_bytes)
        self._mover = Mover(_THREADS)
        self._end = weakref.finalize(self, self._mover.stop)
        self._current()

    def close(self, timeout_ms: int = 10000) -> None:
        """Waits for saves that are under way, and ends the connection if it is its own. Caches that
        it made stay usable."""
        if os.getpid() == self._pid:
            self.flush(timeout_ms)
        self._end()
        self._pool.clear()
        if self._own_client:
            self.client.close()

    def __enter__(self) -> PrefixCache:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def stats(self) -> dict[str, int]:
        """What happened so far; see stats.COUNTERS."""
        return self._counts.all()

    # ---- whose KV --------------------------------------------------------------------------------
    def _current(self) -> Traffic:
        """The space of the weights as they are now."""
        with self._lock:
            state = weights_state(self.model)
            if self._traffic is None or state != self._state:
                check_model(self.model)
                name = self._name if self._name is not None else weights_name(self.model)
                self._traffic = Traffic(self.client, self._shape, name, self._counts)
                self._state = state
            return self._traffic

    def _keys(self, sequences: torch.Tensor, tokens: int, extras: Extras) -> list[bytes]:
        """Of the first `tokens` of each row."""
        more = [(0, b"salt" + self._salt)] if self._salt else []
        more = [extra for extra in [*more, *extras] if extra[0] < tokens]
        return [kveik.hash_tokens(row[:tokens], extras=more) for row in sequences]

    # ---- load ------------------------------------------------------------------------------------
    def load(self, input_ids: torch.Tensor, *, attention_mask: torch.Tensor | None = None,
             extras: Extras = (), reserve: int = _RESERVE, into: StaticCache | None = None,
             timeout_ms: int | None = None) -> tuple[Cache, int]:
        """The longest beginning of a prompt that is held: (cache, tokens in it).

        input_ids       [row, token]; rows of a batch go on from the shortest of their hits
        attention_mask  as for the model; tokens that are masked out (padding) are refused
        extras          what else decides the KV from a token on: [(position, bytes)]
        reserve         tokens that will be computed after the prompt; more cost a copy
        into            an empty StaticCache to fill; None: a DynamicCache
        timeout_ms      of this call

        At least one token of the prompt is left to compute. Never fails for want of a daemon;
        raises ValueError for prompts that cannot be named.
        """
        prompts.check(self.model, input_ids, attention_mask)
        rows, length = input_ids.shape
        if into is not None:
            static.check(into, self._shape, rows)
        traffic = self._current()
        self._counts.add("loads")
        keys = self._keys(input_ids, (length - 1) // GRAIN * GRAIN, extras)
        room = length + reserve if into is None else into.get_max_length()
        try:
            make = functools.partial(self._slab, traffic, rows, room, into)
            slab, found = self._fetched(traffic, make, keys, timeout_ms or self.timeout_ms)
        except kveik.Error as error:  # no memory, a closed client, a forked child
            self._counts.failed("loads_failed", error)
            return (into if into is not None else DynamicCache(config=self.model.config)), 0
        if into is None:
            return cache_in(slab, found), found
        if static.is_fresh(into):
            static.put_in(into, slab)
        else:
            static.copy_in(into, slab, found)
        static.set_length(into, found)
        return into, found

    def _slab(self, traffic: Traffic, rows: int, tokens: int, into: StaticCache | None) -> Slab:
        slab = Slab(self._pool, self._shape, rows, tokens,
                    head_major=into is not None and static.is_fresh(into))
        slab.made_with = traffic
        return slab

    def _fetched(self, traffic: Traffic, make: Any, keys: list[bytes],
                 timeout_ms: int) -> tuple[Slab, int]:
        """A slab with what was found of these keys: (slab, tokens)."""
        slab = make()
        if not keys[0]:
            return slab, 0
        if self._mover.late or os.getpid() != self._pid:
            self._counts.add("loads_failed")
            return slab, 0
        began = time.monotonic()
        job = self._mover.submit(functools.partial(traffic.pull, slab, keys, timeout_ms))
        try:
            found = job.result(timeout_ms / 1000)
        except (kveik.Error, concurrent.futures.TimeoutError) as error:
            self._mover.give_up(job)
            self._counts.failed("loads_failed", error)
            return make(), 0  # the daemon may still write to the other one
        self._counts.add("load_us", round((time.monotonic() - began) * 1e6))
        self._counts.hit(found * len(keys))
        return slab, found

    # ---- save ------------------------------------------------------------------------------------
    def save(self, sequences: Any, cache: Cache, *, extras: Extras = (), wait: bool = True,
             timeout_ms: int | None = None) -> int:
        """Keeps what a cache holds, for everybody: the tokens of each row that are now kept, or
        with wait=False on their way; 0 when that failed.

        sequences  [row, token], the prompt with what was generated: at least as many tokens as the
                   cache holds; or what generate() returned with return_dict_in_generate
        extras     as in load()
        wait       until it is done, timeout_ms at most; False: return at once. The memory is held
                   until it is done, whatever becomes of the cache

        Never fails for want of a daemon; raises ValueError when the cache is not of these tokens or
        of this model.
        """
        ids = sequences if isinstance(sequences, torch.Tensor) else sequences.sequences
        held = int(cache.get_seq_length())
        prompts.check_saved(ids, held)
        tokens = held // GRAIN * GRAIN
        traffic = self._current()
        if tokens == 0 or os.getpid() != self._pid:
            return 0
        keys = self._keys(ids, tokens, extras)
        self._counts.add("saves")
        if self._mover.late:
            self._counts.add("saves_dropped")
            return 0
        slab = staged(self._pool, self._shape, traffic, cache, ids.shape[0], tokens, self._counts)
        if slab is None or not self._counts.begin(slab.nbytes):
            self._counts.add("saves_dropped")
            return 0
        return self._kept(traffic, slab, keys, ids, tokens, wait, timeout_ms or self.timeout_ms)

    def _kept(self, traffic: Traffic, slab: Slab, keys: list[bytes], ids: torch.Tensor,
              tokens: int, wait: bool, timeout_ms: int) -> int:
        push = functools.partial(traffic.push, slab, keys, ids[:, :tokens].tolist(), timeout_ms)
        nbytes = slab.nbytes
        job = self._mover.submit(push)
        job.add_done_callback(lambda done: self._counts.end(nbytes, done))
        if not wait:
            return tokens
        try:
            job.result(timeout_ms / 1000)
            return tokens
        except (kveik.Error, concurrent.futures.TimeoutError, concurrent.futures.CancelledError):
            self._mover.give_up(job)
            return 0

    def flush(self, timeout_ms: int = 10000) -> bool:
        """Waits for saves that are under way; False when some still are."""
        return self._counts.idle(timeout_ms / 1000)

    # ---- all in one ------------------------------------------------------------------------------
    def generate(self, input_ids: torch.Tensor, *, extras: Extras = (), wait: bool = False,
                 **kwargs: Any) -> Any:
        """model.generate(input_ids, **kwargs) that goes on from what is held, and keeps what it
        computed; what it returns. `extras` as in load(), `wait` as in save()."""
        prompts.check_generate(self.model, kwargs)
        if kwargs.get("use_cache") is False:
            return self.model.generate(input_ids, **kwargs)
        cache, _ = self.load(input_ids, attention_mask=kwargs.get("attention_mask"), extras=extras,
                             reserve=prompts.new_tokens(self.model, kwargs, input_ids.shape[1]))
        out = self.model.generate(input_ids, past_key_values=cache, **kwargs)
        self.save(out, cache, extras=extras, wait=wait)
        return out
