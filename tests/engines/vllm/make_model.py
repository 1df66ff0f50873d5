"""Makes a tiny model with random weights, or an adapter for one: python make_model.py KIND FOLDER

Weights are spread widely (0.1), so that wrong KV changes the answer and does not drown in nearly
equal logits.
"""
import json
import pathlib
import sys

import torch
from safetensors.torch import save_file

HIDDEN, LAYERS, HEADS, KV_HEADS, VOCABULARY, RANK = 256, 4, 4, 2, 4096, 8
SPREAD = 0.1


def llama(folder, seed):
    from transformers import LlamaConfig, LlamaForCausalLM
    torch.manual_seed(seed)
    config = LlamaConfig(hidden_size=HIDDEN, intermediate_size=512, num_hidden_layers=LAYERS,
                         num_attention_heads=HEADS, num_key_value_heads=KV_HEADS,
                         vocab_size=VOCABULARY, max_position_embeddings=16384,
                         initializer_range=SPREAD)
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)


def gemma(folder, seed):
    """Five layers of six see a window of 256 tokens."""
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig
    torch.manual_seed(seed)
    config = Gemma3TextConfig(hidden_size=HIDDEN, intermediate_size=512, num_hidden_layers=6,
                              num_attention_heads=HEADS, num_key_value_heads=KV_HEADS, head_dim=64,
                              vocab_size=VOCABULARY, max_position_embeddings=16384,
                              sliding_window=256, initializer_range=SPREAD)
    Gemma3ForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)


def adapter(folder, seed):
    """Changes Q and V of every layer."""
    torch.manual_seed(seed)
    head = HIDDEN // HEADS
    rows = {"q_proj": HIDDEN, "v_proj": KV_HEADS * head}
    weights = {}
    for layer in range(LAYERS):
        for name, out in rows.items():
            at = f"base_model.model.model.layers.{layer}.self_attn.{name}"
            weights[f"{at}.lora_A.weight"] = torch.randn(RANK, HIDDEN).to(torch.bfloat16)
            weights[f"{at}.lora_B.weight"] = torch.randn(out, RANK).to(torch.bfloat16)
    root = pathlib.Path(folder)
    root.mkdir(parents=True, exist_ok=True)
    save_file(weights, root / "adapter_model.safetensors")
    (root / "adapter_config.json").write_text(json.dumps({
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": RANK,
        "lora_dropout": 0.0, "bias": "none", "target_modules": sorted(rows),
        "base_model_name_or_path": "llama"}))


KINDS = {"llama": (llama, 7), "gemma": (gemma, 7), "adapter1": (adapter, 1),
         "adapter2": (adapter, 2)}

if __name__ == "__main__":
    make, chosen_seed = KINDS[sys.argv[1]]
    make(sys.argv[2], chosen_seed)
