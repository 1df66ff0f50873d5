"""The client for asyncio: requests that are awaited."""
from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from .client import Client
from .errors import Closed, Error
from .types import Completion, PullRun, PushRun


class AsyncClient:
    """Awaits what a Client does, on the running loop; create it inside of one.

        async with kveik.aio.AsyncClient(client) as requests:
            found = await requests.lookup(space, keys)
            done = await requests.pull(kveik.PullRun(layout, keys, pages), lease=found.lease)

    The loop watches the client's descriptor: no thread waits, and many requests are in flight at
    once. It takes the client's completions from then on, so submit through it and leave poll() and
    wait() alone; the blocking calls of the client go on to work. It belongs to one loop and one
    thread. close() fails what is awaited with Closed and leaves the client open.

    A task that is cancelled while it awaits sends the cancellation to the daemon and ends when the
    request has: only then are its pages the engine's again. A cancelled lookup gives its lease
    back.

    Methods take the arguments of the Client's methods of the same name, raise what those raise, and
    return the Completion.
    """

    def __init__(self, client: Client):
        self.client = client
        self._loop = asyncio.get_running_loop()
        self._fd = client.fileno()
        self._waiting: set[asyncio.Future[Completion]] = set()
        self._closed = False
        self._loop.add_reader(self._fd, self._on_readable)
        client._closing.append(self._on_closing)

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stops watching. The client's own close() comes after it."""
        if self._closed:
            return
        self._closed = True
        self._loop.remove_reader(self._fd)
        if self._on_closing in self.client._closing:
            self.client._closing.remove(self._on_closing)
        for future in self._waiting:
            if not future.done():
                future.set_exception(Closed("the asyncio client was closed"))

    def _on_closing(self) -> None:
        """The client is about to be closed, by any thread: nobody would be woken any more."""
        try:
            running: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:
            running = None
        if running is self._loop:
            self.close()
        elif not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self.close)

    def _on_readable(self) -> None:
        try:
            while (done := self.client.poll()) is not None:
                if isinstance(done.user, asyncio.Future) and not done.user.done():
                    done.user.set_result(done)
        except Closed:
            self.close()

    async def _await(self, submit: Callable[..., int], *args: Any, **named: Any) -> Completion:
        if self._closed:
            raise Closed("the asyncio client was closed")
        future: asyncio.Future[Completion] = self._loop.create_future()
        op = submit(*args, user=future, **named)
        self._waiting.add(future)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            await self._cancelled(op, future)
            raise
        finally:
            self._waiting.discard(future)

    async def _cancelled(self, op: int, future: asyncio.Future[Completion]) -> None:
        """Until the request is over, however often the task is cancelled."""
        try:
            self.client.cancel(op)
        except Error:
            pass  # over already, or the connection is
        while not future.done():
            try:
                await asyncio.wait([future])
            except asyncio.CancelledError:
                continue
        if future.exception() is None and future.result().lease:
            self.client.submit_release(future.result().lease)

    async def push(self, runs: PushRun | Sequence[PushRun], **named: Any) -> Completion:
        """See Client.submit_push()."""
        return await self._await(self.client.submit_push, runs, **named)

    async def pull(self, runs: PullRun | Sequence[PullRun], **named: Any) -> Completion:
        """See Client.submit_pull()."""
        return await self._await(self.client.submit_pull, runs, **named)

    async def lookup(self, space: int, keys: Any, **named: Any) -> Completion:
        """See Client.submit_lookup()."""
        return await self._await(self.client.submit_lookup, space, keys, **named)

    async def persist(self, space: int, keys: Any, **named: Any) -> Completion:
        """See Client.submit_persist()."""
        return await self._await(self.client.submit_persist, space, keys, **named)

    async def release(self, lease: int) -> Completion:
        """See Client.submit_release()."""
        return await self._await(self.client.submit_release, lease)

    async def quiesce(self, layout: int, pages: Any = None) -> Completion:
        """See Client.submit_quiesce()."""
        return await self._await(self.client.submit_quiesce, layout, pages)
