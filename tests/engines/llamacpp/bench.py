#!/usr/bin/env python3
"""Prints the time to the first token of kveik-llama: computed, and pulled through kveikd.

    bench.py [--threads N] [--repeats N] [--layers N] [--embd N] [--ffn N]

Each warm prompt is served by an engine process that is new, from blocks that another one pushed;
medians over repeats. Looks for the programs in $KVEIK_BIN, or in build/debug/bin.
"""
import argparse
import pathlib
import statistics
import tempfile

import llama
from llama import Llama, make_model, prompt
from kveik_test import Daemon

SIZES = (512, 1024, 2048, 4096)
BATCHES = (64, 512)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("threads", 2), ("repeats", 3), ("layers", 8), ("embd", 512),
                          ("ffn", 1536)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    print("prompt   computed in batches of     pulled      the pulled one's parts, ms")
    print("tokens        64       512 (ms)   (ms)  faster   lookup   pull  import  compute   MiB")
    with tempfile.TemporaryDirectory() as folder, Daemon(cpu_bytes="1GiB") as daemon:
        model = make_model(pathlib.Path(folder, "model.gguf"), "--layers", options.layers, "--embd",
                           options.embd, "--heads", options.embd // 64, "--ffn", options.ffn,
                           "--vocab", 4096)
        always = ("--context", 4608, "--threads", options.threads, "--generate", 1)
        for size in SIZES:
            tokens = prompt(size, size + 1, 4096)  # one after the last whole block
            computed = []
            for batch in BATCHES:
                with Llama(model, None, *always, "--batch-tokens", batch) as engine:
                    computed.append(statistics.median(
                        engine.ask(tokens)["first_token_ms"] for _ in range(options.repeats)))
            with Llama(model, daemon.socket, *always) as engine:
                expected = engine.ask(tokens)
            warm = []
            for _ in range(options.repeats):
                with Llama(model, daemon.socket, *always) as engine:
                    warm.append(engine.ask(tokens))
            assert all(answer["found"] == size for answer in warm), warm
            assert all(answer["logits"] == expected["logits"] for answer in warm), warm
            middle = sorted(warm, key=lambda answer: answer["first_token_ms"])[len(warm) // 2]
            print(f"{size + 1:6} {computed[0]:9.1f} {computed[1]:9.1f} "
                  f"{middle['first_token_ms']:11.1f} "
                  f"{min(computed) / middle['first_token_ms']:6.1f}x {middle['lookup_ms']:8.2f} "
                  f"{middle['pull_ms']:6.2f} {middle['import_ms']:7.2f} "
                  f"{middle['compute_ms']:8.2f} {middle['bytes'] / 2**20:5.1f}", flush=True)


if __name__ == "__main__":
    assert llama.PROGRAM.exists(), f"{llama.PROGRAM} is not built"
    main()
