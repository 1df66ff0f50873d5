"""A worker's side: the copies, and what became of them.

    ordered --submitted--> under way --answered--> done: no copy touches the pages
                              |                      ^
                              +--no answer--> stuck -+  quiesced, or the connection replaced

A job that cannot be submitted is done at once, failed. Everything runs on the worker's thread
between two forwards (layerwise loads also within one), and nothing waits but for a layer that is
needed now.
"""
from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING, Any

import kveik

from . import options, space
from .log import logger
from .memory import Memory
from .metadata import Job, Metadata, Outcome, Report, Run
from .stats import Stats

if TYPE_CHECKING:
    import torch
    from vllm.config import VllmConfig
    from vllm.v1.kv_cache_interface import KVCacheConfig


_GRACE_MS = 2000  # behind a deadline: the library gives a request up by then


@dataclasses.dataclass(slots=True)
class Work:
    """A job under way here."""

    job: Job
    load: bool
    began: float
    pending: int = 0  # requests without an answer
    bad: set[int] = dataclasses.field(default_factory=set)  # pages that did not get there
    lost: bool = False  # not known which pages
    stuck: list[tuple[int, list[int]]] = dataclasses.field(default_factory=list)
    bytes: int = 0


@dataclasses.dataclass(slots=True)
class Part:
    """One request of a job (loads by layers: of all jobs of the step): what it is the answer to.
    `runs` are in the order of the request's statuses."""

    runs: list[tuple[Work, int, Run]]  # with the layout


@dataclasses.dataclass(slots=True)
class Quiesce:
    """The question whether a stuck job's pages are free."""

    work: Work
    layout: int
    pages: list[int]


