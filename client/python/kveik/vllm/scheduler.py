"""The scheduler's side: what to load, what to save, and who may touch which block meanwhile.

A load of a request (asynchronous; "layerwise" is the same within one step):

    asked --hit--> leased --allocated--> ordered --all workers done--> lease released, blocks let go
      |              |                      |
      +--miss        +--not used: released  +--failed: the request computes, and is not tried again

A save of some blocks of a request:

    scheduled in step n: blocks held --step n is known to be good--> ordered --all workers done-->
                             |                                                     blocks let go
                             +--a load of the step failed: let go, saved later

A block is saved only after the step that computed it came back without a failed load: what was
computed on top of a failed load is thrown away by vLLM, and must not become anybody's prefix. The
block is held from the step that fills it, so that a window that moves on, a preemption or the end
of the request do not lose it.
"""
from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import kveik

from . import options, space
from .blocks import Blocks
from .keys import RequestKeys, Uncacheable
from .log import logger
from .lookups import Lease, Lookup, Lookups
from .metadata import Job, Metadata, Outcome, Report, Run
from .stats import Stats

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.v1.core.kv_cache_manager import KVCacheBlocks, KVCacheManager
    from vllm.v1.core.sched.output import SchedulerOutput
    from vllm.v1.kv_cache_interface import KVCacheConfig
    from vllm.v1.outputs import KVConnectorOutput
    from vllm.v1.request import Request


_FRESH_S = 1.0  # an answer that waited longer in vLLM's queue is asked for again
_RETRY_S = 0.5  # between attempts to register the space


@dataclasses.dataclass(slots=True)
class Tracked:
    """One request."""

    request: Request
    keys: RequestKeys
    lookup: Lookup | None = None
    asked_again: bool = False  # the answer is used as it comes, however old
    preemptions: int = 0  # of the request when it was last asked for
    computed: int = 0  # tokens that vLLM has itself, when it was last asked for
    load_failed: bool = False  # it computes; another load would fail as well
    loading: int = 0  # its job under way
    saved: int = 0  # leading blocks that are held by kveikd, or on their way there
    handover_tokens: int = 0  # what a prefill engine said that it saves
    handover_until: float = 0.0


@dataclasses.dataclass(slots=True)
class Flight:
    """A job from its planning until no worker's copy touches its blocks."""

    job: Job
    load: bool
    step: int  # that planned it
    blocks: list[int] = dataclasses.field(default_factory=list)
    first: int = 0  # saves: the first block
    lease: Lease | None = None  # loads: what keeps the blocks readable
    outcome: Outcome | None = None
    stuck: bool = False
    held: bool = True
    events: list[Any] = dataclasses.field(default_factory=list)


def _pages_of(runs: Iterable[Run]) -> list[int]:
    return [page for run in runs for page in run.pages]


