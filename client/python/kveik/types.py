"""What is said to the client, and what it answers."""
from __future__ import annotations

import dataclasses
import enum
from collections.abc import Sequence
from typing import Any

from ._native import ffi, lib
from .errors import Status, STATUS_OF, error_for

GRAIN_TOKENS: int = lib.KVEIK_GRAIN_TOKENS
"""The step at which keys chain, the same for all engines: 16."""
KEY_BYTES: int = lib.KVEIK_KEY_BYTES
"""A key, never truncated: 32."""


class Dtype(enum.IntEnum):
    """Of the cache. Wherever one is asked for, its name does too: "bfloat16", "bf16", "BF16",
    "torch.bfloat16"."""

    F32 = lib.KVEIK_F32
    BF16 = lib.KVEIK_BF16
    F16 = lib.KVEIK_F16
    F8_E4M3 = lib.KVEIK_F8_E4M3
    F8_E5M2 = lib.KVEIK_F8_E5M2
    I8 = lib.KVEIK_I8
    U8 = lib.KVEIK_U8
    F64 = lib.KVEIK_F64


class Rule(enum.IntEnum):
    """What a hit of n tokens needs: "every" block up to n, those of the last "window", or the
    "state" at n."""

    EVERY = lib.KVEIK_RULE_EVERY
    WINDOW = lib.KVEIK_RULE_WINDOW
    STATE = lib.KVEIK_RULE_STATE


class Mode(enum.IntEnum):
    """How the daemon gets at memory: the first that works ("auto"), a mapping of a memfd
    ("shared"), private pages replaced in place by such a mapping ("adopt"), or copies across
    processes ("cross")."""

    AUTO = lib.KVEIK_MEMORY_AUTO
    SHARED = lib.KVEIK_MEMORY_SHARED
    ADOPT = lib.KVEIK_MEMORY_ADOPT
    CROSS = lib.KVEIK_MEMORY_CROSS


class Kind(enum.IntEnum):
    """Of a request."""

    PUSH = lib.KVEIK_OP_PUSH
    LOOKUP = lib.KVEIK_OP_LOOKUP
    PULL = lib.KVEIK_OP_PULL
    RELEASE = lib.KVEIK_OP_RELEASE
    QUIESCE = lib.KVEIK_OP_QUIESCE
    PERSIST = lib.KVEIK_OP_PERSIST


class Admission(enum.IntEnum):
    """When blocks of a space go to the daemon's disk."""

    DEFAULT = lib.KVEIK_ADMIT_DEFAULT
    AT_ONCE = lib.KVEIK_ADMIT_AT_ONCE
    SECOND_USE = lib.KVEIK_ADMIT_SECOND_USE
    EVICTION = lib.KVEIK_ADMIT_EVICTION
    NEVER = lib.KVEIK_ADMIT_NEVER


DTYPE_NAMES = {
    "float32": Dtype.F32, "float": Dtype.F32, "bfloat16": Dtype.BF16, "float16": Dtype.F16,
    "half": Dtype.F16, "fp16": Dtype.F16, "fp32": Dtype.F32, "float8_e4m3fn": Dtype.F8_E4M3,
    "float8_e4m3": Dtype.F8_E4M3, "fp8_e4m3": Dtype.F8_E4M3, "fp8": Dtype.F8_E4M3,
    "float8_e5m2": Dtype.F8_E5M2, "fp8_e5m2": Dtype.F8_E5M2, "int8": Dtype.I8, "uint8": Dtype.U8,
    "float64": Dtype.F64, "double": Dtype.F64,
    **{kind.name.lower(): kind for kind in Dtype},
}


@dataclasses.dataclass(frozen=True)
class Group:
    """Layers that live alike; numbered from 0 within their group.

    `heads` are the KV heads of the whole model, not of one rank. `kinds` has one number a plane of
    a layer: the elements of one head and token in it: (128, 128) for K and V of 128, (576,) for a
    latent cache. An opaque group's pages are packed in a private way and moved whole; its kinds
    are (0,) or (0, 0).
    """

    layers: int
    heads: int
    kinds: Sequence[int]
    rule: Rule | str = Rule.EVERY
    window_tokens: int = 0
    opaque: bool = False


@dataclasses.dataclass(frozen=True)
class Region:
    """Exported memory. The client keeps its owner alive until drop_memory() or close()."""

    handle: int
    mode: Mode
    address: int
    nbytes: int


@dataclasses.dataclass(frozen=True)
class Plane:
    """One kind of one layer: element e of head h of token t of page p lies `offset + p*page_stride
    + t*token_stride + h*head_stride + e*element_stride` bytes into its region."""

    region: Region | int
    offset: int
    page_stride: int
    token_stride: int = 0
    head_stride: int = 0
    element_stride: int = 0


@dataclasses.dataclass(frozen=True)
class Want:
    """A part of the model that a lookup asks for."""

    group: int
    layer_begin: int
    layer_count: int
    head_begin: int
    head_count: int


@dataclasses.dataclass(frozen=True)
class Origin:
    """An instance that pushed some of what a lookup found, and how many of its keys."""

    instance: str
    keys: int


