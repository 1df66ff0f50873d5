"""kveik.transformers: caches of tiny models that are kept and found again, exactly."""
import copy
import os
import pathlib
import subprocess
import sys

import pytest

import kveik

torch = pytest.importorskip("torch", reason="torch is not installed here")
pytest.importorskip("transformers", reason="transformers is not installed here")
from tiny_models import (MODELS, WAIT_MS, WINDOW, connect, gemma, greedy, keep, llama,  # noqa: E402
                         logits, own, prompt, same)
from transformers import MambaConfig, MambaForCausalLM, StaticCache  # noqa: E402
from transformers import T5Config, T5ForConditionalGeneration  # noqa: E402

from kveik.transformers import PrefixCache, Unsupported  # noqa: E402

FLOATS = [torch.float32, torch.bfloat16]


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


def test_tokens_out_of_range(cache):
    with pytest.raises(kveik.Invalid, match="not in 0 to"):
        cache.load(torch.full((1, 40), -1))
