"""One host among many: its rate limiter and its circuit breaker.

An answer about one link, a failure too, says nothing about the next link: it slows the pace for a
while. Only silence (nobody there, no answer in time) is of the host, and counts once a link.
"""

import asyncio
from dataclasses import dataclass, field
from time import monotonic

from vislib.fetching.connections import Later
from vislib.media.pixels import ImageError, Reason

_SILENT = ("unreachable", "timed_out", "no_address")
_STRIKES = 16  # links in a row that found no host, after which its other links are not asked
_FIRST_S = 0.05  # between two requests after a failure; doubles with each one that follows
_REST_S, _LONG_REST_S = 0.2, 30.0  # at most: after failures, after "too many requests"
_SLOWEST_S = 2.0  # at most as soon as one was answered
_PATIENCE_S = 60.0  # of nothing but "too many requests": limits are mostly by the minute
_TRIES = 3  # to be made in that time at least: a host may ask for longer


@dataclass
class Host:
    """One host in this run: how many requests at once, its pace, and what it met."""

    slots: asyncio.Semaphore
    fault: ImageError | None = None  # why what was not asked yet shall not be
    _next_at: float = 0.0
    _pause: float = 0.0  # seconds between two requests
    _held_until: float = 0.0
    _strikes: int = 0  # in a row
    _refused: list[float] = field(default_factory=list)  # when, of nothing but that in a row

    def take_turn(self) -> float:
        """Seconds until it may be asked; 0: now, and it counts as asked."""
        now = monotonic()
        if now < self._next_at:
            return self._next_at - now
        self._next_at = now + self._pause
        return 0.0

    def answered(self) -> None:
        """A request was answered, with the file or with a reason that is the link's own: go
        faster.
        """
        self.fault, self._strikes, self._refused = None, 0, []
        slow = self._pause > _FIRST_S / 10
        self._pause = min(self._pause * 0.7, _SLOWEST_S) if slow else 0.0

    def failed(self, failure: ImageError, first: bool) -> None:
        """A request failed for what may pass, the `first` one for its link or a further one."""
        now, hold = monotonic(), failure.hold if isinstance(failure, Later) else -1.0
        limited, self.fault = hold >= 0, None
        if failure.reason not in _SILENT:
            self._strikes = 0
        elif first:  # further attempts at one link tell nothing new of the host
            self._strikes += 1
        together = now < self._held_until  # what was in flight together counts as one
        if not limited:
            self._refused = []
        elif not together:
            self._refused.append(now)
        if self._strikes >= _STRIKES:
            reason: Reason = "no_address" if failure.reason == "no_address" else "host_failed"
            why = f"links in a row found no host, the last: {failure}"
            self.fault = ImageError(reason, f"not asked, {why}")
        elif len(self._refused) >= _TRIES and now - self._refused[0] >= _PATIENCE_S:
            why = f"for {_PATIENCE_S:.0f} s nothing but {failure}"
            self.fault = ImageError("host_failed", f"not asked, {why}")
        if first or limited:
            if not together:
                longest = _LONG_REST_S if limited else _REST_S
                self._pause = min(max(self._pause * 2, _FIRST_S), longest)
            self._held_until = max(self._held_until, now + max(hold, self._pause))
            self._next_at = max(self._next_at, self._held_until)
