"""Tiny seeded models for the tests of kveik.transformers, and what is done to them.

Also run by processes of their own: `python tiny_models.py SOCKET SEED TOKENS...` prints how much of
a prompt was found, and what a greedy run made of it.
"""
import os
import sys

import torch
from transformers import (DynamicCache, Gemma3ForCausalLM, Gemma3TextConfig, LlamaConfig,
                          LlamaForCausalLM)

from kveik.transformers import PrefixCache

VOCABULARY, WINDOW = 512, 32
WAIT_MS = 20000  # of a machine that does other things besides
torch.set_num_threads(1)  # more of them wait for each other, with matrices as small as these
_SIZES = {"vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 128,
          "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "pad_token_id": None,
          "bos_token_id": None, "eos_token_id": None}


def llama(dtype=torch.float32, seed=0):
    """Full attention, two query heads for each KV head."""
    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(num_hidden_layers=3, **_SIZES)).to(dtype).eval()


def gemma(dtype=torch.float32, seed=0):
    """Three layers with a sliding window, one with full attention."""
    torch.manual_seed(seed)
    kinds = ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"]
    return Gemma3ForCausalLM(Gemma3TextConfig(
        num_hidden_layers=4, sliding_window=WINDOW, layer_types=kinds, **_SIZES)).to(dtype).eval()


MODELS = {"llama": llama, "gemma": gemma}


def prompt(tokens, seed=1, rows=1):
    """Random tokens: [row, token]. Prompts of one seed begin alike."""
    flat = torch.randint(0, VOCABULARY, (rows, 1000), generator=torch.Generator().manual_seed(seed))
    return flat[:, :tokens]


def connect(model, daemon, **more):
    return PrefixCache(model, **{"socket_path": str(daemon.socket), "salt": os.urandom(8),
                                 "timeout_ms": WAIT_MS, **more})


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


def main():
    socket, seed, tokens = sys.argv[1], int(sys.argv[2]), [int(word) for word in sys.argv[3:]]
    with PrefixCache(llama(seed=seed), socket_path=socket, timeout_ms=20000) as cache:
        ids = torch.tensor([tokens])
        kv, found = cache.load(ids)
        out = cache.model.generate(ids, past_key_values=kv, max_new_tokens=8, do_sample=False)
        print(found, *out[0].tolist())


if __name__ == "__main__":
    main()
