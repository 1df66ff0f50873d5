"""kveik.transformers: caches of tiny models that are kept and found again, exactly."""
import copy
import gc
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import pytest

import kveik

torch = pytest.importorskip("torch", reason="torch is not installed here")
pytest.importorskip("transformers", reason="transformers is not installed here")
from tiny_models import MODELS, WINDOW, gemma, llama, prompt  # noqa: E402
from transformers import DynamicCache, MambaConfig, MambaForCausalLM, StaticCache  # noqa: E402
from transformers import T5Config, T5ForConditionalGeneration  # noqa: E402

from kveik.transformers import PrefixCache, Unsupported  # noqa: E402

FLOATS = [torch.float32, torch.bfloat16]
WAIT_MS = 20000  # of a machine that does other things besides


def connect(model, daemon, **more):
    return PrefixCache(model, **{"socket_path": str(daemon.socket), "salt": os.urandom(8),
                                 "timeout_ms": WAIT_MS, **more})


@pytest.fixture(params=list(MODELS))
def model(request):
    return MODELS[request.param]()


@pytest.fixture
def cache(daemon, model):
    with connect(model, daemon) as one:
        yield one


def greedy(model, ids, kv=None, tokens=8, **more):
    kv = DynamicCache(config=model.config) if kv is None else kv
    return model.generate(ids, past_key_values=kv, max_new_tokens=tokens, do_sample=False, **more)


def logits(model, ids, kv):
    with torch.no_grad():
        return model(ids, past_key_values=kv).logits


def keep(cache, ids, **more):
    """Computes a prompt and keeps it; what the model's own cache is then."""
    kv, found = cache.load(ids, **more)
    logits(cache.model, ids[:, found:], kv)
    cache.save(ids, kv, **more)
    return kv


def own(model, ids, *ends):
    """The model's own cache, computed piece by piece."""
    kv, begin = DynamicCache(config=model.config), 0
    for end in ends:
        logits(model, ids[:, begin:end], kv)
        begin = end
    return kv


def same(one, other):
    """Whether two caches hold the same bits."""
    return all(torch.equal(a.keys, b.keys) and torch.equal(a.values, b.values)
               for a, b in zip(one.layers, other.layers, strict=True))


# ---- exact ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("make", MODELS.values(), ids=list(MODELS))
@pytest.mark.parametrize("kept", [16, 33, 64, 100])
def test_a_restored_prefix_is_what_was_kept_bit_for_bit(daemon, make, dtype, kept):
    with connect(make(dtype), daemon) as cache:
        ids = prompt(140)
        keep(cache, ids[:, :kept])
        kv, found = cache.load(ids)
        assert found == kept // 16 * 16 and kv.get_seq_length() == found
        mine = own(cache.model, ids, kept)
        for layer, restored in zip(mine.layers, kv.layers):
            first = getattr(layer, "cumulative_length", kept) - layer.keys.shape[2]
            begin = found - restored.keys.shape[2]
            overlap = slice(max(first, begin) - begin, None)
            assert torch.equal(restored.keys[:, :, overlap],
                               layer.keys[:, :, max(first, begin) - first:found - first])
            assert torch.equal(restored.values[:, :, overlap],
                               layer.values[:, :, max(first, begin) - first:found - first])


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("make", MODELS.values(), ids=list(MODELS))
def test_logits_after_a_restored_prefix_are_the_models_own(daemon, make, dtype):
    with connect(make(dtype), daemon) as cache:
        ids = prompt(150)
        keep(cache, ids[:, :96])
        kv, found = cache.load(ids)
        mine = own(cache.model, ids, found)
        assert found == 96
        for begin, end in ((96, 97), (97, 130), (130, 131), (131, 150)):
            assert torch.equal(logits(cache.model, ids[:, begin:end], kv),
                               logits(cache.model, ids[:, begin:end], mine))
        assert same(kv, mine)


@pytest.mark.parametrize("make", MODELS.values(), ids=list(MODELS))
def test_greedy_tokens_are_the_same_for_many_prompts(daemon, make):
    with connect(make(), daemon) as cache:
        hits = 0
        for number, length in enumerate([5, 16, 17, 90, 40, 130, 64, 65, 200, 131, 33, 199]):
            ids = prompt(length, seed=1 + number % 2)
            kv, found = cache.load(ids)
            out = greedy(cache.model, ids, kv)
            assert torch.equal(out, greedy(cache.model, ids)), length
            assert cache.save(out, kv) == (length + 7) // 16 * 16
            hits += found > 0
        assert hits >= 6 and cache.stats["hits"] == hits


