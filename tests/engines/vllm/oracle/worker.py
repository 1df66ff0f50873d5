"""A worker without a model: its batch as the scheduler's orders say it, its KV memory, and the
calls of the connector in the order of a real one."""
import dataclasses
import pickle

import numpy
import torch
from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorRole
from vllm.v1.outputs import KVConnectorOutput, ModelRunnerOutput

from configs import DTYPE, HEADS, LAYERS, layer_name, rank_config
from model import ROW_WORDS, Sequence

_GARBAGE = numpy.uint64(0xA5A5A5A5A5A5A5A5)


@dataclasses.dataclass
class Running:
    """A request in the batch."""

    sequence: Sequence
    prompt: int  # tokens of it
    tables: list  # block numbers, by group
    computed: int = 0


@dataclasses.dataclass
class Wrong:
    """Attention read what is not the KV of the tokens."""

    step: int
    request: str
    layer: int
    position: int
    page: int


class Worker:
    """One rank."""

    def __init__(self, config, kv_cache, shape, rank, connector_class, extras_of):
        workers = config.parallel_config.tensor_parallel_size
        self.shape = shape
        self.kv_cache = kv_cache
        self.block = kv_cache.kv_cache_groups[0].kv_cache_spec.block_size
        heads = HEADS // workers
        self.heads = slice(rank * heads, (rank + 1) * heads)
        self.groups = [0] * LAYERS
        self.extras_of = extras_of
        self.requests = {}
        self.wrong = []
        self.touched = []  # (page, what) writes into pages that copies use
        self.connector = None
        self._make_memory(heads)
        if connector_class is not None:
            self.connector = connector_class(rank_config(config, rank), KVConnectorRole.WORKER,
                                             kv_cache)
            self.connector.register_kv_caches(
                {layer_name(layer): self.tensors[layer] for layer in range(LAYERS)})
            self.client = self.connector._worker._client
            self.client.spoil = self.spoil

    def _make_memory(self, heads):
        """As vLLM does it: layers of different groups lie over each other, since a block belongs
        to one group at a time."""
        self.tensors, self.words = [None] * LAYERS, [None] * LAYERS
        shared = {}
        for number, group in enumerate(self.kv_cache.kv_cache_groups):
            for at, name in enumerate(group.layer_names):
                layer = int(name.split(".")[2])
                if at not in shared:
                    bare = torch.zeros(self.kv_cache.num_blocks * heads * self.block * ROW_WORDS,
                                       dtype=torch.int64)
                    shared[at] = bare.numpy().view(numpy.uint64).reshape(
                        -1, heads, self.block, ROW_WORDS), bare.view(DTYPE).view(
                            self.kv_cache.num_blocks, heads, self.block, -1)
                self.words[layer], self.tensors[layer] = shared[at]
                self.groups[layer] = number

    def spoil(self, runs, only=None):
        """Pages that are about to be loaded hold no KV; `only`: that page of all runs."""
        pages = [(run.layout, page) for run in runs for page in run.pages]
        layers = {one.layout: one.names for group in self.connector._worker._memory.layers
                  for one in group}
        for layout, page in pages if only is None else [pages[only]]:
            for name in layers[layout]:
                self.words[int(name.split(".")[2])][page] = _GARBAGE

    # ---- the batch -------------------------------------------------------------------------------
    def _update_batch(self, output):
        for request_id in output.finished_req_ids:
            self.requests.pop(request_id, None)
        for new in output.scheduled_new_reqs:
            self.requests[new.req_id] = Running(
                Sequence(new.prompt_token_ids, self.extras_of(new.req_id)),
                len(new.prompt_token_ids), [list(table) for table in new.block_ids],
                new.num_computed_tokens)
        cached = output.scheduled_cached_reqs
        for at, request_id in enumerate(cached.req_ids):
            self._update_request(request_id, cached, at)

    def _update_request(self, request_id, cached, at):
        running = self.requests[request_id]
        running.computed = cached.num_computed_tokens[at]
        blocks = cached.new_block_ids[at]
        if request_id in cached.resumed_req_ids:
            running.tables = [list(table) for table in blocks]
            tokens = cached.all_token_ids[request_id]
            running.sequence = Sequence(tokens, self.extras_of(request_id))
        elif blocks is not None:
            for table, more in zip(running.tables, blocks):
                table.extend(more)
        # after a load that failed, what was sampled on top of it is taken back
        kept = running.prompt + cached.num_output_tokens[at]
        if kept < len(running.sequence.tokens):
            running.sequence.truncate(kept)

    # ---- a step ----------------------------------------------------------------------------------
    def execute(self, output, step):
        """(digests by request, what the connector says)."""
        if self.connector is None:
            self._update_batch(output)
            return self._forward(output, step), None
        meta = pickle.loads(pickle.dumps(output.kv_connector_metadata))
        self.connector.handle_preemptions(meta)
        self._update_batch(output)
        self.connector.bind_connector_metadata(meta)
        if output.has_sync_kv_loads:
            self.connector.start_load_kv(None)
        digests = self._forward(output, step)
        if not output.has_sync_kv_loads:
            self.connector.start_load_kv(None)
        self.connector.wait_for_save()
        return digests, self._connector_output(output)

    def _connector_output(self, output):
        said = KVConnectorOutput()
        results = self.connector.get_transfer_results(output.finished_req_ids)
        said.finished_sending = results.finished_sending
        said.finished_recving = results.finished_recving
        said.failed_recving = results.failed_recving
        said.invalid_block_ids = self.connector.get_block_ids_with_load_errors()
        said.kv_connector_stats = self.connector.get_kv_connector_stats()
        said.kv_connector_worker_meta = pickle.loads(pickle.dumps(
            self.connector.build_connector_worker_meta()))
        self.connector.clear_connector_metadata()
        return said

    def _forward(self, output, step):
        """Layer by layer: writes the KV of the scheduled tokens, reads what attention reads."""
        digests = {}
        spoiled = set()
        for layer in range(LAYERS):
            if self.connector is not None and output.num_scheduled_tokens:
                self.connector.wait_for_layer_load(layer_name(layer))
            for request_id, count in output.num_scheduled_tokens.items():
                running = self.requests[request_id]
                begin, end = running.computed, running.computed + count
                self._write(running, layer, begin, end)
            for request_id, count in output.num_scheduled_tokens.items():
                running = self.requests[request_id]
                begin, end = running.computed, running.computed + count
                digest, wrong = self._read(running, layer, begin, end)
                digests[request_id] = digests.get(request_id, 0) + digest
                if wrong is not None:
                    spoiled.add(request_id)
                    page = running.tables[self.groups[layer]][wrong // self.block]
                    self.wrong.append(Wrong(step, request_id, layer, wrong, page))
        for request_id in spoiled:
            self._corrupt(self.requests[request_id], output.num_scheduled_tokens[request_id])
        return digests

    def _slots(self, running, layer, begin, end):
        positions = numpy.arange(begin, end)
        table = numpy.array(running.tables[self.groups[layer]])
        return table[positions // self.block], positions % self.block

    def _write(self, running, layer, begin, end):
        pages, places = self._slots(running, layer, begin, end)
        if self.connector is not None:
            busy = self.client.busy()
            self.touched += [(int(page), busy[int(page)]) for page in numpy.unique(pages)
                             if int(page) in busy]
        assert not (pages == 0).any(), "the null block has no KV"
        rows = self.shape.rows(running.sequence.states[begin:end], layer, self.heads)
        self.words[layer][pages, :, places] = rows.transpose(1, 0, 2)

    def _read(self, running, layer, begin, end):
        """(the digest of what the last query reads, the first position that is wrong or None)."""
        first = self.shape.reads(layer, begin, end)
        pages, places = self._slots(running, layer, first, end)
        found = self.words[layer][pages, :, places].transpose(1, 0, 2)
        right = self.shape.rows(running.sequence.states[first:end], layer, self.heads)
        bad = (found != right).any(axis=(0, 2))
        last = self.shape.reads(layer, end - 1, end) - first
        digest = self.shape.digest(layer, found[:, last:])
        return digest, first + int(bad.argmax()) if bad.any() else None

    def _corrupt(self, running, count):
        """What was computed from wrong KV is wrong."""
        for layer in range(LAYERS):
            pages, places = self._slots(running, layer, running.computed,
                                        running.computed + count)
            self.words[layer][pages, :, places] ^= _GARBAGE


def sample(workers, output, digests):
    """The tokens of a step, from what all ranks read; the batches know them at once."""
    shape, tokens = workers[0].shape, []
    ids = list(output.num_scheduled_tokens)
    for request_id in ids:
        running = workers[0].requests[request_id]
        end = running.computed + output.num_scheduled_tokens[request_id]
        if end < len(running.sequence.tokens):
            tokens.append([])
            continue
        total = sum(each[request_id] for each in digests) & ((1 << 64) - 1)
        token = shape.token_of(total, end)
        for worker in workers:
            worker.requests[request_id].sequence.extend([token])
        tokens.append([token])
    return ModelRunnerOutput(req_ids=ids, req_id_to_index={name: at for at, name in enumerate(ids)},
                             sampled_token_ids=tokens)
