"""Fetching image links over HTTP(S): each once, within bounds, as fast as its host bears (OBELICS,
section 3).

A host has as many workers as it may be asked at once; they share its links and its pace, so that a
slow host delays its own links alone. What comes is stored and journalled at once, so that a run
goes on where it was ended. Nothing but public addresses is asked, unless `allow_hosts` names it.
"""

import asyncio
import sqlite3
import threading
from collections import Counter, defaultdict, deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from time import monotonic
from typing import Any, Protocol

import pyarrow as pa
from ada_url import URL

from vislib.fetching.addresses import PublicNetwork
from vislib.fetching.connections import Later, get, read_body, read_head, redirect
from vislib.fetching.consent import HEADERS, policies
from vislib.fetching.hosts import Host
from vislib.fetching.links import TRANSIENT, Links
from vislib.fetching.urls import host_of, tidied, web_address
from vislib.media.pixels import ImageError
from vislib.runs import InputError
from vislib.runs.contract import IMAGES
from vislib.runs.interrupts import interrupts
from vislib.runs.locking import FolderLock
from vislib.runs.progress import Progress
from vislib.runs.tables import read_rows, write_table

_ADDRESS = pa.schema([IMAGES.field("image_url")])
_REDIRECTS = 5
_CONNECT_S = 10.0
_BACKOFF_S = 0.5  # before the first retry; doubles
_LOOK_S = 0.25  # between two looks at what is waited for
_HOSTS = 500  # worked on at once: those that are to be left alone for a while delay no other
_SILENT_LINKS = 50  # whose hosts cannot be reached, while none was: the fault is nearer
_UNREACHED = ("unreachable", "no_address", "host_failed")
_OURS = ("bad_url", "not_public")  # failures that no host has said


@dataclass
class Link:
    """A link on its way: what it met so far."""

    url: str
    failures: int = 0  # attempts that count
    last: ImageError | None = None  # why the last attempt failed
    due: float = 0.0  # when the next attempt may be made


class Fetcher:
    """Asks for the links in `waiting`, the hosts with most of them first."""

    def __init__(
        self,
        params: Any,
        links: Links,
        waiting: sqlite3.Connection,
        progress: Progress,
        *,
        reached: bool,
    ) -> None:
        self.params, self.links, self._waiting = params, links, waiting
        self.stop, self.counts, self._progress = threading.Event(), Counter[str](), progress
        self._hosts = defaultdict[str, Host](lambda: Host(asyncio.Semaphore(params.max_per_host)))
        self._at_once, self._asking = asyncio.Semaphore(params.max_in_flight), 0
        # Failures are held back until a host is reached: without a network they say nothing.
        self._reached, self._unreached = reached, list[tuple[str, ImageError]]()
        self._network = PublicNetwork(params.allow_hosts)

    async def run(self) -> None:
        """Fetch until done, or told to stop and what was in flight is journalled."""
        # Names are looked up in threads, of which there are few by default.
        names = ThreadPoolExecutor(self.params.max_in_flight, "names")
        asyncio.get_running_loop().set_default_executor(names)
        listed = self._waiting.execute(
            "SELECT host, count(*) FROM waiting GROUP BY host ORDER BY 2 DESC, 1"
        )
        await asyncio.gather(*(self._take_hosts(listed) for _ in range(_HOSTS)))
        if self._reached:
            for url, error in self._unreached:
                self.links.fail(url, error)
        elif self._unreached and not self.stop.is_set():  # ended early, nobody knows yet
            raise self._no_network()

    async def _take_hosts(self, listed: Iterator[tuple[str, int]]) -> None:
        for name, n_links in listed:
            query = "SELECT url FROM waiting WHERE host = ? ORDER BY due DESC, rowid"
            fresh = (Link(url) for (url,) in self._waiting.execute(query, (name,)))
            again = deque[Link]()
            workers = range(min(n_links, self.params.max_per_host))
            await asyncio.gather(*(self._work(name, fresh, again) for _ in workers))

    async def _work(self, name: str, fresh: Iterator[Link], again: deque[Link]) -> None:
        """Settle links of a host: those not asked before, then those that failed, so that bad
        links delay no good one.
        """
        while link := next(fresh, None) or (again.popleft() if again else None):
            while (left := link.due - monotonic()) > 0 and not self.stop.is_set():
                await asyncio.sleep(min(left, _LOOK_S))
            if self.stop.is_set():
                return
            try:
                if fault := self._hosts[name].fault:
                    self._fail(link.url, link.last or fault)
                elif await self._fetch(link):
                    self.counts["fetched"] += 1
                    self._show()
            except ImageError as error:
                # An attempt that met no more than "too many requests" is none of the link's.
                link.failures += not isinstance(error, Later)
                link.last = ImageError(error.reason, error.detail)  # without what it holds
                if error.reason in TRANSIENT and link.failures <= self.params.retries:
                    link.due = monotonic() + _BACKOFF_S * 2 ** max(link.failures - 1, 0)
                    again.append(link)
                else:
                    self._fail(link.url, link.last)

    async def _fetch(self, link: Link) -> bool:
        """One attempt at a link, redirects included, each at its host's pace; whether its file
        came. Raises ImageError.
        """
        address, robots, left = web_address(link.url), list[str](), self.params.timeout_s
        said = dict[str, str]()
        for _ in range(_REDIRECTS + 1):
            host = self._hosts[address.host]
            async with host.slots:
                await self._turn(host)
                async with self._at_once:
                    if self.stop.is_set():
                        return False
                    began, self._asking = monotonic(), self._asking + 1
                    try:
                        outcome = await self._ask(address, robots, said, left)
                    except ImageError as error:
                        self._heed(host, error, first=link.last is None)
                        raise
                    finally:
                        self._asking -= 1
            left -= monotonic() - began
            self._reached = True
            host.answered()
            if isinstance(outcome, bytes):
                self.links.keep(link.url, outcome, robots, said)
                self.counts["bytes"] += len(outcome)
                return True
            address = outcome
        detail = f"more than {_REDIRECTS}, the last to {address.href}"
        raise ImageError("too_many_redirects", detail[:200])

    async def _turn(self, host: Host) -> None:
        """Wait until a host may be asked, or the run is told to stop."""
        while not self.stop.is_set():
            wait = _LOOK_S
            if self._reached or len(self._unreached) < _SILENT_LINKS:
                wait = host.take_turn()
            elif not self._asking:  # what is in flight may be answered yet
                raise self._no_network()
            if not wait:
                return
            await asyncio.sleep(min(wait, _LOOK_S))

    async def _ask(
        self, address: URL, robots: list[str], said: dict[str, str], seconds: float
    ) -> URL | bytes:
        """One request: where it leads on to, or the file; raises ImageError."""
        self.counts["requests"] += 1
        try:
            async with asyncio.timeout(seconds):
                stream, writer = await self._network.connect(address, min(_CONNECT_S, seconds / 2))
                try:
                    writer.write(get(address, self.params.user_agent))
                    status, headers = await read_head(stream)
                    location = redirect(status, headers, address)
                    robots += headers.get_all("x-robots-tag", [])
                    said |= {name: headers[name] for name in HEADERS if name in headers}
                    self.links.respect(robots)
                    return location or await read_body(stream, headers, self.params.max_bytes)
                finally:
                    writer.transport.abort()
        except TimeoutError as error:
            raise ImageError("timed_out", "no whole answer within timeout_s") from error
        except (OSError, EOFError, asyncio.LimitOverrunError) as error:
            raise ImageError("disconnected", f"{type(error).__name__}: {error}"[:200]) from error

    def _heed(self, host: Host, failure: ImageError, *, first: bool) -> None:
        """What a failure says of its host, and of the network."""
        if failure.reason not in (*_UNREACHED, *_OURS):
            self._reached = True
        if failure.reason in (*TRANSIENT, "no_address"):
            host.failed(failure, first)
        elif failure.reason not in _OURS:
            host.answered()

    def _fail(self, url: str, error: ImageError) -> None:
        """Settle a link with its failure."""
        self.counts["failed"] += 1
        self._show()
        if error.reason in _UNREACHED and not self._reached:
            self._unreached.append((url, error))
        else:
            self.links.fail(url, error)

    def _show(self) -> None:
        megabytes = f"{self.counts['bytes'] / 1e6:.1f}"
        self._progress.update(1, failed=self.counts["failed"], MB=megabytes)

    def _no_network(self) -> InputError:
        url, error = self._unreached[0]
        return InputError(
            f"03_images: no host could be reached for {len(self._unreached)} links (the first:"
            f" {url}: {error}). Is the network there? Proxies of the environment are not used: run"
            " where the web is reached directly"
        )


