"""Paces, windows and the choice among servers, in a time of the test's own: a run of seconds takes
a few hundred ms.
"""

import asyncio
import random
import selectors
from collections import Counter, deque

import pytest

from tests.engine_ground import asking, chat
from vislib.engines import Answer, limits, openai, servers
from vislib.engines.limits import AIMDWindow, RateLimiter, seconds
from vislib.engines.replies import Reply
from vislib.engines.servers import Balancer, Server
from vislib.runs.errors import InputError


class Clock(selectors.DefaultSelector):
    """Instead of waiting, puts the time forward."""

    now = 1000.0

    def select(self, timeout=None):
        Clock.now += timeout or 0.0
        return super().select(0)


@pytest.fixture(autouse=True)
def _clock(monkeypatch):
    for module in (limits, servers, openai):
        monkeypatch.setattr(module, "monotonic", lambda: Clock.now)


class Scripted:
    """A server that answers in `latency` seconds, refuses above its limits, and fails at random."""

    def __init__(
        self,
        *,
        latency=0.3,
        most=10**9,
        per_second=10**9,
        headers=True,
        wait=True,
        fails=0.0,
        down=(0, 0),
    ):
        self.latency, self.most, self.per_second, self.headers, self.wait = (
            latency,
            most,
            per_second,
            headers,
            wait,
        )
        self.fails, self.down, self.seen = fails, down, Counter()
        self.accepted, self.now, self.chance, self.began = deque(), 0, random.Random(7), Clock.now

    async def ask(self, body):
        await asyncio.sleep(self.chance.uniform(0, 0.003))  # the network's jitter
        while self.accepted and self.accepted[0] <= Clock.now - 1:
            self.accepted.popleft()
        if self.down[0] <= Clock.now - self.began < self.down[1]:
            return self.reply("unreachable")
        if self.now >= self.most:
            return self.reply("rate_limited", 0.1)
        if len(self.accepted) >= self.per_second:
            return self.reply("rate_limited", self.accepted[0] + 1 - Clock.now)
        self.accepted.append(Clock.now)
        self.now += 1
        await asyncio.sleep(self.latency)
        self.now -= 1
        return self.reply("server_error" if self.chance.random() < self.fails else "")

    def reply(self, reason, wait=None):
        self.seen[reason] += 1
        left = str(self.per_second - len(self.accepted))
        names = ("limit", str(60 * self.per_second)), ("remaining", left), ("reset", "1s")
        headers = (
            {f"x-ratelimit-{name}-requests": value for name, value in names} if self.headers else {}
        )
        answer = (
            Answer(status="failed", reason=reason) if reason else Answer(text="yes", tokens_in=100)
        )
        if self.wait and wait is not None:
            headers["retry-after"] = f"{wait:.9f}"
        return Reply(answer, headers)


def heard(task):
    """Look at its error: one that nobody looks at is told when it is collected, amid another
    test.
    """
    return task.cancelled() or task.exception()


def run(*scripted, n=1000, most=64, **settings):
    """Ask `n` requests in virtual time: seconds, answers, the most in flight at once."""
    engine = chat(base_url="http://a/v1", max_in_flight=most, **settings)
    engine.backoff_s, engine._jitter = 0.15, random.Random(3)

    async def all_of_them():
        wake, tasks, done, widest, began = asyncio.Event(), set(), [], 0, Clock.now
        engine._servers = Balancer([Server(s, engine.params) for s in scripted])
        for request in asking(n):
            while len(tasks) >= most:
                await wake.wait()
                wake.clear()
            tasks.add(task := asyncio.create_task(engine._ask(request, 0.0)))
            task.add_done_callback(
                lambda task: (tasks.discard(task), done.append(task), wake.set(), heard(task))
            )
            widest = max(widest, sum(s.now for s in scripted))
        await asyncio.gather(*tasks)
        if engine._halt:
            raise engine._halt
        return Clock.now - began, [task.result() for task in done], widest

    loop = asyncio.SelectorEventLoop(Clock())
    loop.time = lambda: Clock.now
    try:
        return loop.run_until_complete(all_of_them())
    finally:
        for task in asyncio.all_tasks(
            loop
        ):  # those of a run that raised must not die later, in another test
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()


@pytest.mark.parametrize(
    ("headers", "wait", "ratio"),
    [(True, True, 1.2), (True, False, 1.25), (False, True, 1.3), (False, False, 1.35)],
)
def test_a_limit_of_the_server_is_found_and_kept_to(headers, wait, ratio):
    """1,000 requests, 5 % of them failing, at most 48 in flight and 100 a second: 10 s at best."""
    server = Scripted(most=48, per_second=100, headers=headers, wait=wait, fails=0.05)
    took, answers, widest = run(server)
    assert [a.status for a in answers] == ["ok"] * 1000
    assert 10 < took < 10 * ratio
    assert widest <= 64
    assert server.seen["rate_limited"] < (100 if headers else 300)


