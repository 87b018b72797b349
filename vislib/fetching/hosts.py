"""One host among many: what is to be asked of it, its rate limiter and its circuit breaker.

An answer about one link, a failure too, says nothing about the next link: it slows the pace for a
while. Only silence (nobody there, no answer in time) is of the host, and counts once a link.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import inf
from time import monotonic

from ada_url import URL

from vislib.media.pixels import ImageError, Reason

_SILENT = ("unreachable", "timed_out", "no_address")
_STRIKES = 16  # links in a row that found no host, after which its other links are not asked
_NO_NAME_STRIKES = 8  # of those for a name that is not there
_FIRST_S = 0.05  # between two requests to a host that refuses some for their number, at first
_SLOWEST_S = 2.0  # and at most
_IN_A_ROW = 4  # links that failed, after which the next one waits a little
_REST_S, _LONG_REST_S = 0.5, 30.0  # the longest waits: after failures, after "too many requests"
_PATIENCE_S = 60.0  # of nothing but "too many requests": limits are mostly by the minute
_TRIES = 3  # to be made in that time at least: a host may ask for longer


@dataclass
class Link:
    """A link on its way: where its next request goes, and what it met so far."""

    url: str
    left: float  # seconds that this attempt may still take
    address: URL | None = None  # None: the link's own
    redirects: int = 0
    robots: list[str] = field(default_factory=list)  # X-Robots-Tag headers met
    failures: int = 0  # attempts that count
    last: ImageError | None = None  # why the last attempt failed
    hold: float = 0.0  # seconds that the last reply asks to wait
    due: float = 0.0  # when the next attempt may be made


@dataclass
class Host:
    """One host in this run: its links, its requests in flight, its pace."""

    name: str
    # Links that were not asked yet, so many:
    fresh: Iterator[str] = field(default_factory=lambda: iter(()))
    n_fresh: int = 0
    first: deque[Link] = field(default_factory=deque)  # on their way, or told when to come back
    again: deque[Link] = field(default_factory=deque)  # links that failed
    asking: int = 0  # requests in flight
    fault: ImageError | None = None  # why what was not asked yet shall not be
    _next_at: float = 0.0
    _interval: float = 0.0
    _held_until: float = 0.0
    _refused: int = 0  # in a row
    _strikes: int = 0  # in a row
    _since: float = inf  # when it began to answer nothing but "too many requests"

    @property
    def waiting(self) -> int:
        """Number of links that are to be asked."""
        return len(self.first) + self.n_fresh + len(self.again)

    def is_ready(self) -> bool:
        """Whether it may be asked for its next link now."""
        at = self._next_at
        if not self.first and not self.n_fresh and self.again:
            at = max(at, self.again[0].due)
        return bool(self.waiting) and not self.fault and at <= monotonic()

    def take(self, timeout_s: float) -> Link:
        """The link that is asked next: on its way or told when first, then not asked before, then
        failed, so that bad links delay no good one.
        """
        self._next_at = max(monotonic(), self._next_at) + self._interval
        if self.first:
            return self.first.popleft()
        if self.n_fresh:
            self.n_fresh -= 1
            return Link(next(self.fresh), timeout_s)
        return self.again.popleft()

    def answered(self) -> None:
        """A request was answered, with the file or with a reason that is the link's own: go
        faster.
        """
        self.fault, self._since = None, inf
        self._refused = self._strikes = 0
        self._interval = self._interval * 0.7 if self._interval > _FIRST_S / 10 else 0.0

    def failed(self, link: Link, failure: ImageError) -> None:
        """A request for `link` failed for what may pass."""
        now, limited, first = monotonic(), is_limit(failure, link.hold), link.last is None
        if failure.reason not in _SILENT:
            self._strikes = 0
        elif first:  # further attempts at one link tell nothing new of the host
            self._strikes += _NO_NAME_STRIKES if failure.reason == "no_address" else 1
        self._since = min(self._since, now) if limited else inf
        self.fault = None
        if self._strikes >= _STRIKES:
            reason: Reason = "no_address" if failure.reason == "no_address" else "host_failed"
            why = f"links in a row found no host, the last: {failure}"
            self.fault = ImageError(reason, f"not asked, {why}")
        elif now - self._since >= _PATIENCE_S and self._refused >= _TRIES:
            why = f"for {_PATIENCE_S:.0f} s nothing but {failure}"
            self.fault = ImageError("host_failed", f"not asked, {why}")
        if first or limited:
            self._slow(now, link.hold, limited)

    def _slow(self, now: float, hold: float, limited: bool) -> None:
        """Wait, the longer the more failed in a row; what was in flight together counts as one."""
        rest = 0.0
        if now >= self._held_until:
            self._refused += 1
            doublings = min(self._refused - (0 if limited else _IN_A_ROW), 20)
            if doublings > 0:
                rest = min(_FIRST_S * 2**doublings, _LONG_REST_S if limited else _REST_S)
            if limited and self._refused == 1:  # go on at half the pace
                self._interval = min(max(_FIRST_S, 2 * self._interval), _SLOWEST_S)
        self._held_until = max(self._held_until, now + max(hold, rest))
        self._next_at = max(self._next_at, self._held_until)


def is_limit(failure: ImageError, hold: float) -> bool:
    """Whether a reply says no more than "too many requests", or "later" and when: no attempt of the
    link's.
    """
    return hold > 0 or failure.reason == "rate_limited"
