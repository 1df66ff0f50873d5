"""An engine: vLLM's scheduler, the connector's two sides, workers without a model, and the
properties that hold after every step."""
import collections
import copy
import itertools
import time

from vllm import SamplingParams
from vllm.distributed.kv_transfer.kv_connector.factory import KVConnectorFactory
from vllm.distributed.kv_transfer.kv_connector.utils import KVOutputAggregator
from vllm.utils.hashing import sha256
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.outputs import EMPTY_MODEL_RUNNER_OUTPUT
from vllm.v1.request import Request, RequestStatus
from vllm.v1.structured_output import StructuredOutputManager

import spy
from configs import HEADS, make_config, make_kv_cache, windows_of
from model import Shape
from worker import Worker, sample

RUN_S = 120  # of one run: longer is no progress
init_none_hash(sha256)


class Broken(AssertionError):
    """A property does not hold."""


class Asked:
    """A request of the test's, and what became of it."""

    def __init__(self, request, prompt, extras):
        self.request = request
        self.prompt = prompt
        self.extras = extras
        self.tokens = []
        self.reason = None
        self.params = None  # what a prefill engine hands over
        self.aborted = False


class Engine:
    """See the top of the file. `late`: with asynchronous scheduling, a step runs only when the
    next one was scheduled; otherwise at once."""

    def __init__(self, folder, socket, faults=None, *, blocks=64, block_size=16, hybrid=False,
                 asynchronous=False, late=True, workers=1, connector=True, **options):
        self.faults = faults or spy.Faults()
        self.config = make_config(folder, socket, blocks=blocks, block_size=block_size,
                                  asynchronous=asynchronous, workers=workers,
                                  connector=connector, **options)
        self.kv_cache = make_kv_cache(blocks, block_size, 1, hybrid)
        own_cache = make_kv_cache(blocks, block_size, workers, hybrid)
        self.block_size = block_size
        self.shape = Shape(windows_of(self.kv_cache), HEADS)
        self.asked = {}
        self.steps = 0
        self.excused = 0  # wrong reads on top of loads that failed
        self._again = 0  # what makes saves begin again
        self._saved = {}  # by request: its life, and the block behind the last saved
        self._late = late
        self._names = itertools.count()
        self._queue = collections.deque()
        self._hasher = get_request_block_hasher(block_size, sha256)
        with spy.installed(self.faults):
            kind = AsyncScheduler if asynchronous else Scheduler
            self.scheduler = kind(self.config, own_cache, StructuredOutputManager(self.config),
                                  block_size=block_size, hash_block_size=block_size,
                                  log_stats=True)
            made = KVConnectorFactory.get_connector_class(self.config.kv_transfer_config) \
                if connector else None
            self.workers = [Worker(self.config, own_cache, self.shape, rank, made,
                                   lambda name: self.asked[name].extras)
                            for rank in range(workers)]
        self.connector = self.scheduler.connector
        self.pool = self.scheduler.kv_cache_manager.block_pool
        self._aggregator = KVOutputAggregator(workers)
        self._watch_pool()

    # ---- requests --------------------------------------------------------------------------------
    def add(self, prompt, tokens=4, *, name=None, extras=(), params=None, salt=None, **more):
        """A request for `tokens` tokens after `prompt`."""
        sampling = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True,
                                  extra_args={"kv_transfer_params": params} if params else None)
        request = Request(name or f"r{next(self._names)}", list(prompt), sampling, None,
                          cache_salt=salt, block_hasher=self._hasher, **more)
        extras = list(extras) + ([(0, f"salt {salt}")] if salt else [])
        asked = self.asked[request.request_id] = Asked(request, list(prompt), extras)
        self.scheduler.add_request(request)
        return asked

    def abort(self, asked):
        """As if its client had gone."""
        asked.aborted = True
        self.scheduler.finish_requests([asked.request.request_id],
                                       RequestStatus.FINISHED_ABORTED)

    def works(self):
        """Whether there is anything to do."""
        return bool(self._queue) or self.scheduler.has_requests()

    # ---- steps -----------------------------------------------------------------------------------
    def step(self):
        """Schedules one step, runs one, takes the output of one, as far as each can be."""
        depth = self.config.max_concurrent_batches
        if self.scheduler.has_requests():
            self._schedule()
            total = self._queue[-1][0].total_num_scheduled_tokens
            if len(self._queue) < depth and (total or self.scheduler.has_requests()):
                return
        if self._queue:
            self._take_output()

    def _schedule(self):
        self.faults.tick()
        output = self.scheduler.schedule()
        self.steps += 1
        self._check_orders(output)
        # what the workers get is a copy, as over a process boundary
        self._queue.append([output, None, self.steps])
        if not self._late:
            self._execute(self._queue[-1])

    def _execute(self, entry):
        output, _, step = entry
        ran = [worker.execute(output, step) for worker in self.workers]
        if output.num_scheduled_tokens:
            made = sample(self.workers, output, [digests for digests, _ in ran])
        else:
            made = copy.copy(EMPTY_MODEL_RUNNER_OUTPUT)
        outputs = []
        for _, said in ran:
            one = copy.copy(made)
            one.kv_connector_output = said
            outputs.append(one)
        entry[1] = self._aggregator.aggregate(outputs) if len(outputs) > 1 else outputs[0]
        self._check_reads(entry[1].kv_connector_output, step)

    def _take_output(self):
        entry = self._queue.popleft()
        if entry[1] is None:
            self._execute(entry)
        said = entry[1].kv_connector_output
        self._again += bool(said and (said.invalid_block_ids or said.failed_recving))
        for outputs in self.scheduler.update_from_output(entry[0], entry[1]).values():
            for one in outputs.outputs:
                asked = self.asked[one.request_id]
                asked.tokens += one.new_token_ids
                if one.finish_reason is not None:
                    asked.reason = str(one.finish_reason)
                    asked.params = one.kv_transfer_params

    def run(self, until=None):
        """Steps until nothing is left, or until() is true."""
        end = time.monotonic() + RUN_S
        while time.monotonic() < end:
            if until is not None and until():
                return
            if not self.works():
                if until is not None:
                    raise Broken("the run ended before what was waited for")
                return
            self.step()
        raise Broken(f"P0: no end: {self.scheduler.requests}")

    def preempt(self, asked):
        """As a reset or a full pool does it."""
        self.scheduler.running.remove(asked.request)
        self.scheduler._preempt_request(asked.request, time.monotonic(), drop_stale_output=True)
        self.scheduler.prev_step_scheduled_req_ids.discard(asked.request.request_id)

    def is_in(self, asked, status):
        """For run(): until the request has that status."""
        return lambda: asked.request.status == RequestStatus[status]

    # ---- properties of a step --------------------------------------------------------------------
    def _watch_pool(self):
        """P2: the pool gives out no block that a copy uses or will use. After a reset the copies
        of before may still read: their writes are watched instead (fence)."""
        give = self.pool.get_new_blocks
        self._fenced = set()  # orders, by worker

        def get_new_blocks(count):
            blocks = give(count)
            if self.connector is not None:
                self._check_given({block.block_id for block in blocks})
            return blocks
        self.pool.get_new_blocks = get_new_blocks

    def _check_given(self, given):
        for rank, worker in enumerate(self.workers):
            fenced = {number for at, number in self._fenced if at == rank}
            for page, kind in worker.client.busy(fenced).items():
                if page in given:
                    raise Broken(f"P2: block {page} given out under a {kind}")
        side = self.connector._scheduler
        for flight in side._flights.values():
            if flight.held and given.intersection(flight.blocks):
                raise Broken(f"P2: blocks of job {flight.job.id} given out")

    def reset(self, running=False, connector=False):
        """vLLM's reset of its prefix cache."""
        self._again += 1
        for rank, worker in enumerate(self.workers):
            self._fenced.update((rank, order.number) for order in worker.client.orders.values()
                                if order.kind == "push")
        return self.scheduler.reset_prefix_cache(running, connector)

    def _check_orders(self, output):
        """P1: the pages of every job planned now are those of the request's block tables."""
        if self.connector is None:
            return
        side, manager = self.connector._scheduler, self.scheduler.kv_cache_manager
        meta = output.kv_connector_metadata
        planned = [side._flights[job.id] for job in meta.loads] + \
            [flight for flight in side._saves_unsure if flight.step == meta.step]
        for flight in planned:
            tables = manager.get_block_ids(flight.job.request)
            for run in flight.job.runs:
                table = tables[run.group][run.first:run.first + len(run.pages)]
                if table != run.pages or len(run.keys) != 32 * len(run.pages):
                    raise Broken(f"P1: {flight.job} does not fit {tables}")
        for flight in planned:
            if not flight.load:
                self._check_increases(flight)

    def _check_increases(self, flight):
        """P1: the saves of a request are disjoint and go forward, until something makes it begin
        again: a preemption, a reset, a load that failed."""
        request = self.scheduler.requests[flight.job.request]
        life = request.num_preemptions, self._again
        before, end = self._saved.get(flight.job.request, (None, 0))
        if before == life and flight.first < end:
            raise Broken(f"P1: {flight.job} saves what was saved")
        last = max((run.first + len(run.pages) for run in flight.job.runs), default=flight.first)
        self._saved[flight.job.request] = life, last

    def _check_reads(self, said, step):
        """Attention read wrong KV only where a load failed, and that is reported with the step."""
        for worker in self.workers:
            for page, kind in worker.touched:
                raise Broken(f"P2: step {step} writes page {page} under a {kind}")
            bad = said.invalid_block_ids if said is not None else set()
            for wrong in worker.wrong:
                if wrong.page not in bad:
                    raise Broken(f"P2: {wrong}")
                self.excused += 1
            worker.wrong.clear()

    def close(self):
        """Ends the sessions."""
        for worker in self.workers:
            if worker.connector is not None:
                worker.connector.shutdown()
        self.scheduler.shutdown()
