"""A kveik.Client that can be slow and can fail, and that knows which pages copies touch.

Every client that the connector makes is one of these (see installed()). Requests that are `held`
are submitted steps later, answers that are `delayed` come steps later, as Faults says; a request
may also fail without being sent. What is known here is the truth about copies, whatever the
connector believes: a page is busy from submit to the answer, and that of a pull after STUCK until a
quiesce of it succeeded or the connection was replaced. (A push that is STUCK may read on, but keeps
nothing: what the daemon holds is compared in the end.)
"""
import collections
import contextlib
import dataclasses
import random
from typing import Any

import kveik

Real = kveik.Client


@dataclasses.dataclass
class Verdict:
    """What happens to one request."""

    hold: int = 0  # steps until it is sent
    delay: int = 0  # steps until its answer is seen
    lose: bool = False  # never sent, ends with LOST
    refuse: bool = False  # submit raises Busy
    miss: int | None = None  # that key of a pull misses, though it was moved


class Faults:
    """Decides, and counts. The default: nothing happens."""

    def __init__(self):
        self.clock = 0
        self.clients = []
        self.pushes = self.pulls = self.lookups = 0
        self.pulled_keys = 0

    def decide(self, kind, spy):
        """The verdict about a request of kind push, pull or lookup."""
        return Verdict()

    def tick(self):
        """A step of the engine passed."""
        self.clock += 1
        for client in self.clients:
            client.advance()


class Scripted(Faults):
    """Verdicts by kind, in order; the last of a list stays."""

    def __init__(self, **verdicts):
        super().__init__()
        self.verdicts = {kind: list(given) for kind, given in verdicts.items()}

    def decide(self, kind, spy):
        given = self.verdicts.get(kind) or [Verdict()]
        return given.pop(0) if len(given) > 1 else given[0]


class Chance(Faults):
    """Drawn from a seed."""

    def __init__(self, seed, trouble):
        super().__init__()
        self.draw = random.Random(seed)
        self.trouble = trouble  # the share of requests that something happens to
        self.quiet = False

    def decide(self, kind, spy):
        if self.quiet or self.draw.random() > self.trouble:
            return Verdict()
        which = self.draw.randrange(8)
        if which < 3:
            return Verdict(hold=self.draw.randrange(1, 6))
        if which < 5:
            return Verdict(delay=self.draw.randrange(1, 6))
        if which == 5:
            return Verdict(lose=True)
        if which == 6:
            return Verdict(refuse=True)
        return Verdict(miss=self.draw.randrange(12))


@dataclasses.dataclass
class Order:
    """A request of the connector's."""

    number: int
    kind: str
    runs: list
    arguments: dict
    user: Any
    verdict: Verdict
    send_at: int
    real: int = 0
    show_at: int | None = None
    done: Any = None
    session: int = 0  # that it was sent in
    boot_id: bytes = b""
    stuck: bool = False


