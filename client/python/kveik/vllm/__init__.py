"""vLLM's KV cache in kveikd: one line of configuration.

    vllm serve MODEL --kv-transfer-config '{"kv_connector": "KveikConnector",
        "kv_connector_module_path": "kveik.vllm", "kv_role": "kv_both"}'

Settings are in kv_connector_extra_config, or KVEIK_VLLM_<NAME> in the environment; options.py has
the table.
"""
from .connector import KveikConnector

__all__ = ["KveikConnector"]