@pytest.mark.parametrize("dtype", FLOATS)
def test_greedy_tokens_equal_the_same_steps_without_kveik(daemon, dtype):
    """In bf16 another split of the prompt rounds differently: the model is given the same one."""
    with connect(gemma(dtype), daemon) as cache:
        keep(cache, prompt(180))
        for length in range(20, 180, 23):
            ids = prompt(length)
            kv, found = cache.load(ids)
            assert found == (length - 1) // 16 * 16
            assert torch.equal(greedy(cache.model, ids, kv),
                               greedy(cache.model, ids, own(cache.model, ids, found)))


def test_sampling_with_the_same_seed_is_the_same(cache):
    ids = prompt(70)
    runs = []
    for _ in range(2):
        torch.manual_seed(5)
        runs.append(cache.generate(ids, wait=True, max_new_tokens=20, do_sample=True))
    torch.manual_seed(5)
    plain = cache.model.generate(ids, max_new_tokens=20, do_sample=True)
    assert torch.equal(runs[0], plain) and torch.equal(runs[1], plain)
    assert cache.stats["hit_tokens"] == 64


def test_what_was_generated_is_found_too(cache):
    out = cache.generate(prompt(40), wait=True, max_new_tokens=30, do_sample=False)
    _, found = cache.load(torch.cat([out, prompt(9, seed=3)], dim=1))
    assert found == 64


def test_a_prompt_that_is_held_whole_leaves_a_token_to_compute(cache):
    keep(cache, prompt(64))
    for length, expected in ((64, 48), (65, 64), (16, 0), (17, 16), (1, 0)):
        ids = prompt(length)
        kv, found = cache.load(ids)
        assert found == expected
        assert torch.equal(greedy(cache.model, ids, kv), greedy(cache.model, ids))


def test_damaged_bytes_are_seen(daemon):
    """The comparison of these tests is able to fail: one bit in what is pushed."""
    with connect(llama(), daemon) as cache:
        ids = prompt(80)
        kv, _ = cache.load(ids)
        logits(cache.model, ids, kv)
        kv.layers[1].keys[0, 0, 20, 3] += 1e-3
        cache.save(ids, kv)
        again, found = cache.load(ids)
        mine = own(cache.model, ids, found)
        assert found == 64 and not same(again, mine)
        assert not torch.equal(logits(cache.model, ids[:, found:], again),
                               logits(cache.model, ids[:, found:], mine))


# ---- rows ----------------------------------------------------------------------------------------
def test_rows_go_on_from_the_shortest_hit(cache):
    ids = torch.cat([prompt(100, seed=1), prompt(100, seed=2)])
    keep(cache, prompt(90, seed=1))
    keep(cache, prompt(50, seed=2))
    kv, found = cache.load(ids)
    assert found == 48 and kv.layers[0].keys.shape[0] == 2
    out = greedy(cache.model, ids, kv)
    assert torch.equal(out, greedy(cache.model, ids, own(cache.model, ids, found)))
    assert cache.save(out, kv) == 96
    for seed in (1, 2):
        assert cache.load(prompt(100, seed=seed))[1] == 96


def test_padded_rows_are_refused(cache):
    ids = prompt(20, rows=2)
    mask = torch.ones_like(ids)
    assert cache.load(ids, attention_mask=mask)[1] == 0
    mask[0, :3] = 0
    with pytest.raises(ValueError, match="masks tokens out"):
        cache.load(ids, attention_mask=mask)
    cache.model.generation_config.pad_token_id = int(ids[0, 0])
    with pytest.raises(ValueError, match="padding token"):
        cache.load(ids)
    assert cache.load(ids, attention_mask=torch.ones_like(ids))[1] == 0


def test_what_generate_cannot_do(cache):
    ids = prompt(20)
    for setting, words in (({"num_beams": 2}, "num_beams is 2"), (
            {"num_return_sequences": 2, "do_sample": True}, "num_return_sequences"),
            ({"prefill_chunk_size": 8}, "prefill_chunk_size"),
            ({"pixel_values": torch.zeros(1)}, "pixel_values is given")):
        with pytest.raises(ValueError, match=words):
            cache.generate(ids, max_new_tokens=4, **setting)
    plain = cache.generate(ids, max_new_tokens=4, do_sample=False, use_cache=False)
    assert plain.shape == (1, 24) and cache.stats["loads"] == 0


