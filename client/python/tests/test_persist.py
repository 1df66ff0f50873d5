"""Blocks that must outlive the daemon."""
import asyncio

import pytest
from conftest import Engine

import kveik
from kveik import aio


def test_what_is_persisted_outlives_a_kill(disk_daemon):
    with (engine := Engine(disk_daemon.socket)).client:
        engine.fill(0, 7)
        before = engine.page(0)
        engine.push("kept").check()
        done = engine.client.persist(engine.space, engine.keys("kept"))
        assert done.kind == kveik.Kind.PERSIST and done.ok and list(done.statuses) == [0]
    disk_daemon.kill()
    disk_daemon.start_again()
    with (engine := Engine(disk_daemon.socket)).client:
        engine.pull("kept").check()
        assert engine.page(8) == before


def test_what_is_not_held_is_a_miss(disk_daemon):
    with (engine := Engine(disk_daemon.socket)).client:
        done = engine.client.persist(engine.space, engine.keys("nothing"))
        assert done.ok and list(done.statuses) == [int(kveik.Status.MISS)]


def test_a_space_says_when_its_blocks_go_to_disk(disk_daemon):
    with (engine := Engine(disk_daemon.socket)).client:
        space = engine.client.register_space(
            "never", "bf16", [kveik.Group(layers=1, heads=1, kinds=(8,))], admission="never")
        assert space != engine.space
        with pytest.raises(kveik.Invalid):
            engine.client.register_space(
                "odd", "bf16", [kveik.Group(layers=1, heads=1, kinds=(8,))], admission="sometimes")


def test_without_a_disk_it_is_refused(engine):
    engine.push("x").check()
    done = engine.client.persist(engine.space, engine.keys("x"))
    assert done.status == kveik.Status.UNSUPPORTED and "disk" in done.text


def test_asyncio(disk_daemon):
    async def run():
        client = kveik.Client(disk_daemon.socket)
        with client:
            space = client.register_space("a", "bf16", [
                kveik.Group(layers=1, heads=1, kinds=(8,))])
            async with aio.AsyncClient(client) as engine:
                return await engine.persist(space, kveik.hash_tokens(range(16)))
    assert list(asyncio.run(run()).statuses) == [int(kveik.Status.MISS)]
