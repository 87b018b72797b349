"""Fetching image links over HTTP(S): each once, within bounds, as fast as its host bears (OBELICS,
section 3).

Hosts take turns and wait apart, so that a slow one delays its own links alone. What comes is stored
and journalled at once, so that a run goes on where it was ended. Nothing but public addresses is
asked, unless `allow_hosts` names it.
"""

import asyncio
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import AbstractAsyncContextManager, closing, suppress
from functools import partial
from heapq import heappop, heappush
from itertools import count
from math import inf
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import httpcore2
import httpx2
from ada_url import URL

from vislib.fetching.addresses import PublicNetwork
from vislib.fetching.hosts import Host, Link, is_limit
from vislib.fetching.links import TRANSIENT, Links
from vislib.fetching.replies import (
    NETWORK_ERRORS,
    Body,
    address_of,
    failure_of,
    redirect,
    retry_after,
)
from vislib.fetching.urls import tidied
from vislib.media.pixels import ImageError
from vislib.runs.errors import InputError
from vislib.runs.interrupts import interrupts
from vislib.runs.progress import Progress
from vislib.runs.tables import read_rows

if TYPE_CHECKING:
    from vislib.runs import Run

_REDIRECTS, _CONNECT_S = 5, 10.0
_BACKOFF_S = 0.5  # before the first retry; doubles
_SILENT_HOSTS = (
    50  # so many cannot be reached, and none was: the fault is nearer, unless one in flight answers
)
_UNREACHED = ("unreachable", "no_address", "host_failed")
_IDLE = 16  # connections kept open; each request looks at all of them