@dataclasses.dataclass(frozen=True)
class Info:
    """The connection. Another `boot_id` is another daemon, with another memory."""

    connected: bool
    protocol_version: int
    boot_id: bytes
    session_id: int
    reconnects: int
    requests_max: int
    keys_max: int
    daemon: str
    instance: str


@dataclasses.dataclass
class PushRun:
    """Consecutive blocks of one sequence, to push. Blocks are named by the key of their last grain.

    keys          bytes of 32 a key, or a sequence of such bytes: one a grain (then prefixes of a
                  block can hit), or one a block
    pages         numbers of the pages that hold the tokens, in order; a list, array or tensor
    block_tokens  a multiple of 16, at most 4096
    block_count   of which; None: as many as the keys need
    tail_tokens   valid tokens of the last block; 0: it is full
    parent_key    the key of the grain before; None: the run begins the prompt
    tokens        ids of all valid tokens, or None
    page_token    the first token's place in pages[0]
    """

    layout: int
    keys: Any
    pages: Any
    block_tokens: int = GRAIN_TOKENS
    block_count: int | None = None
    tail_tokens: int = 0
    parent_key: bytes | None = None
    tokens: Any = None
    page_token: int = 0


@dataclasses.dataclass
class PullRun:
    """Consecutive keys of one sequence, to pull: keys as in the lookup, pages to write in order.

    tail_tokens: valid tokens of the last grain; 0: 16. Others as in PushRun.
    """

    layout: int
    keys: Any
    pages: Any
    key_tokens: int = GRAIN_TOKENS
    tail_tokens: int = 0
    page_token: int = 0


_Bytes = bytes  # Completion has a field of that name
_KIND_OF = {int(kind): kind for kind in Kind}
_GOOD = bytes([Status.OK, Status.HELD])  # of one block
_LOOKUP = int(Kind.LOOKUP)


class Completion:
    """What became of one request.

    op          the number that submit gave
    user        the object that submit got
    kind        Kind
    status      Status of the whole: OK even when single blocks missed. `ok` says so in short
    bytes       payload moved
    latency_us  submit to completion
    statuses    push: one a block, pull: one a key; an int8 each, see status_of()
    text        why, when status is an error

    Of a lookup: hit_keys, hit_tokens, hit_bytes, lease (0: none), expected_us (what pulling the hit
    is expected to take), origins.
    """

    __slots__ = ("op", "user", "kind", "status", "bytes", "latency_us", "statuses", "text",
                 "hit_keys", "hit_tokens", "hit_bytes", "lease", "expected_us", "origins")

    op: int
    user: Any
    kind: Kind
    status: Status
    bytes: int
    latency_us: int
    statuses: _Bytes
    text: str
    hit_keys: int
    hit_tokens: int
    hit_bytes: int
    lease: int
    expected_us: int
    origins: tuple[Origin, ...]

    def __init__(self, raw: Any, user: Any = None):
        """Takes what a kveik_completion says, and frees what it points to."""
        kind, status = raw.kind, raw.status
        self.op = raw.op
        self.user = user
        self.kind = _KIND_OF[kind]
        self.status = STATUS_OF[status]
        self.bytes = raw.bytes
        self.latency_us = raw.latency_us
        self.text = ffi.string(raw.text).decode(errors="replace") if status < 0 else ""
        count = raw.status_count
        if count:
            self.statuses = ffi.buffer(raw.statuses, count)[:]
            lib.kveik_completion_finish(raw)
        else:
            self.statuses = b""
        if kind == _LOOKUP:
            self.hit_keys = raw.hit_keys
            self.hit_tokens = raw.hit_tokens
            self.hit_bytes = raw.hit_bytes
            self.lease = raw.lease
            self.expected_us = raw.expected_us
            count = raw.origin_count
            self.origins = () if count == 0 else tuple(
                Origin(ffi.string(origin.instance).decode(errors="replace"), origin.keys)
                for origin in raw.origins[0:count])
        else:
            self.hit_keys = self.hit_tokens = self.hit_bytes = self.lease = self.expected_us = 0
            self.origins = ()

    @property
    def ok(self) -> bool:
        """Whether the request as a whole is OK."""
        return self.status == 0

    def status_of(self, index: int) -> Status:
        """Of one block (push) or key (pull)."""
        number = self.statuses[index]
        return STATUS_OF[number - 256 if number > 127 else number]

    def failed_indices(self) -> list[int]:
        """Blocks or keys that are neither OK nor HELD: missed, or failed."""
        if not self.statuses.strip(_GOOD):
            return []
        return [index for index, number in enumerate(self.statuses) if number not in _GOOD]

    def check(self) -> Completion:
        """Itself when it is OK; otherwise raises the Error of its status."""
        if self.status < 0:
            raise error_for(self.status, self.text)
        return self

    def __repr__(self) -> str:
        more = f", hit_tokens={self.hit_tokens}, lease={self.lease}" if self.kind == _LOOKUP else ""
        return (f"<kveik.Completion op={self.op} {self.kind.name} {self.status.name}, "
                f"bytes={self.bytes}{more}{': ' + self.text if self.text else ''}>")
