#!/usr/bin/env python3
"""Time to the first token with a prompt's beginning in kveikd, against computing it.

    python transformers_prefix.py [--model FOLDER] [--tokens 512,1024,2048,4096] [--check]

Without --model: a small random Llama, the same for every run of this script. A second run, or a
second process, finds what the first one kept: then there is nothing to keep, and all is warm.
--check compares logits with the model's own, bit for bit; exit status 1 when they differ, 3 when
there is no daemon.
"""
import argparse
import os
import statistics
import sys
import time

import torch
from transformers import AutoModelForCausalLM, DynamicCache, LlamaConfig, LlamaForCausalLM

from kveik.transformers import PrefixCache


def small_llama():
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(
        vocab_size=8192, hidden_size=512, intermediate_size=1408, num_hidden_layers=8,
        num_attention_heads=8, num_key_value_heads=4, head_dim=64, eos_token_id=None,
        max_position_embeddings=16384)).eval()


def ten_lines(model, socket):
    """All that it takes."""
    input_ids = torch.randint(0, 8192, (1, 200), generator=torch.Generator().manual_seed(1))
    cache = PrefixCache(model, socket_path=socket)
    for _ in range(2):
        kv, found = cache.load(input_ids)
        out = model.generate(input_ids, past_key_values=kv, max_new_tokens=16, do_sample=False)
        kept = cache.save(out, kv)
        print(f"found {found} tokens, kept {kept}; ends with {out[0, -4:].tolist()}")
    cache.close()


def first_token(model, ids, kv):
    """The logits of a prompt's last token, from what is in the cache on."""
    with torch.no_grad():
        return model(ids[:, kv.get_seq_length():], past_key_values=kv, logits_to_keep=1).logits


def timed(run):
    began = time.perf_counter()
    return run(), (time.perf_counter() - began) * 1e3


def measure(cache, tokens, salt, check):
    """Prints a line; whether all was as it should be."""
    model, extras = cache.model, [(0, salt)]
    ids = torch.randint(0, model.config.vocab_size, (1, tokens),
                        generator=torch.Generator().manual_seed(tokens))
    own = DynamicCache(config=model.config)
    _, cold_ms = timed(lambda: first_token(model, ids, own))
    kv, _ = cache.load(ids, extras=extras, timeout_ms=10000)
    first_token(model, ids, kv)
    kept, save_ms = timed(lambda: cache.save(ids, kv, extras=extras, timeout_ms=10000))
    loads, firsts, found = [], [], 0
    for _ in range(5):
        del kv
        (kv, found), load_ms = timed(lambda: cache.load(ids, extras=extras))
        logits, first_ms = timed(lambda: first_token(model, ids, kv))
        loads.append(load_ms)
        firsts.append(load_ms + first_ms)
    line = (f"{tokens:7} {found:7} {cold_ms:13.1f} {statistics.median(firsts):9.1f} "
            f"{statistics.median(loads):9.1f} {save_ms:9.1f} "
            f"{cold_ms / statistics.median(firsts):8.1f}x")
    good = kept > 0 and found > 0
    if check:
        own.crop(found - own.get_seq_length())
        same = torch.equal(logits, first_token(model, ids, own))
        line, good = line + ("   same bits" if same else "   DIFFERENT"), good and same
    print(line)
    return good


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="a folder; without it a small random Llama")
    parser.add_argument("--tokens", default="512,1024,2048,4096", help="lengths of prompts")
    parser.add_argument("--socket", default=None, help="of kveikd, when not at its usual place")
    parser.add_argument("--check", action="store_true", help="compare logits bit for bit")
    wanted = parser.parse_args()
    model = AutoModelForCausalLM.from_pretrained(wanted.model).eval() if wanted.model else \
        small_llama()
    ten_lines(model, wanted.socket)
    with PrefixCache(model, socket_path=wanted.socket) as cache:
        if not cache.client.info().connected:
            print("no daemon: all was computed, nothing kept", file=sys.stderr)
            return 3
        print(f"{'tokens':>7} {'found':>7} {'recompute ms':>13} {'warm ms':>9} {'load ms':>9} "
              f"{'save ms':>9} {'faster':>9}")
        salt = os.urandom(8)  # so that each run measures its own saves
        good = all([measure(cache, int(tokens), salt, wanted.check)
                    for tokens in wanted.tokens.split(",")])
        print({name: count for name, count in cache.stats.items() if count})
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
