"""Arrays of other libraries as C sees them: numpy, torch, array.array, anything with a buffer.

Nothing is imported for it: a tensor is what has data_ptr(), an array what has the buffer protocol.
What is returned beside a pointer keeps the memory alive, and must outlive its use.
"""
from __future__ import annotations

import array
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from ._native import ffi, lib
from .errors import Invalid, Unsupported
from .types import KEY_BYTES, Plane, Region

_UINT8S = ffi.typeof("uint8_t[]")
_UINT32S = ffi.typeof("uint32_t[]")
Numbers = tuple[Any, int]
_NARROW = {"b": True, "h": True, "i": True, "l": True, "q": True, "n": True,
           "B": False, "H": False, "I": False, "L": False, "Q": False, "N": False}
_TENSOR_INTS = {"torch.int64": ("q", 8), "torch.int32": ("i", 4), "torch.int16": ("h", 2),
                "torch.uint8": ("B", 1), "torch.int8": ("b", 1), "torch.uint16": ("H", 2),
                "torch.uint32": ("I", 4), "torch.uint64": ("Q", 8)}


# ---- lists of numbers ----------------------------------------------------------------------------
def numbers(values: Any, what: str) -> Numbers:
    """(uint32_t pointer, count) of tokens or pages."""
    if type(values) is list or type(values) is tuple:
        try:  # an array's conversion takes a quarter of the time that cffi's takes
            return ffi.from_buffer(_UINT32S, array.array("I", values)), len(values)
        except OverflowError:
            raise Invalid(f"{what}: a number is not in 0 to {2**32 - 1}") from None
    if hasattr(values, "data_ptr"):
        return _tensor_numbers(values, what)
    try:
        view = memoryview(values)
    except TypeError:
        if isinstance(values, Iterable):
            return numbers(list(values), what)
        raise TypeError(f"{what}: a sequence of integers is needed, not {type(values).__name__}"
                        ) from None
    return _view_numbers(values, view, what)


def _view_numbers(values: Any, view: memoryview, what: str) -> Numbers:
    code = view.format.lstrip("@=<")
    if view.ndim != 1 or code not in _NARROW or isinstance(values, (bytes, bytearray)):
        raise TypeError(f"{what}: one dimension of integers is needed, not {view.ndim} of format "
                        f"{view.format!r}")
    if not view.c_contiguous:
        return numbers(view.tolist(), what)
    count = len(view)
    if view.itemsize == 4 and not _NARROW[code]:
        return ffi.from_buffer(_UINT32S, values), count
    source = ffi.from_buffer(_UINT8S, values)
    address = int(ffi.cast("uintptr_t", source))
    return _narrow(address, count, view.itemsize, _NARROW[code], what)


def _tensor_numbers(values: Any, what: str) -> Numbers:
    _check_cpu(values, what)
    code, item_bytes = _TENSOR_INTS.get(str(values.dtype), ("", 0))
    if not code or values.dim() != 1:
        raise TypeError(f"{what}: one dimension of integers is needed, not {values.dim()} of "
                        f"{values.dtype}")
    values = values.contiguous()
    return _narrow(values.data_ptr(), values.numel(), item_bytes, _NARROW[code], what)


def _narrow(address: int, count: int, item_bytes: int, signed: bool, what: str) -> Numbers:
    out = ffi.new(_UINT32S, count)
    bad = lib.glue_narrow(address, count, item_bytes, signed, out)
    if bad >= 0:
        raise Invalid(f"{what}: the number at place {bad} is not in 0 to {2**32 - 1}")
    return out, count


def keys_of(keys: Any) -> Numbers:
    """(uint8_t pointer, count) of keys: bytes of 32 each, in a row or one by one."""
    if isinstance(keys, (list, tuple)):
        keys = b"".join(keys)
    pointer = ffi.from_buffer(_UINT8S, keys)
    count = len(pointer) // KEY_BYTES
    if count * KEY_BYTES != len(pointer):
        raise Invalid(f"keys: {len(pointer)} bytes, must be {KEY_BYTES} a key")
    return pointer, count


