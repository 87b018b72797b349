"""Which server takes a request, and when: several servers, each with its own limits, share the
work.

A circuit breaker leaves a server alone that fails again and again, then tries it with one request;
the others take over.
"""

import asyncio
from contextlib import suppress
from time import monotonic
from typing import Any

from vislib.engines import Answer, Json
from vislib.engines.limits import AIMDWindow, RateLimiter
from vislib.engines.replies import DOUBTFUL, Reply
from vislib.runs import InputError

_STRIKES = 5  # failures in a row that open the breaker
_REST_S = 2.0  # and for how long
_LEAST_PAUSE_S = 0.02  # after a refusal without Retry-After; doubles while there is no answer
_FAILURES = DOUBTFUL | {"unreachable", "server_error"}  # those that are the server's


class Server:
    """One address with its client, its limits and its health."""

    def __init__(self, client: Any, params: Any) -> None:
        self.client = client
        self.rate = RateLimiter(
            requests=params.requests_per_minute, tokens=params.tokens_per_minute
        )
        self.window = AIMDWindow(params.max_in_flight)
        self.in_flight = 0
        self.seconds = 0.0  # that an answer takes, recent ones counting most
        self.strikes = 0
        self.rests_until = 0.0

    def may_be_tried(self, now: float) -> bool:
        """Whether it failed but seldom; else it gets one request at a time, after a rest."""
        return self.strikes < _STRIKES or (not self.in_flight and self.rests_until <= now)

    def learn(self, reply: Reply, begun: float, expected: float) -> None:
        """Take account of the end of one attempt, which was thought to take `expected` tokens."""
        now = monotonic()
        answer = reply.answer
        tokens = answer.tokens_in + answer.tokens_out
        self.rate.settle(expected, tokens)
        used_up = self.rate.follow(reply.headers, tokens=tokens)
        if answer.reason == "rate_limited":
            if not used_up:  # else the rate was too high, not the number in flight
                self.window.refused(begun=begun, in_flight=self.in_flight, seconds=self.seconds)
            # about as long as it takes until something under way is done
            pause = max(self.seconds / 4, _LEAST_PAUSE_S) * 2 ** min(self.window.bursts, 6)
            self.rate.hold(pause if reply.wait is None else reply.wait)
        elif answer.reason in _FAILURES:
            # nobody there is no chance of one request: the breaker opens at once
            self.strikes += _STRIKES if answer.reason == "unreachable" else 1
            self.rests_until = now + _REST_S
        else:
            self.strikes = 0
            self.window.answered()
            # a running mean that forgets half with each answer
            self.seconds += (now - begun - self.seconds) * (0.5 if self.seconds else 1.0)
        self.in_flight -= 1


class Balancer:
    """Sends requests to `servers`."""

    def __init__(self, servers: list[Server]) -> None:
        self.servers = servers
        self._line = asyncio.Lock()  # the first looks for a server, the others wait behind it
        self._freed = asyncio.Event()  # an answer came
        self._waiting = set[Any]()  # tasks that are not in flight
        self._given_up = False

    async def send(
        self, body: Json, tokens: int, *, after: float = 0.0, avoid: Server | None = None
    ) -> tuple[Reply, Server, float]:
        """Wait `after` seconds, then for a server that may be sent `tokens` more, rather not
        `avoid`, and ask it.

        Returns the reply, the server and when it was asked. Its task is cancelled if `give_up` is
        called before it was.
        """
        if self._given_up:
            raise asyncio.CancelledError
        task = asyncio.current_task()
        self._waiting.add(task)
        try:
            await asyncio.sleep(after)
            async with self._line:
                server = await self._free(avoid)
                begun = monotonic()
                expected = server.rate.take(tokens, begun)
                server.in_flight += 1
        finally:
            self._waiting.discard(task)
        reply = Reply(Answer())
        try:
            reply = await server.client.ask(body)
            return reply, server, begun
        except InputError:
            self.give_up()  # no other request would survive it
            raise
        finally:
            server.learn(reply, begun, expected)
            self._freed.set()

    def give_up(self) -> None:
        """End all waiting; what is in flight goes on."""
        self._given_up = True
        for task in self._waiting:
            task.cancel()

    async def _free(self, avoid: Server | None) -> Server:
        """Wait until some server may be asked: the one with the fewest in flight."""
        while True:
            now = monotonic()
            # if all have failed: as if none had, and requests find out
            sound = [s for s in self.servers if s.may_be_tried(now)] or self.servers
            free = [s for s in sound if s.in_flight + 1 <= s.window.size]
            if ready := [s for s in free if s.rate.wait(now) <= 0]:
                # rather not the one that has just failed
                return min(ready, key=lambda s: (s is avoid, s.in_flight))
            # until a rate allows it, or else until an answer makes room
            pause = min((s.rate.wait(now) for s in free), default=None)
            self._freed.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._freed.wait()
