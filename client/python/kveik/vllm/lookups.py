"""Asking what kveikd holds, without ever waiting for the answer, and the leases that come of it.

    (none) --ask()--> PENDING --answer--> ANSWERED: tokens, and a lease if there are any
                         |
                         +--too slow---> LATE ----+
                         |                        +--answer--> its lease is released, nobody sees it
                         +--drop()-----> DROPPED -+

A lease is released exactly once: by take() it becomes the caller's, who gives it to release();
drop() releases it if it was not taken. A release that cannot be sent is kept and tried again: the
daemon keeps leases until they are released or the last session of the engine is gone. Another
daemon (another boot id) knows nothing of a lease, but may have given the same number to another.
"""
from __future__ import annotations

import collections
import enum
import time
from collections.abc import Callable
from typing import NamedTuple

import kveik

from .log import logger
from .stats import Stats


_RELEASES_KEPT_MAX = 65536


class State(enum.Enum):
    """Of a lookup; see the top of the file."""

    PENDING = enum.auto()
    ANSWERED = enum.auto()
    LATE = enum.auto()
    DROPPED = enum.auto()


class Lease(NamedTuple):
    """What keeps blocks readable."""

    number: int
    boot_id: bytes  # of the daemon that gave it


class Lookup:
    """One question."""

    __slots__ = ("state", "tokens", "lease", "boot_id", "asked_at", "answered_at", "failed")

    def __init__(self) -> None:
        self.state = State.PENDING
        self.tokens = 0
        self.lease: Lease | None = None
        self.boot_id = b""  # of the daemon that is asked
        self.asked_at = time.monotonic()
        self.answered_at = 0.0
        self.failed = False  # the answer says nothing about what is held

    def answer(self, tokens: int, lease: Lease | None, failed: bool = False) -> None:
        """The answer is there."""
        self.state = State.ANSWERED
        self.answered_at = time.monotonic()
        self.tokens, self.lease, self.failed = tokens, lease, failed

    def take(self) -> Lease | None:
        """The lease, which is the caller's from now on."""
        lease, self.lease = self.lease, None
        return lease


class Lookups:
    """All questions of the scheduler's side, over one client. Not thread-safe: the scheduler's."""

    def __init__(self, client: kveik.Client, block_tokens: int, timeout_ms: int, stats: Stats,
                 space_of: Callable[[], int | None]):
        self._client = client
        self._block_tokens = block_tokens
        self._timeout_s = timeout_ms / 1000
        self._timeout_ms = timeout_ms
        self._stats = stats
        self._space_of = space_of  # None: not registered yet
        self._late = 0  # questions that were given up and not answered since
        self._unsent: collections.deque[Lease] = collections.deque()
        self.leases = 0  # held by somebody

    def ask(self, keys: bytes) -> Lookup:
        """Asks how many leading blocks are held, with a lease. Answered at once when it cannot be
        asked: a miss is always a right answer. So it is while a question of before, given up,
        still has no answer: the daemon is too slow to wait for it once more."""
        self.poll()
        lookup = Lookup()
        space = self._space_of()
        if not keys:
            lookup.answer(0, None, failed=True)
        elif space is None or self._late > 0:
            self._miss(lookup)
        else:
            try:
                self._client.submit_lookup(space, keys, key_tokens=self._block_tokens, lease=True,
                                           deadline_ms=self._timeout_ms, user=lookup)
                # read behind the submission, which may have connected; a question whose
                # connection is replaced after that is lost
                lookup.boot_id = self._client.info().boot_id
            except kveik.Error as error:
                logger.debug("kveik: lookup: %s", error)
                self._miss(lookup)
        return lookup

    def _miss(self, lookup: Lookup) -> None:
        self._stats.add("lookup_timeouts")
        lookup.answer(0, None, failed=True)

    def settle(self, lookup: Lookup) -> bool:
        """Whether the lookup is answered by now; gives it up when it took too long."""
        self.poll()
        if lookup.state is State.PENDING and \
                time.monotonic() - lookup.asked_at > self._timeout_s:
            lookup.state = State.LATE
            self._late += 1
            self._stats.add("lookup_timeouts")
        return lookup.state is not State.PENDING

    def poll(self) -> None:
        """Takes what was answered; sends releases that could not be sent before."""
        while (done := self._client.poll()) is not None:
            if isinstance(done.user, Lookup):
                self._answered(done.user, done)
            elif isinstance(done.user, Lease) and done.status == kveik.Status.LOST:
                self._keep(done.user)  # it may not have been read
        if self._unsent and self._client.info().connected:
            for _ in range(len(self._unsent)):
                self._send_release(self._unsent.popleft())

    def _answered(self, lookup: Lookup, done: kveik.Completion) -> None:
        lease = None
        if done.ok and done.lease:
            lease = Lease(done.lease, lookup.boot_id)
            self.leases += 1
        if lookup.state in (State.LATE, State.DROPPED):
            self._late -= lookup.state is State.LATE
            self.release(lease)
            return
        if done.ok:
            self._stats.add("lookups")
        else:
            self._stats.add("lookup_timeouts")
            logger.debug("kveik: lookup: %s", done.text)
        lookup.answer(done.hit_tokens if done.ok else 0, lease, failed=not done.ok)

    def drop(self, lookup: Lookup | None) -> None:
        """Nobody wants the answer any more."""
        if lookup is None:
            return
        if lookup.state is State.PENDING:
            lookup.state = State.DROPPED  # not late: nothing is known of the daemon's pace
        self.release(lookup.take())

    def release(self, lease: Lease | None) -> None:
        """Gives a lease back."""
        if lease is not None:
            self.leases -= 1
            self._send_release(lease)

    def _send_release(self, lease: Lease) -> None:
        """To the daemon that gave it, and to no other."""
        info = self._client.info()
        if info.boot_id != lease.boot_id:
            return  # it died with its daemon
        try:
            self._client.submit_release(lease.number, user=lease)
        except kveik.Error:
            self._keep(lease)

    def _keep(self, lease: Lease) -> None:
        """For another attempt."""
        if len(self._unsent) < _RELEASES_KEPT_MAX:
            self._unsent.append(lease)

    @property
    def unsent(self) -> int:
        """Releases that could not be sent yet."""
        return len(self._unsent)
