"""Push, look up, pull, release, quiesce: asynchronous, blocking, and with mistakes."""
import select

import pytest
from conftest import HEADS, LAYERS, PAGE, PLANES, Engine

import kveik


def test_bytes_come_back(engine):
    for page in range(4):
        engine.fill(page, page)
    pushed = engine.push("bytes", range(4))
    assert (pushed.ok, pushed.kind, pushed.bytes) == (True, kveik.Kind.PUSH, 4 * PLANES * PAGE)
    assert pushed.failed_indices() == [] and len(pushed.statuses) == 4
    found = engine.client.lookup(engine.space, engine.keys("bytes", 4), origins=True)
    assert (found.hit_keys, found.hit_tokens) == (4, 64)
    assert found.hit_bytes == pushed.bytes and found.lease != 0
    assert [origin.keys for origin in found.origins] == [4]
    assert found.origins[0].instance == engine.client.info().instance
    pulled = engine.client.pull(
        kveik.PullRun(engine.layout, engine.keys("bytes", 4), [8, 9, 10, 11]), lease=found.lease)
    assert pulled.check() is pulled and pulled.latency_us > 0
    for page in range(4):
        assert engine.page(8 + page) == engine.page(page)
    assert engine.client.release(found.lease).ok


def test_what_is_held_is_not_copied_again(engine):
    engine.push("held")
    again = engine.push("held")
    assert again.status_of(0) is kveik.Status.HELD and again.failed_indices() == []
    assert again.bytes == 0


def test_misses_are_told_one_by_one(engine):
    engine.push("half", [0, 1])
    keys = engine.keys("half", 2) + engine.keys("nobody has this", 1)
    done = engine.client.pull(kveik.PullRun(engine.layout, keys, [8, 9, 10]))
    assert done.failed_indices() == [2] and done.status_of(2) is kveik.Status.MISS
    found = engine.client.lookup(engine.space, keys, lease=False)
    assert found.hit_keys == 2 and found.lease == 0 and found.origins == ()


def test_many_in_flight_come_back_with_their_objects(engine):
    users = [object() for _ in range(64)]
    ops = {engine.client.submit_lookup(engine.space, engine.keys(f"flight {i}"), lease=False,
                                       user=user): user for i, user in enumerate(users)}
    got = {}
    while len(got) < len(users):
        done = engine.client.wait(timeout_ms=5000)
        got[done.op] = done.user
    assert got == ops and not engine.client._users


def test_the_descriptor_and_poll(engine):
    client = engine.client
    assert client.poll() is None
    op = client.submit_push(kveik.PushRun(engine.layout, engine.keys("poll"), [0]), user="mine")
    done = None
    while done is None:
        assert select.select([client], [], [], 5)[0]
        done = client.poll()
    assert (done.op, done.user, done.kind) == (op, "mine", kveik.Kind.PUSH)
    assert repr(done).startswith(f"<kveik.Completion op={op} PUSH OK")


def test_wait_for_one_among_others(engine):
    client = engine.client
    other = client.submit_lookup(engine.space, engine.keys("other"))
    op = client.submit_pull(kveik.PullRun(engine.layout, engine.keys("none"), [3]))
    assert client.wait(op, 5000).op == op
    assert client.wait(0, 5000).op == other
    assert client.wait(0, 20) is None
    with pytest.raises(kveik.UnknownId):
        client.wait(op, 10)


def test_submit_release_and_quiesce(engine):
    client = engine.client
    engine.push("release")
    lease = client.lookup(engine.space, engine.keys("release")).lease
    assert client.wait(client.submit_release(lease, user=1), 5000).kind is kveik.Kind.RELEASE
    done = client.wait(client.submit_quiesce(engine.layout, [1, 2], user=2), 5000)
    assert (done.kind, done.user, done.ok) == (kveik.Kind.QUIESCE, 2, True)
    assert client.quiesce(engine.layout).ok and client.quiesce(engine.layout, [0]).ok
    for call in (client.quiesce, client.submit_quiesce):
        with pytest.raises(kveik.Invalid, match="None stands for all"):
            call(engine.layout, [])
    with pytest.raises(kveik.Invalid, match="lease 0"):
        client.submit_release(0)


def test_cancel(engine):
    op = engine.client.submit_lookup(engine.space, engine.keys("cancel"))
    engine.client.cancel(op)
    assert engine.client.wait(op, 5000).status in (kveik.Status.OK, kveik.Status.CANCELLED)
    with pytest.raises(kveik.UnknownId):
        engine.client.cancel(op)