class Errand(Protocol):
    """What fetching takes of a run, or of what stands in for one."""

    params: Any
    scratch: Path
    metrics: dict[str, Any]

    def progress(self, total: int, unit: str) -> Progress:
        """A bar, or a line per 30 s."""


def ask_all(run: Any, links: Links, table: Path) -> Links:
    """What a table's hosts say of machines is asked first, then its links; see `fetch_all`."""
    if links.policy != "ignore":
        # A host that keeps its robots.txt out of search engines has still said it.
        asking = replace(links, policy="ignore", opt_out=())
        hosts = policies(row["image_url"] for row in read_rows(table))
        write_table(files := run.scratch / "policies", _ADDRESS, ({"image_url": u} for u in hosts))
        fetch_all(run, asking, files)
    return replace(links, asked=fetch_all(run, links, table))


def fetch_all(run: Errand, links: Links, table: Path) -> int:
    """Fetch what the journal lacks and failures that are due; returns how many links were asked
    for.

    `table` holds the addresses. Runs take turns, so that none asks what another is asking; the one
    that waits says so. Raises InputError if no host at all can be reached; an interrupt is
    delivered when what was in flight is journalled.
    """
    p, reached = run.params, False
    (queue := run.scratch / "waiting.sqlite").unlink(missing_ok=True)
    with ExitStack() as stack:
        lock = FolderLock(links.folder / ".lock")
        lock.acquire(wait=inf)
        stack.callback(lock.release)
        waiting = stack.enter_context(closing(sqlite3.connect(queue, check_same_thread=False)))
        waiting.execute("CREATE TABLE waiting (host TEXT, url TEXT UNIQUE, due TEXT)")
        for url in (tidied(row["image_url"]) for row in read_rows(table)):
            if due := links.due(url, p.retry_days):
                row = host_of(url), url, due
                waiting.execute("INSERT OR IGNORE INTO waiting VALUES (?, ?, ?)", row)
            else:  # an earlier run had an answer
                reached = True
        waiting.execute("CREATE INDEX hosts ON waiting (host, due)")
        ((asked,),) = waiting.execute("SELECT count(*) FROM waiting")
        progress = stack.enter_context(run.progress(asked, "link"))
        fetcher = Fetcher(p, links, waiting, progress, reached=reached)
        # In a thread: the one of a notebook has an event loop already.
        thread = ThreadPoolExecutor(1, "fetch")
        stack.callback(thread.shutdown, wait=False)  # a second interrupt waits for nobody
        try:
            with interrupts(fetcher.stop):
                thread.submit(asyncio.run, fetcher.run()).result()
        finally:
            run.metrics |= {"links_asked": asked, **fetcher.counts}
    return int(asked)
