"""What is known of image links: what came, what failed, and the fetched bytes by their hash; shared
by all sets.

Lists of links rot (OBELICS, section 3). A failure stands apart, with the time of each attempt and
the rules that it was met under, so that it is asked again when its days have passed or a rule has
changed.
"""

import json
import os
import re
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from vislib.fetching import consent
from vislib.fetching.urls import host_of, tidied
from vislib.media.pixels import ImageError
from vislib.runs import InputError, short_hash
from vislib.runs.journal import Journal

# What may pass: asked again within a run, and by another one after a day at most.
TRANSIENT = ("timed_out", "unreachable", "disconnected", "rate_limited", "server_error")
# By parameters: others may give another answer.
_RULED = ("too_many_bytes", "opted_out", "not_public", "forbidden", "timed_out")
# Directives of X-Robots-Tag with a value after a colon, which is no directive; a name before one
# says whom all that follows is for.
_VALUED = re.compile(r"(unavailable_after|max-[\w-]+)\s*:\s*[^\s,;]*")
_NAME = re.compile(r"\W*([\w.-]+|\*)\s*:")
# Said of bytes that were lost from the store, and never held against their link.
_GONE = ImageError("unreadable", "gone from the store; run again")
_SILENT: Mapping[str, str] = {}
_open_journal = cache(Journal)  # one connection in each process
Body = dict[str, Any]  # image_id, bytes (their number), robots (X-Robots-Tag), said (other headers)
Failure = dict[str, Any]  # reason, detail, last_at (seconds of the epoch)


