"""What the scheduler's side tells the workers' side, and what comes back, once a step."""
from __future__ import annotations

import dataclasses

from vllm.distributed.kv_transfer.kv_connector.v1.base import (KVConnectorMetadata,
                                                               KVConnectorWorkerMetadata)


@dataclasses.dataclass(slots=True)
class Run:
    """Consecutive blocks of one request in one KV cache group.

    keys    32 bytes a block: the key of its last grain
    pages   vLLM's block ids, one a block
    parent  the key before the first block; None: the run begins the prompt
    first   the number of the first block in its request
    """

    group: int
    keys: bytes
    pages: list[int]
    parent: bytes | None = None
    first: int = 0


@dataclasses.dataclass(slots=True)
class Job:
    """A load (kveikd -> pages) or a save (pages -> kveikd) of one request."""

    id: int
    request: str
    runs: list[Run]
    lease: int = 0  # loads: what keeps the blocks readable; the scheduler's side releases it


@dataclasses.dataclass
class Metadata(KVConnectorMetadata):
    """One step's orders.

    step   counts steps from 1; the report of the step names it
    fence  no copy of a save may be under way when this step's forward begins
    """

    step: int = 0
    fence: bool = False
    loads: list[Job] = dataclasses.field(default_factory=list)
    saves: list[Job] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(slots=True)
class Outcome:
    """What became of a job, over all workers that have reported so far."""

    workers: int = 1
    failed: bool = False  # a worker's part of it did not get there

    def add(self, other: Outcome) -> None:
        """Counts another worker's report."""
        self.workers += other.workers
        self.failed |= other.failed


@dataclasses.dataclass
class Report(KVConnectorWorkerMetadata):
    """One step's news. A job is in `done` when no copy touches its pages any more, however it
    ended; `stuck` are jobs that failed while a copy may still touch their pages."""

    step: int = 0
    done: dict[int, Outcome] = dataclasses.field(default_factory=dict)
    stuck: set[int] = dataclasses.field(default_factory=set)

    def aggregate(self, other: KVConnectorWorkerMetadata) -> Report:
        """The news of two workers of the same step."""
        assert isinstance(other, Report)
        for job, outcome in other.done.items():
            mine = self.done.get(job)
            if mine is None:
                self.done[job] = outcome
            else:
                mine.add(outcome)
        self.stuck |= other.stuck
        self.step = min(self.step, other.step)
        return self
