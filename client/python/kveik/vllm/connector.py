"""KveikConnector: vLLM's interface for KV connectors, by name, over the two sides."""
from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from vllm.distributed.kv_transfer.kv_connector.v1.base import (KVConnectorBase_V1,
                                                               KVConnectorMetadata,
                                                               KVConnectorRole,
                                                               KVConnectorTransferResults,
                                                               SupportsHMA)
from vllm.v1.metrics.cache_hit_source import CacheHitSource

from . import options
from .metadata import Metadata, Report
from .scheduler import SchedulerSide
from .stats import PromMetrics, Stats
from .worker import WorkerSide

if TYPE_CHECKING:
    import torch
    from vllm.config import VllmConfig
    from vllm.v1.core.kv_cache_manager import KVCacheBlocks, KVCacheManager
    from vllm.v1.core.sched.output import SchedulerOutput
    from vllm.v1.kv_cache_interface import KVCacheConfig
    from vllm.v1.outputs import KVConnectorOutput
    from vllm.v1.request import Request


_INSTANCE_BYTES = 64


class KveikConnector(KVConnectorBase_V1, SupportsHMA):
    """Keeps this engine's KV in kveikd, and finds there what any engine computed.

    In the scheduler's process it plans (SchedulerSide), in each worker it moves (WorkerSide). One
    line of configuration; settings are in options.Options.
    """

    _cache_hit_source = CacheHitSource.HOST

    def __init__(self, vllm_config: VllmConfig, role: KVConnectorRole,
                 kv_cache_config: KVCacheConfig):
        super().__init__(vllm_config, role, kv_cache_config)
        transfer = vllm_config.kv_transfer_config
        assert transfer is not None
        chosen = options.read(transfer.kv_connector_extra_config or {})
        # vLLM's own default fails requests when a load fails; a cache must not
        transfer.kv_load_failure_policy = chosen.load_failure_policy  # type: ignore[assignment]
        instance = f"vllm-{transfer.engine_id}"[:_INSTANCE_BYTES]
        self._scheduler: SchedulerSide | None = None
        self._worker: WorkerSide | None = None
        self._own_reset = False
        if role == KVConnectorRole.SCHEDULER:
            self._scheduler = SchedulerSide(vllm_config, kv_cache_config, chosen, instance)
        else:
            self._worker = WorkerSide(vllm_config, kv_cache_config, chosen, instance)

    @property
    def requires_kv_delivery(self) -> bool:
        """A cache: a save that does not happen is a miss later."""
        return False

    # ---- the workers' side -----------------------------------------------------------------------
    @property
    def _moves(self) -> WorkerSide:
        assert self._worker is not None, "called in the scheduler's process"
        return self._worker

    def register_kv_caches(self, kv_caches: dict[str, torch.Tensor]) -> None:
        """The memory that holds the KV, by layer."""
        self._moves.caches(kv_caches)

    def handle_preemptions(self, kv_connector_metadata: KVConnectorMetadata) -> None:
        """The first call of every step, before anything is written."""
        assert isinstance(kv_connector_metadata, Metadata)
        self._moves.begin(kv_connector_metadata)

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        """The orders, unless handle_preemptions() came first."""
        self.handle_preemptions(self._get_connector_metadata())

    def wait_for_layer_load(self, layer_name: str) -> None:
        """Before a layer's attention reads."""
        self._moves.wait_for_layer(layer_name)

    def save_kv_layer(self, layer_name: str, kv_layer: torch.Tensor, attn_metadata: Any,
                      **kwargs: Any) -> None:
        """Nothing: blocks are saved whole, once their step is known to be good."""

    def wait_for_save(self) -> None:
        """Nothing: a save's blocks are held until it is done."""

    def get_finished(self, finished_req_ids: set[str]) -> tuple[set[str] | None, set[str] | None]:
        """Loads that ended. Saves hold their blocks themselves and are not reported by request."""
        received, _ = self._moves.take_received()
        return None, received or None

    def get_transfer_results(self, finished_req_ids: set[str]) -> KVConnectorTransferResults:
        """The same, with the loads that failed."""
        received, failed = self._moves.take_received()
        return KVConnectorTransferResults(finished_recving=received, failed_recving=failed)

    def get_block_ids_with_load_errors(self) -> set[int]:
        """Blocks that vLLM computes again."""
        return self._moves.take_bad_pages()

    def build_connector_worker_meta(self) -> Report:
        """News for the scheduler's side."""
        return self._moves.take_report()

    def get_kv_connector_stats(self) -> Stats | None:
        """Counts since the last time, of whichever side this is."""
        side = self._scheduler or self._worker
        assert side is not None
        return side.stats.take()

    # ---- the scheduler's side --------------------------------------------------------------------
    @property
    def _plans(self) -> SchedulerSide:
        assert self._scheduler is not None, "called in a worker's process"
        return self._scheduler

    def bind_kv_cache_manager(self, kv_cache_manager: KVCacheManager) -> None:
        """The engine's blocks. Its reset is told to us first: it only succeeds when nobody holds a
        block, and saves hold some for a few milliseconds."""
        super().bind_kv_cache_manager(kv_cache_manager)
        self._plans.bind(kv_cache_manager)
        reset = kv_cache_manager.reset_prefix_cache

        def reset_prefix_cache() -> bool:
            self._plans.before_reset()
            self._own_reset = bool(reset())
            self._plans.after_reset(self._own_reset)
            return self._own_reset

        kv_cache_manager.reset_prefix_cache = reset_prefix_cache  # type: ignore[method-assign]

    def on_new_request(self, request: Request) -> None:
        """Asks what is held."""
        self._plans.request_new(request)

    def get_num_new_matched_tokens(self, request: Request,
                                   num_computed_tokens: int) -> tuple[int | None, bool]:
        """What is held beyond what vLLM has; None until known."""
        return self._plans.matched(request, num_computed_tokens)

    def update_state_after_alloc(self, request: Request, blocks: KVCacheBlocks,
                                 num_external_tokens: int) -> None:
        """Plans the load."""
        self._plans.allocated(request, blocks, num_external_tokens)

    def build_connector_meta(self, scheduler_output: SchedulerOutput) -> KVConnectorMetadata:
        """The step's orders."""
        return self._plans.meta(scheduler_output)

    def update_connector_output(self, connector_output: KVConnectorOutput) -> None:
        """The step's news."""
        self._plans.reported(connector_output)

    def request_finished(self, request: Request,
                         block_ids: list[int]) -> tuple[bool, dict[str, Any] | None]:
        """Never keeps a request's blocks: saves hold their own."""
        return False, self._plans.finished(request)

    def request_finished_all_groups(self, request: Request, block_ids: tuple[list[int], ...]
                                    ) -> tuple[bool, dict[str, Any] | None]:
        """The same, with several KV cache groups."""
        return False, self._plans.finished(request)

    def take_events(self) -> Iterable[Any]:
        """Blocks that kveikd holds now."""
        return self._plans.take_events()

    def has_pending_block_frees(self) -> bool:
        """Whether waiting a moment frees blocks, so that nobody need be preempted."""
        return self._plans.frees_blocks_soon()

    def has_pending_push_work(self) -> bool:
        """Whether the engine must step even without requests."""
        return self._plans.works()

    def reset_cache(self) -> bool:
        """The weights changed: what was saved before is never found again by this engine."""
        return self._plans.reset(self._own_reset)

    def shutdown(self) -> None:
        """Ends the session."""
        side = self._scheduler or self._worker
        assert side is not None
        side.close()

    @classmethod
    def requires_piecewise_for_cudagraph(cls, extra_config: dict[str, Any]) -> bool:
        """Whole graphs skip the calls between layers."""
        return options.read(extra_config).load == "layerwise"

    @classmethod
    def build_kv_connector_stats(cls, data: dict[str, Any] | None = None) -> Stats:
        """For the log line."""
        return Stats(data=data or {})

    @classmethod
    def build_prom_metrics(cls, vllm_config: VllmConfig, metric_types: Any, labelnames: list[str],
                           per_engine_labelvalues: dict[int, list[object]]) -> PromMetrics:
        """For /metrics."""
        return PromMetrics(vllm_config, metric_types, labelnames, per_engine_labelvalues)