class SchedulerSide:
    """The connector in the scheduler's process. Everything runs on the scheduler's thread, and
    nothing waits."""

    def __init__(self, config: VllmConfig, kv_cache: KVCacheConfig, chosen: options.Options,
                 instance: str):
        transfer = config.kv_transfer_config
        assert transfer is not None
        self._loads = transfer.is_kv_consumer
        self._saves = transfer.is_kv_producer
        self._shape = space.describe(config, kv_cache, chosen)
        self._options = chosen
        self._workers = config.parallel_config.world_size
        events = config.kv_events_config
        self._want_events = events is not None and events.enable_kv_cache_events
        self.stats = Stats()
        self._instance = instance
        self._client = kveik.Client(chosen.socket or None, instance=instance,
                                    name="vllm scheduler", token=chosen.token or None,
                                    wait_for_daemon=True)
        self._space: int | None = None
        self._space_at = 0.0
        self._generation = 0  # of the weights; 0: those that they came with
        self._lookups = Lookups(self._client, self._shape.block_tokens, chosen.lookup_timeout_ms,
                                self.stats, self._registered)
        self._manager: KVCacheManager | None = None
        self._blocks: Blocks | None = None
        self._requests: dict[str, Tracked] = {}
        self._flights: dict[int, Flight] = {}
        self._ids = itertools.count(1)
        self._step = 0
        self._loads_new: list[Flight] = []
        self._saves_unsure: list[Flight] = []  # of steps that are not back
        self._saves_new: list[Flight] = []
        self._fence = False
        self._own_reset = True  # vLLM's prefix cache was empty when the weights changed last
        self._events: list[Any] = []

    # ---- the connection --------------------------------------------------------------------------
    def _registered(self) -> int | None:
        """The space's handle; None while it cannot be had."""
        now = time.monotonic()
        if self._space is None and now >= self._space_at:
            self._space_at = now + _RETRY_S
            try:
                self._space = self._shape.register(self._client)
            except kveik.Error as error:
                logger.debug("kveik: space: %s", error)
        return self._space

    def bind(self, manager: KVCacheManager) -> None:
        """The engine's blocks."""
        self._manager = manager
        self._blocks = Blocks(manager.block_pool)

    def close(self) -> None:
        """Ends the session; the daemon lets go of all leases with the engine's last one."""
        self._client.close()

    # ---- requests --------------------------------------------------------------------------------
    def request_new(self, request: Request) -> None:
        """Asks at once what is held, so that the answer is there when the request's turn comes."""
        tracked = self._track(request)
        if tracked is not None and self._may_load(tracked):
            self._ask(tracked)

    def _track(self, request: Request) -> Tracked | None:
        tracked = self._requests.get(request.request_id)
        if tracked is None:
            try:
                keys = self._keys(request)
            except Uncacheable as why:
                logger.warning("kveik: request %s is not cached: %s", request.request_id, why)
                self.stats.add("uncacheable")
                return None
            tracked = Tracked(request, keys)
            self._take_handover(tracked)
            self._requests[request.request_id] = tracked
        return tracked

    def _keys(self, request: Request) -> RequestKeys:
        """Keys under the weights that the engine has now."""
        weights = f"{self._instance} {self._generation}" if self._generation else ""
        return RequestKeys(request, self._shape.block_tokens, weights)

    def _take_handover(self, tracked: Tracked) -> None:
        """What a prefill engine's answer, passed on by a proxy, says of the prompt."""
        params = tracked.request.kv_transfer_params or {}
        if not params.get("do_remote_prefill"):
            return
        size, prompt = self._shape.block_tokens, tracked.request.num_prompt_tokens
        tokens = params.get("kveik_tokens", prompt)
        if not isinstance(tokens, int) or tokens < 0:
            logger.warning("kveik: request %s: kveik_tokens is %r, must be a number of tokens",
                           tracked.request.request_id, tokens)
            return
        tracked.handover_tokens = min(tokens, prompt - 1) // size * size
        tracked.handover_until = time.monotonic() + self._options.handover_timeout_ms / 1000

    def _may_load(self, tracked: Tracked) -> bool:
        return self._loads and not tracked.load_failed and not tracked.loading and \
            not tracked.request.skip_reading_prefix_cache

    def _ask(self, tracked: Tracked) -> Lookup:
        """A new question; what was known before is dropped. At least one token is left to compute,
        as in vLLM's own prefix cache."""
        self._lookups.drop(tracked.lookup)
        blocks = (tracked.request.num_tokens - 1) // self._shape.block_tokens
        tracked.preemptions = tracked.request.num_preemptions
        tracked.lookup = self._lookups.ask(tracked.keys.upto(blocks))
        return tracked.lookup

    def matched(self, request: Request, computed: int) -> tuple[int | None, bool]:
        """Tokens beyond `computed` that can be loaded, and whether while others run; None: not
        known yet."""
        tracked = self._track(request)
        if tracked is None or not self._may_load(tracked):
            return 0, False
        lookup = tracked.lookup
        if lookup is None or tracked.preemptions != request.num_preemptions:
            lookup = self._ask(tracked)
        if not self._lookups.settle(lookup):
            return None, False
        if self._ask_again(tracked, lookup):
            return None, False
        tracked.asked_again = False
        tracked.computed = computed
        if not lookup.failed:
            tracked.saved = lookup.tokens // self._shape.block_tokens
        if lookup.tokens <= computed:
            self._lookups.release(lookup.take())
            return 0, False
        if not lookup.lease:  # given back when vLLM had as much itself, which it lost since
            self._ask(tracked)
            return None, False
        return lookup.tokens - computed, self._options.load == "async"

    def _ask_again(self, tracked: Tracked, lookup: Lookup) -> bool:
        """Whether the answer is no answer: it lay in the queue too long, or the prefill engine's
        last blocks are still on their way."""
        now = time.monotonic()
        old = now - lookup.answered_at > _FRESH_S and not tracked.asked_again and not lookup.failed
        waits = lookup.tokens < tracked.handover_tokens and now < tracked.handover_until and \
            not lookup.failed
        if old or waits:
            tracked.asked_again = old or tracked.asked_again
            self._ask(tracked)
            return True
        return False

    def allocated(self, request: Request, blocks: KVCacheBlocks, external: int) -> None:
        """vLLM gave the request blocks, `external` tokens of which it expects from us."""
        tracked = self._requests.get(request.request_id)
        if tracked is None or tracked.lookup is None:
            return
        if external == 0:
            self._lookups.drop(tracked.lookup)
            tracked.lookup = None
            return
        assert self._blocks is not None
        size = self._shape.block_tokens
        first, last = tracked.computed // size, (tracked.computed + external) // size
        runs = self._runs(tracked, blocks.get_block_ids(), first, last)
        flight = self._plan(tracked, runs, load=True)
        flight.lease = tracked.lookup.take()
        flight.job.lease = flight.lease.number if flight.lease else 0
        tracked.lookup = None
        tracked.loading = flight.job.id
        self._loads_new.append(flight)
        self.stats.add("lookup_hits")
        self.stats.add("hit_tokens", external)

    def finished(self, request: Request) -> dict[str, Any] | None:
        """The request ended, however. Its blocks may be freed: what copies need is held. Returns
        what a proxy passes on to a decode engine."""
        tracked = self._requests.pop(request.request_id, None)
        if tracked is None:
            return None
        self._lookups.drop(tracked.lookup)
        params = request.kv_transfer_params or {}
        if not (self._saves and params.get("do_remote_decode")):
            return None
        return {"do_remote_prefill": True, "do_remote_decode": False,
                "remote_engine_id": self._instance,
                "kveik_tokens": min(request.num_prompt_tokens, request.num_computed_tokens)}

    # ---- jobs ------------------------------------------------------------------------------------
    def _runs(self, tracked: Tracked, tables: tuple[list[int], ...], first: int,
              last: int) -> list[Run]:
        """Blocks [first, last) of every group, cut where a group keeps no block."""
        assert self._blocks is not None
        runs = []
        for group, table in enumerate(tables):
            begin = first
            while begin < last:
                if self._blocks.is_null(table[begin]):
                    begin += 1
                    continue
                end = begin
                while end < last and not self._blocks.is_null(table[end]):
                    end += 1
                keys, parent = tracked.keys.span(begin, end)
                runs.append(Run(group, keys, table[begin:end], parent, begin))
                begin = end
        return runs

    def _plan(self, tracked: Tracked, runs: list[Run], load: bool, first: int = 0) -> Flight:
        """A job, its blocks held."""
        assert self._blocks is not None
        job = Job(next(self._ids), tracked.request.request_id, runs)
        flight = Flight(job, load, self._step, _pages_of(runs), first)
        self._blocks.hold(flight.blocks)
        self._flights[job.id] = flight
        return flight

    def _let_go(self, flight: Flight) -> None:
        """No copy touches its blocks any more, or never did."""
        assert self._blocks is not None
        if flight.held:
            flight.held = False
            self._blocks.free(flight.blocks)
        self._lookups.release(flight.lease)
        del self._flights[flight.job.id]

    def _plan_saves(self, output: SchedulerOutput) -> None:
        """Blocks that are full after this step, of all requests in it."""
        assert self._blocks is not None
        most = self._blocks.count * self._options.save_blocks_percent // 100
        for request_id, scheduled in output.num_scheduled_tokens.items():
            tracked = self._requests.get(request_id)
            if tracked is None:
                continue
            request = tracked.request
            known = request.num_tokens if self._options.save_decode else request.num_prompt_tokens
            full = min(request.num_computed_tokens + scheduled, known) // self._shape.block_tokens
            if full <= tracked.saved:
                continue
            if self._blocks.held >= most:
                self.stats.add("saves_dropped")
                continue  # the blocks are tried again with the next that fills up
            tables = self._tables(request_id)
            runs = self._runs(tracked, tables, tracked.saved, full)
            flight = self._plan(tracked, runs, load=False, first=tracked.saved)
            tracked.saved = full
            if self._want_events:
                flight.events = self._stored_events(request, flight)
            self._saves_unsure.append(flight)

    def _tables(self, request_id: str) -> tuple[list[int], ...]:
        """The request's blocks in each group, by their place in it."""
        assert self._manager is not None
        return self._manager.get_block_ids(request_id)

    def meta(self, output: SchedulerOutput) -> Metadata:
        """The orders of the step that was just scheduled."""
        self._lookups.poll()
        self._step += 1
        if self._saves and self._own_reset:
            self._plan_saves(output)
        orders = Metadata(self._step, self._fence,
                          [flight.job for flight in self._loads_new],
                          [flight.job for flight in self._saves_new])
        self._fence = False
        self._loads_new, self._saves_new = [], []
        return orders

    # ---- what came back --------------------------------------------------------------------------
    def reported(self, output: KVConnectorOutput) -> None:
        """A step came back."""
        report = output.kv_connector_worker_meta
        if not isinstance(report, Report):
            return
        failed = bool(output.invalid_block_ids or output.failed_recving)
        if failed:
            self._loads_failed(output)
        self._judge_saves(report.step, failed)
        for number in report.stuck:
            flight = self._flights.get(number)
            if flight is not None:
                flight.stuck = True
                self.stats.add("stuck")
        for number, outcome in report.done.items():
            flight = self._flights.get(number)
            if flight is not None:
                self._done(flight, outcome)

    def _loads_failed(self, output: KVConnectorOutput) -> None:
        bad = set(output.invalid_block_ids or ())
        for flight in self._flights.values():
            if flight.load and (flight.job.request in (output.failed_recving or ()) or
                                bad.intersection(flight.blocks)):
                tracked = self._requests.get(flight.job.request)
                if tracked is not None:
                    tracked.load_failed = True
                    tracked.saved = 0

    def _judge_saves(self, step: int, failed: bool) -> None:
        """Saves of steps up to `step` are ordered, unless a load failed: then nothing of what is
        under way is believed, and is saved again once it is computed again."""
        unsure, self._saves_unsure = self._saves_unsure, []
        for flight in unsure:
            if failed:
                tracked = self._requests.get(flight.job.request)
                if tracked is not None:
                    tracked.saved = min(tracked.saved, flight.first)
                self.stats.add("saves_dropped")
                self._let_go(flight)
            elif flight.step <= step:
                self._saves_new.append(flight)
            else:
                self._saves_unsure.append(flight)

    def _done(self, flight: Flight, outcome: Outcome) -> None:
        if flight.outcome is None:
            flight.outcome = outcome
        else:
            flight.outcome.add(outcome)
        if flight.outcome.workers < self._workers:
            return
        tracked = self._requests.get(flight.job.request)
        if flight.load and tracked is not None and tracked.loading == flight.job.id:
            tracked.loading = 0
        if not flight.load and not flight.outcome.failed:
            self._events += flight.events
        self._let_go(flight)

    # ---- the engine's questions ------------------------------------------------------------------
    def frees_blocks_soon(self) -> bool:
        """Whether blocks come free by themselves: only copies that end by their deadline count."""
        assert self._blocks is not None
        return any(flight.held and not flight.stuck and self._blocks.only_ours(flight.blocks)
                   for flight in self._flights.values())

    def works(self) -> bool:
        """Whether the engine must go on stepping: saves to be ordered, or to be heard of."""
        return any(not flight.stuck for flight in self._flights.values())

    def before_reset(self) -> None:
        """vLLM is about to forget its prefix cache, and wants all blocks back: saves give theirs
        up, and the workers end their copies before the next step writes anywhere."""
        assert self._blocks is not None
        self._drop_planned()
        for flight in self._flights.values():
            if not flight.load and not flight.stuck and flight.held:
                flight.held = False
                self._blocks.free(flight.blocks)
                self._fence = True

    def _drop_planned(self) -> None:
        """Saves that no worker knows of yet are not made; they are planned again if they may be."""
        for flight in self._saves_unsure + self._saves_new:
            self._let_go(flight)
        self._saves_unsure, self._saves_new = [], []
        for tracked in self._requests.values():
            tracked.saved = 0

    def after_reset(self, good: bool) -> None:
        """Whether vLLM did forget."""
        self._own_reset = self._own_reset or good

    def reset(self, own_good: bool) -> bool:
        """The weights changed: nothing of before may be found any more, by this engine, nor saved.
        While vLLM itself still has KV of before (its own reset failed), nothing is saved."""
        self._drop_planned()
        self._generation += 1
        self._own_reset = own_good
        if not own_good:
            logger.warning("kveik: the engine could not reset its own prefix cache: nothing is "
                           "saved until it can")
        for tracked in self._requests.values():
            self._lookups.drop(tracked.lookup)
            tracked.lookup = None
            tracked.keys = self._keys(tracked.request)
        return True

    # ---- events ----------------------------------------------------------------------------------
    def _stored_events(self, request: Request, flight: Flight) -> list[Any]:
        """What a router hears once the blocks are held: vLLM's own hashes."""
        from vllm.distributed.kv_events import MEDIUM_CPU, BlockStored
        from vllm.v1.core.kv_cache_utils import maybe_convert_block_hash
        size = self._shape.block_tokens
        hashes = request.block_hashes
        events = []
        for run in flight.job.runs:
            first, last = run.first, run.first + len(run.pages)
            if last > len(hashes):
                continue  # vLLM hashes at another step
            lora = request.lora_request
            events.append(BlockStored(
                block_hashes=[maybe_convert_block_hash(one) for one in hashes[first:last]],
                parent_block_hash=maybe_convert_block_hash(hashes[first - 1]) if first else None,
                token_ids=request.all_token_ids[first * size:last * size], block_size=size,
                lora_id=lora.adapter_id if lora else None, medium=MEDIUM_CPU,
                lora_name=lora.lora_name if lora else None, group_idx=run.group))
        return events

    def take_events(self) -> list[Any]:
        """Events since the last time."""
        events, self._events = self._events, []
        return events
