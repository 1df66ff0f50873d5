"""kveik.transformers: memory, threads, and daemons that are away, die, or do not answer."""
import gc
import os
import signal
import threading
import time

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed here")
pytest.importorskip("transformers", reason="transformers is not installed here")
from tiny_models import (MODELS, WAIT_MS, connect, gemma, greedy, keep, llama,  # noqa: E402
                         logits, own, prompt, same)

from kveik.transformers import PrefixCache  # noqa: E402


# ---- memory --------------------------------------------------------------------------------------
def test_growing_beyond_the_reserve(cache):
    ids = prompt(40)
    kv, _ = cache.load(ids, reserve=0)
    out = greedy(cache.model, ids, kv, tokens=150)
    assert torch.equal(out, greedy(cache.model, ids, tokens=150))
    assert cache.save(out, kv) == 176 and cache.stats["staged_bytes"] == 0
    kv, found = cache.load(out, reserve=0)
    assert found == 176
    more = greedy(cache.model, out, kv, tokens=60)
    assert torch.equal(more, greedy(cache.model, out, own(cache.model, out, found), tokens=60))
    assert cache.save(more, kv) == 240


def memory_maps():
    with open("/proc/self/maps", encoding="ascii") as maps:
        return sum("memfd:" in line for line in maps)


def test_memory_goes_with_its_cache(daemon):
    with connect(gemma(), daemon, spare_bytes=0) as cache:
        ids = prompt(60)
        gc.collect()
        before = memory_maps()
        for _ in range(5):
            kv = keep(cache, ids)
        kept = kv.layers[0].keys
        bits = kept.clone()
        assert memory_maps() == before + 1
        del kv
        keep(cache, prompt(60, seed=4))
        gc.collect()
        assert memory_maps() == before + 1 and torch.equal(kept, bits)
        del kept
        gc.collect()
        assert memory_maps() == before


def test_memory_is_used_again_when_nobody_sees_it(cache):
    gc.collect()
    before = memory_maps()
    kv = keep(cache, prompt(60))
    where, kept = kv.layers[0].keys.data_ptr(), kv.layers[0].values
    bits = kept.clone()
    del kv
    other = keep(cache, prompt(60, seed=4))
    assert other.layers[0].keys.data_ptr() != where and torch.equal(kept, bits)
    del kept, other
    gc.collect()
    for seed in range(5, 20):
        ids = prompt(60 + seed, seed=1 + seed % 2)
        kv, found = cache.load(ids)
        assert found == 0 or torch.allclose(kv.layers[2].keys, own(
            cache.model, ids, found).layers[2].keys, atol=1e-5)
        logits(cache.model, ids[:, found:], kv)
        cache.save(ids, kv, wait=seed % 3 == 0)
    del kv
    assert cache.flush(WAIT_MS)
    gc.collect()
    assert memory_maps() <= before + 4
    cache._pool.clear()
    assert memory_maps() == before


def test_memory_that_a_lost_request_may_touch_is_not_used_again(own_daemon):
    with connect(llama(), own_daemon) as cache:
        kv = keep(cache, prompt(60))
        own_daemon.kill()
        cache.save(prompt(60), kv)
        del kv
        gc.collect()
        assert not any(block.lent for block in cache._pool._spare)


def test_saves_under_way_are_bounded(daemon):
    with connect(llama(), daemon, pending_bytes=1) as cache:
        ids = prompt(60)
        os.kill(daemon.process.pid, signal.SIGSTOP)
        try:
            kv, _ = cache.load(prompt(1))
            logits(cache.model, ids, kv)
            assert cache.save(ids, kv, wait=False) == 48
            assert cache.save(ids, kv, wait=False) == 0
            assert cache.stats["saves_dropped"] == 1 and cache.stats["pending_bytes"] > 0
        finally:
            os.kill(daemon.process.pid, signal.SIGCONT)
        assert cache.flush(WAIT_MS) and cache.stats["pending_bytes"] == 0
        del kv
        assert cache.load(ids)[1] == 48


def test_a_push_reads_what_was_there(daemon):
    """Whatever becomes of a cache while its save is under way."""
    with connect(llama(), daemon) as cache:
        ids = prompt(60)
        kv, _ = cache.load(ids)
        logits(cache.model, ids, kv)
        os.kill(daemon.process.pid, signal.SIGSTOP)
        try:
            cache.save(ids, kv, wait=False)
            kv.crop(-30)
            logits(cache.model, prompt(40, seed=8), kv)
            del kv
            gc.collect()
        finally:
            os.kill(daemon.process.pid, signal.SIGCONT)
        assert cache.flush(WAIT_MS)
        kv, found = cache.load(ids)
        assert found == 48 and same(kv, own(cache.model, ids, found))


