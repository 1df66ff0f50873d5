"""One vLLM engine in a process of its own, driven over a socket that it inherits.

    python engine_child.py FD     (engine.py starts it)

Both sides write JSON, one document a line. The first line that comes is how to make the engine;
then one line is one order. Every answer is {"event": ...}; an order ends with the event "end", or
with "error", which says why. End of file ends the process.
"""
import json
import socket
import sys
import time
import traceback

LOGPROBS = 2
MODEL_TOKENS = 8448


class Driven:
    """The engine, and the socket that its orders come from."""

    def __init__(self, stream):
        self.stream = stream
        self.llm = None

    def tell(self, event, **values):
        self.stream.write(json.dumps({"event": event, **values}).encode() + b"\n")
        self.stream.flush()

    def make(self, options):
        from vllm import LLM
        from vllm.config import KVTransferConfig

        given = dict(options["llm"])
        if options["kveik"] is not None:
            given["kv_transfer_config"] = KVTransferConfig(
                kv_connector="KveikConnector", kv_connector_module_path="kveik.vllm",
                kv_role="kv_both", kv_connector_extra_config=options["kveik"])
        self.llm = LLM(options["model"], skip_tokenizer_init=True, enforce_eager=True,
                       max_model_len=MODEL_TOKENS, disable_log_stats=False, **given)
        config = self.llm.llm_engine.vllm_config
        self.tell("end", block_tokens=config.cache_config.block_size)

    def parameters(self, request):
        from vllm import SamplingParams
        return SamplingParams(max_tokens=request["answer_tokens"], temperature=0, detokenize=False,
                              ignore_eos=True, logprobs=LOGPROBS,
                              skip_reading_prefix_cache=request["from_nothing"])

    def adapter(self, request):
        from vllm.lora.request import LoRARequest
        if request.get("adapter") is None:
            return None
        number, path = request["adapter"]
        return LoRARequest(f"adapter{number}", number, path)

    def generate(self, requests, show_steps):
        """All at once; tells each as it ends, and (show_steps) every step that gave something."""
        engine = self.llm.llm_engine
        began, first = {}, {}
        for request in requests:
            prompt = {"prompt_token_ids": request["tokens"]}
            if request.get("salt") is not None:
                prompt["cache_salt"] = request["salt"]
            began[request["id"]] = time.monotonic()
            engine.add_request(request["id"], prompt, self.parameters(request),
                               lora_request=self.adapter(request))
        self.tell("submitted")
        left = len(requests)
        while left > 0:
            outputs = engine.step()
            now = time.monotonic()
            for output in outputs:
                first.setdefault(output.request_id, now)
                if output.finished:
                    left -= 1
                    self.finished(output, began, first, now)
            if show_steps and outputs:
                self.tell("step")
        self.finish_saves()

    def finish_saves(self):
        """What an engine core in a process of its own does by itself: goes on while there is
        something to do."""
        core = getattr(self.llm.llm_engine.engine_core, "engine_core", None)
        while core is not None and core.scheduler.has_requests():
            self.llm.llm_engine.step()

    def finished(self, output, began, first, now):
        answer = output.outputs[0]
        ranked = [[[token, one.logprob] for token, one in
                   sorted(step.items(), key=lambda item: item[1].rank)]
                  for step in answer.logprobs]
        name = output.request_id
        self.tell("answer", id=name, tokens=list(answer.token_ids), ranked=ranked,
                  cached=output.num_cached_tokens, reason=answer.finish_reason,
                  first_s=first[name] - began[name], all_s=now - began[name])

    def metrics(self):
        """All counters of vLLM, by name."""
        found = {}
        for metric in self.llm.get_metrics():
            value = getattr(metric, "value", None)
            if value is not None:
                found[metric.name] = found.get(metric.name, 0) + value
        return found

    def obey(self, order):
        what = order["do"]
        if what == "generate":
            self.generate(order["requests"], order["show_steps"])
            self.tell("end")
        elif what == "metrics":
            self.tell("end", metrics=self.metrics())
        elif what == "reset":
            self.tell("end", good=self.llm.reset_prefix_cache())
        else:
            raise ValueError(f"unknown order {what}")


def serve(link):
    """Obeys until the end of file."""
    link.set_inheritable(False)
    stream = link.makefile("rwb")
    driven = Driven(stream)
    for line in stream:
        order = json.loads(line)
        try:
            if driven.llm is None:
                driven.make(order)
            else:
                driven.obey(order)
        except Exception as error:  # whatever it is: the other side wants to know
            traceback.print_exc()
            driven.tell("error", text=f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as inherited:
        serve(inherited)
