"""The client's arguments as libkveik's structs.

A struct points at what its builder returns beside it: hold that until the call has returned.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ._native import ffi, lib
from .arrays import key_of, keys_of, numbers
from .errors import Invalid
from .types import DTYPE_NAMES, GRAIN_TOKENS, Dtype, Group, PullRun, PushRun, Region, Rule, Want

Fill = Callable[[int, int, int, int, int, memoryview], None]
Check = Callable[[int, int, int, int, int, memoryview], bool]

_COMPLETION = ffi.typeof("struct kveik_completion *")
_COMPLETION_BYTES = ffi.sizeof("struct kveik_completion")
_PUSH_RUNS = ffi.typeof("struct kveik_push_run[]")
_PULL_RUNS = ffi.typeof("struct kveik_pull_run[]")
_PULL = ffi.typeof("struct kveik_pull *")
_PULL_BYTES = ffi.sizeof("struct kveik_pull")
_LOOKUP = ffi.typeof("struct kveik_lookup *")
_LOOKUP_BYTES = ffi.sizeof("struct kveik_lookup")


def completion(kind: int = 0) -> Any:
    """Room for one."""
    raw = ffi.new(_COMPLETION)
    raw.size = _COMPLETION_BYTES
    raw.kind = kind
    return raw


def struct(name: str, **fields: Any) -> Any:
    """A zeroed struct that knows its size, with these fields."""
    pointer = ffi.new(f"struct {name} *", fields)
    pointer.size = ffi.sizeof(f"struct {name}")
    return pointer


def named(kind: Any, value: Any, what: str) -> Any:
    """An enum's member, by itself, by its number or by its name."""
    try:
        return kind[value.upper()] if isinstance(value, str) else kind(value)
    except (KeyError, ValueError):
        names = ", ".join(name.lower() for name in kind.__members__)
        raise Invalid(f"{what} is {value!r}, must be one of: {names}") from None


def dtype_of(value: Any) -> Dtype:
    name = str(value).lower().removeprefix("torch.")
    if not isinstance(value, int) and name in DTYPE_NAMES:
        return DTYPE_NAMES[name]
    return Dtype(named(Dtype, value, "dtype"))


def handle_of(region: Region | int) -> int:
    return region.handle if isinstance(region, Region) else region


# ---- the callbacks of a layout's self-test -------------------------------------------------------
class SelfTest:
    """What an engine's own indexing is asked for, and what it raised."""

    def __init__(self, fill: Fill, check: Check):
        self.fill, self.check = fill, check
        self.raised: BaseException | None = None


def _data(data: Any, nbytes: int) -> memoryview:
    return memoryview(ffi.buffer(ffi.cast("char *", data), nbytes)).toreadonly()


@ffi.def_extern(name="glue_on_fill")  # type: ignore[untyped-decorator]
def _fill(arg: Any, layer: int, kind: int, page: int, token: int, head: int, data: Any,
          nbytes: int) -> None:
    test = ffi.from_handle(arg)
    try:
        test.fill(layer, kind, page, token, head, _data(data, nbytes))
    except BaseException as error:  # there is C between here and whoever can handle it
        test.raised = test.raised or error


@ffi.def_extern(name="glue_on_check")  # type: ignore[untyped-decorator]
def _check(arg: Any, layer: int, kind: int, page: int, token: int, head: int, data: Any,
           nbytes: int) -> int:
    test = ffi.from_handle(arg)
    try:
        return 0 if test.check(layer, kind, page, token, head, _data(data, nbytes)) else 1
    except BaseException as error:
        test.raised = test.raised or error
        return 1


# ---- spaces and requests -------------------------------------------------------------------------
def groups_of(groups: Sequence[Group]) -> Any:
    """A table of them."""
    rows = []
    for number, group in enumerate(groups):
        if not 1 <= len(group.kinds) <= lib.KVEIK_KINDS_MAX:
            raise Invalid(f"group {number}: {len(group.kinds)} kinds, must be 1 to "
                          f"{lib.KVEIK_KINDS_MAX}")
        rows.append((int(named(Rule, group.rule, f"group {number}: rule")), group.window_tokens,
                     group.layers, group.heads, len(group.kinds), tuple(group.kinds),
                     group.opaque))
    return ffi.new("struct kveik_group[]", rows)