@dataclass(frozen=True)
class Links:
    """The journal at `path` as `params` see it; calling it is a source of stage 03, also in other
    processes.
    """

    path: Path
    agent: str
    opt_out: tuple[str, ...]
    rules: str  # hash of the parameters that `_RULED` failures depend on
    policy: str = "ignore"  # what hosts say of machines: record, respect or ignore it
    asked: int = 0  # links that this attempt asked for: what was made before may know less

    @classmethod
    def of(cls, path: Path, params: Any) -> "Links":
        """Of the parameters that decide what becomes of a link; raises InputError for those that
        can't be.
        """
        for entry in params.allow_hosts:
            if not re.fullmatch(r"[^\s/@]+:\d{1,5}", str(entry)):
                raise InputError(
                    f"03_images: allow_hosts has {entry!r}; write host:port as in the links:"
                    " 127.0.0.1:8000"
                )
        # An agent's name goes into a header: a line end in it would begin another one.
        if not re.fullmatch(r"[!-~]([ -~]*[!-~])?", params.user_agent):
            raise InputError(
                f"03_images: user_agent is {params.user_agent!r}; write name/version (contact) in"
                " ASCII"
            )
        opt_out = tuple(sorted(directive.lower() for directive in params.opt_out))
        limits = params.max_bytes, float(params.timeout_s)
        rules = [*limits, opt_out, sorted(params.allow_hosts), params.user_agent]
        agent = params.user_agent.split("/")[0].lower()
        return cls(path, agent, opt_out, short_hash(json.dumps(rules)), params.policy)

    def __call__(self, url: str) -> Path:
        """The file of the bytes that came; raises the ImageError that was met instead."""
        if refusal := self.refusal(url):
            raise ImageError("opted_out", refusal)
        if body := self.known(url):
            self.respect(body["robots"])
            return self.file(body["image_id"])
        failure = self._failure(url)
        raise ImageError(failure["reason"], failure["detail"]) if failure else _GONE

    @property
    def folder(self) -> Path:
        """Where the bytes lie."""
        return self.path.with_suffix("")

    @property
    def _journal(self) -> Journal:
        return _open_journal(self.path)

    def known(self, url: str) -> Body | None:
        """What the journal says of the bytes that came, if they are there."""
        body = self._journal.get(tidied(url))
        return body if body and self._is_there(body) else None

    def due(self, url: str, retry_days: float) -> str:
        """Whether to ask: `new` if nobody did, or what came is lost; `failed` if it failed under
        these rules, long enough ago; "" if not.

        What a run did not ask, because it gave the host up, is new.
        """
        if self.known(url) or self.refusal(url):
            return ""
        failure = self._failure(url)
        if failure is None or failure["reason"] in ("host_failed", _GONE.reason):
            return "new"
        days = min(retry_days, 1.0) if failure["reason"] in TRANSIENT else retry_days
        return "failed" if time.time() - failure["last_at"] >= days * 86_400.0 else ""

    def said(self, url: str) -> dict[str, str]:
        """What its host and its reply say of use by machines, as far as they were asked."""
        if self.policy == "ignore":
            return {}
        body = self.known(url) or {"robots": []}
        found = consent.facts(url, self.agent, self._text_at, body.get("said", {}))
        return found | {"x_robots": ", ".join(body["robots"])}

    def refusal(self, url: str) -> str:
        """What keeps a link out, if that is to be respected; "" for nothing."""
        respected = self.policy == "respect" and host_of(url)
        return consent.refusal(self.said(url)) if respected else ""

    def _text_at(self, url: str) -> str:
        body = self.known(url)
        return self.file(body["image_id"]).read_text("utf-8-sig", "replace") if body else ""

    def keep(
        self, url: str, data: bytes, robots: Sequence[str], said: Mapping[str, str] = _SILENT
    ) -> None:
        """Store the bytes, then journal them."""
        body: Body = {"image_id": short_hash(data), "bytes": len(data), "robots": list(robots)}
        body |= {"said": dict(said)} if said else {}
        if not self._is_there(body):
            file = self.file(body["image_id"])
            file.unlink(missing_ok=True)
            store(data, file)
        old = self._journal.get(url)
        if old and old["image_id"] != body["image_id"]:  # those were lost
            self._journal.retract(url, _GONE.reason, _GONE.detail, 0.0)
        self._journal.put(url, body)

    def fail(self, url: str, error: ImageError) -> None:
        """Journal why a link failed, or was not asked."""
        key = self._ruled(url) if error.reason in _RULED else url
        self._journal.fail(key, error.reason, error.detail)

    def respect(self, robots: Sequence[str]) -> None:
        """Raise ImageError `opted_out` if a header says so to everyone or to this agent (no name:
        to everyone).
        """
        for header in robots:
            addressed = True
            for part in re.split("[,;]", _VALUED.sub("", header.lower())):
                if name := _NAME.match(part):
                    addressed = name[1] in ("*", self.agent)
                said = set(re.findall(r"[\w-]+", part))
                if "none" in said:
                    said |= {"noindex", "nofollow"}
                if addressed and said & set(self.opt_out):
                    raise ImageError("opted_out", f"X-Robots-Tag: {header}"[:200])

    def file(self, image_id: str) -> Path:
        """Where those bytes lie."""
        return self.folder / image_id[:2] / image_id

    def _failure(self, url: str) -> Failure | None:
        """The last failure of a link."""
        url = tidied(url)
        found = filter(None, map(self._journal.failure, (url, self._ruled(url))))
        return max(found, key=lambda failure: float(failure["last_at"]), default=None)

    def _ruled(self, url: str) -> str:
        return f"{url}\n{self.rules}"

    def _is_there(self, body: Body) -> bool:
        file = self.file(body["image_id"])
        return file.is_file() and file.stat().st_size == body["bytes"]


def store(given: bytes | Path, file: Path) -> None:
    """Write bytes once and whole, or link the file that keeps them; processes that meet the same
    picture agree.
    """
    if file.exists():
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f"{file.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    if isinstance(given, bytes):
        temporary.write_bytes(given)
    else:
        try:
            os.link(given, temporary)
        except OSError:  # another file system, or one without links
            shutil.copyfile(given, temporary)
    os.replace(temporary, file)
