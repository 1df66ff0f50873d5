"""Kveik for Hugging Face transformers: prompts' beginnings are computed once, by who comes first.

    from kveik.transformers import PrefixCache

    cache = PrefixCache(model)
    kv, found = cache.load(input_ids)
    out = model.generate(input_ids, past_key_values=kv, max_new_tokens=64)
    cache.save(out, kv)

`cache.generate(input_ids, ...)` is all three. With the daemon away, slow or restarting, nothing is
found and nothing is kept, and the model computes as it would have without.
"""
from .cache import PrefixCache
from .space import Unsupported

__all__ = ["PrefixCache", "Unsupported"]
