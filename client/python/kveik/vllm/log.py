"""The connector's log: a child of vLLM's, whose level, format and place apply
(VLLM_LOGGING_LEVEL)."""
from vllm.logger import init_logger

logger = init_logger("vllm.kveik")
