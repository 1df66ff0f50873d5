"""Memory that can be exported without a copy."""
from __future__ import annotations

import weakref
from typing import Any

from ._native import ffi, lib
from .errors import Busy, Invalid


class Memory:
    """Zeroed memory of Client.allocate(): page-aligned, a mapping of a sealed memfd.

    view     a writable memoryview of bytes: numpy.frombuffer(memory.view, dtype),
             torch.frombuffer(memory.view, dtype=...)
    address  where it begins
    nbytes   how much of it was asked for

    It lives as long as anybody needs it: this object, an array that was made from `view`, an
    export. free() gives it back sooner.
    """

    __slots__ = ("address", "nbytes", "_view", "_buffer", "__weakref__")

    def __init__(self, handle: Any, address: Any, nbytes: int):
        """Takes `address`, which was allocated with `handle`."""
        self.address = int(ffi.cast("uintptr_t", address))
        self.nbytes = nbytes
        owned = ffi.gc(address, lambda pointer: lib.glue_memory_free(handle, pointer, nbytes))
        self._open(ffi.buffer(owned, nbytes))

    def _open(self, buffer: Any) -> None:
        """The view is the only one to hold the buffer. What is made from it holds the view (tensors
        do no more than that, arrays also lock it) or, as slices do, the buffer: so what is still
        there when we let go of the view has other users."""
        self._buffer = weakref.ref(buffer)
        self._view: memoryview | None = memoryview(buffer)

    @property
    def view(self) -> memoryview:
        """All of it; raises Invalid after free()."""
        if self._view is None:
            raise Invalid("the memory was freed")
        return self._view

    def free(self) -> None:
        """Ends its exports and unmaps it. Raises Busy, and changes nothing, while an array or a
        view of it is still there. A second call does nothing. Exported memory is freed by
        Client.drop_memory() and then this."""
        if self._view is None:
            return
        seen, self._view = weakref.ref(self._view), None
        if (view := seen()) is not None:
            self._view = view
        elif (buffer := self._buffer()) is not None:
            self._open(buffer)
        if self._view is not None:
            raise Busy("the memory is still in use here: drop arrays, views and exports of it "
                       "first")

    def __repr__(self) -> str:
        state = "" if self._view is not None else ", freed"
        return f"<kveik.Memory of {self.nbytes} bytes at {self.address:#x}{state}>"