def _shape_of(run: PushRun, key_count: int, token_count: int | None) -> tuple[int, int]:
    """(blocks, tokens of the last): from the tokens, else from the keys, one a grain."""
    size, tail = run.block_tokens, run.tail_tokens
    if size <= 0:
        raise Invalid(f"block_tokens is {size}, must be a multiple of {GRAIN_TOKENS}")
    if token_count is None:
        blocks = -(-key_count * GRAIN_TOKENS // size)
        return (blocks if run.block_count is None else run.block_count), tail
    blocks = -(-token_count // size) if run.block_count is None else run.block_count
    tail = tail or token_count - (blocks - 1) * size
    if not 0 < tail <= size or (blocks - 1) * size + tail != token_count:
        raise Invalid(f"tokens: {token_count} for {blocks} blocks of {size} with {tail} in the "
                      f"last; must be {(blocks - 1) * size + (run.tail_tokens or size)}")
    return blocks, tail


def push_of(runs: PushRun | Sequence[PushRun]) -> tuple[Any, list[Any]]:
    """A table of runs."""
    rows, held = [], []
    for run in (runs,) if isinstance(runs, PushRun) else runs:
        keys, key_count = keys_of(run.keys)
        pages, page_count = numbers(run.pages, "pages")
        parent = key_of(run.parent_key)
        tokens, token_count = ffi.NULL, None
        if run.tokens is not None:
            tokens, token_count = numbers(run.tokens, "tokens")
        blocks, tail = _shape_of(run, key_count, token_count)
        held.append((keys, pages, parent, tokens))
        rows.append((run.layout, blocks, run.block_tokens, tail, parent, keys, key_count, tokens,
                     pages, page_count, run.page_token))
    return ffi.new(_PUSH_RUNS, rows), held


def pull_of(runs: PullRun | Sequence[PullRun], lease: int, release_lease: bool,
            deadline_ms: int) -> tuple[Any, list[Any]]:
    """A struct kveik_pull."""
    rows, held = [], []
    for run in (runs,) if isinstance(runs, PullRun) else runs:
        keys, key_count = keys_of(run.keys)
        pages, page_count = numbers(run.pages, "pages")
        held.append((keys, pages))
        rows.append((run.layout, keys, key_count, run.key_tokens, run.tail_tokens, pages,
                     page_count, run.page_token))
    table = ffi.new(_PULL_RUNS, rows)
    held.append(table)
    return ffi.new(_PULL, (_PULL_BYTES, table, len(rows), deadline_ms, lease, release_lease)), held


def lookup_of(space: int, keys: Any, key_tokens: int, tail_tokens: int, step_tokens: int,
              wants: Sequence[Want], lease: bool, origins: bool,
              deadline_ms: int) -> tuple[Any, Any]:
    """A struct kveik_lookup."""
    pointer, key_count = keys_of(keys)
    table = ffi.NULL
    if wants:
        table = ffi.new("struct kveik_want[]", [
            (want.group, want.layer_begin, want.layer_count, want.head_begin, want.head_count)
            for want in wants])
    return ffi.new(_LOOKUP, (_LOOKUP_BYTES, space, pointer, key_count, key_tokens, tail_tokens,
                             step_tokens, table, len(wants), lease, origins,
                             deadline_ms)), (pointer, table)


def persist_of(space: int, keys: Any, key_tokens: int, tail_tokens: int,
               deadline_ms: int) -> tuple[Any, Any]:
    """A struct kveik_persist."""
    pointer, key_count = keys_of(keys)
    return struct("kveik_persist", space=space, keys=pointer, key_count=key_count,
                  key_tokens=key_tokens, tail_tokens=tail_tokens,
                  deadline_ms=deadline_ms), pointer


def pages_of(pages: Any) -> tuple[Any, int]:
    """A table of pages, or NULL for None, which stands for all: no pages must not come to that."""
    if pages is None:
        return ffi.NULL, 0
    table, count = numbers(pages, "pages")
    if count == 0:
        raise Invalid("pages: none; None stands for all of the layout")
    return table, count
