"""Threads that talk to the daemon, so that nobody else waits for it longer than he wants to."""
from __future__ import annotations

import concurrent.futures
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")
_Job = tuple["concurrent.futures.Future[Any]", Callable[[], Any]]


def _work(jobs: queue.SimpleQueue[_Job | None]) -> None:
    while (job := jobs.get()) is not None:
        future, call = job
        if not future.set_running_or_notify_cancel():
            continue
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)
        # what the job holds goes now, and not when the next one comes
        del job, future, call


class Mover:
    """Runs jobs on threads of its own. They are daemon threads: a process ends without them."""

    def __init__(self, threads: int):
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._late: set[concurrent.futures.Future[Any]] = set()
        self._threads = threads
        for _ in range(threads):
            threading.Thread(target=_work, args=(self._jobs,), daemon=True, name="kveik").start()

    def submit(self, call: Callable[[], T]) -> concurrent.futures.Future[T]:
        """Runs it soon."""
        future: concurrent.futures.Future[T] = concurrent.futures.Future()
        self._jobs.put((future, call))
        return future

    def give_up(self, future: concurrent.futures.Future[Any]) -> None:
        """Its result is not awaited any more. It counts as late until it ends."""
        if not future.cancel():
            self._late.add(future)
            future.add_done_callback(self._late.discard)

    @property
    def late(self) -> bool:
        """Whether a job still runs that somebody gave up on: the daemon does not answer."""
        return bool(self._late)

    def stop(self) -> None:
        """The threads end after what was submitted."""
        for _ in range(self._threads):
            self._jobs.put(None)
