"""What a model's KV means: its weights, its shape, and which layers live alike.

The shape is not read from the configuration, whose fields differ from model to model: the model
runs over one token, and what it left in its cache is looked at.
"""
from __future__ import annotations

import ctypes
import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable
from typing import Any

import torch
from transformers.cache_utils import (DynamicCache, DynamicLayer, DynamicSlidingWindowLayer,
                                      LinearAttentionCacheLayerMixin)

import kveik

from .. import weights

_ROTARY = ("rope_parameters", "rope_scaling", "rope_theta", "partial_rotary_factor",
           "rope_local_base_freq", "rotary_pct", "rotary_emb_base", "max_position_embeddings",
           "original_max_position_embeddings", "no_rope_layers", "no_rope_layer_interval",
           "layer_types", "head_dim", "hidden_size", "num_attention_heads")
_SAMPLED = 64  # elements of each tensor that tell whether it is still what the files say


class Unsupported(ValueError):
    """This model's KV cannot be kept, with the reason and what would help."""

    def __init__(self, text: str):
        super().__init__(f"kveik: {text}")


@dataclasses.dataclass(frozen=True)
class LayerShape:
    """One layer's KV. `window`: tokens that a query looks at, itself among them; 0: all."""

    heads: int
    key_elements: int
    value_elements: int
    window: int


@dataclasses.dataclass(frozen=True)
class Shape:
    """What the KV means. `groups` has the numbers of the layers of each."""

    layers: tuple[LayerShape, ...]
    groups: tuple[tuple[int, ...], ...]
    dtype: torch.dtype
    rope_id: bytes

    def meaning(self) -> list[kveik.Group]:
        """The groups as libkveik takes them."""
        return [self._group(self.layers[numbers[0]], len(numbers)) for numbers in self.groups]

    @staticmethod
    def _group(layer: LayerShape, count: int) -> kveik.Group:
        # a query at the hit's end needs the window - 1 tokens before it, and is the last one itself
        return kveik.Group(layers=count, heads=layer.heads,
                           kinds=(layer.key_elements, layer.value_elements),
                           rule="window" if layer.window else "every",
                           window_tokens=max(layer.window - 1, 0))

    def window_of(self, group: int) -> int:
        """The window of a group's layers in tokens, 0 for full attention."""
        return self.layers[self.groups[group][0]].window


# ---- the shape -----------------------------------------------------------------------------------
def _check_kind(layer: Any) -> None:
    if type(layer) in (DynamicLayer, DynamicSlidingWindowLayer):
        return
    name = type(layer).__name__
    if isinstance(layer, LinearAttentionCacheLayerMixin):
        raise Unsupported(f"a layer keeps a recurrent state ({name}), which holds for one length "
                          "and cannot be cut to a shared prefix; attention layers can be kept")
    raise Unsupported(f"a layer's cache is a {name}; DynamicLayer and DynamicSlidingWindowLayer "
                      "can be kept")


def check_model(model: Any) -> None:
    """Raises Unsupported unless the KV of this model, as it stands now, can be shared."""
    if getattr(model.config, "is_encoder_decoder", False):
        raise Unsupported(f"{type(model).__name__} is an encoder-decoder: its KV depends on the "
                          "encoder's input, too; decoder-only models can be kept")
    if model.training:
        raise Unsupported("the model is in training mode, where dropout decides the KV; call "
                          "model.eval()")
    for name, tensor in model.named_parameters():
        if tensor.device.type != "cpu":
            raise Unsupported(f"{name} is on {tensor.device}; this version of kveikd moves CPU "
                              "memory: model.to('cpu')")


def _probe(model: Any) -> DynamicCache:
    """The cache after one token."""
    cache = DynamicCache(config=model.config)
    for layer in cache.layers:
        _check_kind(layer)
    with torch.no_grad():
        model(input_ids=torch.zeros(1, 1, dtype=torch.long), past_key_values=cache, use_cache=True)
    return cache


def _layer_shape(number: int, layer: Any, dtype: torch.dtype) -> LayerShape:
    _check_kind(layer)
    if not layer.is_initialized or layer.keys.dim() != 4 or layer.keys.dtype != dtype:
        raise Unsupported(f"layer {number} left no keys of [row, head, token, element] in {dtype}; "
                          "the cache of each layer must look like that")
    window = layer.sliding_window if isinstance(layer, DynamicSlidingWindowLayer) else 0
    if window == 1:
        raise Unsupported(f"layer {number} has a window of 1 token; must be 2 or more")
    return LayerShape(layer.keys.shape[1], layer.keys.shape[3], layer.values.shape[3], int(window))


def shape_of(model: Any) -> Shape:
    """The shape of a model's KV, by running it over one token. Raises Unsupported."""
    check_model(model)
    cache = _probe(model)
    if not cache.layers:
        raise Unsupported("the model keeps no KV")
    dtype = cache.layers[0].keys.dtype
    layers = tuple(_layer_shape(i, layer, dtype) for i, layer in enumerate(cache.layers))
    kinds: dict[LayerShape, list[int]] = {}
    for number, layer in enumerate(layers):
        kinds.setdefault(layer, []).append(number)
    text = model.config.get_text_config(decoder=True)
    rotary = json.dumps({name: getattr(text, name, None) for name in _ROTARY}, sort_keys=True,
                        default=str)
    return Shape(layers, tuple(tuple(numbers) for numbers in kinds.values()), dtype,
                 hashlib.sha256(rotary.encode()).digest())


# ---- the weights ---------------------------------------------------------------------------------
def _tensors(model: Any) -> Iterable[tuple[str, torch.Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


def weights_state(model: Any) -> int:
    """Another number when a weight was replaced or written to; microseconds per weight. Writes
    through `.data` leave no trace."""
    return hash(tuple((id(tensor), 0 if tensor.is_inference() else tensor._version)
                      for _, tensor in _tensors(model)))


def _bytes_of(tensor: torch.Tensor) -> Any:
    """A contiguous tensor's memory."""
    size = tensor.numel() * tensor.element_size()
    return (ctypes.c_char * size).from_address(tensor.data_ptr()) if size else b""


def _digest_of(model: Any, whole: bool) -> str:
    """Over all weights, or over some elements of each."""
    digest = hashlib.sha256()
    for name, tensor in _tensors(model):
        flat = tensor.detach().reshape(-1)
        if not whole:
            flat = flat[::max(1, flat.numel() // _SAMPLED)]
        flat = flat.contiguous()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(_bytes_of(flat))
    return digest.hexdigest()


def weights_name(model: Any) -> str:
    """Names the weights as they are in memory now: by their files, or their commit, together with a
    sample of each tensor, so that weights which were changed after they had been read get another
    name; or by all of their bytes when there are no files."""
    path = str(getattr(model, "name_or_path", "") or "")
    if getattr(model, "_hf_peft_config_loaded", False) or hasattr(model, "peft_config"):
        raise Unsupported("the model has adapters, which are switched without leaving a trace; "
                          "name what it computes: PrefixCache(model, name='base + adapter')")
    commit = getattr(model.config, "_commit_hash", None)
    if path and os.path.isdir(path):
        return f"files:{weights.folder_digest(path)} sample:{_digest_of(model, whole=False)}"
    if commit:
        return f"commit:{path[:100]}@{commit} sample:{_digest_of(model, whole=False)}"
    return f"tensors:{_digest_of(model, whole=True)}"
