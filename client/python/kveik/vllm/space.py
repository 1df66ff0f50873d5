"""What an engine's KV means, and which share of it a worker keeps.

Both sides compute the same description from vLLM's configuration: the scheduler's side asks in this
space, the workers put their pages there. vLLM's CPU backend packs the tokens of one head of one
block in a private order that depends on the instruction set, so groups are opaque: heads of pages
move whole, between engines whose packing is the same (the fingerprint), at any degree of tensor or
pipeline parallelism.
"""
from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from typing import TYPE_CHECKING, Any

import kveik
import vllm
from vllm.model_executor.models.utils import extract_layer_index
from vllm.v1.kv_cache_interface import FullAttentionSpec, SlidingWindowSpec

from .. import weights
from .options import Options

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.v1.kv_cache_interface import KVCacheConfig, KVCacheGroupSpec

_GROUPS_MAX = 16
_ROTARY = ("rope_parameters", "rope_scaling", "rope_theta", "partial_rotary_factor",
           "rope_local_base_freq", "rotary_pct", "rotary_emb_base", "max_position_embeddings",
           "original_max_position_embeddings", "no_rope_layers", "no_rope_layer_interval",
           "layer_types", "head_dim", "hidden_size", "num_attention_heads")


class Unsupported(ValueError):
    """This engine's KV cannot be kept, with the reason and what would help."""

    def __init__(self, text: str):
        super().__init__(f"kveik: {text}")


@dataclasses.dataclass(frozen=True)
class GroupShare:
    """One KV cache group: what it means for everybody, and this rank's share of it."""

    meaning: kveik.Group
    layer_names: tuple[str, ...]  # this rank's, by their number in the group
    layer_begin: int
    heads: int  # of this rank
    head_begin: int
    head_bytes: int  # of one head of one block
    head_elements: int  # its last dimension: K and V of a token


@dataclasses.dataclass(frozen=True)
class Shape:
    """The space, and a rank's share of it."""

    model: str
    revision: str
    dtype: str
    rope_id: bytes
    fingerprint: bytes
    block_tokens: int
    blocks: int
    groups: tuple[GroupShare, ...]
    admission: str = "default"  # by the daemon's word for it; no part of what the KV means

    def register(self, client: kveik.Client) -> int:
        """Registers the space; kveik.Unavailable with the daemon down."""
        return client.register_space(self.model, self.dtype, [g.meaning for g in self.groups],
                                     revision=self.revision, rope_id=self.rope_id,
                                     fingerprint=self.fingerprint,
                                     admission=self.admission.replace("-", "_"))


def _digest(value: Any) -> bytes:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).digest()


def _model_name(config: VllmConfig, options: Options) -> str:
    """Names the weights: a digest of their files, or what the user says."""
    if options.model_id:
        return options.model_id
    model = config.model_config
    name = os.path.basename(os.path.normpath(model.model))[:64]
    if str(config.load_config.load_format) == "dummy":
        return f"{name} dummy:{_digest([model.hf_config.to_dict(), model.seed]).hex()}"
    if os.path.exists(model.model):
        return f"{name} sha256:{weights.folder_digest(model.model)}"
    commit = getattr(model.hf_config, "_commit_hash", None)
    if commit:
        return f"{model.model[:128]} commit:{commit}"
    raise Unsupported(f"nothing tells which weights {model.model!r} has: no local folder, no "
                      "commit. Name them: kv_connector_extra_config: {\"model_id\": \"...\"}")


def _packing(config: VllmConfig, spec: Any) -> dict[str, Any]:
    """Whatever decides how bytes lie inside a page."""
    from vllm.v1.attention.backends import cpu_attn
    isa = getattr(cpu_attn, "_get_attn_isa", None)
    if isa is None:
        raise Unsupported(f"vLLM {vllm.__version__} does not tell how its CPU backend packs pages; "
                          "this connector was made for 0.32")
    dtype = config.cache_config.cache_dtype
    return {"engine": "vllm", "version": vllm.__version__.split("+")[0],
            "isa": isa(spec.dtype, spec.block_size, spec.head_size, dtype), "cache_dtype": dtype,
            "block": spec.block_size, "dtype": str(spec.dtype), "head": spec.head_size,
            "head_v": getattr(spec, "head_size_v", None)}


def _check_parallel(config: VllmConfig) -> None:
    parallel = config.parallel_config
    for name in ("decode_context_parallel_size", "prefill_context_parallel_size"):
        if getattr(parallel, name, 1) > 1:
            raise Unsupported(f"{name} is {getattr(parallel, name)}: context parallel engines "
                              "spread a block's tokens over ranks; must be 1")


