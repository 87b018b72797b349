"""Whose answers these are: what a server says of its model, and whether it is the one that answered
before.

Checkpoints are often served under one unchanged name (`base_url` moves, or the server is started
with other weights). The journal knows a request by the model's name, so another model's answers
would pass for this one's. What `/models` says, and where, is kept beside every answer and compared
before any is used.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import date
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from vislib.engines import Json
from vislib.engines.completions import as_dict, short
from vislib.engines.replies import refused_key, silent, told_error
from vislib.engines.transport import HERE, api_key, proxied
from vislib.runs import InputError, Run, short_hash
from vislib.runs.redaction import redact

_PATIENCE_S = 10.0
# What tells weights apart and outlives a restart. `created`, fingerprints and limits change with
# the server alone.
_TELLING = (
    "root",
    "parent",
    "revision",
    "sha",
    "sha256",
    "digest",
    "n_params",
    "size",
    "quantization",
)
_WAYS_ON = (
    "Set model_revision (as the name of the checkpoint) to ask the model of now; set base_url back"
    " for the one before; or set same_model to true if both are one. All answers are kept"
)
_DATE = r"([-@:](\d{4}-?\d{2}-?\d{2}|latest))?"


class Seen(NamedTuple):
    """What one look at a server brought: what it says of its model's weights, and a word for the
    user.
    """

    url: str
    told: Mapping[str, Any] = {}
    note: str = ""
    unreachable: str = ""  # why there is no connection


def look(urls: Iterable[str], model: str) -> list[Seen]:
    """Ask each server for its models. Raises InputError for a key that is missing or refused, and
    if none of them can be reached.

    A server may lack that list, or list other names than it answers to: that is noted, not refused.
    """
    seen = [_look(url, model) for url in urls]
    # one of several may be down: the others take over
    if all(one.unreachable for one in seen):
        raise silent("unreachable", [one.url for one in seen], seen[0].unreachable)
    return seen


def _look(url: str, model: str) -> Seen:
    import httpx2

    headers = {"Authorization": f"Bearer {api_key(url)}"}
    # what runs on this machine is asked past any proxy
    models = f"{url.rstrip('/')}/models"
    try:
        reply = httpx2.get(models, headers=headers, trust_env=proxied(url), timeout=_PATIENCE_S)
    except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
        why = str(error) or type(error).__name__
        return Seen(url, note=f"{url}: no connection ({why})", unreachable=why)
    except httpx2.HTTPError as error:
        return Seen(url, note=f"{models} did not answer ({type(error).__name__})")
    body: Any = None
    with suppress(ValueError):
        body = reply.json()
    # proxies tell a refused key with status 200
    told_in_it = told_error(body) if reply.status_code == 200 else None
    status = told_in_it.status if told_in_it else reply.status_code
    if status == 401 and "scope" not in reply.text:  # a restricted key may ask, but not list
        raise InputError(f"{url}: 401, {short(reply.text)}. {refused_key(model)}")
    entries = body.get("data") if isinstance(body, dict) else body
    if status != 200 or not isinstance(entries, list):
        lists = f"{models} lists nothing (status {status})"
        return Seen(url, note=f"{lists}; whether it has {model} is not known")
    listed = {str(entry.get("id")): entry for entry in map(as_dict, entries) if entry}
    if model not in listed:
        names = ", ".join(sorted(listed)[:5]) or "none"
        return Seen(url, note=f"{models} does not list {model} (but {names})")
    known = as_dict(listed[model].get("meta")) | listed[model]  # llama.cpp says it in `meta`
    told = {n: v for n in _TELLING if (v := known.get(n)) and isinstance(v, str | int)}
    return Seen(url, told)


@dataclass(frozen=True)
class Source:
    """The servers that answer a stage, and what they say of the model; addresses hold no secret
    (`server_urls`).
    """

    urls: Sequence[str]
    told: Mapping[str, Any]

    @property
    def id(self) -> str:
        """What stands beside an answer: addresses and paths leave no machine with it."""
        return short_hash(json.dumps(asdict(self), sort_keys=True))

    def differs(self, other: "Source") -> bool:
        """Whether `other` is, or may well be, another model: it says so, or neither says and the
        address is another.
        """
        # what both say decides; a server that says less is not another for it
        if both := self.told.keys() & other.told.keys():
            return any(self.told[name] != other.told[name] for name in both)
        return not set(map(_place, self.urls)) & set(map(_place, other.urls))

    def __str__(self) -> str:
        told = ", ".join(f"{name} {value}" for name, value in self.told.items())
        return redact(f"{' '.join(self.urls)} ({told or 'which says nothing of its weights'})")


def _place(url: str) -> str:
    """An address; this machine has several names."""
    parts = urlsplit(url)
    host = "localhost" if parts.hostname in HERE else parts.hostname
    return f"{host}:{parts.port or ''}{parts.path}"


def same_model(one: str, other: str) -> bool:
    """Whether two names in replies are one model's: equal, but for a date that only one of them
    bears.
    """
    short, long = sorted((one, other), key=len)
    return re.fullmatch(re.escape(short) + _DATE, long) is not None


class Origins:
    """Where a stage's journalled answers come from: days, servers and what their replies call the
    model.
    """

    def __init__(self, run: Run, engine: Any) -> None:
        self._run = run
        self._engine = engine
        self.source = ""  # id of the one that is asked now, once it was met
        self.count = Counter[str]()  # by the id of their source, "" for one that is not on record
        self._models = set[str]()
        self._days = set[str]()

    def add(self, body: Json, answered_at: float) -> None:
        """Count one."""
        self.count[body.get("server", "")] += 1
        self._models.add(body["model"])
        self._days.add(date.fromtimestamp(answered_at).isoformat())

    def line(self, total: int) -> str:
        """How many of `total` answers come from the journal, and of which days."""
        days = " to ".join(dict.fromkeys((min(self._days), max(self._days))))
        return f"{self.count.total():,} of {total:,} answers come from the journal, of {days}"

    def meet(self) -> list[str]:
        """See which source the engine asks now, where nothing but a name says it; notes for the
        user.

        Raises InputError if it may be another model than before. A server that cannot be asked is
        the engine's to tell.
        """
        engine = self._engine
        # weights in a folder are known by their hash, wherever they are served
        if not getattr(engine, "places", ()) or not engine.is_known_by_name:
            return []
        try:
            seen = look(engine.places, engine.model)
        except InputError:
            return []
        urls = sorted(one.url.rstrip("/") for one in seen)
        now = Source(urls, next((one.told for one in seen if one.told), {}))
        # the journal of answers holds the id beside each; a row here says what it means
        servers = self._run.journal("servers")
        for name, n in self.count.most_common():
            row = servers.get(name)
            before = Source(**row) if row else None
            if before and before.differs(now) and not engine.params.same_model:
                raise InputError(
                    f"model {engine.model}: {n:,} answers in the journal are of {before}, but the"
                    f" server is now {now}. {_WAYS_ON}"
                )
        servers.put(now.id, asdict(now))
        self.source = now.id
        return [one.note for one in seen if one.note]

    def renamed(self, model: str) -> str:
        """What is wrong if a reply names another model than the replies of earlier runs did; else
        "".
        """
        known = self._models - {""}
        # a router may name several in turn: one of them, or one that all of them may be
        same = model in known or all(same_model(model, name) for name in known)
        if not self.source or not model or same or self._engine.params.same_model:
            return ""
        return (
            f"model {self._engine.model}: replies are now of {model!r}, but those in the journal"
            f" are of {', '.join(sorted(known))}. {_WAYS_ON}"
        )
