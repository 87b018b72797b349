"""Fetching image links over HTTP(S): each once, within bounds, as fast as its host bears (OBELICS,
section 3).

Each host has workers of its own, which go through its links one after another and wait for its pace
apart from all others: a slow host delays its own links alone. What comes is stored and journalled
at once, so that a run goes on where it was ended. Nothing but public addresses is asked, unless
`allow_hosts` names it.
"""

import asyncio
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from ada_url import URL

from vislib.fetching.addresses import PublicNetwork
from vislib.fetching.connections import Client
from vislib.fetching.hosts import Host, Link, is_limit
from vislib.fetching.links import TRANSIENT, Links
from vislib.fetching.replies import address_of, read_body, redirect, retry_after
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
_HOSTS = 2000  # worked on at once: those that are to be left alone for a while delay no other
_SILENT_HOSTS = 50  # that cannot be reached, while none was: the fault is nearer
_UNREACHED = ("unreachable", "no_address", "host_failed")
_OURS = ("bad_url", "not_public")  # failures that no host has said


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
        # Failures by host, held back until one is reached: without a network they say nothing.
        self._unreached: dict[str, list[tuple[str, ImageError]]] = {}
        self._reached, self._asking = reached, 0
        self._slots = asyncio.Semaphore(params.max_in_flight)
        self._places = asyncio.Semaphore(_HOSTS)
        self._ending = asyncio.Event()
        headers = {"User-Agent": params.user_agent, "Accept": "image/*,*/*;q=0.5"}
        headers["Accept-Encoding"] = "identity"
        self._client = Client(PublicNetwork(params.allow_hosts), headers)

    def run(self, show: Callable[[], None]) -> None:
        """Fetch until done, or told to stop and what was in flight is journalled; calls `show` now
        and then.
        """
        loop = asyncio.new_event_loop()
        # The loop's own resolvers are few: names would queue.
        loop.set_default_executor(ThreadPoolExecutor(self.params.max_in_flight, "resolve"))
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
                loop.close()
        try:
            future.result()
        except ExceptionGroup as group:  # a full disk, say, met by several workers
            raise group.exceptions[0] from None

    # -- in the loop's thread
    async def _all(self) -> None:
        listed = self._waiting.execute(
            "SELECT host, count(*) FROM waiting GROUP BY host ORDER BY 2 DESC, 1"
        )
        async with asyncio.TaskGroup() as self._group:
            for name, count in listed:
                await self._places.acquire()
                if self._ending.is_set() or (self._in_vain() and not self._asking):
                    break
                host = self._host(name)
                host.listed, host.fresh, host.n_fresh = True, self._urls(name), count
                self._staff(host)
        self._client.close()
        # Unless it was ended early: then nobody knows yet.
        if self._unreached and not self._ending.is_set():
            raise self._no_network()

    def _urls(self, host: str) -> Iterator[str]:
        query = "SELECT url FROM waiting WHERE host = ? ORDER BY tried, rowid"
        return (url for (url,) in self._waiting.execute(query, (host,)))

    def _host(self, name: str) -> Host:
        if name not in self.hosts:
            self.hosts[name] = Host(name)
        return self.hosts[name]

    def _staff(self, host: Host) -> None:
        """See that enough workers go through a host's links."""
        places = 1 if host.fault else self.params.max_per_host
        while host.workers < min(places, host.waiting + host.asking):
            host.workers += 1
            self._group.create_task(self._work(host))

    async def _work(self, host: Host) -> None:
        """Go through a host's links one after another, at its pace, a slot for each request."""
        while host.waiting and not self._ending.is_set():
            if host.fault:
                if host.asking:
                    break  # an answer to what is in flight may show that it is there
                self._give_up(host)
            elif self._in_vain() and not self._asking:
                break
            elif (pause := 0.1 if self._in_vain() else host.pause()) > 0:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._ending.wait(), pause)
            else:
                async with self._slots:
                    # Others may have asked, or been told to wait, meanwhile.
                    if host.waiting and not host.fault and host.pause() <= 0:
                        await self._attempt(host, host.take(self.params.timeout_s))
                self._staff(host)
        host.workers -= 1
        if host.listed and not host.workers:
            host.listed = False
            self._places.release()

    async def _attempt(self, host: Host, link: Link) -> None:
        """One request, and what follows from it."""
        self.counts["retries"] += link.last is not None and not link.redirects
        host.asking, self._asking = host.asking + 1, self._asking + 1
        began, link.hold = monotonic(), 0.0
        try:
            found = await self._ask(link, link.address or address_of(link.url))
        except TimeoutError:
            self._failed(host, link, ImageError("timed_out", "no whole answer within timeout_s"))
        except (OSError, ImageError) as error:
            failure = ImageError("disconnected", f"{type(error).__name__}: {error}"[:200])
            self._failed(host, link, error if isinstance(error, ImageError) else failure)
        else:
            host.answered()
            link.left -= monotonic() - began
            if isinstance(found, URL):
                self._move(link, found)
            else:  # a disk that is full is no fault of the link's, and ends the run
                self.links.keep(link.url, found, link.robots)
                self.counts["fetched"] += 1
        finally:
            host.asking, self._asking = host.asking - 1, self._asking - 1

    async def _ask(self, link: Link, address: URL) -> URL | bytes:
        """One request: where it leads on to, or the file."""
        self.counts["requests"] += 1
        connect_s = min(_CONNECT_S, link.left / 2)
        async with asyncio.timeout(link.left), self._client.get(address, connect_s) as reply:
            self._reach()
            link.hold = retry_after(reply)
            location = redirect(reply, address)
            link.robots += reply.values("x-robots-tag")
            self.links.respect(link.robots)
            if location:
                return location
            try:
                return await read_body(reply, self.params.max_bytes)
            finally:
                self.counts["bytes"] += reply.received

    def _move(self, link: Link, address: URL) -> None:
        """Let a link go on where a reply led to, at that host's pace."""
        link.address, link.redirects = address, link.redirects + 1
        if link.redirects > _REDIRECTS:
            detail = f"more than {_REDIRECTS}, the last to {address.href}"
            self._fail(link.url, ImageError("too_many_redirects", detail[:200]))
            return
        host = self._host(address.host)
        host.first.append(link)
        self._staff(host)

    def _failed(self, host: Host, link: Link, failure: ImageError) -> None:
        """What a failure says of its host, and whether its link is asked for again."""
        passing = failure.reason in TRANSIENT
        if failure.reason not in (*_UNREACHED, *_OURS):
            self._reach()
        if passing or failure.reason == "no_address":
            host.failed(link, failure)
            link.failures += not is_limit(failure, link.hold)
        elif failure.reason not in _OURS:
            host.answered()
        if not passing or link.failures > self.params.retries:
            self._fail(link.url, failure)
            return
        due = monotonic() + _BACKOFF_S * 2 ** max(link.failures - 1, 0)
        again = Link(link.url, self.params.timeout_s, failures=link.failures, last=failure, due=due)
        # From where it was led to, a link goes back to its own address: it may lead elsewhere now.
        own = self._host(_host_name(link.url))
        (own.first if link.hold and not link.last else own.again).append(again)
        self._staff(own)

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

    def _in_vain(self) -> bool:
        """Whether so many hosts could not be reached that the fault is nearer, unless a request in
        flight is answered.
        """
        return len(self._unreached) >= _SILENT_HOSTS

    def _fail(self, url: str, error: ImageError) -> None:
        self.counts["failed"] += 1
        self._journal(_host_name(url), url, error)

    def _journal(self, host: str, url: str, error: ImageError) -> None:
        """Journal a failure of a link, or (no link) of a host, or hold it back."""
        if error.reason in _UNREACHED and not self._reached:
            self._unreached.setdefault(host, []).append((url, error))
        else:
            self.links.fail(url or host, error, of_host=not url)

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


