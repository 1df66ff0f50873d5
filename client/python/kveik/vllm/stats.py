"""The connector's numbers, for vLLM's log line and its Prometheus page."""
from __future__ import annotations

from typing import Any

from prometheus_client import Counter
from vllm.distributed.kv_transfer.kv_connector.v1.metrics import (KVConnectorPromMetrics,
                                                                  KVConnectorStats)

COUNTERS = {
    "lookups": "lookups answered by kveikd",
    "lookup_hits": "lookups that found more than the engine had",
    "lookup_timeouts": "lookups not answered in time, or that could not be asked",
    "hit_tokens": "tokens found in kveikd beyond the engine's own prefix cache",
    "loads": "loads finished by a worker",
    "loads_failed": "loads of which a worker could not get all",
    "load_bytes": "bytes loaded from kveikd",
    "load_us": "microseconds from the order of a load to its end, summed up",
    "saves": "saves finished by a worker",
    "saves_failed": "saves of which a worker could not store all",
    "save_bytes": "bytes copied to kveikd; blocks that it held already cost none",
    "saves_dropped": "saves given up before they began: too many blocks held, or the step failed",
    "stuck": "jobs whose pages stayed in quarantine for a while",
    "uncacheable": "requests that cannot be cached",
}


class Stats(KVConnectorStats):
    """Counts since the last time that vLLM asked."""

    def add(self, name: str, by: int = 1) -> None:
        """Counts."""
        self.data[name] = self.data.get(name, 0) + by

    def reset(self) -> None:
        """Forgets all."""
        self.data = {}

    def take(self) -> Stats | None:
        """What was counted, once; None for nothing."""
        if not self.data:
            return None
        taken = Stats(data=self.data)
        self.data = {}
        return taken

    def aggregate(self, other: KVConnectorStats) -> KVConnectorStats:
        """Sums up."""
        for name, value in other.data.items():
            self.add(name, value)
        return self

    def reduce(self) -> dict[str, int | float]:
        """What the log line shows of an interval."""
        shown: dict[str, int | float] = {f"kveik_{name}": value for name, value
                                         in self.data.items() if not name.endswith("_us")}
        if self.data.get("load_us"):
            shown["kveik_load_gb_per_s"] = round(
                self.data.get("load_bytes", 0) / self.data["load_us"] / 1000, 2)
        return shown

    def is_empty(self) -> bool:
        """Whether nothing was counted."""
        return not self.data


class PromMetrics(KVConnectorPromMetrics):
    """vllm:kveik_<name>: one counter each, an engine a label."""

    def __init__(self, vllm_config: Any, metric_types: Any, labelnames: list[str],
                 per_engine_labelvalues: dict[int, list[object]]):
        super().__init__(vllm_config, metric_types, labelnames, per_engine_labelvalues)
        made = metric_types[Counter]
        self._counters = {}
        for name, text in COUNTERS.items():
            counter = made(name=f"vllm:kveik_{name}", documentation=f"Kveik: {text}.",
                           labelnames=labelnames)
            self._counters[name] = {engine: counter.labels(*values)
                                    for engine, values in per_engine_labelvalues.items()}

    def observe(self, transfer_stats_data: dict[str, Any], engine_idx: int = 0) -> None:
        """Adds an interval's counts."""
        for name, value in transfer_stats_data.items():
            if name in self._counters:
                self._counters[name][engine_idx].inc(value)
