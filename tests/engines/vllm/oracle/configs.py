"""vLLM's configuration objects, for a model that has no weights to speak of."""
import copy
import functools
import json

import safetensors.torch
import torch
from vllm.config import KVTransferConfig
from vllm.engine.arg_utils import EngineArgs
from vllm.v1.kv_cache_interface import (FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec,
                                        SlidingWindowSpec)

from model import ROW_WORDS, VOCABULARY

LAYERS, HEADS = 2, 2
DTYPE = torch.bfloat16
HEAD_ELEMENTS = ROW_WORDS * 8 // 2 // DTYPE.itemsize  # K; V has as many
WINDOW = 40


def make_model(folder, seed=0):
    """A folder that names weights; other seeds are other weights."""
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64,
              "intermediate_size": 64, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
              "num_key_value_heads": HEADS, "head_dim": HEAD_ELEMENTS, "vocab_size": VOCABULARY,
              "max_position_embeddings": 4096, "torch_dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(config))
    weights = torch.randn(16, generator=torch.Generator().manual_seed(seed))
    safetensors.torch.save_file({"weights": weights}, folder / "model.safetensors")
    return folder


@functools.lru_cache
def _base(folder, block_size, max_tokens, max_requests):
    return EngineArgs(
        model=folder, skip_tokenizer_init=True, dtype="bfloat16", max_model_len=1024,
        block_size=block_size, enforce_eager=True, max_num_seqs=max_requests,
        max_num_batched_tokens=max_tokens, enable_prefix_caching=True,
        kv_transfer_config=KVTransferConfig(
            kv_connector="KveikConnector", kv_connector_module_path="kveik.vllm",
            kv_role="kv_both", engine_id="replaced")).create_engine_config()


def make_config(folder, socket, *, blocks, block_size=16, asynchronous=False, workers=1,
                max_tokens=64, max_requests=8, role="kv_both", engine="one", connector=True,
                **options):
    """A VllmConfig; options are the connector's."""
    config = copy.deepcopy(_base(str(folder), block_size, max_tokens, max_requests))
    config.scheduler_config.async_scheduling = asynchronous
    config.cache_config.num_gpu_blocks = blocks
    config.parallel_config.tensor_parallel_size = workers
    config.parallel_config.world_size = workers
    if not connector:
        config.kv_transfer_config = None
        return config
    transfer = config.kv_transfer_config
    transfer.engine_id, transfer.kv_role = engine, role
    # steps of a loaded machine are slow: only tests of it run into the time limit of lookups
    transfer.kv_connector_extra_config = {"socket": str(socket), "lookup_timeout_ms": 20000,
                                          **options}
    return config


def rank_config(config, rank):
    """The same as rank `rank` sees it."""
    own = copy.deepcopy(config)
    own.parallel_config.rank = rank
    return own


def layer_name(layer):
    return f"model.layers.{layer}.self_attn.attn"


def make_kv_cache(blocks, block_size=16, workers=1, hybrid=False):
    """One group of full attention, or one of it and one of sliding windows, a layer each."""
    common = {"block_size": block_size, "num_kv_heads": HEADS // workers,
              "head_size": HEAD_ELEMENTS, "dtype": DTYPE}
    full = FullAttentionSpec(**common)
    names = [layer_name(layer) for layer in range(LAYERS)]
    if not hybrid:
        groups = [KVCacheGroupSpec(names, full)]
    else:
        window = SlidingWindowSpec(**common, sliding_window=WINDOW)
        groups = [KVCacheGroupSpec(names[:1], full), KVCacheGroupSpec(names[1:], window)]
    return KVCacheConfig(num_blocks=blocks, kv_cache_tensors=[], kv_cache_groups=groups)


def windows_of(kv_cache):
    """By layer: the window, 0 for full attention."""
    windows = [0] * LAYERS
    for group in kv_cache.kv_cache_groups:
        for name in group.layer_names:
            windows[int(name.split(".")[2])] = getattr(group.kv_cache_spec, "sliding_window",
                                                       None) or 0
    return windows