def key_of(key: Any) -> Any:
    """A pointer to one key, or NULL for None."""
    if key is None:
        return ffi.NULL
    pointer, count = keys_of(key)
    if count != 1:
        raise Invalid(f"a parent key has {KEY_BYTES} bytes, not {count * KEY_BYTES}")
    return pointer


# ---- memory --------------------------------------------------------------------------------------
class Span(NamedTuple):
    """Where an array lies: the bytes from its first to its last element."""

    address: int
    nbytes: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    item_bytes: int
    owner: Any


def _check_cpu(tensor: Any, what: str) -> None:
    device = getattr(tensor, "device", None)
    if device is not None and getattr(device, "type", "cpu") != "cpu":
        raise Unsupported(f"{what}: a tensor on {device}; only CPU memory is supported")


def _extent(address: int, shape: Sequence[int], strides: Sequence[int], item_bytes: int,
            owner: Any) -> Span:
    if min(strides, default=0) < 0:
        raise Invalid("an array with a negative stride cannot be exported: flip it, or copy it")
    last = sum((size - 1) * stride for size, stride in zip(shape, strides))
    nbytes = 0 if 0 in shape else last + item_bytes
    return Span(address, nbytes, tuple(shape), tuple(strides), item_bytes, owner)


def span_of(thing: Any) -> Span:
    """Of a tensor, a numpy array, a Memory, a writable buffer, or (address, bytes)."""
    if isinstance(thing, tuple):
        address, nbytes = thing
        return Span(int(address), int(nbytes), (int(nbytes),), (1,), 1, None)
    if hasattr(thing, "data_ptr"):
        _check_cpu(thing, "memory")
        item = thing.element_size()
        return _extent(thing.data_ptr(), thing.shape, [step * item for step in thing.stride()],
                       item, thing)
    interface = getattr(thing, "__array_interface__", None)
    if interface is not None:
        address, read_only = interface["data"]
        if read_only:
            raise Invalid("memory: the array is read-only")
        return _extent(address, thing.shape, thing.strides, thing.itemsize, thing)
    view = getattr(thing, "view", None)
    held = ffi.from_buffer(_UINT8S, view if isinstance(view, memoryview) else thing,
                           require_writable=True)
    nbytes = len(held)
    return Span(int(ffi.cast("uintptr_t", held)), nbytes, (nbytes,), (1,), 1, (thing, held))


_AXES = ("layer", "kind", "page", "token", "head", "element")


def planes_of(array: Any, region: Region, axes: str) -> list[Plane]:
    """The planes of an array that lies in `region`, from its strides, in the order that
    register_layout() wants: layer by layer, in each kind by kind.

    `axes` names the array's axes in order, of: layer, kind, page, token, head, element. An axis
    that is not named has one place. A tensor of shape (2, pages, 16, heads, 128) with keys first:

        planes_of(kv, region, "kind page token head element")

    With one such tensor a layer, all exported or all in one region:

        [p for kv, region in zip(caches, regions) for p in planes_of(kv, region, "...")]

    A transposed view is as good as its original: what counts are strides, in elements or bytes as
    the array's library has them. Raises Invalid when the array does not lie in the region.
    """
    span, names = span_of(array), axes.split()
    if len(names) != len(span.shape) or len(set(names)) != len(names) or set(names) - set(_AXES):
        raise Invalid(f"axes {axes!r}: must name the {len(span.shape)} axes of the array, each once"
                      f", out of: {' '.join(_AXES)}")
    begin = span.address - region.address
    if begin < 0 or begin + span.nbytes > region.nbytes:
        raise Invalid(f"the array lies at byte {begin} to {begin + span.nbytes} of a region of "
                      f"{region.nbytes} bytes")
    size, stride = dict(zip(names, span.shape)), dict(zip(names, span.strides))
    return [Plane(region, begin + layer * stride.get("layer", 0) + kind * stride.get("kind", 0),
                  stride.get("page", 0), stride.get("token", 0), stride.get("head", 0),
                  stride.get("element", span.item_bytes))
            for layer in range(size.get("layer", 1)) for kind in range(size.get("kind", 1))]
