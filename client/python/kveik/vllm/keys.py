"""Keys of a request's blocks, extended as its tokens become known.

A key must differ wherever the KV does: besides the tokens, the adapter, the images, the salt and
the embeddings of a request go into it, each at the token from which on it counts (keys chain, so
everything behind it differs too). What this version of vLLM puts into its own block hashes and we
do not know makes a request uncacheable, never wrongly cached.
"""
from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import kveik
from vllm.v1.core.kv_cache_utils import generate_block_hash_extra_keys

from .. import weights

if TYPE_CHECKING:
    from vllm.v1.request import Request

_KNOWN = {"lora", "mm", "cache_salt", "prompt_embeds"}
_EXTRA_BYTES = 1024  # of one extra; longer ones are hashed


class Uncacheable(Exception):
    """Something decides this request's KV that has no place in its keys."""


def _pack(tag: str, *fields: str | bytes) -> bytes:
    """Fields with their lengths: no two lists of fields give the same bytes."""
    out = bytearray()
    for field in (tag, *fields):
        data = field.encode() if isinstance(field, str) else field
        out += len(data).to_bytes(4, "little") + data
    return bytes(out) if len(out) <= _EXTRA_BYTES else \
        _pack(tag, "sha256", hashlib.sha256(out).digest())


def _embeds(request: Request) -> list[tuple[int, bytes]]:
    """An extra for each grain of a prompt that came as embeddings."""
    embeds: Any = request.prompt_embeds
    mask = request.prompt_is_token_ids
    out = []
    for begin in range(0, len(embeds), kveik.GRAIN_TOKENS):
        end = begin + kveik.GRAIN_TOKENS
        rows = embeds[begin:end].contiguous().cpu()
        digest = hashlib.sha256(memoryview(rows.view(_byte()).numpy()))
        kinds = b"" if mask is None else bytes(bool(is_token) for is_token in mask[begin:end])
        out.append((begin, _pack("embeds", digest.digest(), str(rows.dtype), kinds)))
    return out


def _byte() -> Any:
    import torch  # only where there are tensors
    return torch.uint8


def extras_of(request: Request) -> list[tuple[int, bytes]]:
    """(position, bytes) of whatever else than tokens decides the KV, sorted by position. Raises
    Uncacheable."""
    theirs, _ = generate_block_hash_extra_keys(request, 0, request.num_prompt_tokens, 0)
    for extra in theirs or ():
        if not (isinstance(extra, tuple) and extra and extra[0] in _KNOWN):
            raise Uncacheable(f"vLLM hashes something unknown here: {extra!r:.80}")
    out = []
    if request.lora_request is not None:
        lora = request.lora_request
        out.append((0, _pack("lora", lora.lora_name, lora.lora_path,
                             weights.adapter_digest(lora.lora_path))))
    if request.cache_salt:
        out.append((0, _pack("salt", request.cache_salt)))
    for feature in request.mm_features:
        place = feature.mm_position
        out.append((max(place.offset, 0), _pack("mm", feature.identifier, str(place.offset),
                                                str(place.length))))
    if request.prompt_embeds is not None:
        out += _embeds(request)
    return sorted(out)


class RequestKeys:
    """The keys of the full blocks of one request, as far as anybody asked."""

    def __init__(self, request: Request, block_tokens: int, weights_name: str = ""):
        """weights_name: not empty once the engine's weights are not those of its space."""
        self._request = request
        self._block_tokens = block_tokens
        self._weights = [(0, _pack("weights", weights_name))] if weights_name else []
        self._gather()
        self._keys = bytearray()  # one a block
        self._parent: bytes | None = None  # the last of them

    def _gather(self) -> None:
        self._extras = self._weights + extras_of(self._request)
        self._images = len(self._request.mm_features)  # that are in the extras

    def _hash(self, begin: int, end: int, parent: bytes | None) -> bytes:
        """The keys of all grains of tokens [begin, end). A streaming session gets more input, with
        its images, while it lives."""
        if self._images != len(self._request.mm_features):
            self._gather()
        extras = [(position - begin, data) for position, data in self._extras
                  if begin <= position < end]
        return kveik.hash_tokens(self._request.all_token_ids[begin:end], parent=parent,
                                 extras=extras)

    def upto(self, blocks: int) -> bytes:
        """The keys of the first `blocks` blocks, whose tokens are known."""
        size, key = self._block_tokens, kveik.KEY_BYTES
        have = len(self._keys) // key
        if blocks > have:
            grains = self._hash(have * size, blocks * size, self._parent)
            step = size // kveik.GRAIN_TOKENS * key
            for at in range(step - key, len(grains), step):
                self._keys += grains[at:at + key]
            self._parent = bytes(self._keys[-key:])
        return bytes(self._keys[:blocks * key])

    def span(self, first: int, last: int) -> tuple[bytes, bytes | None]:
        """The keys of blocks [first, last), and the one before."""
        keys, key = self.upto(last), kveik.KEY_BYTES
        return keys[first * key:], keys[(first - 1) * key:first * key] if first > 0 else None
