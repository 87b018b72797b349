"""Which server takes a request, and when: several servers, each with its own limits, share the
work.

A circuit breaker leaves a server alone that fails again and again, then tries it with one request;
the others take over. A request that waits for another try holds no place in flight, so that new
ones go on meanwhile.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import Any

from vislib.engines import Answer
from vislib.engines.limits import AIMDWindow, RateLimiter
from vislib.engines.replies import DOUBTFUL, Reply

_STRIKES = 5  # failures in a row that open the breaker
_LONGEST_REST_S = 60.0  # and for how long at most
_LEAST_PAUSE_S = 0.02  # after a refusal without Retry-After; doubles while there is no answer
_FAILURES = DOUBTFUL | {"unreachable", "server_error"}  # those that are the server's


class Server:
    """One address with its client, its limits and its health."""

    def __init__(self, client: Any, params: Any, *, rest_s: float) -> None:
        self.client = client
        self.rest_s = rest_s
        self.rate = RateLimiter(
            requests=params.requests_per_minute, tokens=params.tokens_per_minute
        )
        self.window = AIMDWindow(params.max_in_flight)
        self.begun: dict[
            Any, float
        ] = {}  # by task, when each request in flight was sent, oldest first
        self.seconds = 0.0  # that an answer takes, recent ones counting most
        self.strikes = self.rests = 0
        self.rests_until = self.heard_at = 0.0

    @property
    def is_open(self) -> bool:
        """Whether it failed so often in a row that it gets one request at a time, after a rest."""
        return self.strikes >= _STRIKES

    def load(self, now: float) -> float:
        """Seconds of answering under way, one more request included; 0 to try anew a server long
        passed over.

        An answer overdue counts as slowness.
        """
        # a slow server may have become fast: one request finds out
        if not self.begun and now - self.heard_at > 10 * self.seconds:
            return 0.0
        oldest = next(iter(self.begun.values()), now)
        return (len(self.begun) + 1) * max(self.seconds, now - oldest)

    def learn(self, reply: Reply, begun: float) -> None:
        """Take account of the end of one attempt."""
        now = monotonic()
        self.heard_at = now
        answer = reply.answer
        used_up = self.rate.follow(reply.headers, tokens=answer.tokens_in + answer.tokens_out)
        if answer.reason == "rate_limited":
            if not used_up:  # else the rate was too high, not the number in flight
                in_flight = len(self.begun) + 1
                self.window.refused(begun=begun, in_flight=in_flight, seconds=self.seconds)
            # about as long as it takes until something under way is done
            pause = max(self.seconds / 4, _LEAST_PAUSE_S) * 2 ** min(self.window.bursts, 6)
            self.rate.hold(pause if reply.wait is None else reply.wait)
        elif answer.reason in _FAILURES:
            # nobody there is no chance of one request: the breaker opens at once
            self.strikes += _STRIKES if answer.reason == "unreachable" else 1
            if self.is_open and now >= self.rests_until:
                self.rests_until = now + min(self.rest_s * 2**self.rests, _LONGEST_REST_S)
                # 2 ** 20 is beyond any rest, and further powers overflow
                self.rests = min(self.rests + 1, 20)
        else:
            self.strikes = self.rests = 0
            self.window.answered()
            # a running mean that forgets half with each answer
            self.seconds += (now - begun - self.seconds) * (0.5 if self.seconds else 1.0)


class Balancer:
    """Sends requests to `servers`, at most `most` at once."""

    def __init__(self, servers: list[Server], most: int, *, put_off: Callable[[], Any]) -> None:
        self.servers = servers
        self.most = most
        self.sleeping = 0  # requests that wait for another try
        self._put_off = put_off  # called when one begins to
        self._line = asyncio.Lock()  # the first looks for a server, the others wait behind it
        self._freed = asyncio.Event()  # an answer came
        self._waiting = set[asyncio.Task[Any] | None]()  # what is not in flight
        self._given_up = False

    @property
    def in_flight(self) -> int:
        """Requests that are sent and not answered."""
        return sum(len(server.begun) for server in self.servers)

    async def send(
        self, body: dict[str, Any], tokens: int, *, after: float = 0.0, avoid: Server | None = None
    ) -> tuple[Reply, Server, float]:
        """Wait `after` seconds, then for a server that may be sent `tokens` more, rather not
        `avoid`, and ask it.

        Returns the reply, the server and when it was asked. Its task is cancelled if `give_up` is
        called before it was.
        """
        task = asyncio.current_task()
        reply = Reply(Answer(), None, {})
        self._waiting.add(task)
        try:
            server, begun, expected = await self._start(task, tokens, after, avoid)
        finally:
            self._waiting.discard(task)
        try:
            reply = await server.client.ask(body)
            return reply, server, begun
        finally:
            del server.begun[task]
            server.rate.settle(expected, reply.answer.tokens_in + reply.answer.tokens_out)
            server.learn(reply, begun)
            self._freed.set()

    def give_up(self) -> None:
        """End all waiting; what is in flight goes on."""
        self._given_up = True
        for task in self._waiting:
            if task:
                task.cancel()

    async def _start(
        self, task: Any, tokens: int, after: float, avoid: Server | None
    ) -> tuple[Server, float, float]:
        """The server to ask now, the time, and the tokens that its rate limiter expects."""
        if self._given_up:
            raise asyncio.CancelledError
        if after:
            self.sleeping += 1
            self._put_off()
            try:
                await asyncio.sleep(after)
            finally:
                self.sleeping -= 1
        async with self._line:
            while True:
                now = monotonic()
                server, pause = self._choose(avoid, now)
                if server:
                    server.begun[task] = now
                    return server, now, server.rate.take(tokens, now)
                self._freed.clear()
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._freed.wait()

    def _choose(self, avoid: Server | None, now: float) -> tuple[Server | None, float | None]:
        """The server that is likely to answer first, or none and the seconds until one may be free
        (None: not before an answer).
        """
        if self.in_flight >= self.most:
            return None, None
        sound = [s for s in self.servers if not s.is_open]
        tried = [s for s in self.servers if s.is_open and not s.begun and s.rests_until <= now]
        # if no breaker is closed: as if all were, and requests find out
        pool = [*sound, *tried] if sound else self.servers
        free = [server for server in pool if len(server.begun) + 1 <= server.window.size]
        waits = {server: server.rate.wait(now) for server in free}
        ready = [server for server, wait in waits.items() if wait <= 0]
        if not ready:
            return None, min(waits.values(), default=None)
        # another server than the one that just failed, then the least load, then the emptiest
        return min(ready, key=lambda s: (s is avoid, s.load(now), len(s.begun))), 0.0