def fetch_all(run: "Run", links: Links, table: Path) -> int:
    """Fetch what the journal lacks and failures that are due; returns how many links were asked
    for.

    `table` holds the addresses. Runs take turns, so that none asks what another is asking. Raises
    InputError if no host at all can be reached; an interrupt is delivered when what was in flight
    is journalled.
    """
    p, known = run.params, 0
    (queue := run.scratch / "waiting.sqlite").unlink(missing_ok=True)
    with links.alone(), closing(sqlite3.connect(queue, check_same_thread=False)) as waiting:
        waiting.execute("CREATE TABLE waiting (host TEXT, url TEXT UNIQUE, tried INTEGER)")
        for url in (tidied(row["image_url"]) for row in read_rows(table)):
            known += links.known(url) is not None
            if links.due(url, p.retry_days):
                row = _host_name(url), url, links.tried(url)
                waiting.execute("INSERT OR IGNORE INTO waiting VALUES (?, ?, ?)", row)
        waiting.execute("CREATE INDEX hosts ON waiting (host, tried)")
        ((asked,),) = waiting.execute("SELECT count(*) FROM waiting")
        fetcher = Fetcher(p, links, waiting, reached=known > 0)
        with run.progress(asked, "link") as progress, interrupts(fetcher.stop):
            try:
                fetcher.run(partial(_show, progress, fetcher.counts))
            finally:
                hosts = len(fetcher.hosts)
                run.metrics |= {"links_asked": asked, "hosts_asked": hosts, **fetcher.counts}
    return int(asked)


def _host_name(url: str) -> str:
    with suppress(ImageError):
        return address_of(url).host
    return ""


def _show(progress: Progress, counts: Counter[str]) -> None:
    done, failed = counts["fetched"] + counts["failed"], counts["failed"]
    megabytes = f"{counts['bytes'] / 1e6:.1f}"
    n = done - progress.done
    progress.update(n, failed=failed, MB=megabytes, requests=counts["requests"])
