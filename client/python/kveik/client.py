"""The client: a connection to the daemon of this node."""
from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

from ._native import ffi, lib
from .arrays import span_of
from .errors import Closed, Invalid, error_for, failed
from .memory import Memory
from .structs import (Check, Fill, SelfTest, completion, dtype_of, groups_of, handle_of, lookup_of,
                      named, pages_of, persist_of, pull_of, push_of, struct)
from .types import (GRAIN_TOKENS, Admission, Completion, Dtype, Group, Info, Kind, Mode, Plane,
                    PullRun, PushRun, Region, Want)

_NAP_MS = 250  # between looks at signals, such as Ctrl-C, while a thread waits
_OK, _PENDING, _CANCELLED = lib.KVEIK_OK, lib.KVEIK_PENDING, lib.KVEIK_E_CANCELLED


class Client:
    """A connection to kveikd. Everything is thread-safe, and nothing blocks for longer than it was
    told; the interpreter lock is given up in every call.

    socket_path           None: $KVEIK_SOCKET, else $XDG_RUNTIME_DIR/kveik/engine.sock, else
                          /run/kveik/engine.sock
    instance              names the engine, 1 to 64 bytes; the processes of one engine give the
                          same; None: one of its own
    name                  for the daemon's log
    token                 names the tenant; str or bytes
    connect_timeout_ms    of the first connection
    wait_for_daemon       with the daemon down, succeed and go on looking for it
    requests_max          in flight; 0: what the daemon allows
    reconnect_backoff_ms  between attempts while the daemon is away; 0: the library's own

    Raises Unavailable when there is no daemon. Later the library reconnects by itself and registers
    spaces, memory and layouts again: handles stay valid. After fork() the child is refused with
    Forked; it may connect a client of its own. A context manager: close() at its end.
    """

    def __init__(self, socket_path: str | os.PathLike[str] | None = None, *,
                 instance: str | None = None, name: str | None = None,
                 token: str | bytes | None = None, connect_timeout_ms: int = 1000,
                 wait_for_daemon: bool = False, requests_max: int = 0,
                 reconnect_backoff_ms: int = 0):
        self._open = False
        self._native = ffi.new("struct glue_handle *")
        self._users: dict[int, Any] = {}  # by tag, from submit to completion
        self._tags = itertools.count(1)
        self._owners: dict[int, Any] = {}  # of exported memory, by region
        self._kinds: dict[int, list[int]] = {}  # planes a layer of each group, by space
        self._spare: list[Any] = []  # structs for completions
        self._closing: list[Callable[[], None]] = []  # who must know before it happens
        texts = [ffi.NULL if text is None else ffi.new("char[]", os.fsencode(text))
                 for text in (socket_path, instance, name)]
        secret = token.encode() if isinstance(token, str) else token
        held = ffi.NULL if secret is None else ffi.from_buffer("uint8_t[]", secret)
        options = struct("kveik_options", socket_path=texts[0], instance=texts[1],
                          client_name=texts[2], token=held,
                          token_bytes=0 if secret is None else len(secret),
                          connect_timeout_ms=connect_timeout_ms, requests_max=requests_max,
                          reconnect_backoff_ms=reconnect_backoff_ms,
                          wait_for_daemon=wait_for_daemon)
        self._must(lib.glue_connect(self._native, options))
        self._open = True

    @staticmethod
    def _must(status: int) -> int:
        if status < 0:
            raise failed(status)
        return status

    # ---- life ------------------------------------------------------------------------------------
    def close(self) -> None:
        """Ends the session. Requests in flight end with CANCELLED; threads that wait get Closed, or
        the completion. Exported memory is its owner's again. A second call does nothing."""
        if self._open:
            for tell in self._closing[:]:
                tell()
            status = lib.glue_close(self._native)
            if status < 0:
                raise Invalid("close() in a callback of register_layout() of the same client")
            self._open = False
            if status == _OK:  # a thread that lost the race must not let go of memory too soon
                self._users.clear()
                self._owners.clear()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_open", False):
            self.close()

    def fileno(self) -> int:
        """A descriptor that is readable when poll() has something to do; the same for the client's
        whole life. For select, epoll, asyncio. Do not read or close it."""
        return self._must(lib.glue_event_fd(self._native))

    def info(self) -> Info:
        """The connection as it is now. Never blocks; tries to reconnect if that is due."""
        raw = struct("kveik_info")
        self._must(lib.glue_info(self._native, raw))
        return Info(raw.connected, raw.protocol_version, bytes(raw.boot_id), raw.session_id,
                    raw.reconnects, raw.requests_max, raw.keys_max,
                    ffi.string(raw.daemon).decode(errors="replace"),
                    ffi.string(raw.instance).decode(errors="replace"))

    def daemon_status(self, timeout_ms: int = 1000) -> dict[str, Any]:
        """What `kveik status --json` prints, as a dict."""
        out = ffi.new("char **")
        self._must(lib.glue_daemon_status(self._native, timeout_ms, out))
        try:
            status: dict[str, Any] = json.loads(ffi.string(out[0]))
            return status
        finally:
            lib.kveik_text_free(out[0])

    # ---- what the KV means, where it is, how it lies there ---------------------------------------
    def register_space(self, model: str, dtype: Dtype | str | Any, groups: Sequence[Group], *,
                       revision: str = "", rope_id: bytes | None = None, fingerprint: bytes = b"",
                       isolation: bytes = b"", quota_bytes: int = 0,
                       admission: Admission | str = Admission.DEFAULT) -> int:
        """Says what the KV means; a handle for lookups and layouts.

        model        the weights' name or hash: other weights must give another string
        dtype        of the cache
        rope_id      32 bytes: SHA-256 of the rotary parameters; None: no rotary
        fingerprint  of private packing (engine build, page size), with opaque groups
        isolation    spaces with other bytes here share nothing
        quota_bytes  hold at most so much of it; 0: no bound of its own
        admission    when its blocks go to the daemon's disk: Admission or its name
        """
        if rope_id is not None and len(rope_id) != 32:
            raise Invalid(f"rope_id has {len(rope_id)} bytes, must have 32 (a SHA-256)")
        texts = [ffi.new("char[]", text.encode()) for text in (model, revision)]
        table = groups_of(groups)
        blobs = [ffi.from_buffer("uint8_t[]", blob) if blob else ffi.NULL
                 for blob in (rope_id, fingerprint, isolation)]
        space = struct("kveik_space", model=texts[0], revision=texts[1] if revision else ffi.NULL,
                        dtype=int(dtype_of(dtype)), rope_id=blobs[0], group_count=len(groups),
                        groups=table, fingerprint=blobs[1], fingerprint_bytes=len(fingerprint),
                        isolation=blobs[2], isolation_bytes=len(isolation),
                        quota_bytes=quota_bytes,
                        admission=int(named(Admission, admission, "admission")))
        out = ffi.new("uint32_t *")
        self._must(lib.glue_space_register(self._native, space, out))
        self._kinds[out[0]] = [len(group.kinds) for group in groups]
        return int(out[0])

    def allocate(self, nbytes: int) -> Memory:
        """Fresh zeroed memory that can be exported without a copy. See Memory."""
        out = ffi.new("void **")
        self._must(lib.glue_memory_allocate(self._native, nbytes, out))
        return Memory(self._native, out[0], nbytes)

    def export(self, memory: Any, *, mode: Mode | str = Mode.AUTO, memfd: int | None = None,
               memfd_offset: int = 0, small_pages: bool = False) -> Region:
        """Lets the daemon at memory: a Memory, a numpy array, a CPU tensor, a writable buffer, or
        (address, bytes). The client keeps the object alive until drop_memory() or close(); of an
        (address, bytes) the caller does.

        mode          Mode or its name; "auto" takes the first that works
        memfd         with "shared": the file that is mapped there; it stays the caller's, and is
                      sealed against shrinking. memfd_offset: of the memory in that file
        small_pages   do not ask for huge pages

        Call it while no other thread writes there: "adopt" replaces the pages in place.
        """
        span = span_of(memory)
        options = struct("kveik_memory_options", mode=int(named(Mode, mode, "mode")),
                          memfd=memfd or 0, memfd_offset=memfd_offset, small_pages=small_pages)
        region, way = ffi.new("uint32_t *"), ffi.new("uint32_t *")
        self._must(lib.glue_memory_export(self._native, span.address, span.nbytes, options, region,
                                          way))
        self._owners[region[0]] = span.owner
        return Region(region[0], Mode(way[0]), span.address, span.nbytes)

    def drop_memory(self, region: Region | int, timeout_ms: int = 10000) -> None:
        """Returns when no copy touches the region any more; layouts in it are dropped with it.
        Raises Stuck when that took too long: the region is still registered then."""
        self._must(lib.glue_memory_drop(self._native, handle_of(region), timeout_ms))
        self._owners.pop(handle_of(region), None)

    def register_layout(self, space: int, *, page_tokens: int, page_count: int,
                        planes: Sequence[Plane], group: int = 0, layer_begin: int = 0,
                        layer_count: int | None = None, head_begin: int = 0, head_count: int = 1,
                        page_bytes: int = 0, fill: Fill | None = None,
                        check: Check | None = None) -> int:
        """Says how the pages lie in exported memory; a handle for pushes and pulls.

        planes       layer by layer, in each kind by kind; see planes_of()
        layer_begin, layer_count, head_begin, head_count
                     the share of the model that this process keeps; layer_count None: as many
                     layers as there are planes for
        page_bytes   of one plane's page, with opaque groups
        fill, check  the engine's own indexing, both or neither: fill(layer, kind, page, token,
                     head, data) writes `data` there, check(...) says whether it is there. With them
                     the layout proves itself: a pattern is filled, moved by the daemon and checked;
                     pages 0 and 1 are used and restored. `data` is a memoryview of the elements of
                     one head and token (opaque: of the whole page), valid during the call. They run
                     on this thread; what they raise comes out of here.

        Raises Mismatch, with plane, page, token and head, when something is wrong.
        """
        if (fill is None) != (check is None):
            raise Invalid("fill and check go together")
        test = SelfTest(fill, check) if fill is not None and check is not None else None
        kinds = self._kinds.get(space, [])
        kind_count = kinds[group] if 0 <= group < len(kinds) else 1
        layers = len(planes) // kind_count if layer_count is None else layer_count
        if layers * kind_count != len(planes):
            raise Invalid(f"{len(planes)} planes for {layers} layers of {kind_count} kinds, must "
                          f"be {layers * kind_count}")
        table = ffi.new("struct kveik_plane[]", [
            (handle_of(plane.region), plane.offset, plane.page_stride, plane.token_stride,
             plane.head_stride, plane.element_stride) for plane in planes])
        arg = ffi.NULL if test is None else ffi.new_handle(test)
        layout = struct("kveik_layout", space=space, group=group, page_tokens=page_tokens,
                        page_count=page_count, layer_begin=layer_begin, layer_count=layers,
                        head_begin=head_begin, head_count=head_count, planes=table,
                        page_bytes=page_bytes, fill=lib.glue_on_fill if test else ffi.NULL,
                        check=lib.glue_on_check if test else ffi.NULL, callback_arg=arg)
        out = ffi.new("uint32_t *")
        status = lib.glue_layout_register(self._native, layout, out)
        if test is not None and test.raised is not None:
            if status >= 0:
                self.drop_layout(out[0])
            raise test.raised
        self._must(status)
        return int(out[0])

    def drop_layout(self, layout: int, timeout_ms: int = 10000) -> None:
        """Returns when no copy of this layout is under way any more."""
        self._must(lib.glue_layout_drop(self._native, layout, timeout_ms))

    # ---- requests --------------------------------------------------------------------------------
    def _tag(self, user: Any) -> int:
        """The number under which `user` waits for the completion: known before anybody can see
        that, 0 for None."""
        if user is None:
            return 0
        tag = next(self._tags)
        self._users[tag] = user
        return tag

    def _submitted(self, op: int, tag: int) -> int:
        if op < 0:
            self._users.pop(tag, None)
            raise failed(op)
        return op

    def submit_push(self, runs: PushRun | Sequence[PushRun], *, deadline_ms: int = 0,
                    user: Any = None) -> int:
        """Engine memory to the daemon. Sends at once and never waits; the number of the request.

        From here to the completion the pages belong to the daemon; all else was copied. `user` is
        any object: the completion has it. deadline_ms 0: 10 s. Raises Busy when requests_max are in
        flight, Unavailable when there is no daemon now, Invalid and UnknownId for mistakes.
        """
        table, held = push_of(runs)
        tag = self._tag(user)
        return self._submitted(lib.glue_submit_push(self._native, table, len(table), deadline_ms,
                                                    tag), tag)

    def submit_pull(self, runs: PullRun | Sequence[PullRun], *, lease: int = 0,
                    release_lease: bool = False, deadline_ms: int = 0, user: Any = None) -> int:
        """The daemon's blocks to engine memory; otherwise as submit_push().

        lease          of the lookup, or 0; release_lease: release it when the pull completes
        deadline_ms    after this you would rather compute; 0: 10 s
        """
        pull, held = pull_of(runs, lease, release_lease, deadline_ms)
        tag = self._tag(user)
        return self._submitted(lib.glue_submit_pull(self._native, pull, tag), tag)

    def submit_lookup(self, space: int, keys: Any, *, key_tokens: int = GRAIN_TOKENS,
                      tail_tokens: int = 0, step_tokens: int = 0, wants: Sequence[Want] = (),
                      lease: bool = True, origins: bool = False, deadline_ms: int = 0,
                      user: Any = None) -> int:
        """How much of a prompt is held; otherwise as submit_push().

        keys         from the prompt's first grain on
        key_tokens   tokens from key to key: 16, or the size of blocks: then only blocks of at least
                     that size are found
        tail_tokens  valid tokens of the last grain; 0: 16
        step_tokens  cut the hit to a multiple of this (your page size); 0: no cut
        wants        parts of the model; none: all of it
        lease        keep what was found readable until release(), or the instance is gone
        origins      also say which instances pushed it
        deadline_ms  0: 1 s
        """
        lookup, held = lookup_of(space, keys, key_tokens, tail_tokens, step_tokens, wants, lease,
                                 origins, deadline_ms)
        tag = self._tag(user)
        return self._submitted(lib.glue_submit_lookup(self._native, lookup, tag), tag)

    def submit_persist(self, space: int, keys: Any, *, key_tokens: int = GRAIN_TOKENS,
                       tail_tokens: int = 0, deadline_ms: int = 0, user: Any = None) -> int:
        """Blocks that must outlive the daemon: completes when they are on stable storage, whatever
        the admission of their space; otherwise as submit_push(). Raises nothing for what is not
        held: its key's status is MISS."""
        persist, held = persist_of(space, keys, key_tokens, tail_tokens, deadline_ms)
        tag = self._tag(user)
        return self._submitted(lib.glue_submit_persist(self._native, persist, tag), tag)

    def submit_release(self, lease: int, *, user: Any = None) -> int:
        """Gives a lease back."""
        tag = self._tag(user)
        return self._submitted(lib.glue_submit_release(self._native, lease, tag), tag)

    def submit_quiesce(self, layout: int, pages: Any = None, *, user: Any = None) -> int:
        """Completes once no copy touches these pages (None: the whole layout): requests on them
        that have not begun are cancelled, begun ones end first."""
        table, count = pages_of(pages)
        tag = self._tag(user)
        return self._submitted(lib.glue_submit_quiesce(self._native, layout, table, count, tag),
                               tag)

    def cancel(self, op: int) -> None:
        """Asks the daemon to stop a request; it still completes, with CANCELLED or as it ended.
        Raises UnknownId when its completion was taken."""
        self._must(lib.glue_cancel(self._native, op))

    # ---- completions -----------------------------------------------------------------------------
    def _raw(self) -> Any:
        try:
            return self._spare.pop()
        except IndexError:
            return completion()

    def _take(self, raw: Any) -> Completion:
        user = self._users.pop(lib.glue_tag(raw), None) if raw.user else None
        done = Completion(raw, user)
        self._spare.append(raw)
        return done

    def poll(self) -> Completion | None:
        """The next finished request that nobody waits for by number, or None. Never blocks. Also
        does the library's work: reads answers, reconnects, runs deadlines."""
        raw = self._raw()
        status = lib.glue_poll(self._native, raw)
        if status == _OK:
            return self._take(raw)
        self._spare.append(raw)
        if status != _PENDING:
            raise error_for(status)
        return None

    def wait(self, op: int = 0, timeout_ms: int | None = None) -> Completion | None:
        """Waits for any request, or for that one; None when timeout_ms passed first (None: no
        limit of its own). Several threads may wait at once. A request that is waited for by number
        should not be left to poll() in another thread: whoever comes first gets it, the other
        UnknownId. Raises Closed when the client is closed meanwhile."""
        raw = self._raw()
        until = None if timeout_ms is None else time.monotonic() + timeout_ms / 1000
        while True:
            left = _NAP_MS if until is None else \
                min(_NAP_MS, max(0, round((until - time.monotonic()) * 1000)))
            status = lib.glue_wait(self._native, op, left, raw)
            if status == _OK:
                return self._take(raw)
            if status == _CANCELLED:
                raise Closed("the client was closed")
            if status != _PENDING:
                raise error_for(status)
            if until is not None and time.monotonic() >= until:
                self._spare.append(raw)
                return None

    # ---- submit and wait in one ------------------------------------------------------------------
    def _blocked(self, status: int, raw: Any) -> Completion:
        """Its completion, or the reason why there was no request."""
        if raw.op == 0:
            raise error_for(status, ffi.string(raw.text).decode(errors="replace"))
        return self._take(raw)

    def push(self, runs: PushRun | Sequence[PushRun], *, deadline_ms: int = 0) -> Completion:
        """submit_push() and its completion. Raises only when there was nothing to wait for; see
        Completion.ok and Completion.check(). Not interrupted by signals before its deadline."""
        table, held = push_of(runs)
        raw = completion()
        return self._blocked(lib.glue_push(self._native, table, len(table), deadline_ms, raw), raw)

    def pull(self, runs: PullRun | Sequence[PullRun], *, lease: int = 0,
             release_lease: bool = False, deadline_ms: int = 0) -> Completion:
        """submit_pull() and its completion; as push()."""
        pull, held = pull_of(runs, lease, release_lease, deadline_ms)
        raw = completion()
        return self._blocked(lib.glue_pull(self._native, pull, raw), raw)

    def lookup(self, space: int, keys: Any, *, key_tokens: int = GRAIN_TOKENS,
               tail_tokens: int = 0, step_tokens: int = 0, wants: Sequence[Want] = (),
               lease: bool = True, origins: bool = False, deadline_ms: int = 0) -> Completion:
        """submit_lookup() and its completion; as push()."""
        lookup, held = lookup_of(space, keys, key_tokens, tail_tokens, step_tokens, wants, lease,
                                 origins, deadline_ms)
        raw = completion()
        return self._blocked(lib.glue_lookup(self._native, lookup, raw), raw)

    def persist(self, space: int, keys: Any, *, key_tokens: int = GRAIN_TOKENS,
                tail_tokens: int = 0, deadline_ms: int = 0) -> Completion:
        """submit_persist() and its completion; as push()."""
        persist, held = persist_of(space, keys, key_tokens, tail_tokens, deadline_ms)
        raw = completion()
        return self._blocked(lib.glue_persist(self._native, persist, raw), raw)

    def release(self, lease: int) -> Completion:
        """submit_release() and its completion; raises the Error when it failed."""
        self._must(lib.glue_release(self._native, lease))
        return Completion(completion(Kind.RELEASE))

    def quiesce(self, layout: int, pages: Any = None, *, timeout_ms: int = 10000) -> Completion:
        """submit_quiesce() and its completion; raises the Error when it failed, and Stuck when
        timeout_ms passed first: a copy may still touch the pages then."""
        table, count = pages_of(pages)
        self._must(lib.glue_quiesce(self._native, layout, table, count, timeout_ms))
        return Completion(completion(Kind.QUIESCE))
