"""What happened, in numbers."""
from __future__ import annotations

import concurrent.futures
import logging
import threading
import time
from typing import Any

import kveik

COUNTERS = {
    "loads": "prompts looked up",
    "hits": "of which something was found",
    "hit_tokens": "tokens that need not be computed, of all rows",
    "load_bytes": "bytes pulled",
    "load_us": "microseconds spent in lookups and pulls that were answered",
    "loads_failed": "prompts computed whole because the daemon was away, late, or said no",
    "saves": "caches to keep",
    "saved_tokens": "tokens kept, of all rows; some were held already",
    "save_bytes": "bytes pushed; what was held already costs none",
    "staged_bytes": "bytes copied here before they were pushed",
    "saves_failed": "caches not kept because the daemon was away, late, or said no",
    "saves_dropped": "caches not kept because too many were under way, or windows had moved on",
    "pending_bytes": "bytes of saves that are under way now",
}
_WARN_EVERY_S = 30.0
_log = logging.getLogger("kveik")


class Stats:
    """Counters, and the bound of what is under way."""

    def __init__(self, pending_max: int):
        self._counts = dict.fromkeys(COUNTERS, 0)
        self._changed = threading.Condition()
        self._pending_max = pending_max
        self._warned_at = -_WARN_EVERY_S

    def all(self) -> dict[str, int]:
        """A copy."""
        with self._changed:
            return dict(self._counts)

    def add(self, name: str, by: int = 1) -> None:
        """Counts."""
        with self._changed:
            self._counts[name] += by

    def hit(self, tokens: int) -> None:
        """An answered lookup that found so many tokens."""
        self.add("hits", tokens > 0)
        self.add("hit_tokens", tokens)

    def failed(self, name: str, error: BaseException) -> None:
        """Counts a failure, and logs one in a while."""
        self.add(name)
        now = time.monotonic()
        if now - self._warned_at >= _WARN_EVERY_S:
            self._warned_at = now
            _log.warning("kveik: %s: %s", name.replace("_", " "), error or "no answer in time")

    def begin(self, nbytes: int) -> bool:
        """Whether a save of so many bytes may begin. One always may."""
        with self._changed:
            before = self._counts["pending_bytes"]
            if before and before + nbytes > self._pending_max:
                return False
            self._counts["pending_bytes"] += nbytes
            return True

    def end(self, nbytes: int, job: concurrent.futures.Future[Any]) -> None:
        """It ended, one way or another."""
        error = None if job.cancelled() else job.exception()
        if job.cancelled() or error is not None:
            self.failed("saves_failed", error or kveik.Deadline("no answer in time"))
        with self._changed:
            self._counts["pending_bytes"] -= nbytes
            self._changed.notify_all()

    def idle(self, timeout_s: float) -> bool:
        """Waits until nothing is under way."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._counts["pending_bytes"], timeout_s)