class Fetcher:
    """Asks for the links in `waiting`, in a thread of its own: the kernel of a notebook runs a loop
    already.
    """

    def __init__(
        self, params: Any, links: Links, waiting: sqlite3.Connection, *, reached: bool
    ) -> None:
        self.params, self.links, self._waiting = params, links, waiting
        self.stop, self.counts = threading.Event(), Counter[str]()
        self.hosts: dict[str, Host] = {}
        self._line: list[tuple[float, int, Host]] = []  # a heap: when, ticket, who
        self._tickets = count()
        self._listed = waiting.execute(
            "SELECT host, count(*) FROM waiting GROUP BY host ORDER BY 2 DESC, 1"
        )
        self._unreached: dict[
            str, list[tuple[str, ImageError]]
        ] = {}  # by host, until one is reached
        self._reached, self._asking = reached, 0  # requests in flight
        self._network = PublicNetwork(params.allow_hosts, resolvers=params.max_in_flight)
        self._ending, self._woken = False, asyncio.Event()
        self._headers = [
            (b"User-Agent", params.user_agent.encode()),
            (b"Accept", b"image/*,*/*;q=0.5"),
            (b"Accept-Encoding", b"identity"),
        ]

    def run(self, show: Callable[[], None]) -> None:
        """Fetch until done, or told to stop and what was in flight is journalled; calls `show` now
        and then.
        """
        loop = asyncio.new_event_loop()
        task = loop.create_task(self._all())
        with ThreadPoolExecutor(1, "fetch") as thread:
            future = thread.submit(loop.run_until_complete, task)
            try:
                while not future.done():
                    wait([future], 0.2)
                    show()
                    if self.stop.is_set():
                        loop.call_soon_threadsafe(self._end)
            finally:
                loop.call_soon_threadsafe(task.cancel)  # nothing to a task that is done
                wait([future])
                self._network.close()
                loop.close()
        try:
            future.result()
        except ExceptionGroup as group:  # a full disk, say
            error: Exception = group
            while isinstance(error, ExceptionGroup):
                error = error.exceptions[0]
            raise error from None

    # -- in the loop's thread
    def _end(self) -> None:
        self._ending = True
        self._woken.set()

    async def _all(self) -> None:
        most = self.params.max_in_flight
        self._pool = httpcore2.AsyncConnectionPool(
            httpcore2.default_ssl_context(),
            max_connections=most,
            max_keepalive_connections=min(most, _IDLE),
            keepalive_expiry=5.0,
            network_backend=self._network,
        )
        async with self._pool, asyncio.TaskGroup() as group:
            while not self._ending:
                while turn := self._next_turn():
                    group.create_task(self._work(turn))
                if not self._asking and (not self._line or self._in_vain()):
                    break
                await self._change()
        if self._unreached and not self._ending:
            raise self._no_network()

    async def _work(self, turn: tuple[Host, Link] | None) -> None:
        """Make one request after the other, on connections that are warm, while there is one to
        make.
        """
        while turn:
            await self._attempt(*turn)
            turn = self._next_turn()
            if (
                self._asking < self.params.max_in_flight
            ):  # there is room, and may be more to ask for
                self._woken.set()

    def _next_turn(self) -> tuple[Host, Link] | None:
        """The next request, counted as made, if one may go now."""
        full = self._asking >= self.params.max_in_flight
        if self._ending or full or self._in_vain() or not (host := self._next_host()):
            return None
        host.asking, self._asking = host.asking + 1, self._asking + 1
        link = host.take(self.params.timeout_s)
        self._queue(host)
        return host, link

    def _next_host(self) -> Host | None:
        """A host that may be asked now: one that waited for it, or the next that was not begun
        with.
        """
        while True:
            while self._line and self._line[0][0] <= monotonic():
                at, _, host = heappop(self._line)
                if at != host.queued:
                    continue  # it was given another turn
                host.queued = inf
                if host.fault and not host.asking:
                    self._give_up(host)
                elif host.ready_at() <= monotonic():
                    return host
                else:
                    self._queue(host)
            if not (listed := self._listed.fetchone()):
                return None
            host, count = self._host(listed[0]), listed[1]
            urls = self._waiting.execute(
                "SELECT url FROM waiting WHERE host = ? ORDER BY tried, rowid", listed[:1]
            )
            host.fresh, host.n_fresh = (url for (url,) in urls), count
            self._queue(host)

    def _queue(self, host: Host) -> None:
        """Give a host its turn, unless it has an earlier one. What waits here holds nothing that
        others need.
        """
        at = max(host.ready_at(), monotonic())
        if at < host.queued:
            host.queued = at
            heappush(self._line, (at, next(self._tickets), host))

    async def _change(self) -> None:
        """Wait until a request has ended, the next host's turn has come, or the run is to end."""
        soonest = (
            self._line[0][0] if self._line and self._asking < self.params.max_in_flight else None
        )
        self._woken.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(
                None if soonest is None else max(soonest - monotonic(), 0.0)
            ):
                await self._woken.wait()

    async def _attempt(self, host: Host, link: Link) -> None:
        """One request, and what follows from it."""
        self.counts["retries"] += link.last is not None and not link.redirects
        try:
            address = link.address or address_of(link.url)
            began = monotonic()
            link.address = await self._ask(host, link, address)
            link.left -= monotonic() - began
        except ImageError as error:
            self._settle_failure(host, link, error)
        else:
            if link.address:
                self._move(link, link.address)
            else:
                self.counts["fetched"] += 1
        finally:
            host.asking, self._asking = host.asking - 1, self._asking - 1
            self._queue(host)

    def _move(self, link: Link, address: URL) -> None:
        """Let a link go on where a reply led to."""
        link.redirects += 1
        if link.redirects > _REDIRECTS:
            error = ImageError(
                "too_many_redirects", f"more than {_REDIRECTS}, the last to {address.href}"[:200]
            )
            return self._fail(link.url, error)
        host = self._host(address.host)
        host.first.append(link)
        self._queue(host)
        return None

    def _settle_failure(self, host: Host, link: Link, error: ImageError) -> None:
        """Ask for a link later where another attempt may help, else journal why it failed."""
        if error.reason not in TRANSIENT or link.failures > self.params.retries:
            return self._fail(link.url, error)
        due = monotonic() + _BACKOFF_S * 2 ** max(link.failures - 1, 0)
        own = self._host(_host_name(link.url))
        again = Link(link.url, self.params.timeout_s, failures=link.failures, last=error, due=due)
        (own.first if link.told_when else own.again).append(again)
        self._queue(own)
        return None

    async def _ask(self, host: Host, link: Link, address: URL) -> URL | None:
        """One request: where it leads on to, or nothing when the bytes are stored."""
        self.counts["requests"] += 1
        hold = 0.0
        try:
            async with asyncio.timeout(link.left), self._reply(address, link.left) as reply:
                self._reach()
                headers = httpx2.Headers(reply.headers, encoding="utf-8")
                hold = retry_after(headers.get("retry-after", ""))
                location = redirect(reply.status, headers, address)
                link.robots += headers.get_list("x-robots-tag")
                self.links.respect(link.robots)
                if location:
                    host.answered()
                    return location
                body = Body(headers, self.params.max_bytes)
                async for chunk in reply.aiter_stream():
                    self.counts["bytes"] += len(chunk)
                    body.take(chunk)
            data = body.whole()
        except (ImageError, *NETWORK_ERRORS) as error:
            failure = failure_of(error)
            self._judge(host, link, failure, hold)
            raise failure from error
        host.answered()
        self.links.keep(link.url, data, link.robots)
        return None

    def _reply(
        self, address: URL, seconds: float
    ) -> AbstractAsyncContextManager[httpcore2.Response]:
        scheme, port = address.protocol[:-1].encode(), int(address.port) if address.port else None
        where = httpcore2.URL(
            scheme=scheme,
            host=address.hostname.strip("[]").encode(),
            port=port,
            target=(address.pathname + address.search).encode(),
        )
        head = [(b"Host", address.host.encode()), *self._headers]
        timeouts = {"timeout": {"connect": min(_CONNECT_S, seconds / 2)}}
        return self._pool.stream("GET", where, headers=head, extensions=timeouts)

    def _judge(self, host: Host, link: Link, failure: ImageError, hold: float) -> None:
        """What a failure says of its host, and whether it counts as an attempt of its link."""
        if failure.reason in (*TRANSIENT, "no_address"):
            host.failed(failure, hold, first=not link.last)
            link.failures += not is_limit(failure, hold)
            link.told_when = hold > 0 and not link.last
        elif failure.reason not in ("bad_url", "not_public"):  # which no host has said
            host.answered()
        if failure.reason not in (*_UNREACHED, "bad_url", "not_public"):
            self._reach()

    def _give_up(self, host: Host) -> None:
        """Settle what is left of a host: links that were not asked stay due, and the next run
        begins with them.
        """
        assert host.fault
        if host.n_fresh:
            self.counts["failed"] += host.n_fresh
            self._journal(host.name, "", host.fault)
        for link in (*host.first, *host.again):
            self._fail(link.url, link.last or host.fault)
        host.n_fresh = 0
        host.first.clear()
        host.again.clear()

    def _host(self, name: str) -> Host:
        if name not in self.hosts:
            self.hosts[name] = Host(name, self.params.max_per_host)
        return self.hosts[name]

    def _in_vain(self) -> bool:
        """Whether so many hosts could not be reached that the fault is nearer, unless one in flight
        answers.
        """
        return len(self._unreached) >= _SILENT_HOSTS

    def _fail(self, url: str, error: ImageError) -> None:
        self.counts["failed"] += 1
        self._journal(_host_name(url), url, error)

    def _journal(self, host: str, url: str, error: ImageError) -> None:
        """Journal a failure of a link, or of a host. While nobody was reached, it says nothing: it
        is held back.
        """
        if error.reason in _UNREACHED and not self._reached:
            self._unreached.setdefault(host, []).append((url, error))
        elif url:
            self.links.fail(url, error)
        else:
            self.links.fail_host(host, error)

    def _reach(self) -> None:
        self._reached, held = True, self._unreached
        self._unreached = {}
        for host, failures in held.items():
            for url, error in failures:
                self._journal(host, url, error)

    def _no_network(self) -> InputError:
        (url, error), *_ = next(iter(self._unreached.values()))
        return InputError(
            f"03_images: no host could be reached, {len(self._unreached)} were tried (the first:"
            f" {url}: {error}). Is the network there? Proxies of the environment are not used: run"
            " where the web is reached directly"
        )