def test_several_runs_and_larger_blocks(engine):
    tokens = list(range(40))
    keys = kveik.hash_tokens(tokens, extras=[(0, b"large")])
    run = kveik.PushRun(engine.layout, keys, [0, 1, 2], block_tokens=32, tokens=tokens)
    done = engine.client.push([run, kveik.PushRun(engine.layout, engine.keys("second"), [3])])
    assert done.ok and len(done.statuses) == 3
    found = engine.client.lookup(engine.space, keys, tail_tokens=8, lease=False)
    assert found.hit_tokens == 40
    cut = engine.client.lookup(engine.space, keys, tail_tokens=8, step_tokens=32, lease=False)
    assert cut.hit_tokens == 32
    pulled = engine.client.pull([
        kveik.PullRun(engine.layout, keys, [8, 9, 10], tail_tokens=8),
        kveik.PullRun(engine.layout, engine.keys("second"), [11])])
    assert pulled.ok and len(pulled.statuses) == 4 and pulled.failed_indices() == []


def test_one_key_a_block_and_a_parent(engine):
    keys = kveik.hash_tokens(range(96), extras=[(0, b"parents")])
    last = keys[3 * 32:4 * 32] + keys[5 * 32:6 * 32]
    done = engine.client.push(kveik.PushRun(engine.layout, last, [2, 3, 4, 5], block_tokens=32,
                                            block_count=2, parent_key=keys[32:64]))
    assert done.ok
    pulled = engine.client.pull(kveik.PullRun(engine.layout, last, range(8, 12), key_tokens=32,
                                              tail_tokens=16))
    assert pulled.failed_indices() == []


def test_a_part_of_the_model(engine):
    engine.push("part")
    keys = engine.keys("part")
    want = kveik.Want(0, 1, 1, 0, 1)
    assert engine.client.lookup(engine.space, keys, wants=[want], lease=False).hit_keys == 1
    with pytest.raises(kveik.Invalid, match="want"):
        engine.client.lookup(engine.space, keys, wants=[want] * 65)
    assert engine.client.lookup(engine.space, keys, lease=False,
                                wants=[kveik.Want(0, 0, LAYERS, 0, HEADS)]).hit_keys == 1


@pytest.mark.parametrize("change, kind, words", [
    ({"layout": 4711}, kveik.UnknownId, "layout 4711"),
    ({"keys": b"short"}, kveik.Invalid, "32 a key"),
    ({"keys": b""}, kveik.Invalid, "block_count"),
    ({"pages": [1.5]}, TypeError, None),
    ({"pages": [99]}, kveik.Invalid, "page 99"),
    ({"pages": []}, kveik.Invalid, "pages"),
    ({"pages": [-1]}, kveik.Invalid, "pages: a number"),
    ({"pages": [2**32]}, kveik.Invalid, "pages: a number"),
    ({"block_tokens": 17}, kveik.Invalid, "block_tokens is 17"),
    ({"block_tokens": 0}, kveik.Invalid, "block_tokens is 0"),
    ({"tokens": [1, 2], "block_count": 2}, kveik.Invalid, "tokens: 2 for 2 blocks"),
    ({"tokens": [1] * 17, "block_count": 1}, kveik.Invalid, "tokens: 17"),
    ({"tail_tokens": 17}, kveik.Invalid, "tail_tokens"),
    ({"parent_key": bytes(64)}, kveik.Invalid, "32 bytes, not 64"),
    ({"pages": "no"}, TypeError, None), ({"pages": 3}, TypeError, "integers"),
    ({"pages": b"\0\0\0\0"}, TypeError, "integers"), ({"keys": 3}, TypeError, None),
])
def test_mistakes_are_named(engine, change, kind, words):
    good = {"layout": engine.layout, "keys": engine.keys("x"), "pages": [0]}
    for call in (engine.client.push, engine.client.submit_push):
        with pytest.raises(kind, match=words):
            call(kveik.PushRun(**{**good, **change}))
    assert not engine.client._users


def test_errors_have_statuses(engine):
    with pytest.raises(kveik.Error) as raised:
        engine.client.lookup(engine.space + 1, bytes(32))
    assert raised.value.status is kveik.Status.UNKNOWN_ID and raised.type is kveik.UnknownId
    with pytest.raises(kveik.Limit, match="keys"):
        engine.client.lookup(engine.space, bytes(32) * 65537)


def test_busy_when_too_many_are_in_flight(daemon):
    engine = Engine(daemon.socket, requests_max=2)
    with engine.client as client:
        assert client.info().requests_max == 2
        with pytest.raises(kveik.Busy):
            for _ in range(1000):
                client.submit_lookup(engine.space, engine.keys("busy"), user="x")
        while client.wait(0, 50) is not None:
            pass
        assert not client._users
