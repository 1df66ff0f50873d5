#!/usr/bin/env python3
"""Writes a small GGUF model with random weights: the same bytes for the same arguments, anywhere.

    make_model.py FILE [--arch llama|cohere2] [--seed N] [--layers N] [--embd N] [--heads N]
                       [--kv-heads N] [--ffn N] [--vocab N] [--window N] [--weights f16|f32]

`llama` has full attention, `cohere2` three layers of four with a sliding window. It has no
tokenizer: prompts are token ids. Needs the standard library only.
"""
import argparse
import pathlib
import random
import struct

ALIGNMENT = 32
U32, F32, STRING = 4, 6, 8
WEIGHT_TYPES = {"f32": (0, 4), "f16": (1, 2)}
CONTEXT = 32768


def text(value):
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def entry(key, value):
    """One pair of the metadata."""
    if isinstance(value, str):
        return text(key) + struct.pack("<I", STRING) + text(value)
    if isinstance(value, float):
        return text(key) + struct.pack("<If", F32, value)
    return text(key) + struct.pack("<II", U32, value)


def weights(rng, count, inputs, element_bytes):
    """Random weights of about 1/sqrt(inputs): sign, mantissa and the last bit of the exponent are
    random, the rest of the exponent is fixed; one operation over all of them, which is quick."""
    low = -(inputs.bit_length() // 2) - 1  # the smaller of the two exponents
    if element_bytes == 2:
        mantissa, base = 10, 15 + low
    else:
        mantissa, base = 23, 127 + low
    base -= base % 2
    free = 1 << (8 * element_bytes - 1) | 1 << mantissa | ((1 << mantissa) - 1)
    word = free.to_bytes(element_bytes, "little")
    fixed = (base << mantissa).to_bytes(element_bytes, "little")
    length = count * element_bytes
    bits = int.from_bytes(rng.randbytes(length), "little")
    bits = bits & int.from_bytes(word * count, "little") | int.from_bytes(fixed * count, "little")
    return bits.to_bytes(length, "little")


def tensors_of(options):
    """(name, shape) of every tensor; a shape of one dimension is a norm's."""
    kv = options.embd // options.heads * options.kv_heads
    yield "token_embd.weight", (options.embd, options.vocab)
    yield "output_norm.weight", (options.embd,)
    if options.arch == "llama":
        yield "output.weight", (options.embd, options.vocab)
    for layer in range(options.layers):
        shapes = {"attn_norm": (options.embd,), "attn_q": (options.embd, options.embd),
                  "attn_k": (options.embd, kv), "attn_v": (options.embd, kv),
                  "attn_output": (options.embd, options.embd),
                  "ffn_gate": (options.embd, options.ffn), "ffn_up": (options.embd, options.ffn),
                  "ffn_down": (options.ffn, options.embd)}
        if options.arch == "llama":
            shapes["ffn_norm"] = (options.embd,)
        for name, shape in shapes.items():
            yield f"blk.{layer}.{name}.weight", shape


def metadata_of(options):
    arch = options.arch
    pairs = {"general.architecture": arch, "general.name": f"random-{options.seed}",
             "general.alignment": ALIGNMENT, f"{arch}.vocab_size": options.vocab,
             f"{arch}.context_length": CONTEXT, f"{arch}.embedding_length": options.embd,
             f"{arch}.block_count": options.layers, f"{arch}.feed_forward_length": options.ffn,
             f"{arch}.attention.head_count": options.heads,
             f"{arch}.attention.head_count_kv": options.kv_heads,
             f"{arch}.rope.dimension_count": options.embd // options.heads,
             f"{arch}.rope.freq_base": 10000.0, "tokenizer.ggml.model": "no_vocab"}
    if arch == "llama":
        pairs[f"{arch}.attention.layer_norm_rms_epsilon"] = 1e-5
    else:
        pairs[f"{arch}.attention.layer_norm_epsilon"] = 1e-5
        pairs[f"{arch}.attention.sliding_window"] = options.window
        pairs[f"{arch}.logit_scale"] = 1.0
    return pairs


def write(options):
    rng = random.Random(options.seed)
    kind, element_bytes = WEIGHT_TYPES[options.weights]
    tensors = list(tensors_of(options))
    pairs = metadata_of(options)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(pairs))
    head += b"".join(entry(key, value) for key, value in pairs.items())
    place, data = 0, []
    for name, shape in tensors:
        count = shape[0] * (shape[1] if len(shape) > 1 else 1)
        if len(shape) == 1:
            head_kind, block = WEIGHT_TYPES["f32"][0], struct.pack("<f", 1.0) * count
        else:
            head_kind, block = kind, weights(rng, count, shape[0], element_bytes)
        head += text(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
        head += struct.pack("<IQ", head_kind, place)
        block += bytes(-len(block) % ALIGNMENT)
        place += len(block)
        data.append(block)
    head += bytes(-len(head) % ALIGNMENT)
    options.file.write_bytes(b"".join([head, *data]))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=pathlib.Path)
    parser.add_argument("--arch", choices=("llama", "cohere2"), default="llama")
    for name, default in (("seed", 1), ("layers", 4), ("embd", 128), ("heads", 4),
                          ("kv-heads", 2), ("ffn", 256), ("vocab", 512), ("window", 96)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--weights", choices=sorted(WEIGHT_TYPES), default="f16")
    write(parser.parse_args())


if __name__ == "__main__":
    main()
