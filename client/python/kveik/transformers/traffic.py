"""Lookups, pulls and pushes in the space of one model's weights. All of it may wait for the daemon,
and runs on the mover's threads."""
from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Sequence

import kveik

from .slab import GRAIN, Slab
from .space import Shape
from .stats import Stats

_KEY = kveik.KEY_BYTES
_RELEASE_MS = 200


class Traffic:
    """The daemon as a place for a model's KV."""

    def __init__(self, client: kveik.Client, shape: Shape, name: str, counts: Stats):
        self._client, self._shape, self._counts = client, shape, counts
        self._model = f"transformers {name}"
        self._lock = threading.Lock()
        self._space: int | None = None

    def space(self) -> int:
        """Its handle; kveik.Unavailable with the daemon down."""
        with self._lock:
            if self._space is None:
                self._space = self._client.register_space(
                    self._model, self._shape.dtype, self._shape.meaning(),
                    rope_id=self._shape.rope_id)
            return self._space

    # ---- pull ------------------------------------------------------------------------------------
    def pull(self, slab: Slab, keys: Sequence[bytes], timeout_ms: int) -> int:
        """Fills a slab with the longest beginning that all rows have; how many tokens that is.
        Raises kveik.Error when some of it did not come: the slab is then worth nothing."""
        until = time.monotonic() + timeout_ms / 1000
        space = self.space()
        found: list[kveik.Completion] = []
        try:
            for row_keys in keys:
                found.append(self._client.lookup(space, row_keys, deadline_ms=_left_ms(until)))
                found[-1].check()
            grains = min(answer.hit_keys for answer in found)
            if grains:
                self._pull_rows(slab, space, keys, [answer.lease for answer in found], grains,
                                until)
                found.clear()
        finally:
            self._release([answer.lease for answer in found if answer.lease])
        return grains * GRAIN

    def _release(self, leases: Sequence[int]) -> None:
        """Gives leases back that no pull did."""
        with contextlib.suppress(kveik.Error):
            for op in [self._client.submit_release(lease) for lease in leases]:
                self._client.wait(op, _RELEASE_MS)

    def _pull_rows(self, slab: Slab, space: int, keys: Sequence[bytes], leases: Sequence[int],
                   grains: int, until: float) -> None:
        slab.restored(grains * GRAIN)
        for row, lease in enumerate(leases):
            runs = [kveik.PullRun(layout, keys[row][first * _KEY:end * _KEY], range(first, end))
                    for layout, first, end in slab.runs(space, row, grains * GRAIN)]
            with slab.lent():
                done = self._client.pull(runs, lease=lease, release_lease=True,
                                         deadline_ms=_left_ms(until)).check()
            if done.failed_indices():
                raise kveik.Lost(f"{len(done.failed_indices())} of {grains} blocks went before "
                                 "they were pulled")
            self._counts.add("load_bytes", done.bytes)

    # ---- push ------------------------------------------------------------------------------------
    def push(self, slab: Slab, keys: Sequence[bytes], ids: Sequence[Sequence[int]],
             timeout_ms: int) -> None:
        """Keeps the tokens of all rows; the daemon copies what it does not hold. Raises kveik.Error
        when not all of it is held now."""
        until = time.monotonic() + timeout_ms / 1000
        space = self.space()
        for row, tokens in enumerate(ids):
            runs = [self._push_run(layout, keys[row], tokens, first, end)
                    for layout, first, end in slab.runs(space, row, len(tokens)) if first < end]
            with slab.lent():
                done = self._client.push(runs, deadline_ms=_left_ms(until)).check()
            failed = done.failed_indices()
            self._counts.add("save_bytes", done.bytes)
            if failed:
                raise kveik.NoSpace(f"{len(failed)} of {len(done.statuses)} blocks were not kept: "
                                    f"{done.status_of(failed[0]).name}")
            self._counts.add("saved_tokens", len(tokens))

    @staticmethod
    def _push_run(layout: int, keys: bytes, tokens: Sequence[int], first: int,
                  end: int) -> kveik.PushRun:
        return kveik.PushRun(layout, keys[first * _KEY:end * _KEY], range(first, end),
                             parent_key=keys[(first - 1) * _KEY:first * _KEY] if first else None,
                             tokens=tokens[first * GRAIN:end * GRAIN])


def _left_ms(until: float) -> int:
    """Of a deadline; at least 1, since 0 would mean the default."""
    return max(1, round((until - time.monotonic()) * 1000))
