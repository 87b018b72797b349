"""Fetching image links over HTTP(S): each once, within bounds, as fast as its host bears (OBELICS,
section 3).

Threads make the requests; which link is asked next, at its host's pace, is decided in one place. A
slow host delays its own links alone. What comes is stored and journalled at once, so that a run
goes on where it was ended. Nothing but public addresses is asked, unless `allow_hosts` names it.
"""

import sqlite3
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from time import monotonic
from typing import TYPE_CHECKING, Any

from ada_url import URL

from vislib.fetching.addresses import PublicNetwork
from vislib.fetching.connections import get, read_body, redirect
from vislib.fetching.hosts import Host, Link, is_limit
from vislib.fetching.links import TRANSIENT, Links
from vislib.fetching.urls import host_of, tidied, web_address
from vislib.media.pixels import ImageError
from vislib.runs.errors import InputError
from vislib.runs.interrupts import interrupts
from vislib.runs.progress import Progress
from vislib.runs.tables import read_rows

if TYPE_CHECKING:
    from vislib.runs import Run

_REDIRECTS = 5
_BACKOFF_S = 0.5  # before the first retry; doubles
_LOOK_S = 0.05  # between two looks at which host may be asked
_HOSTS = 500  # worked on at once: those that are to be left alone for a while delay no other
_SILENT_HOSTS = 50  # that cannot be reached, while none was: the fault is nearer
_UNREACHED = ("unreachable", "no_address", "host_failed")
_OURS = ("bad_url", "not_public")  # failures that no host has said
Outcome = URL | bytes | Exception  # where a link leads on to, its file, or why there is none


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
        self.hosts: dict[str, Host] = {}
        self._active: dict[str, Host] = {}  # those with links that wait or are asked for
        self._asking = 0
        self._outcomes = SimpleQueue[tuple[Host, Link, Outcome]]()
        # Failures by host, held back until one is reached: without a network they say nothing.
        self._unreached: dict[str, list[tuple[str, ImageError]]] = {}
        self._reached = reached
        self._network = PublicNetwork(params.allow_hosts)
        self._headers = {
            "User-Agent": params.user_agent,
            "Accept": "image/*,*/*;q=0.5",
            "Accept-Encoding": "identity",
        }

    def run(self) -> None:
        """Fetch until done, or told to stop and what was in flight is journalled."""
        listed = self._waiting.execute(
            "SELECT host, count(*) FROM waiting GROUP BY host ORDER BY 2 DESC, 1"
        )
        pool = ThreadPoolExecutor(self.params.max_in_flight, "fetch")
        try:
            while self._admit(listed) or self._asking:
                if not self._ends():
                    self._ask_hosts(pool)
                elif not self._asking:
                    break
                with suppress(Empty):
                    self._settle(*self._outcomes.get(timeout=_LOOK_S))
        finally:
            pool.shutdown(wait=False)  # a second interrupt waits for nobody
        # Unless it was ended early: then nobody knows yet.
        if self._unreached and not self.stop.is_set():
            raise self._no_network()

    def _admit(self, listed: sqlite3.Cursor) -> bool:
        """Let hosts that are done make room for the next; whether there are any."""
        for host in list(self._active.values()):
            if not host.waiting and not host.asking:
                del self._active[host.name]
        while len(self._active) < _HOSTS and (row := listed.fetchone()):
            host = self._host(row[0])
            host.fresh, host.n_fresh = self._urls(row[0]), row[1]
        return bool(self._active)

    def _ends(self) -> bool:
        """Whether nothing more is to be asked: so many hosts could not be reached that the fault is
        nearer, unless a request in flight is answered.
        """
        return self.stop.is_set() or len(self._unreached) >= _SILENT_HOSTS

    def _urls(self, host: str) -> Iterator[str]:
        query = "SELECT url FROM waiting WHERE host = ? ORDER BY tried, rowid"
        return (url for (url,) in self._waiting.execute(query, (host,)))

    def _host(self, name: str) -> Host:
        """The host of that name, to be given a link."""
        self._active[name] = self.hosts.setdefault(name, Host(name))
        return self._active[name]

    def _ask_hosts(self, pool: ThreadPoolExecutor) -> None:
        """Ask for all links that may be asked for now."""
        p = self.params
        for host in list(self._active.values()):
            if host.fault and not host.asking:  # else what is in flight may show that it is there
                self._give_up(host)
            while (
                self._asking < p.max_in_flight and host.asking < p.max_per_host and host.is_ready()
            ):
                link = host.take(p.timeout_s)
                host.asking, self._asking = host.asking + 1, self._asking + 1
                self.counts["retries"] += link.last is not None and not link.redirects
                self.counts["requests"] += bool(host.name)  # none: it is no address of the web
                pool.submit(self._attempt, host, link)

    # -- in a thread of its own
    def _attempt(self, host: Host, link: Link) -> None:
        outcome: Outcome
        began, link.hold = monotonic(), 0.0
        try:
            outcome = self._ask(link, link.address or web_address(link.url))
            link.left -= monotonic() - began
        except TimeoutError:
            outcome = ImageError("timed_out", "no whole answer within timeout_s")
        except OSError as error:
            outcome = ImageError("disconnected", f"{type(error).__name__}: {error}"[:200])
        except Exception as error:
            outcome = error
        if isinstance(outcome, bytes):
            try:
                self.links.keep(link.url, outcome, link.robots)
            except Exception as error:  # a disk that is full is no fault of the link's
                outcome = error
        self._outcomes.put((host, link, outcome))

    def _ask(self, link: Link, address: URL) -> URL | bytes:
        """One request: where it leads on to, or the file."""
        with get(self._network, address, self._headers, link.left) as reply:
            link.hold = reply.hold
            location = redirect(reply, address)
            link.robots += reply.values("x-robots-tag")
            self.links.respect(link.robots)
            return location or read_body(reply, self.params.max_bytes)

    # -- in the thread that runs
    def _settle(self, host: Host, link: Link, outcome: Outcome) -> None:
        host.asking, self._asking = host.asking - 1, self._asking - 1
        if isinstance(outcome, ImageError):
            self._failed(host, link, outcome)
        elif isinstance(outcome, Exception):  # ends the run
            raise outcome
        else:
            self._reach()
            host.answered()
            if isinstance(outcome, URL):
                self._move(link, outcome)
            else:
                self.counts["fetched"] += 1
                self.counts["bytes"] += len(outcome)
                self._show(1)

    def _move(self, link: Link, address: URL) -> None:
        """Let a link go on where a reply led to, at that host's pace."""
        link.address, link.redirects = address, link.redirects + 1
        if link.redirects > _REDIRECTS:
            detail = f"more than {_REDIRECTS}, the last to {address.href}"
            self._fail(host_of(link.url), link.url, ImageError("too_many_redirects", detail[:200]))
        else:
            self._host(address.host).first.append(link)

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
            self._fail(host_of(link.url), link.url, failure)
            return
        due = monotonic() + _BACKOFF_S * 2 ** max(link.failures - 1, 0)
        again = Link(link.url, self.params.timeout_s, failures=link.failures, last=failure, due=due)
        # From where it was led to, a link goes back to its own address: it may lead elsewhere now.
        own = self._host(host_of(link.url))
        (own.first if link.hold and not link.last else own.again).append(again)

    def _give_up(self, host: Host) -> None:
        """Settle what is left of a host: links that were not asked stay due, and the next run
        begins with them.
        """
        assert host.fault
        if host.n_fresh:
            self._fail(host.name, "", host.fault, host.n_fresh)
        for link in (*host.first, *host.again):
            self._fail(host.name, link.url, link.last or host.fault)
        host.n_fresh = 0
        host.first.clear()
        host.again.clear()

    def _fail(self, host: str, url: str, error: ImageError, n: int = 1) -> None:
        """Settle a link with its failure, or (no link) the `n` of a host that are not asked."""
        self.counts["failed"] += n
        self._show(n)
        if error.reason in _UNREACHED and not self._reached:
            self._unreached.setdefault(host, []).append((url, error))
        else:
            self.links.fail(host, url, error)

    def _reach(self) -> None:
        """Somebody answered: the network is there, and who did not answer is not."""
        self._reached = True
        for host, failures in self._unreached.items():
            for url, error in failures:
                self.links.fail(host, url, error)
        self._unreached = {}

    def _show(self, n: int) -> None:
        megabytes = f"{self.counts['bytes'] / 1e6:.1f}"
        self._progress.update(n, failed=self.counts["failed"], MB=megabytes)

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
    with links.alone(), closing(sqlite3.connect(queue)) as waiting:
        waiting.execute("CREATE TABLE waiting (host TEXT, url TEXT UNIQUE, tried INTEGER)")
        for url in (tidied(row["image_url"]) for row in read_rows(table)):
            known += links.known(url) is not None
            if links.due(url, p.retry_days):
                row = host_of(url), url, links.tried(url)
                waiting.execute("INSERT OR IGNORE INTO waiting VALUES (?, ?, ?)", row)
        waiting.execute("CREATE INDEX hosts ON waiting (host, tried)")
        ((asked,),) = waiting.execute("SELECT count(*) FROM waiting")
        with run.progress(asked, "link") as progress:
            fetcher = Fetcher(p, links, waiting, progress, reached=known > 0)
            try:
                with interrupts(fetcher.stop):
                    fetcher.run()
            finally:
                hosts = len(fetcher.hosts)
                run.metrics |= {"links_asked": asked, "hosts_asked": hosts, **fetcher.counts}
    return int(asked)