def test_threads_and_models_at_once(daemon):
    caches = [connect(make(), daemon) for make in (llama, gemma)]
    wrong = []

    def serve(cache, seed):
        for length in (30, 70, 50, 100):
            ids = prompt(length, seed=seed % 2)
            out = cache.generate(ids, wait=True, max_new_tokens=5, do_sample=False)
            if not torch.equal(out, greedy(cache.model, ids, tokens=5)):
                wrong.append((seed, length))
    threads = [threading.Thread(target=serve, args=(caches[seed % 2], seed // 2))
               for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == [] and all(cache.stats["hits"] > 0 for cache in caches)
    for cache in caches:
        cache.close()


# ---- without a daemon ----------------------------------------------------------------------------
def test_no_daemon(model, tmp_path):
    began = time.monotonic()
    with PrefixCache(model, socket_path=str(tmp_path / "none"), timeout_ms=300) as cache:
        ids = prompt(50)
        kv, found = cache.load(ids)
        out = greedy(model, ids, kv)
        assert found == 0 and torch.equal(out, greedy(model, ids))
        assert cache.save(out, kv) == 0
        assert (cache.stats["loads_failed"], cache.stats["saves_failed"]) == (1, 1)
    assert time.monotonic() - began < 30
    assert cache.load(ids)[1] == 0  # closed: the same


def test_a_daemon_that_dies_and_comes_again(own_daemon):
    with connect(llama(), own_daemon) as cache:
        ids = prompt(80)
        kv = keep(cache, ids)
        own_daemon.kill()
        assert cache.load(ids)[1] == 0 and cache.save(ids, kv) == 0
        assert torch.equal(cache.generate(ids, max_new_tokens=4, do_sample=False),
                           greedy(cache.model, ids, tokens=4))
        own_daemon.start_again()
        until = time.monotonic() + 20
        while cache.save(ids, kv) == 0 and time.monotonic() < until:
            time.sleep(0.05)
        kv, found = cache.load(ids)
        assert found == 64 and same(kv, own(cache.model, ids, found))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("make", MODELS.values(), ids=list(MODELS))
def test_blocks_outlive_a_daemon_with_a_disk(disk_daemon, make, dtype):
    """Killed, and then stopped in order: what comes back from disk has the bits that were kept."""
    model, salt, ids = make(dtype), os.urandom(8), prompt(150)
    with connect(model, disk_daemon, salt=salt) as cache:
        keep(cache, ids[:, :96])
        disk_daemon.durable()
        for end in (disk_daemon.kill, disk_daemon.stop):
            end()
            disk_daemon.start_again()
            until = time.monotonic() + 20
            while (found := cache.load(ids))[1] == 0 and time.monotonic() < until:
                time.sleep(0.05)
            kv, tokens = found
            mine = own(model, ids, tokens)
            assert tokens == 96 and same(kv, mine)
            assert torch.equal(logits(model, ids[:, tokens:], kv),
                               logits(model, ids[:, tokens:], mine))
    with connect(model, disk_daemon, salt=salt) as cache:  # a process that starts now, too
        assert cache.load(ids)[1] == 96


def test_a_daemon_that_does_not_answer(own_daemon):
    with connect(llama(), own_daemon) as cache:
        ids = prompt(80)
        kv = keep(cache, ids)
        os.kill(own_daemon.process.pid, signal.SIGSTOP)
        try:
            began = time.monotonic()
            assert cache.load(ids, timeout_ms=200)[1] == 0
            assert cache.save(ids, kv, timeout_ms=200) == 0
            for _ in range(20):  # who is late is not waited for again
                assert cache.load(ids, timeout_ms=5000)[1] == 0
            took = time.monotonic() - began
        finally:
            os.kill(own_daemon.process.pid, signal.SIGCONT)
        assert took < 4
        until = time.monotonic() + 20
        while (found := cache.load(ids)[1]) == 0 and time.monotonic() < until:
            time.sleep(0.05)
        assert found == 64


def test_a_forked_child_finds_nothing(daemon):
    with connect(llama(), daemon) as cache:
        ids = prompt(40)
        kv = keep(cache, ids)
        pid = os.fork()
        if pid == 0:
            good = cache.load(ids)[1] == 0 and cache.save(ids, kv) == 0
            os._exit(0 if good else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert cache.load(ids)[1] == 32
