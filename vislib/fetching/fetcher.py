"""Fetching image links over HTTP(S): each once, within bounds, as fast as its host bears (OBELICS, section 3).

Hosts take turns and wait apart, so that a slow one delays its own links alone. What comes is stored and journalled at
once, so that a run goes on where it was ended. Nothing but public addresses is asked, unless `allow_hosts` names it.
"""

import asyncio
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import httpcore2
import httpx2

from vislib.fetching.addresses import PublicNetwork
from vislib.fetching.hosts import Host
from vislib.fetching.links import TRANSIENT, Links
from vislib.fetching.replies import NETWORK_ERRORS, Body, address_of, failure_of, redirect, retry_after
from vislib.pixels import ImageError
from vislib.runs.errors import InputError
from vislib.runs.interrupts import interrupts
from vislib.runs.progress import Progress
from vislib.runs.tables import read_rows

if TYPE_CHECKING:
    from vislib.runs import Run

_REDIRECTS, _CONNECT_S = 5, 10.0
_BACKOFF_S = 0.5  # before the first retry; doubles
_SILENT_HOSTS = 50  # so many cannot be reached, and none was: the fault is nearer, unless one in flight answers
_UNREACHED = ("unreachable", "no_address", "host_failed")
_IDLE = 16  # connections kept open; each request looks at all of them
_LANES = 8  # links under way for each one in flight: the others wait for their host


class _Stopped(Exception):
    """The run ends before this link was asked."""


class Fetcher:
    """Asks for the links in `waiting`, in a thread of its own: the kernel of a notebook runs a loop already."""

    def __init__(self, params: Any, links: Links, waiting: sqlite3.Connection, *, reached: bool) -> None:
        self.params, self.links, self._waiting = params, links, waiting
        self.stop, self.counts = threading.Event(), Counter[str]()
        self.hosts: dict[str, Host] = {}
        self._unreached: dict[str, list[tuple[str, ImageError]]] = {}  # by host, until one is reached
        self._reached, self._asking = reached, 0  # requests in flight
        self._network = PublicNetwork(params.allow_hosts, resolvers=params.max_in_flight)
        self._ending, self._slots = asyncio.Event(), asyncio.Semaphore(params.max_in_flight)
        self._headers = [
            (b"User-Agent", params.user_agent.encode()), (b"Accept", b"image/*,*/*;q=0.5"),
            (b"Accept-Encoding", b"identity"),
        ]  # fmt: skip

    def run(self, show: Callable[[], None]) -> None:
        """Fetch until done, or told to stop and what was in flight is journalled; calls `show` now and then."""
        loop = asyncio.new_event_loop()
        task = loop.create_task(self._all())
        with ThreadPoolExecutor(1, "fetch") as thread:
            future = thread.submit(loop.run_until_complete, task)
            try:
                while not future.done():
                    wait([future], 0.2)
                    show()
                    if self.stop.is_set():
                        loop.call_soon_threadsafe(self._ending.set)
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
    async def _all(self) -> None:
        most, lanes = self.params.max_in_flight, asyncio.Semaphore(_LANES * self.params.max_in_flight)
        self._pool = httpcore2.AsyncConnectionPool(
            httpcore2.default_ssl_context(), max_connections=most, max_keepalive_connections=min(most, _IDLE),
            keepalive_expiry=5.0, network_backend=self._network,
        )  # fmt: skip
        hosts = self._waiting.execute("SELECT host, count(*) FROM waiting GROUP BY host ORDER BY 2 DESC, 1")
        async with self._pool, asyncio.TaskGroup() as group:
            for name, n in hosts:
                urls = self._waiting.execute("SELECT url FROM waiting WHERE host = ? ORDER BY rowid", (name,))
                for _ in range(min(n, self.params.max_per_host)):
                    await lanes.acquire()
                    group.create_task(self._lane(name, urls)).add_done_callback(lambda _: lanes.release())
        if self._unreached and not self._ending.is_set():
            raise self._no_network()

    async def _lane(self, host: str, urls: Iterator[tuple[str]]) -> None:
        """Settle links of one host, one after the other."""
        with suppress(_Stopped):
            for (url,) in urls:
                try:
                    await self._fetch(url)
                    self.counts["fetched"] += 1
                except ImageError as error:
                    self.counts["failed"] += 1
                    self._fail(host, url, error)

    async def _fetch(self, url: str) -> None:
        """Ask until the bytes are stored; raises the ImageError of the last attempt."""
        for retry in range(self.params.retries + 1):
            try:
                return await self._follow(url)
            except ImageError as error:
                if error.reason not in TRANSIENT or retry == self.params.retries:
                    raise
            self.counts["retries"] += 1
            await self._rest(_BACKOFF_S * 2**retry)

    async def _follow(self, url: str) -> None:
        """One attempt, through redirects, in `timeout_s` without the waiting for turns."""
        target, left, robots = address_of(url), self.params.timeout_s, list[str]()
        for _ in range(_REDIRECTS + 1):
            host = self.hosts.setdefault(target.netloc.decode(), Host(self.params.max_per_host))
            async with host.places:
                await self._rest(host.turn())
                async with self._slots:
                    await self._network_there()
                    began, self._asking = monotonic(), self._asking + 1
                    try:
                        location = await self._ask(url, target, host, left, robots)
                    finally:
                        self._asking -= 1
            if not location:
                return
            target, left = address_of(location), left - (monotonic() - began)
        raise ImageError("too_many_redirects", f"more than {_REDIRECTS}, the last to {target}"[:200])

    async def _ask(self, url: str, target: httpx2.URL, host: Host, seconds: float, robots: list[str]) -> str:
        """One request: where it leads on to, or nothing when the bytes are stored. Adds the headers met to `robots`."""
        self.counts["requests"] += 1
        where = httpcore2.URL(scheme=target.raw_scheme, host=target.raw_host, port=target.port, target=target.raw_path)
        head = [(b"Host", target.netloc), *self._headers]
        timeouts, hold = {"timeout": {"connect": min(_CONNECT_S, seconds / 2)}}, 0.0
        try:
            async with (
                asyncio.timeout(seconds),
                self._pool.stream("GET", where, headers=head, extensions=timeouts) as reply,
            ):
                self._reach()
                headers = httpx2.Headers(reply.headers)
                hold = retry_after(headers.get("retry-after", ""))
                location = redirect(reply.status, headers, target)
                robots += headers.get_list("x-robots-tag")
                self.links.respect(robots)
                if location:
                    host.note(None)
                    return location
                body = Body(headers, self.params.max_bytes)
                async for chunk in reply.aiter_stream():
                    self.counts["bytes"] += len(chunk)
                    body.take(chunk)
            data = body.whole()
        except (ImageError, *NETWORK_ERRORS) as error:
            host.note(failure := failure_of(error), hold)
            if failure.reason not in (*_UNREACHED, "bad_url", "not_public"):
                self._reach()
            raise failure from error
        host.note(None)
        self.links.keep(url, data, robots)
        return ""

    async def _network_there(self) -> None:
        """Let a request go; where no host was reached so far, not before one in flight was. Else raises InputError."""
        await self._rest(0.0)
        while len(self._unreached) >= _SILENT_HOSTS:
            if not self._asking:
                raise self._no_network()
            await self._rest(0.05)

    async def _rest(self, seconds: float) -> None:
        if seconds > 0:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._ending.wait(), seconds)
        if self._ending.is_set():
            raise _Stopped

    def _fail(self, host: str, url: str, error: ImageError) -> None:
        """Journal a failure. While nobody was reached, that says nothing of the links: it is held back."""
        if error.reason in _UNREACHED and not self._reached:
            self._unreached.setdefault(host, []).append((url, error))
        else:
            self.links.fail(url, error)

    def _reach(self) -> None:
        self._reached = True
        for url, error in (pair for pairs in self._unreached.values() for pair in pairs):
            self.links.fail(url, error)
        self._unreached.clear()

    def _no_network(self) -> InputError:
        (url, error), *_ = next(iter(self._unreached.values()))
        return InputError(
            f"03_images: no host could be reached, {len(self._unreached)} were tried (the first: {url}: {error}). Is "
            "the network there? Proxies of the environment are not used: run where the web is reached directly"
        )


