"""What a server may be sent: a rate limiter that holds in every minute, and an AIMD window of
requests in flight.

Providers limit requests and tokens per minute and say so in the headers of each reply; self-hosted
servers only refuse. The rate follows parameters and headers before anything is refused, the window
follows refusals the way TCP does: cut by a factor, widened again one by one. What a request takes
is known when its answer is there; until then its upper bound counts.
"""

import math
import re
from collections.abc import Mapping
from time import monotonic

_MINUTE = 60.0
_PLANNED = 0.98  # of a limit on requests: replies and clocks jitter
# that much of the pace may be made up for when a timer was late: less than `_PLANNED` leaves
_LATE_S = 0.1
_CUT = 0.8  # of the window that was refused: what is left of it
_WIDER = 2.0  # requests by which a window full of answers widens it
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


class RateLimiter:
    """Spaces requests so that no minute sees more requests or tokens than allowed (0: what the
    replies say).
    """

    def __init__(self, *, requests: int, tokens: int) -> None:
        self._allowed = {"requests": requests or math.inf, "tokens": tokens or math.inf}
        self._limits = dict(self._allowed)
        # when each of the two allows the next request; a server may hold both
        self._free_at = dict.fromkeys(self._limits, 0.0)
        self._largest = math.inf  # tokens that one request took so far

    def wait(self, now: float) -> float:
        """Seconds until a request may go, 0 or less for now."""
        return max(self._free_at.values()) - now

    def take(self, tokens: float, now: float) -> float:
        """Count a request of at most `tokens` as sent; return what it is thought to take, for
        `settle`.
        """
        expected = min(tokens, self._largest)
        # evenly spaced: a burst at the minute's beginning is refused by most servers
        for kind, need in (("requests", 1 / _PLANNED), ("tokens", expected)):
            begin = max(self._free_at[kind], now - _LATE_S)
            self._free_at[kind] = begin + _MINUTE * need / self._limits[kind]
        return expected

    def settle(self, expected: float, tokens: int) -> None:
        """Put what a request really took, if that is known, in the place of what was expected."""
        if tokens:
            self._free_at["tokens"] -= _MINUTE * (expected - tokens) / self._limits["tokens"]
            self._largest = tokens if self._largest == math.inf else max(tokens, self._largest)

    def hold(self, seconds: float) -> None:
        """Send nothing for so long: the server asked for it."""
        until = monotonic() + seconds
        self._free_at = {kind: max(free_at, until) for kind, free_at in self._free_at.items()}

    def follow(self, headers: Mapping[str, str], *, tokens: int) -> bool:
        """Take over the limits that a reply tells; whether they leave no room for another request
        like its own. Then pause, for as long as the limit takes to make that room.
        """
        used_up = False
        for kind, need in (("requests", 1), ("tokens", max(tokens, 1))):
            if (limit := _number(headers.get(f"x-ratelimit-limit-{kind}"))) > 0:
                self._limits[kind] = min(self._allowed[kind], limit)
            if _number(headers.get(f"x-ratelimit-remaining-{kind}"), math.inf) < need:
                # not until `reset`, when as a rule all of the limit is there again
                self.hold(_MINUTE * need / self._limits[kind])
                used_up = True
        return used_up


class AIMDWindow:
    """How many requests may be in flight at one server: cut when it refuses, widened again by its
    answers.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.size = float(most)
        self.bursts = 0  # of refusals since the last answer
        self._burst_until = -math.inf

    def refused(self, *, begun: float, in_flight: int, seconds: float) -> None:
        """The server refused a request sent at `begun`: one cut for all refusals within the
        `seconds` of an answer.
        """
        if begun > self._burst_until:
            self._burst_until = monotonic() + seconds
            self.size = max(1.0, _CUT * min(self.size, in_flight))
            self.bursts += 1

    def answered(self) -> None:
        """One answer more: a window full of them widens it by `_WIDER`."""
        self.bursts = 0
        self.size = min(self.most, self.size + _WIDER / self.size)


def seconds(text: str) -> float | None:
    """Seconds in a duration as providers write it (`1s`, `6m0s`, `12ms`, `0.5`), None if it is
    none.
    """
    if re.fullmatch(r"(\d+(\.\d+)?(ms|[smhd]))+", text):
        parts = re.findall(r"([\d.]+)([a-z]+)", text)
        return sum(float(number) * _UNITS[unit] for number, unit in parts)
    number = _number(text, -1.0)
    return number if number >= 0 else None


def _number(text: str | None, otherwise: float = 0.0) -> float:
    try:
        value = float(text or "")
    except ValueError:
        return otherwise
    return value if math.isfinite(value) else otherwise
