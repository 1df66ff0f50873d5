"""Which prompts and settings a key can name: the tokens, from the first on, and nothing else."""
from __future__ import annotations

from typing import Any

import torch

_INPUTS = ("inputs_embeds", "pixel_values", "input_features", "pixel_values_videos", "position_ids")
_RESERVE_MAX = 4096


def _pads(model: Any) -> int | None:
    """The token that generate() masks out by itself when it is not told what to mask."""
    config = getattr(model, "generation_config", None) or model.config
    pad, ends = getattr(config, "pad_token_id", None), getattr(config, "eos_token_id", None)
    ends = ends if isinstance(ends, (list, tuple)) else [ends]
    return None if pad is None or pad in ends else int(pad)


def check(model: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor | None) -> None:
    """Raises ValueError unless all tokens of all rows count."""
    if input_ids.dim() != 2 or input_ids.shape[1] == 0:
        raise ValueError(f"kveik: input_ids has shape {tuple(input_ids.shape)}, must be [row, "
                         "token] with at least one token")
    if attention_mask is not None:
        if not bool((attention_mask != 0).all()):
            raise ValueError("kveik: attention_mask masks tokens out. Padded rows of a batch begin "
                             "at different places, while a cache has one length for all of them; "
                             "give rows of equal length, or one row at a time")
        return
    pad = _pads(model)
    if pad is not None and bool((input_ids == pad).any()):
        raise ValueError(f"kveik: input_ids has the padding token {pad}, which generate() masks "
                         "out. Give rows of equal length without it; or, where it is meant as a "
                         "token, an attention_mask of ones to load() and to the model")


def check_saved(sequences: torch.Tensor, held: int) -> None:
    """Raises ValueError unless these are the tokens of a cache that holds so many."""
    if sequences.dim() != 2 or sequences.shape[1] < held:
        raise ValueError(f"kveik: the cache holds {held} tokens, sequences has shape "
                         f"{tuple(sequences.shape)}; give [row, token]: prompt and new tokens")


def _setting(model: Any, kwargs: dict[str, Any], name: str) -> Any:
    for config in (kwargs.get("generation_config"), getattr(model, "generation_config", None)):
        if name in kwargs:
            return kwargs[name]
        if config is not None and getattr(config, name, None) is not None:
            return getattr(config, name)
    return kwargs.get(name)


def check_generate(model: Any, kwargs: dict[str, Any]) -> None:
    """Raises ValueError for what generate() cannot do with a cache that is not empty, or computes
    from more than tokens."""
    for name in ("num_beams", "num_return_sequences"):
        if (_setting(model, kwargs, name) or 1) > 1:
            raise ValueError(f"kveik: {name} is {_setting(model, kwargs, name)}: rows are repeated "
                             "and reordered behind the cache's back; must be 1. For several "
                             "samples repeat the prompt as rows of input_ids")
    for name in ("prefill_chunk_size", "past_key_values", "cache_implementation"):
        if _setting(model, kwargs, name) is not None:
            raise ValueError(f"kveik: {name} is given: generate() here goes on from a cache of its "
                             "own; leave it out, or use load() and save()")
    for name in _INPUTS:
        if kwargs.get(name) is not None:
            raise ValueError(f"kveik: {name} is given: keys name tokens. Use load() and save() "
                             "with extras that say what else decides the KV")


def new_tokens(model: Any, kwargs: dict[str, Any], length: int) -> int:
    """How many tokens generate() may add to a prompt; room is made for at most 4,096."""
    most = _setting(model, kwargs, "max_new_tokens")
    if most is None:
        most = max(0, (_setting(model, kwargs, "max_length") or length + 20) - length)
    return min(int(most), _RESERVE_MAX)