def fetch_all(run: "Run", links: Links, shards: Sequence[Path]) -> int:
    """Fetch what the journal lacks and failures that are due; returns how many links were asked
    for.

    `shards` hold the addresses. Runs take turns, so that none asks what another is asking. Raises
    InputError if no host at all can be reached; an interrupt is delivered when what was in flight
    is journalled.
    """
    p, known = run.params, 0
    (queue := run.scratch / "waiting.sqlite").unlink(missing_ok=True)
    with links.alone(), closing(sqlite3.connect(queue, check_same_thread=False)) as waiting:
        waiting.execute("CREATE TABLE waiting (host TEXT, url TEXT UNIQUE, tried INTEGER)")
        for url in (tidied(row["image_url"]) for part in shards for row in read_rows(part)):
            known += links.known(url) is not None
            if links.due(url, p.retry_days):
                row = _host_name(url), url, links.tried(url)
                waiting.execute("INSERT OR IGNORE INTO waiting VALUES (?, ?, ?)", row)
        waiting.execute("CREATE INDEX hosts ON waiting (host)")
        ((asked,),) = waiting.execute("SELECT count(*) FROM waiting")
        fetcher = Fetcher(p, links, waiting, reached=known > 0)
        with run.progress(asked, "link") as progress, interrupts(fetcher.stop):
            try:
                fetcher.run(partial(_show, progress, fetcher.counts))
            finally:
                run.metrics |= {
                    "links_asked": asked,
                    "hosts_asked": len(fetcher.hosts),
                    **fetcher.counts,
                }
    return int(asked)


def _host_name(url: str) -> str:
    try:
        return address_of(url).host
    except ImageError:
        return ""


def _show(progress: Progress, counts: Counter[str]) -> None:
    done, megabytes = counts["fetched"] + counts["failed"], counts["bytes"] / 1e6
    progress.update(
        done - progress.done,
        failed=counts["failed"],
        MB=f"{megabytes:.1f}",
        requests=counts["requests"],
    )
