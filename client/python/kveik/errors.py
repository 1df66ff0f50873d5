"""Statuses, and one exception for each that is an error."""
from __future__ import annotations

import enum

from ._native import ffi, lib


class Status(enum.IntEnum):
    """What became of a call, a request, or one of its blocks; the numbers are those of kveik.h.

    Zero and positive ones are no errors: MISS (not in the cache), HELD (already in it, nothing was
    copied), PENDING (still under way).
    """

    OK = lib.KVEIK_OK
    MISS = lib.KVEIK_MISS
    HELD = lib.KVEIK_HELD
    PENDING = lib.KVEIK_PENDING
    INVALID = lib.KVEIK_E_INVALID
    NO_MEMORY = lib.KVEIK_E_NO_MEMORY
    IO = lib.KVEIK_E_IO
    PROTOCOL = lib.KVEIK_E_PROTOCOL
    VERSION = lib.KVEIK_E_VERSION
    NO_SPACE = lib.KVEIK_E_NO_SPACE
    QUOTA = lib.KVEIK_E_QUOTA
    DEADLINE = lib.KVEIK_E_DEADLINE
    CANCELLED = lib.KVEIK_E_CANCELLED
    UNKNOWN_ID = lib.KVEIK_E_UNKNOWN_ID
    LOST = lib.KVEIK_E_LOST
    UNAVAILABLE = lib.KVEIK_E_UNAVAILABLE
    BUSY = lib.KVEIK_E_BUSY
    UNSUPPORTED = lib.KVEIK_E_UNSUPPORTED
    PERMISSION = lib.KVEIK_E_PERMISSION
    MEMORY = lib.KVEIK_E_MEMORY
    LIMIT = lib.KVEIK_E_LIMIT
    CORRUPT = lib.KVEIK_E_CORRUPT
    SHUTDOWN = lib.KVEIK_E_SHUTDOWN
    MISMATCH = lib.KVEIK_E_MISMATCH
    FORKED = lib.KVEIK_E_FORKED
    STUCK = lib.KVEIK_E_STUCK
    INTERNAL = lib.KVEIK_E_INTERNAL


class Error(Exception):
    """Anything that libkveik refuses or fails at. `status` says which kind, the text why."""

    STATUS = Status.INTERNAL

    def __init__(self, text: str, status: Status | None = None):
        super().__init__(text)
        self.status = self.STATUS if status is None else status


class Invalid(Error):
    """An argument is wrong; the text says which, and what would be right."""

    STATUS = Status.INVALID


class Closed(Invalid):
    """The client is closed, or was closed while this call waited."""


class NoMemory(Error):
    """Out of memory, here or in the daemon."""

    STATUS = Status.NO_MEMORY


class IOFailed(Error):
    """A system call failed."""

    STATUS = Status.IO


class Protocol(Error):
    """The other side broke the protocol."""

    STATUS = Status.PROTOCOL


class Version(Error):
    """Library and daemon have no protocol version in common."""

    STATUS = Status.VERSION


class NoSpace(Error):
    """The tier is full of blocks in use."""

    STATUS = Status.NO_SPACE


class Quota(Error):
    """A quota of the space, tenant or instance is used up."""

    STATUS = Status.QUOTA


class Deadline(Error):
    """The deadline passed first."""

    STATUS = Status.DEADLINE


class Cancelled(Error):
    """Cancelled, or quiesced."""

    STATUS = Status.CANCELLED


class UnknownId(Error):
    """No such handle, lease or request."""

    STATUS = Status.UNKNOWN_ID


class Lost(Error):
    """The connection went away under the request."""

    STATUS = Status.LOST


class Unavailable(Error):
    """The daemon is not reachable now; the library goes on looking for it."""

    STATUS = Status.UNAVAILABLE


class Busy(Error):
    """Too many requests in flight: reap completions first. Or memory that is still in use here."""

    STATUS = Status.BUSY


class Unsupported(Error):
    """Not possible on this machine or in this build."""

    STATUS = Status.UNSUPPORTED


class Permission(Error):
    """The system or the daemon refuses."""

    STATUS = Status.PERMISSION


class MemoryFailed(Error):
    """Engine memory could not be read or written."""

    STATUS = Status.MEMORY


class Limit(Error):
    """A limit was exceeded; the text names it."""

    STATUS = Status.LIMIT


class Corrupt(Error):
    """Stored bytes are damaged: treat it as a miss."""

    STATUS = Status.CORRUPT


class Shutdown(Error):
    """The daemon is shutting down."""

    STATUS = Status.SHUTDOWN


class Mismatch(Error):
    """Layout and space do not match, or the layout's self-test failed."""

    STATUS = Status.MISMATCH


class Forked(Error):
    """This client belongs to the parent process; connect one of your own."""

    STATUS = Status.FORKED


class Stuck(Error):
    """The daemon does not answer: a copy may still touch the pages until a quiesce succeeds."""

    STATUS = Status.STUCK


STATUS_OF = {int(status): status for status in Status}
_CLASS_OF = {kind.STATUS: kind for kind in Error.__subclasses__()}


def status_text(status: int) -> str:
    """A constant English text for a status."""
    text: str = ffi.string(lib.kveik_status_text(status)).decode()
    return text


def error_for(status: int, text: str = "") -> Error:
    """The exception for a negative status; without a text, the status's own."""
    if status == lib.GLUE_CLOSED:
        return Closed("the client is closed")
    known = STATUS_OF.get(status, Status.INTERNAL)
    return _CLASS_OF.get(known, Error)(text or status_text(status), known)


def failed(status: int) -> Error:
    """The exception for a call of this thread that has just failed."""
    return error_for(status, ffi.string(lib.glue_error()).decode(errors="replace"))