def fetch_all(run: "Run", links: Links, shards: Sequence[Path]) -> int:
    """Fetch what the journal lacks and failures that are due; returns how many links were asked for.

    `shards` hold the addresses. Runs take turns, so that none asks what another is asking. Raises InputError if no
    host at all can be reached; an interrupt is delivered when what was in flight is journalled.
    """
    p, known, asked = run.params, 0, 0
    (queue := run.scratch / "waiting.sqlite").unlink(missing_ok=True)
    with links.alone(), closing(sqlite3.connect(queue, check_same_thread=False)) as waiting:
        waiting.execute("CREATE TABLE waiting (host TEXT, url TEXT)")
        for url in (row["image_url"] for part in shards for row in read_rows(part)):
            known += links.known(url) is not None
            if links.due(url, p.retry_days):
                waiting.execute("INSERT INTO waiting VALUES (?, ?)", (_host_name(url), url))
                asked += 1
        waiting.execute("CREATE INDEX hosts ON waiting (host)")
        fetcher = Fetcher(p, links, waiting, reached=known > 0)
        with run.progress(asked, "link") as progress, interrupts(fetcher.stop):
            try:
                fetcher.run(partial(_show, progress, fetcher.counts))
            finally:
                run.metrics |= {"links_asked": asked, "hosts_asked": len(fetcher.hosts), **fetcher.counts}
    return asked


def _host_name(url: str) -> str:
    try:
        return address_of(url).netloc.decode()
    except ImageError:
        return ""


def _show(progress: Progress, counts: Counter[str]) -> None:
    done, megabytes = counts["fetched"] + counts["failed"], counts["bytes"] / 1e6
    progress.update(done - progress.done, failed=counts["failed"], MB=f"{megabytes:.1f}", requests=counts["requests"])