def test_a_slow_server_holds_up_nobody():
    fast, slow = Scripted(latency=0.1), Scripted(latency=3.0)
    took, answers, _ = run(fast, slow, n=2000, most=20)
    assert {a.status for a in answers} == {"ok"}
    assert slow.seen[""] < 0.05 * fast.seen[""]
    assert took < 24  # each has ten in flight: 100 and 3.3 a second


def test_a_dead_server_is_left_alone_and_tried_again_with_one_request():
    one, other = Scripted(latency=0.1), Scripted(latency=0.1, down=(2, 6))
    took, answers, _ = run(one, other, n=2000, most=20)
    assert {a.status for a in answers} == {"ok"}
    assert other.seen["unreachable"] < 25  # those under way, and a few that asked again
    assert other.seen[""] > 450
    assert took < 1.35 * 10


@pytest.mark.parametrize("fault", [{"down": (0, 10**6)}, {"fails": 2.0}])
def test_a_server_dead_for_good_costs_little(fault):
    one, dead = Scripted(latency=0.1), Scripted(latency=0.05, **fault)
    _, answers, _ = run(one, dead, n=2000, most=20)
    assert {a.status for a in answers} == {"ok"}
    assert sum(dead.seen.values()) < 30


def test_a_server_that_refuses_everything_is_asked_seldom_and_alone_ends_the_run():
    one, refusing = Scripted(latency=0.1), Scripted(most=0, headers=False, wait=False)
    _, answers, _ = run(one, refusing, n=2000, most=20)
    assert {a.status for a in answers} == {"ok"}
    assert refusing.seen["rate_limited"] < 60
    began = Clock.now
    with pytest.raises(InputError, match="nothing but refusals"):
        run(Scripted(most=0, headers=False, wait=False), n=50, most=20)
    assert 30 < Clock.now - began < 900


def test_limits_by_parameter_hold_at_each_server():
    pair = [Scripted(latency=0.01, headers=False) for _ in range(2)]
    took, _, _ = run(*pair, n=400, requests_per_minute=600)
    assert 19.5 < took < 21.5  # 20 a second in all
    server = Scripted(latency=0.01, per_second=1000)  # which allows more
    assert 39 < run(server, n=400, requests_per_minute=600)[0] < 42


def test_headers_set_the_pace_and_a_pause():
    pace = RateLimiter(requests=0, tokens=0)
    assert not pace.follow(
        {"x-ratelimit-limit-requests": "60", "x-ratelimit-limit-tokens": "oops"}, tokens=9
    )
    pace.take(1, Clock.now)
    assert 0.9 < pace.wait(Clock.now) < 1.1
    spent = {"x-ratelimit-limit-tokens": "6000", "x-ratelimit-remaining-tokens": "10"}
    assert pace.follow(spent | {"x-ratelimit-reset-tokens": "6m0s"}, tokens=300)
    assert (
        2.9 < pace.wait(Clock.now) < 3.1
    )  # that many tokens come back in 3 s, all of them in 6 min
    narrow = RateLimiter(requests=30, tokens=0)
    narrow.follow({"x-ratelimit-limit-requests": "60"}, tokens=0)
    narrow.take(1, Clock.now)
    assert narrow.wait(Clock.now) > 1.9  # a parameter below the server's limit stays


def test_a_window_is_cut_once_for_a_burst_and_widens_slowly():
    window = AIMDWindow(64)
    for _ in range(16):
        window.refused(begun=Clock.now - 0.1, in_flight=64, seconds=0.3)
    assert window.size == pytest.approx(0.8 * 64)
    window.refused(begun=Clock.now + 0.4, in_flight=50, seconds=0.3)
    assert window.size == pytest.approx(40)
    for _ in range(40):
        window.answered()
    assert 41.5 < window.size < 42
    for _ in range(10_000):
        window.answered()
    assert window.size == 64


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1s", 1),
        ("6m0s", 360),
        ("12ms", 0.012),
        ("1h2m3.5s", 3723.5),
        ("0.5", 0.5),
        ("2d", 172_800),
        ("", None),
        ("soon", None),
        ("1s!", None),
        ("-3", None),
        ("nan", None),
        ("inf", None),
    ],
)
def test_durations_are_read_as_providers_write_them(text, value):
    assert seconds(text) == (value if value is None else pytest.approx(value))
