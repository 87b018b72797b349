"""What is known of image links: what came, what failed, and the fetched bytes by their hash; shared
by all sets.

Lists of links rot (OBELICS, section 3). A failure stands apart, with the time of each attempt and
the rules that it was met under, so that it is asked again when its days have passed or a rule has
changed.
"""

import json
import math
import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from vislib.fetching.urls import tidied, web_address
from vislib.media.pixels import ImageError
from vislib.runs import InputError, short_hash
from vislib.runs.journal import Journal
from vislib.runs.locking import FolderLock

# What may pass: asked again within a run, and by another one after a day at most.
TRANSIENT = ("timed_out", "unreachable", "disconnected", "rate_limited", "server_error")
_RULED = (
    "too_many_bytes",
    "opted_out",
    "not_public",
    "forbidden",
)  # by parameters: others may give another answer
_SPOILT = ("empty", "truncated", "broken", "not_an_image")  # what may come better another time
_VALUED = (
    "unavailable_after",
    "max-snippet",
    "max-image-preview",
    "max-video-preview",
)  # directives with a colon
_open_journal = cache(Journal)  # one connection in each process
Body = dict[str, Any]  # image_id, bytes (their number), robots (X-Robots-Tag headers)


@dataclass(frozen=True)
class Links:
    """The journal at `path` as `params` see it; calling it is a source of stage 03, also in other
    processes.
    """

    path: Path
    agent: str
    opt_out: tuple[str, ...]
    rules: str  # hash of the parameters that `_RULED` failures depend on
    patience: str  # and of those that `timed_out` does

    @classmethod
    def of(cls, path: Path, params: Any) -> "Links":
        """Of the parameters that decide what becomes of a link; raises InputError for those that
        can't be.
        """
        if bad := [
            entry
            for entry in params.allow_hosts
            if not re.fullmatch(r"[^\s/@]+:\d{1,5}", str(entry))
        ]:
            raise InputError(
                f"03_images: allow_hosts has {bad[0]!r}; write host:port as in the links:"
                " 127.0.0.1:8000"
            )
        if not re.fullmatch(r"[!-~]([ -~]*[!-~])?", params.user_agent):
            raise InputError(
                f"03_images: user_agent is {params.user_agent!r}; write name/version (contact) in"
                " ASCII"
            )
        opt_out = tuple(sorted(directive.lower() for directive in params.opt_out))
        rules = json.dumps(
            [params.max_bytes, opt_out, sorted(params.allow_hosts), params.user_agent]
        )
        patience = short_hash(f"timeout_s {float(params.timeout_s)}")
        return cls(
            path, params.user_agent.split("/")[0].lower(), opt_out, short_hash(rules), patience
        )

    def __call__(self, url: str) -> Path:
        """The file of the bytes that came; raises the ImageError that was met instead."""
        url = tidied(url)
        if body := self.known(url):
            self.respect(body["robots"])
            return self.file(body["image_id"])
        failure = self._failure(url) or self._failure_of_host(url)
        failure = failure or {"reason": "unreadable", "detail": "gone from the store; run again"}
        raise ImageError(failure["reason"], failure["detail"])

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Be the one that asks; says on stderr which process it waits for."""
        lock = FolderLock(self.path.with_suffix("") / ".lock")
        lock.acquire(wait=math.inf)
        try:
            yield
        finally:
            lock.release()

    def known(self, url: str) -> Body | None:
        """What the journal says of the last bytes that are there."""
        url = tidied(url)
        return next(
            (body for _, body in reversed([*self._rows(url)]) if body and self._is_there(body)),
            None,
        )

    def due(self, url: str, retry_days: float) -> bool:
        """Whether to ask: no good bytes are there, and it never failed under these rules, or long
        enough ago.

        What a run did not ask, because it gave the host up, is due.
        """
        url = tidied(url)
        body = self.known(url)
        if body and not _open_journal(self.path).failure(self._of_bytes(url, body)):
            return False
        failure = self._failure(url) or self._failure_of_host(url)
        if failure is None or failure["reason"] == "host_failed":
            return True
        days = min(retry_days, 1.0) if failure["reason"] in TRANSIENT else retry_days
        return bool(time.time() - failure["last_at"] >= days * 86_400.0)

    def tried(self, url: str) -> bool:
        """Whether it was asked before, in vain."""
        failure = self._failure(tidied(url))
        return failure is not None and failure["reason"] != "host_failed"

    def keep(self, url: str, data: bytes, robots: Sequence[str]) -> None:
        """Store the bytes, then journal them."""
        body: Body = {"image_id": short_hash(data), "bytes": len(data), "robots": list(robots)}
        if not self._is_there(body):
            file = self.file(body["image_id"])
            if not file.parent.is_dir():
                file.parent.mkdir(parents=True, exist_ok=True)
            temporary = file.with_name(f"{file.name}.{os.getpid()}.tmp")
            temporary.write_bytes(data)
            os.replace(temporary, file)
        rows = self._rows(url)
        key = next(
            key for key, known in rows if known is None or known["image_id"] == body["image_id"]
        )
        _open_journal(self.path).put(key, body)
        if old := _open_journal(self.path).failure(self._of_bytes(url, body)):  # they came again
            _open_journal(self.path).fail(self._of_bytes(url, body), old["reason"], old["detail"])

    def refuse(self, url: str, error: ImageError) -> None:
        """Journal, once, that the bytes of a link turned out to be spoilt: it is asked again when
        it is due.
        """
        url = tidied(url)
        if (body := self.known(url)) and error.reason in _SPOILT:
            key = self._of_bytes(url, body)
            if not _open_journal(self.path).failure(key):  # a look at them is no new attempt
                _open_journal(self.path).fail(key, error.reason, error.detail)

    def fail(self, url: str, error: ImageError) -> None:
        """Journal a failure, with its time."""
        ruled, patient = self._ruled(url)
        key = ruled if error.reason in _RULED else patient if error.reason == "timed_out" else url
        _open_journal(self.path).fail(key, error.reason, error.detail)

    def fail_host(self, host: str, error: ImageError) -> None:
        """Journal why links of a host are not asked, once for all of them."""
        _open_journal(self.path).fail(f"host\n{host}", error.reason, error.detail)

    def respect(self, robots: Sequence[str]) -> None:
        """Raise ImageError `opted_out` if a header says so to everyone or to this agent (no name:
        to everyone).
        """
        for header in robots:
            addressed = True
            for part in re.split("[,;]", re.sub("[\"']", "", header.lower())):
                name, colon, rest = (word.strip() for word in part.partition(":"))
                words = part.split()
                if colon and name in _VALUED:
                    words = [name, *rest.split()[1:]]  # the value is no directive
                elif (
                    colon and " " not in name
                ):  # the name holds for what follows it; a time of day has a blank
                    addressed, words = name in ("*", self.agent), rest.split()
                said = {*words, "noindex", "nofollow"} if "none" in words else {*words}
                if addressed and said & set(self.opt_out):
                    raise ImageError("opted_out", f"X-Robots-Tag: {header}"[:200])

    def file(self, image_id: str) -> Path:
        """Where those bytes lie."""
        return self.path.with_suffix("") / image_id[:2] / image_id

    def _ruled(self, url: str) -> tuple[str, str]:
        return f"{url}\n{self.rules}", f"{url}\n{self.patience}"

    @staticmethod
    def _of_bytes(url: str, body: Body) -> str:
        return f"{url}\n{body['image_id']}"

    def _failure(self, url: str) -> dict[str, Any] | None:
        of_bytes = (self._of_bytes(url, body) for _, body in self._rows(url) if body)
        found = (
            _open_journal(self.path).failure(key) for key in (url, *self._ruled(url), *of_bytes)
        )
        return max(filter(None, found), key=lambda failure: float(failure["last_at"]), default=None)

    def _failure_of_host(self, url: str) -> dict[str, Any] | None:
        try:
            return _open_journal(self.path).failure(f"host\n{web_address(url).host}")
        except ValueError:
            return None

    def _is_there(self, body: Body) -> bool:
        file = self.file(body["image_id"])
        return file.is_file() and file.stat().st_size == body["bytes"]

    def _rows(self, url: str) -> Iterator[tuple[str, Body | None]]:
        """Key and content of each journalled answer, then a free key: bytes that were lost may come
        back others.
        """
        key, body = url, _open_journal(self.path).get(url)
        while body is not None:
            yield key, body
            body = _open_journal(self.path).get(key := f"{key}\n")
        yield key, None