def test_what_cannot_be_saved(cache, daemon):
    ids = prompt(40)
    kv = keep(cache, ids)
    with pytest.raises(ValueError, match="the cache holds 40 tokens"):
        cache.save(ids[:, :30], kv)
    with pytest.raises(ValueError, match="layers|holds"):
        cache.save(ids, own(gemma() if len(kv.layers) == 3 else llama(), ids, 40))
    with connect(MODELS["llama" if len(kv.layers) == 3 else "gemma"](), daemon) as other:
        with pytest.raises(ValueError, match="another PrefixCache"):
            other.save(ids, kv)


# ---- whose KV it is ------------------------------------------------------------------------------
def test_salt_and_extras_keep_apart(cache, daemon):
    ids = prompt(50)
    keep(cache, ids)
    with connect(cache.model, daemon, salt="other") as other:
        assert other.load(ids)[1] == 0
    assert cache.load(ids, extras=[(0, b"adapter")])[1] == 0
    assert cache.load(ids, extras=[(33, b"image")])[1] == 32
    assert cache.load(ids)[1] == 48


def test_another_model_never_hits(daemon):
    ids, salt = prompt(60), os.urandom(8)
    first = llama()
    for number, other in enumerate([first, llama(seed=9), llama(torch.bfloat16), gemma()]):
        with connect(other, daemon, salt=salt) as cache:
            assert cache.load(ids)[1] == 0, number
            keep(cache, ids)
            assert cache.load(ids)[1] == 48
    other = llama()
    other.config.rope_parameters["rope_theta"] = 5000.0
    with connect(other, daemon, salt=salt) as cache:
        assert cache.load(ids)[1] == 0


def test_changed_weights_are_another_model(daemon):
    with connect(llama(), daemon) as cache:
        ids = prompt(60)
        kv = keep(cache, ids)
        with torch.no_grad():
            cache.model.model.layers[1].mlp.up_proj.weight[5, 5] += 1
        with pytest.raises(ValueError, match="weights have changed"):
            cache.save(ids, kv)
        assert cache.load(ids)[1] == 0


def test_models_on_disk(daemon, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "remembered"))
    llama().save_pretrained(tmp_path / "a")
    llama(seed=3).save_pretrained(tmp_path / "b")
    models = [type(llama()).from_pretrained(tmp_path / name) for name in ("a", "a", "b")]
    ids, salt, found = prompt(60), os.urandom(8), []
    for one in models:
        with connect(one, daemon, salt=salt) as cache:
            found.append(cache.load(ids)[1])
            keep(cache, ids)
    with torch.no_grad():  # no longer what the files say
        for weight in models[0].parameters():
            weight.mul_(1.01)
    with connect(models[0], daemon, salt=salt) as cache:
        found.append(cache.load(ids)[1])
    assert found == [0, 48, 0, 0]


def test_a_second_process_hits(daemon):
    ids = prompt(70)
    with PrefixCache(llama(seed=77), socket_path=str(daemon.socket), timeout_ms=WAIT_MS) as cache:
        keep(cache, ids)
        expected = greedy(cache.model, ids)[0].tolist()
    script = pathlib.Path(__file__).with_name("tiny_models.py")
    for seed, found in ((77, 64), (78, 0)):
        words = [sys.executable, script, daemon.socket, seed, *ids[0].tolist()]
        done = subprocess.run([str(word) for word in words], capture_output=True, text=True,
                              timeout=300, check=False)
        assert done.returncode == 0, done.stderr
        numbers = [int(word) for word in done.stdout.split()]
        assert numbers[0] == found and (numbers[1:] == expected) == (seed == 77)


def test_models_that_are_refused(daemon):
    mamba = MambaForCausalLM(MambaConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2)).eval()
    with pytest.raises(Unsupported, match="recurrent"):
        connect(mamba, daemon)
    t5 = T5ForConditionalGeneration(T5Config(vocab_size=64, d_model=32, d_kv=8, d_ff=32,
                                             num_layers=1, num_heads=2)).eval()
    with pytest.raises(Unsupported, match="encoder-decoder"):
        connect(t5, daemon)
    with pytest.raises(Unsupported, match=r"call model.eval\(\)"):
        connect(llama().train(), daemon)
    adapted = llama()
    adapted._hf_peft_config_loaded = True
    with pytest.raises(Unsupported, match="adapters"):
        connect(adapted, daemon)
    with connect(adapted, daemon, name="base + adapter") as cache:
        assert cache.load(prompt(20))[1] == 0


