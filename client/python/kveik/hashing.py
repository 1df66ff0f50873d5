"""Keys: 32 bytes for every grain of 16 tokens, chained."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ._native import ffi, lib
from .arrays import key_of, numbers
from .errors import error_for
from .types import GRAIN_TOKENS, KEY_BYTES

Extras = Sequence[tuple[int, bytes]]


def _extras(extras: Extras) -> tuple[Any, list[Any]]:
    held = [ffi.from_buffer("uint8_t[]", data) for _, data in extras]
    return ffi.new("struct kveik_extra[]", [(position, data, len(data)) for (position, _), data
                                            in zip(extras, held)]), held


class Hasher:
    """hash_tokens() with a reused context, for callers that hash often. One thread at a time."""

    def __init__(self) -> None:
        self._hasher = ffi.gc(lib.kveik_hasher_create(), lib.kveik_hasher_destroy)
        if self._hasher == ffi.NULL:
            raise error_for(lib.KVEIK_E_NO_MEMORY)

    def hash_tokens(self, tokens: Any, *, parent: bytes | None = None,
                    extras: Extras = ()) -> bytes:
        """See kveik.hash_tokens()."""
        return _hash(tokens, parent, extras, self._hasher)


def hash_tokens(tokens: Any, *, parent: bytes | None = None, extras: Extras = ()) -> bytes:
    """The keys of all grains of `tokens`, 32 bytes each, in a row: key i names the tokens up to
    16 * (i + 1). A partial last grain gets a key of its own.

    tokens  ids: a list, array or tensor of integers from 0 to 2**32 - 1
    parent  the key of the grain before (tokens then begin on a grain boundary); None: a prompt's
            beginning
    extras  what else decides the KV from a token on (an adapter, an image, a salt): (position of
            the token, at most 1024 bytes), sorted by position

    Raises Invalid. Any thread; the interpreter lock is given up meanwhile.
    """
    return _hash(tokens, parent, extras, None)


def _hash(tokens: Any, parent: bytes | None, extras: Extras, hasher: Any) -> bytes:
    ids, count = numbers(tokens, "tokens")
    parent_key = key_of(parent)
    more, held = _extras(extras) if extras else (ffi.NULL, [])
    out = bytearray((count + GRAIN_TOKENS - 1) // GRAIN_TOKENS * KEY_BYTES)
    keys = ffi.from_buffer("uint8_t[]", out)
    if hasher is None:
        status = lib.kveik_hash_tokens(parent_key, ids, count, more, len(held), keys)
    else:
        status = lib.kveik_hasher_tokens(hasher, parent_key, ids, count, more, len(held), keys)
    if status < 0:
        raise error_for(status, "" if status != lib.KVEIK_E_INVALID else
                        "tokens: extras must be sorted by position, lie within the tokens, and have"
                        " at most 1024 bytes each")
    return bytes(out)
