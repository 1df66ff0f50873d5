"""Connecting, closing under others' feet, forks, daemons that die, and leaks."""
import gc
import os
import signal
import threading
import time
import tracemalloc

import pytest
from conftest import Engine

import kveik


def await_connected(client, wanted=True, seconds=10):
    until = time.monotonic() + seconds
    while client.info().connected is not wanted:
        assert time.monotonic() < until, "not in time"
        time.sleep(0.005)


# ---- connecting ----------------------------------------------------------------------------------
def test_who_is_there(daemon):
    with kveik.Client(daemon.socket, instance="engine 7", name="test", token=b"") as client:
        info = client.info()
        assert info.connected and info.instance == "engine 7" and info.reconnects == 0
        assert info.daemon.startswith("kveikd ") and len(info.boot_id) == 16
        assert info.keys_max > 0 and client.fileno() >= 0
        assert isinstance(client.daemon_status(), dict)


def test_the_socket_of_the_environment(daemon, monkeypatch):
    monkeypatch.setenv("KVEIK_SOCKET", str(daemon.socket))
    kveik.Client().close()


def test_no_daemon(tmp_path):
    with pytest.raises(kveik.Unavailable, match="nobody.sock"):
        kveik.Client(tmp_path / "nobody.sock")
    begin = time.monotonic()
    with kveik.Client(tmp_path / "nobody.sock", wait_for_daemon=True) as client:
        assert not client.info().connected
        with pytest.raises(kveik.Unavailable):
            client.register_space("m", "bf16", [kveik.Group(1, 1, (8,))])
        with pytest.raises(kveik.Unavailable):
            client.daemon_status()
        assert client.wait(0, 20) is None
    assert time.monotonic() - begin < 2


def test_wrong_options(daemon):
    for wrong, words in (({"instance": ""}, "instance"), ({"instance": "x" * 65}, "instance"),
                         ({"socket_path": "/" + "x" * 200}, "socket_path"),
                         ({"token": bytes(5000)}, "token")):
        with pytest.raises(kveik.Invalid, match=words):
            kveik.Client(**{"socket_path": daemon.socket, **wrong})


# ---- closing -------------------------------------------------------------------------------------
def test_after_close(daemon):
    engine = Engine(daemon.socket)
    engine.client.close()
    engine.client.close()
    for call in (engine.client.poll, engine.client.wait, engine.client.info, engine.client.fileno,
                 engine.client.daemon_status, lambda: engine.client.allocate(10),
                 lambda: engine.client.export(bytearray(10)), lambda: engine.push("x"),
                 lambda: engine.client.submit_release(3, user=1),
                 lambda: engine.client.release(3), lambda: engine.client.cancel(3),
                 lambda: engine.client.quiesce(3), lambda: engine.client.drop_memory(1),
                 lambda: engine.client.drop_layout(1)):
        with pytest.raises(kveik.Closed, match="closed"):
            call()
    assert bytes(engine.memory.view[:4]) == bytes(4)  # still there for who holds it