def _check_layerwise(config: VllmConfig, groups: int) -> None:
    """When a load within a step fails, vLLM takes back that step, but neither the one that it has
    scheduled on top (whose tokens would be wrong), nor anything with several groups (it ends)."""
    if config.max_concurrent_batches > 1:
        raise Unsupported("load is layerwise, and vLLM schedules steps before it knows that the "
                          "load of the one before failed; use --no-async-scheduling, or load async")
    if groups > 1:
        raise Unsupported(f"load is layerwise, and the model has {groups} KV cache groups: vLLM "
                          "could not go on when such a load fails; must be async")


def _check_group(group: KVCacheGroupSpec, block_tokens: int) -> None:
    spec = group.kv_cache_spec
    if type(spec) not in (FullAttentionSpec, SlidingWindowSpec):
        raise Unsupported(f"a KV cache group is of kind {type(spec).__name__}; full attention and "
                          "sliding windows can be kept")
    if spec.block_size != block_tokens:
        raise Unsupported(f"KV cache groups have blocks of {block_tokens} and {spec.block_size} "
                          "tokens; they must be equal")
    if spec.block_size % kveik.GRAIN_TOKENS != 0 or spec.block_size > 4096:
        raise Unsupported(f"blocks of {spec.block_size} tokens; must be a multiple of "
                          f"{kveik.GRAIN_TOKENS}, at most 4096 (--block-size)")


def _layers(group: KVCacheGroupSpec, config: VllmConfig, groups: int) -> tuple[list[str], int, int]:
    """This rank's layers in order, the number of the first, and how many all ranks have."""
    names = sorted(group.layer_names, key=lambda name: (extract_layer_index(name), name))
    if config.parallel_config.pipeline_parallel_size == 1:
        return names, 0, len(names)
    numbers = [extract_layer_index(name) for name in names]
    if groups > 1 or numbers != list(range(numbers[0], numbers[0] + len(numbers))):
        raise Unsupported("pipeline parallelism with several KV cache groups, or with layers that "
                          "have no KV; use tensor parallelism")
    return names, numbers[0], config.model_config.get_total_num_hidden_layers()


def _heads(spec: Any, config: VllmConfig) -> tuple[int, int]:
    """This rank's first KV head, and how many the model has. More ranks than heads: several ranks
    keep the same one."""
    ranks = config.parallel_config.tensor_parallel_size
    rank = config.parallel_config.rank % ranks
    total = config.model_config.get_total_num_kv_heads()
    if total < ranks:
        return rank * total // ranks, total
    return rank * spec.num_kv_heads, ranks * spec.num_kv_heads


def _share(group: KVCacheGroupSpec, config: VllmConfig, groups: int) -> GroupShare:
    spec: Any = group.kv_cache_spec
    names, first, layers = _layers(group, config, groups)
    head_begin, heads = _heads(spec, config)
    window = spec.sliding_window if isinstance(spec, SlidingWindowSpec) else 0
    elements = spec.head_size + (spec.head_size_v or spec.head_size)
    meaning = kveik.Group(layers=layers, heads=heads, kinds=(0,), opaque=True,
                          rule="window" if window else "every", window_tokens=window)
    return GroupShare(meaning, tuple(names), first, spec.num_kv_heads, head_begin,
                      spec.block_size * elements * spec.dtype.itemsize, elements)


def describe(config: VllmConfig, kv_cache: KVCacheConfig, options: Options) -> Shape:
    """The space of this engine and the share of the rank of `config`. Raises Unsupported."""
    _check_parallel(config)
    groups = kv_cache.kv_cache_groups
    if not 1 <= len(groups) <= _GROUPS_MAX:
        raise Unsupported(f"{len(groups)} KV cache groups; must be 1 to {_GROUPS_MAX}")
    if options.load == "layerwise":
        _check_layerwise(config, len(groups))
    spec: Any = groups[0].kv_cache_spec
    for group in groups:
        _check_group(group, spec.block_size)
    model = config.model_config
    text = model.hf_text_config
    draft = config.speculative_config
    packing = [_packing(config, group.kv_cache_spec) for group in groups]
    packing.append({"quantization": model.quantization, "dtype": str(model.dtype),
                    "draft": "" if draft is None else f"{draft.method} {draft.model}"})
    return Shape(model=_model_name(config, options), revision=(model.revision or "")[:128],
                 dtype=str(spec.dtype).removeprefix("torch."),
                 rope_id=_digest({name: getattr(text, name, None) for name in _ROTARY}),
                 fingerprint=_digest(packing), block_tokens=spec.block_size,
                 blocks=kv_cache.num_blocks,
                 groups=tuple(_share(group, config, len(groups)) for group in groups),
                 admission=options.admission)
