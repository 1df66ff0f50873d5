"""The client for asyncio."""
import asyncio
import os
import signal
import threading

import pytest
from conftest import Engine

import kveik
from kveik.aio import AsyncClient


def test_many_at_once(engine):
    async def one(requests, number):
        keys = engine.keys(f"aio {number}", 2)
        page = 2 * (number % 4)
        pushed = await requests.push(kveik.PushRun(engine.layout, keys, [page, page + 1]))
        found = await requests.lookup(engine.space, keys)
        pulled = await requests.pull(kveik.PullRun(engine.layout, keys, [20, 21]),
                                     lease=found.lease)
        released = await requests.release(found.lease)
        return pushed.ok, found.hit_tokens, pulled.failed_indices(), released.ok

    async def all_of_them():
        async with AsyncClient(engine.client) as requests:
            done = await asyncio.gather(*(one(requests, number) for number in range(40)))
            assert (await requests.quiesce(engine.layout)).ok
            return done
    assert asyncio.run(all_of_them()) == [(True, 32, [], True)] * 40


def test_errors_reach_the_task(engine):
    async def work():
        async with AsyncClient(engine.client) as requests:
            with pytest.raises(kveik.Invalid):
                await requests.push(kveik.PushRun(engine.layout, b"", [0]))
            with pytest.raises(kveik.UnknownId):
                await requests.lookup(999, bytes(32))
            missed = await requests.pull(kveik.PullRun(engine.layout, engine.keys("no"), [1]))
            assert missed.failed_indices() == [0]
        with pytest.raises(kveik.Closed):
            await requests.lookup(engine.space, bytes(32))
    asyncio.run(work())


def test_a_cancelled_task_ends_with_its_request(own_daemon):
    engine = Engine(own_daemon.socket)

    async def work():
        async with AsyncClient(engine.client) as requests:
            assert (await requests.push(kveik.PushRun(engine.layout, engine.keys("c"), [0]))).ok
            os.kill(own_daemon.process.pid, signal.SIGSTOP)
            task = asyncio.create_task(requests.lookup(engine.space, engine.keys("c")))
            await asyncio.sleep(0.05)
            task.cancel()
            await asyncio.sleep(0.05)
            task.cancel()
            await asyncio.sleep(0.05)
            assert not task.done()  # the pages of a pull would still be the daemon's
            os.kill(own_daemon.process.pid, signal.SIGCONT)
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.sleep(0.05)
            assert not engine.client._users
    asyncio.run(work())
    engine.client.close()


@pytest.mark.parametrize("elsewhere", [False, True])
def test_closing_the_client_ends_what_is_awaited(own_daemon, elsewhere):
    engine = Engine(own_daemon.socket)

    async def work():
        requests = AsyncClient(engine.client)
        os.kill(own_daemon.process.pid, signal.SIGSTOP)
        task = asyncio.create_task(requests.lookup(engine.space, engine.keys("gone")))
        await asyncio.sleep(0.02)
        threading.Timer(0.3, os.kill, (own_daemon.process.pid, signal.SIGCONT)).start()
        if elsewhere:
            await asyncio.to_thread(engine.client.close)
        else:
            engine.client.close()
        with pytest.raises(kveik.Closed):
            await asyncio.wait_for(task, 5)
    asyncio.run(work())


def test_a_daemon_that_is_killed(own_daemon):
    engine = Engine(own_daemon.socket)

    async def work():
        async with AsyncClient(engine.client) as requests:
            os.kill(own_daemon.process.pid, signal.SIGSTOP)
            task = asyncio.create_task(requests.lookup(engine.space, engine.keys("k")))
            await asyncio.sleep(0.02)
            own_daemon.kill()
            assert (await asyncio.wait_for(task, 5)).status is kveik.Status.LOST
            own_daemon.start_again()
            for _ in range(500):
                try:
                    return await requests.lookup(engine.space, engine.keys("k"))
                except kveik.Unavailable:
                    await asyncio.sleep(0.01)
    assert asyncio.run(work()).ok
    engine.client.close()