class Spy:
    """Stands for a kveik.Client."""

    def __init__(self, faults, *arguments, **options):
        self._faults = faults
        self.real = Real(*arguments, reconnect_backoff_ms=10, **options)
        self.orders = {}  # by the number that the connector knows
        self._ready = collections.deque()
        self._last = 0
        self.given = collections.Counter()  # leases, with the daemon's boot id
        self.released = collections.Counter()
        self.spoil = None  # set by the engine: overwrites pages with what is no KV
        faults.clients.append(self)

    def __getattr__(self, name):
        return getattr(self.real, name)

    # ---- what the connector calls ----------------------------------------------------------------
    def submit_push(self, runs, *, deadline_ms=0, user=None):
        self._faults.pushes += 1
        return self._order("push", runs, {"deadline_ms": deadline_ms}, user)

    def submit_pull(self, runs, *, lease=0, release_lease=False, deadline_ms=0, user=None):
        self._faults.pulls += 1
        self._faults.pulled_keys += sum(len(run.pages) for run in runs)
        return self._order("pull", runs, {"lease": lease, "release_lease": release_lease,
                                          "deadline_ms": deadline_ms}, user)

    def submit_lookup(self, space, keys, *, user=None, **options):
        self._faults.lookups += 1
        return self._order("lookup", [], {"space": space, "keys": keys, **options}, user)

    def submit_release(self, lease, *, user=None):
        boot_id = self.real.info().boot_id  # before: asking may reconnect, to another daemon
        op = self.real.submit_release(lease, user=user)
        self.released[lease, boot_id] += 1
        return op

    def _order(self, kind, runs, arguments, user):
        verdict = self._faults.decide(kind, self)
        if verdict.refuse:
            raise kveik.Busy("the test wants it so")
        self._last -= 1  # never a number of the real client's
        order = Order(self._last, kind, runs, arguments, user, verdict,
                      self._faults.clock + verdict.hold)
        if self.spoil is not None and kind == "pull":
            self.spoil(runs)
        self.orders[order.number] = order
        try:
            self._send_if_due(order)
        except kveik.Error:
            del self.orders[order.number]
            raise
        return order.number

    def _send_if_due(self, order, now=False):
        if order.real or order.done is not None or \
                not (now or self._faults.clock >= order.send_at):
            return
        if order.verdict.lose:
            self._show(order, kveik.client.completion(), kveik.Status.LOST)
            return
        info = self.real.info()
        order.session, order.boot_id = info.session_id, info.boot_id
        if order.kind == "push":
            order.real = self.real.submit_push(order.runs, user=order, **order.arguments)
        elif order.kind == "pull":
            order.real = self.real.submit_pull(order.runs, user=order, **order.arguments)
        else:
            order.real = self.real.submit_lookup(user=order, **order.arguments)

    def _show(self, order, raw, status):
        """Ends an order that was never sent."""
        kind = {"push": kveik.Kind.PUSH, "pull": kveik.Kind.PULL, "lookup": kveik.Kind.LOOKUP}
        raw.kind, raw.status = int(kind[order.kind]), int(status)
        order.done = kveik.Completion(raw, order.user)
        order.show_at = self._faults.clock + order.verdict.delay

    def advance(self):
        """Sends what is due."""
        for order in list(self.orders.values()):
            self._send_or_fail(order)

    def _send_or_fail(self, order, now=False):
        """For one that the connector believes sent."""
        try:
            self._send_if_due(order, now)
        except kveik.Error as error:
            self._show(order, kveik.client.completion(), error.status)

    def _gather(self):
        """Takes what the daemon answered."""
        while (done := self.real.poll()) is not None:
            self._answered(done)

    def _answered(self, done):
        order = done.user
        if not isinstance(order, Order):
            self._quiesced(done)
            self._ready.append(done)
            return
        done.user = order.user
        order.done, order.show_at = done, self._faults.clock + order.verdict.delay
        if done.lease:
            self.given[done.lease, order.boot_id] += 1
        order.stuck = order.kind == "pull" and done.status == kveik.Status.STUCK
        if order.kind == "pull" and done.ok and order.verdict.miss is not None and done.statuses:
            at = order.verdict.miss % len(done.statuses)
            done.statuses = done.statuses[:at] + bytes([int(kveik.Status.MISS) & 255]) + \
                done.statuses[at + 1:]
            if self.spoil is not None:
                self.spoil(order.runs, at)

    def _quiesced(self, done):
        asked = done.user
        if done.kind == kveik.Kind.QUIESCE and done.ok:
            for order in self.orders.values():
                if order.stuck and any(run.layout == asked.layout and
                                       set(run.pages) <= set(asked.pages) for run in order.runs):
                    order.runs = [run for run in order.runs if not (
                        run.layout == asked.layout and set(run.pages) <= set(asked.pages))]

    def _visible(self, number=0):
        for order in list(self.orders.values()):
            if order.done is not None and order.show_at is not None and \
                    self._faults.clock >= order.show_at and number in (0, order.number):
                order.show_at = None
                if not order.stuck:
                    del self.orders[order.number]
                return order.done
        return None

    def poll(self):
        self._gather()
        if self._ready:
            return self._ready.popleft()
        return self._visible()

    def wait(self, op=0, timeout_ms=None):
        """Waiting is time that passes: what is waited for is sent, and its answer seen."""
        for order in list(self.orders.values()):
            if op in (0, order.number):
                self._send_or_fail(order, now=True)
                if order.done is not None and order.show_at is not None:
                    order.show_at = min(order.show_at, self._faults.clock)
                order.verdict.delay = 0
        self._gather()
        if op == 0 and self._ready:
            return self._ready.popleft()
        done = self._visible(op)
        order = self.orders.get(op)
        if done is not None or (op and order is None):
            return done
        taken = self.real.wait(order.real if order else 0, timeout_ms)
        if taken is not None:
            self._answered(taken)
        self._gather()
        if op == 0 and self._ready:
            return self._ready.popleft()
        return self._visible(op)

    # ---- what the test asks ----------------------------------------------------------------------
    def busy(self, but=()):
        """{page: kind} of all pages that a copy may touch now, but for those orders."""
        session = self.real.info().session_id
        pages = {}
        for order in list(self.orders.values()):
            if order.stuck and order.session != session:
                del self.orders[order.number]
            elif order.number not in but and (order.done is None or order.stuck):
                pages.update((page, order.kind) for run in order.runs for page in run.pages)
        return pages


@contextlib.contextmanager
def installed(faults):
    """Every client made meanwhile is a Spy."""
    kveik.Client = lambda *arguments, **options: Spy(faults, *arguments, **options)
    try:
        yield
    finally:
        kveik.Client = Real