def test_close_wakes_who_waits(daemon):
    for _ in range(10):
        client, ends = kveik.Client(daemon.socket), []

        def wait(client=client, ends=ends):
            try:
                ends.append(client.wait())
            except kveik.Closed:
                ends.append("closed")
        threads = [threading.Thread(target=wait) for _ in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(0.01)
        client.close()
        for thread in threads:
            thread.join(5)
        assert ends == ["closed"] * 4


def test_close_amid_a_crowd(daemon):
    """Threads that submit, wait and poll as fast as they can, and a close between them."""
    for _ in range(20):
        engine, wrong = Engine(daemon.socket), []
        keys = engine.keys("crowd")

        def work(engine=engine, wrong=wrong, keys=keys):
            try:
                while True:
                    engine.client.submit_lookup(engine.space, keys, lease=False, user=object())
                    engine.client.poll()
                    engine.client.lookup(engine.space, keys, lease=False)
                    engine.client.wait(timeout_ms=1)
            except (kveik.Closed, kveik.Unavailable):
                pass
            except kveik.Error as error:
                wrong.append(error)
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(0.02)
        engine.client.close()
        for thread in threads:
            thread.join(5)
            assert not thread.is_alive()
        assert wrong == [] and not engine.client._owners


def test_collected_clients_are_closed(daemon):
    client = kveik.Client(daemon.socket)
    descriptor = client.fileno()
    client.itself = client  # only the cycle collector finds it
    del client
    gc.collect()
    with pytest.raises(OSError):
        os.fstat(descriptor)


# ---- fork ----------------------------------------------------------------------------------------
def in_child(work):
    """Runs it in a forked child; whether it went well."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1] == 0


def test_a_child_is_refused_and_may_connect_its_own(engine, daemon):
    def child():
        for call in (engine.client.info, engine.client.poll, lambda: engine.push("child"),
                     lambda: engine.client.wait(0, 10), lambda: engine.client.allocate(4096)):
            with pytest.raises(kveik.Forked):
                call()
        own = Engine(daemon.socket)
        assert own.push("child's own").ok
        own.client.close()
        engine.client.close()
        with pytest.raises(kveik.Closed):
            engine.client.poll()
    assert in_child(child)
    assert engine.push("after the child").ok and engine.client.info().reconnects == 0


def test_a_child_forked_while_threads_wait(engine):
    thread = threading.Thread(target=lambda: engine.client.wait(timeout_ms=500))
    thread.start()
    time.sleep(0.05)
    assert in_child(engine.client.close)
    thread.join()
    assert engine.push("still here").ok


# ---- daemons that die ----------------------------------------------------------------------------
def test_killed_and_restarted(own_daemon):
    engine = Engine(own_daemon.socket)
    with engine.client as client:
        engine.fill(0, 9)
        assert engine.push("before").ok
        boot = client.info().boot_id
        own_daemon.kill()
        await_connected(client, False)
        with pytest.raises(kveik.Unavailable):
            engine.push("down")
        assert client.quiesce(engine.layout).ok  # nobody is there to copy
        own_daemon.start_again()
        await_connected(client)
        info = client.info()
        assert info.boot_id != boot and info.reconnects == 1
        assert engine.pull("before").failed_indices() == [0]  # another memory
        assert engine.push("after").ok and engine.pull("after").failed_indices() == []
        assert engine.page(8) == engine.page(0)


def test_requests_in_flight_are_lost(own_daemon):
    engine = Engine(own_daemon.socket)
    with engine.client as client:
        os.kill(own_daemon.process.pid, signal.SIGSTOP)
        ops = [client.submit_lookup(engine.space, engine.keys("lost"), user=i) for i in range(5)]
        own_daemon.kill()
        done = [client.wait(op, 5000) for op in ops]
        assert [one.status for one in done] == [kveik.Status.LOST] * 5
        assert [one.user for one in done] == list(range(5)) and done[0].text
        with pytest.raises(kveik.Lost):
            done[0].check()


def test_deadlines_hold_while_the_daemon_sleeps(own_daemon):
    engine = Engine(own_daemon.socket)
    with engine.client as client:
        os.kill(own_daemon.process.pid, signal.SIGSTOP)
        begin = time.monotonic()
        done = client.lookup(engine.space, engine.keys("late"), deadline_ms=100)
        assert not done.ok and done.text
        with pytest.raises(kveik.Stuck):
            client.quiesce(engine.layout, timeout_ms=50)
        with pytest.raises(kveik.Stuck):
            client.drop_memory(engine.region, timeout_ms=50)
        assert time.monotonic() - begin < 5
        os.kill(own_daemon.process.pid, signal.SIGCONT)
        client.drop_memory(engine.region)


# ---- signals and leaks ---------------------------------------------------------------------------
def test_a_signal_ends_a_wait(engine):
    def on_alarm(*_):
        raise InterruptedError("rang")
    before = signal.signal(signal.SIGALRM, on_alarm)
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    try:
        with pytest.raises(InterruptedError, match="rang"):
            engine.client.wait(timeout_ms=20000)
    finally:
        signal.signal(signal.SIGALRM, before)


def resident_kib():
    with open("/proc/self/status", encoding="ascii") as status:
        return int(next(line for line in status if line.startswith("VmRSS")).split()[1])


def rounds(engine, count):
    client = engine.client
    for i in range(count):
        keys = engine.keys(f"leak {i % 50}", 2)
        client.submit_push(kveik.PushRun(engine.layout, keys, [0, 1], tokens=list(range(32))),
                           user=object())
        client.submit_lookup(engine.space, keys, user=object(), origins=True)
        for _ in range(2):
            done = client.wait()
            if done.lease:
                client.submit_pull(kveik.PullRun(engine.layout, keys, [8, 9]), lease=done.lease,
                                   release_lease=True, user=object())
        client.wait()
        with pytest.raises(kveik.Invalid):
            client.push(kveik.PushRun(engine.layout, keys, [99]))
        memory = client.allocate(4096)
        client.drop_memory(client.export(memory))
        memory.free()


def test_thousands_of_requests_leave_nothing(engine):
    rounds(engine, 300)
    gc.collect()
    tracemalloc.start()
    try:
        before, resident = tracemalloc.get_traced_memory()[0], resident_kib()
        rounds(engine, 1500)
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown < 20000, f"{grown} bytes more in Python"
    assert resident_kib() - resident < 8192, "the process grew"
    assert not engine.client._users and len(engine.client._spare) < 10


def test_what_is_never_taken_goes_with_the_client(daemon):
    class User:
        alive = 0

        def __init__(self):
            User.alive += 1

        def __del__(self):
            User.alive -= 1
    engine = Engine(daemon.socket)
    for _ in range(10):
        engine.client.submit_lookup(engine.space, engine.keys("untaken"), user=User())
    assert User.alive == 10
    engine.client.close()
    gc.collect()
    assert User.alive == 0