# ---- caches of other kinds -----------------------------------------------------------------------
def test_a_dynamic_cache_of_ones_own(cache):
    ids = prompt(90)
    windowed = any(window for window in (layer.window for layer in cache._shape.layers))
    mine = own(cache.model, ids, 90)
    assert cache.save(ids, mine) == (0 if windowed else 80)  # its windows end at 90, not at 80
    assert cache.stats["saves_dropped"] == int(windowed)
    short = own(cache.model, ids, WINDOW - 2)
    assert cache.save(ids, short) == 16 and cache.stats["staged_bytes"] > 0
    kv, found = cache.load(ids)
    assert found == (16 if windowed else 80)
    assert same(kv, own(cache.model, ids, found))


@pytest.mark.parametrize("fresh", [True, False])
def test_a_static_cache(daemon, fresh):
    with connect(llama(), daemon) as cache:
        first, other = prompt(100), prompt(40, seed=2)
        kv = StaticCache(config=cache.model.config, max_cache_len=128)
        if not fresh:
            greedy(cache.model, other, kv)
            kv.reset()
            where = kv.layers[0].keys.data_ptr()
        kv, found = cache.load(first, into=kv)
        out = greedy(cache.model, first, kv)
        assert found == 0 and torch.equal(out, greedy(cache.model, first))
        assert cache.save(out, kv) == 96
        kv.reset()
        kv, found = cache.load(first, into=kv)
        assert found == 96 and kv.get_seq_length() == 96
        assert torch.equal(greedy(cache.model, first, kv), out)
        assert fresh or kv.layers[0].keys.data_ptr() == where
        dynamic, found = cache.load(first)
        assert found == 96 and same(dynamic, own(cache.model, first, 96))
        again, _ = cache.load(first, into=StaticCache(config=cache.model.config, max_cache_len=120))
        assert again.layers[0].keys.shape[2] == 120
        assert torch.equal(greedy(cache.model, first, again), out)


def test_static_windows_are_refused(daemon):
    with connect(gemma(), daemon) as cache:
        with pytest.raises(Unsupported, match="StaticSlidingWindowLayer"):
            cache.load(prompt(40), into=StaticCache(config=cache.model.config, max_cache_len=64))


def test_a_cache_can_be_copied_cropped_and_repeated(cache):
    ids = prompt(60)
    keep(cache, ids)
    kv, found = cache.load(ids)
    twin = copy.deepcopy(kv)
    assert [type(layer).__module__ for layer in twin.layers] == \
        ["transformers.cache_utils"] * len(kv.layers)
    mine = own(cache.model, ids, found)
    expected = logits(cache.model, ids[:, found:], mine)
    kv.batch_repeat_interleave(2)
    twice = logits(cache.model, ids[:, found:].repeat(2, 1), kv)
    assert torch.equal(logits(cache.model, ids[:, found:], twin), expected)
    assert torch.allclose(twice, expected.repeat(2, 1, 1), atol=1e-5)
    short, found = cache.load(ids[:, :30])
    logits(cache.model, ids[:, found:30], short)
    mine = own(cache.model, ids, found, 30)
    short.crop(-10)
    mine.crop(-10)
    assert torch.equal(logits(cache.model, ids[:, 20:30], short),
                       logits(cache.model, ids[:, 20:30], mine))


def test_prompt_lookup_decoding(cache):
    ids = prompt(40).repeat(1, 2)
    out = cache.generate(ids, wait=True, max_new_tokens=12, do_sample=False,
                         prompt_lookup_num_tokens=3)
    assert torch.equal(out, greedy(cache.model, ids, tokens=12))


def test_gradients_still_flow(daemon):
    with connect(llama(), daemon) as cache:
        ids = prompt(40)
        kv, _ = cache.load(ids)
        cache.model(ids, past_key_values=kv).logits.sum().backward()
        assert cache.model.model.layers[0].self_attn.k_proj.weight.grad is not None
        assert cache.save(ids, kv) == 32 and cache.stats["staged_bytes"] > 0


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


def test_tokens_out_of_range(cache):
    with pytest.raises(kveik.Invalid, match="not in 0 to"):
        cache.load(torch.full((1, 40), -1))