class WorkerSide:
    """The connector in a worker's process."""

    def __init__(self, config: VllmConfig, kv_cache: KVCacheConfig, chosen: options.Options,
                 instance: str):
        self._options = chosen
        self._shape = space.describe(config, kv_cache, chosen)
        self._one_group = len(self._shape.groups) == 1
        self._layerwise = chosen.load == "layerwise"
        self.stats = Stats()
        self._client = kveik.Client(chosen.socket or None, instance=instance,
                                    name=f"vllm worker {config.parallel_config.rank}",
                                    token=chosen.token or None, wait_for_daemon=True)
        self._memory: Memory | None = None
        self._begun = 0  # the step whose orders were carried out last
        self._work: dict[int, Work] = {}
        self._stuck: dict[int, Work] = {}
        self._layer_ops: dict[str, int] = {}  # layerwise: the request to wait for
        self._report = Report()
        self._received: set[str] = set()
        self._failed: set[str] = set()
        self._bad_pages: set[int] = set()

    def caches(self, caches: dict[str, torch.Tensor]) -> None:
        """The memory that holds the KV."""
        self._memory = Memory(self._client, self._shape, caches, 1 if self._layerwise else 0)
        self._memory.ready()

    def close(self) -> None:
        """Ends the session; the daemon has let go of the memory when this returns."""
        self._client.close()

    # ---- orders ----------------------------------------------------------------------------------
    def begin(self, orders: Metadata) -> None:
        """Carries out a step's orders, once, as early in the step as vLLM calls us: copies of
        other requests run beside its forward."""
        if orders.step == self._begun:
            return
        self._begun = orders.step
        self._report = Report(step=orders.step)
        if orders.fence:
            self._fence()
        if not (orders.loads or orders.saves):
            return
        ready = self._memory is not None and self._memory.ready()
        loads = [self._take(job, load=True) for job in orders.loads]
        saves = [self._take(job, load=False) for job in orders.saves]
        if not ready:
            for work in loads + saves:
                self._not_sent(work)
            return
        if self._layerwise:
            self._load_by_layers(loads)
        else:
            for work in loads:
                self._submit(work)
        for work in saves:
            self._submit(work)

    def _take(self, job: Job, load: bool) -> Work:
        work = self._work[job.id] = Work(job, load, time.monotonic())
        return work

    def _not_sent(self, work: Work) -> None:
        work.lost = True
        self._settle(work)

    def _submit(self, work: Work) -> None:
        """All groups and layers of a job in one request."""
        assert self._memory is not None
        part = Part([(work, self._memory.whole[run.group], run) for run in work.job.runs])
        work.pending += 1
        try:
            if work.load:
                self._client.submit_pull([self._pull_run(layout, run)
                                          for _, layout, run in part.runs], lease=work.job.lease,
                                         deadline_ms=self._options.load_deadline_ms, user=part)
            else:
                self._client.submit_push([self._push_run(layout, run)
                                          for _, layout, run in part.runs],
                                         deadline_ms=self._options.save_deadline_ms, user=part)
        except kveik.Error as error:
            logger.debug("kveik: %s of %s: %s", "load" if work.load else "save",
                         work.job.request, error)
            work.pending -= 1
            self._not_sent(work)

    def _pull_run(self, layout: int, run: Run) -> kveik.PullRun:
        return kveik.PullRun(layout, run.keys, run.pages, key_tokens=self._shape.block_tokens)

    def _push_run(self, layout: int, run: Run) -> kveik.PushRun:
        return kveik.PushRun(layout, run.keys, run.pages, block_tokens=self._shape.block_tokens,
                             block_count=len(run.pages), parent_key=run.parent)

    def _load_by_layers(self, loads: list[Work]) -> None:
        """One request a layer over all loads of the step, the first layer first."""
        assert self._memory is not None
        self._layer_ops = {}
        for group, layers_of_group in enumerate(self._memory.layers):
            for layers in layers_of_group:
                runs = [(work, layers.layout, run) for work in loads if not work.lost
                        for run in work.job.runs if run.group == group]
                if not runs:
                    continue
                for work in {id(work): work for work, _, _ in runs}.values():
                    work.pending += 1
                try:
                    op = self._client.submit_pull(
                        [self._pull_run(layout, run) for _, layout, run in runs],
                        deadline_ms=self._options.load_deadline_ms, user=Part(runs))
                    self._layer_ops.update((name, op) for name in layers.names)
                except kveik.Error as error:
                    logger.debug("kveik: load of %s: %s", layers.names[0], error)
                    for work in {id(work): work for work, _, _ in runs}.values():
                        work.pending -= 1
                        work.lost = True
        for work in loads:
            if work.pending == 0:
                self._settle(work)

    def wait_for_layer(self, name: str) -> None:
        """Returns when the layer is loaded, or failed to load."""
        op = self._layer_ops.pop(name, 0)
        if not op:
            return
        try:
            done = self._client.wait(op, self._options.load_deadline_ms + _GRACE_MS)
        except kveik.Error:
            return  # poll() had its completion already
        if done is not None:
            self._answered(done)

    # ---- answers ---------------------------------------------------------------------------------
    def poll(self) -> None:
        """Takes what was answered."""
        while (done := self._client.poll()) is not None:
            self._take_answer(done)
        self._look_after_stuck()

    def _take_answer(self, done: kveik.Completion) -> None:
        if isinstance(done.user, Part):
            self._answered(done)
        elif isinstance(done.user, Quiesce):
            self._quiesced(done)

    def _answered(self, done: kveik.Completion) -> None:
        part: Part = done.user
        works = {id(work): work for work, _, _ in part.runs}
        stuck = done.status == kveik.Status.STUCK
        for work in works.values():
            work.pending -= 1
            work.bytes += done.bytes // len(works)
            if not done.ok:
                logger.debug("kveik: %s of %s: %s", "load" if work.load else "save",
                             work.job.request, done.text)
                work.lost = True
        if stuck:
            for work, layout, run in part.runs:
                work.stuck.append((layout, run.pages))
        elif done.ok:
            bad = set(done.failed_indices())
            at = 0
            for work, _, run in part.runs:
                work.bad.update(page for i, page in enumerate(run.pages, at) if i in bad)
                at += len(run.pages)
        for work in works.values():
            if work.pending == 0:
                self._settle(work)

    def _settle(self, work: Work) -> None:
        """All answers are there."""
        failed = work.lost or bool(work.bad)
        kind = "loads" if work.load else "saves"
        self.stats.add(f"{kind}_failed" if failed else kind)
        if work.bytes:
            self.stats.add("load_bytes" if work.load else "save_bytes", work.bytes)
        if work.load:
            self.stats.add("load_us", int((time.monotonic() - work.began) * 1e6))
            self._tell_load(work)
        if work.stuck:
            self._report.stuck.add(work.job.id)
            self._stuck[work.job.id] = work
            return
        self._finish(work)

    def _tell_load(self, work: Work) -> None:
        """To vLLM: which request may go on, and with what."""
        pages = [page for run in work.job.runs for page in run.pages]
        if self._layerwise:
            self._bad_pages.update(pages if work.lost else work.bad)
            return
        self._received.add(work.job.request)
        if work.lost or (work.bad and not self._one_group):
            self._failed.add(work.job.request)
        else:
            self._bad_pages |= work.bad

    def _finish(self, work: Work) -> None:
        """No copy touches the job's pages any more."""
        self._report.done[work.job.id] = Outcome(failed=work.lost or bool(work.bad))
        del self._work[work.job.id]

    # ---- when the daemon does not answer ---------------------------------------------------------
    def _look_after_stuck(self) -> None:
        """Asks again and again whether the pages are free; the end of the connection frees them."""
        for work in list(self._stuck.values()):
            if work.pending == 0:
                self._quiesce(work)

    def _quiesce(self, work: Work) -> None:
        for layout, pages in work.stuck:
            try:
                self._client.submit_quiesce(layout, pages, user=Quiesce(work, layout, pages))
                work.pending += 1
            except kveik.Error as error:
                logger.debug("kveik: quiesce: %s", error)

    def _quiesced(self, done: kveik.Completion) -> None:
        asked: Quiesce = done.user
        asked.work.pending -= 1
        if done.ok:
            asked.work.stuck.remove((asked.layout, asked.pages))
            if not asked.work.stuck and self._stuck.pop(asked.work.job.id, None) is not None:
                self._finish(asked.work)

    def _fence(self) -> None:
        """Returns when no save can bring what is written to its pages from now on into the cache:
        vLLM took the blocks back. A save that the daemon does not answer is over at its deadline:
        the daemon keeps nothing that it read later."""
        until = time.monotonic() + (self._options.save_deadline_ms + _GRACE_MS) / 1000
        while self._saving() and time.monotonic() < until:
            done = self._client.wait(0, 20)
            if done is not None:
                self._take_answer(done)
        if self._saving():
            raise RuntimeError("kveik: a copy may still read pages that are about to be "
                               "overwritten, and the daemon does not answer. Stop kveikd (kill -9 "
                               "is safe) and start the engine again")

    def _saving(self) -> bool:
        return any(not work.load for work in self._work.values())

    # ---- what vLLM asks for ----------------------------------------------------------------------
    def take_received(self) -> tuple[set[str], set[str]]:
        """Requests whose loads ended since the last time, and those of them that failed whole."""
        self.poll()
        received, failed = self._received, self._failed
        self._received, self._failed = set(), set()
        return received, failed

    def take_bad_pages(self) -> set[int]:
        """Blocks that could not be loaded."""
        bad, self._bad_pages = self._bad_pages, set()
        return bad

    def take_report(self) -> Report:
        """The step's news for the scheduler's side."""
        report, self._report = self._report, Report(step=self._begun)
        return report
