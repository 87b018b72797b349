"""Which server takes a request, and when: several servers, each with its own limits, share the
work.

A server that fails again and again is left alone for a while, then tried with one request; the
others take over. A request that waits for another try holds no place in flight, so that new ones go
on meanwhile.
"""

import asyncio
import heapq
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from time import monotonic
from typing import Any

from vislib.engines import Answer
from vislib.engines.limits import Pace, Window
from vislib.engines.replies import Reply

_STRIKES, _LONGEST_REST_S = 5, 60.0  # failures in a row after which a server rests
_LEAST_PAUSE_S = 0.02  # after a refusal without Retry-After; doubles while there is no answer
_STRUCK = {"unreachable": _STRIKES} | dict.fromkeys(
    ("disconnected", "timeout", "server_error", "not_json", "no_choices", "oversized"), 1
)


class GivenUp(Exception):
    """The run ends before this request was sent, or sent again."""


class Server:
    """One address with its client, its limits and its health."""

    def __init__(self, client: Any, params: Any, *, rest_s: float) -> None:
        self.client, self.rest_s = client, rest_s
        self.pace = Pace(requests=params.requests_per_minute, tokens=params.tokens_per_minute)
        self.window = Window(params.max_in_flight)
        self.begun: dict[int, float] = {}  # when each request in flight was sent, the oldest first
        self.seconds = 0.0  # that an answer takes, recent ones counting most
        self.strikes = self.rests = 0
        self.rests_until = self.heard_at = 0.0

    @property
    def ailing(self) -> bool:
        """Whether it failed so often in a row that it gets one request at a time, after a rest."""
        return self.strikes >= _STRIKES

    def load(self, now: float) -> float:
        """Seconds of answering under way, one more request included; 0 to try anew a server long
        passed over.

        An answer overdue counts as slowness.
        """
        if not self.begun and now - self.heard_at > 10 * self.seconds:
            return 0.0
        return (len(self.begun) + 1) * max(self.seconds, now - next(iter(self.begun.values()), now))

    def learn(self, reply: Reply, begun: float) -> None:
        """Take account of the end of one attempt."""
        self.heard_at, answer = (now := monotonic()), reply.answer
        used_up = self.pace.follow(reply.headers, tokens=answer.tokens_in + answer.tokens_out)
        if answer.reason == "rate_limited":
            if not used_up:  # else the pace was too fast, not the number in flight too large
                self.window.refused(
                    begun=begun, in_flight=len(self.begun) + 1, seconds=self.seconds
                )
            pause = max(self.seconds / 4, _LEAST_PAUSE_S) * 2 ** min(self.window.bursts, 6)
            self.pace.hold(pause if reply.wait is None else reply.wait)
        elif strikes := _STRUCK.get(answer.reason, 0):
            self.strikes += strikes
            if self.ailing and now >= self.rests_until:
                self.rests_until = now + min(self.rest_s * 2**self.rests, _LONGEST_REST_S)
                self.rests = min(self.rests + 1, 20)
        else:
            self.strikes = self.rests = 0
            self.window.answered()
            self.seconds += (now - begun - self.seconds) * (0.5 if self.seconds else 1.0)


@dataclass
class _Turn:
    """A request's place in the queue, then its permission to send."""

    tokens: int
    avoid: Server | None
    granted: asyncio.Future[Server] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )
    number: int = 0
    begun: float = 0.0
    entry: list[float] = field(default_factory=list)


class Turns:
    """Sends requests to `servers`, at most `most` at once, those tried again before new ones."""

    def __init__(self, servers: list[Server], most: int, *, put_off: Callable[[], Any]) -> None:
        self.servers, self.most, self.in_flight = servers, most, 0
        self._put_off = put_off  # called when a request has begun to wait for another try
        self._ready: deque[_Turn] = deque()
        self._later: list[tuple[float, int, _Turn]] = []  # a heap by the time they are due
        self._numbers, self._given_up = count(1), False
        self._timer: asyncio.TimerHandle | None = None

    @property
    def sleeping(self) -> int:
        """Requests that wait for another try."""
        return len(self._later)

    async def send(
        self, body: dict[str, Any], tokens: int, *, after: float = 0.0, avoid: Server | None = None
    ) -> tuple[Reply, Server, float]:
        """Wait `after` seconds, then for a server that may be sent `tokens` more, rather not
        `avoid`, and ask it.

        Returns the reply, the server and when it was asked. Raises GivenUp once `give_up` was
        called.
        """
        if self._given_up:
            raise GivenUp
        turn, reply = _Turn(tokens, avoid), Reply(Answer(), None, {})
        if after:
            heapq.heappush(self._later, (monotonic() + after, next(self._numbers), turn))
            self._put_off()
        else:
            self._ready.append(turn)
        self._pump()
        server = await turn.granted
        try:
            reply = await server.client.ask(body)
            return reply, server, turn.begun
        finally:
            self.in_flight -= 1
            del server.begun[turn.number]
            server.pace.settle(turn.entry, reply.answer.tokens_in + reply.answer.tokens_out)
            server.learn(reply, turn.begun)
            self._pump()

    def give_up(self) -> None:
        """End all waiting; what is in flight goes on."""
        self._given_up = True
        for turn in [*self._ready, *(turn for _, _, turn in self._later)]:
            if not turn.granted.done():
                turn.granted.set_exception(GivenUp())
        self._ready.clear()
        self._later.clear()

    def _pump(self) -> None:
        """Grant what can be granted now, and come back when more can."""
        now = monotonic()
        while self._later and self._later[0][0] <= now:
            self._ready.appendleft(heapq.heappop(self._later)[2])
        wait = self._later[0][0] - now if self._later else math.inf
        while self._ready and self.in_flight < self.most:
            server, pause = self._choose(self._ready[0], now)
            if server is None:
                wait = min(wait, pause)
                break
            self._grant(self._ready.popleft(), server, now)
        if self._timer:
            self._timer.cancel()
        self._timer = (
            asyncio.get_running_loop().call_later(wait, self._pump) if wait < math.inf else None
        )

    def _grant(self, turn: _Turn, server: Server, now: float) -> None:
        if not turn.granted.done():  # not cancelled
            turn.number, turn.begun, turn.entry = (
                next(self._numbers),
                now,
                server.pace.take(turn.tokens, now),
            )
            server.begun[turn.number] = now
            self.in_flight += 1
            turn.granted.set_result(server)

    def _choose(self, turn: _Turn, now: float) -> tuple[Server | None, float]:
        """The server that is likely to answer first, or none and the seconds until one may be
        free.
        """
        pool = self.servers
        if any(
            not server.ailing for server in pool
        ):  # else: as if none ailed, and requests find out
            pool = [s for s in pool if not s.ailing or (not s.begun and s.rests_until <= now)]
        free = [server for server in pool if len(server.begun) + 1 <= server.window.size]
        waits = [server.pace.wait(turn.tokens, now) for server in free]
        ready = [server for server, wait in zip(free, waits, strict=True) if wait <= 0]
        if not ready:
            return None, min(waits, default=math.inf)
        return min(ready, key=lambda s: (s is turn.avoid, s.load(now), len(s.begun))), 0.0
