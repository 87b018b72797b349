"""One host among many: how many requests it has at once, the pace that it bears, and when to leave it alone."""

import asyncio
from time import monotonic

from vislib.fetching.links import TRANSIENT
from vislib.pixels import ImageError, Reason

_FIRST_S, _SLOWEST_S = 0.05, 5.0  # between two requests to a host that names no time
_STRIKES = 16  # failures in a row, after which a host's other links are not asked


class Host:
    """One host in this run: its places, the pace that it bears, its failures in a row."""

    def __init__(self, places: int) -> None:
        self.places, self.next_at, self.interval = asyncio.Semaphore(places), 0.0, 0.0
        self.strikes, self.last, self.held_until = 0, ImageError("unreachable"), 0.0

    def turn(self) -> float:
        """Seconds until the next request may go; raises ImageError `host_failed` (or `no_address`) if none shall."""
        if self.strikes >= _STRIKES:
            reason: Reason = "no_address" if self.last.reason == "no_address" else "host_failed"
            raise ImageError(reason, f"not asked, {self.strikes} in a row failed, the last as {self.last}")
        start = max(now := monotonic(), self.next_at)
        self.next_at = start + self.interval
        return start - now

    def note(self, failure: ImageError | None, hold: float = 0.0) -> None:
        """After an answer go faster; else halve the pace, once for all that was in flight, and hold if it says so."""
        if failure is None or failure.reason not in (*TRANSIENT, "no_address"):
            self.strikes, self.interval = 0, self.interval * 0.8 if self.interval > _FIRST_S / 10 else 0.0
            return
        self.strikes = _STRIKES if failure.reason == "no_address" else self.strikes + 1
        self.last, now = failure, monotonic()
        if now >= self.held_until:
            self.interval = min(max(_FIRST_S, 2 * self.interval), _SLOWEST_S)
        self.held_until = max(self.held_until, now + max(hold, self.interval))
        self.next_at = max(self.next_at, self.held_until)
