"""Asking what a journal lacks, and nothing twice (VisCon-100K, sections 3.2 and 3.3).

A stage gives all its requests; those without an answer go to the engine, and every answer is
journalled as it comes. Too many failures or an interrupt end the asking, never what was answered
before.
"""

import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from copy import copy
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote

from vislib.checks import Checks
from vislib.engines import Answer, Engine, Request, open_engine, request_key
from vislib.engines.batch_files import batched_keys, state_folder
from vislib.engines.completions import bad_end
from vislib.engines.drops import Drops, Fault
from vislib.engines.estimate import estimate_for
from vislib.engines.identity import Origins
from vislib.engines.replies import settles
from vislib.engines.thoughts import without_thoughts
from vislib.runs.errors import InputError
from vislib.runs.interrupts import interrupts
from vislib.runs.journal import Journal, unusable
from vislib.runs.locking import FORCE_VARIABLE

if TYPE_CHECKING:
    from vislib.runs import Run

_DUE_S = 86_400.0  # seconds after which a settled failure is asked again all the same
_FEW = 50  # answers before a failure rate means anything
_TELL_S = 30.0  # seconds between two notes of the usage in the record
_NO_PROTOCOL = "(no reply of this protocol: does base_url end in /v1, as a rule?) "
_MENDS = {
    "length": "(cut: raise max_answer_tokens) ",
    "not_json": _NO_PROTOCOL,
    "no_choices": _NO_PROTOCOL,
}
_PAID = ("tokens_in", "tokens_cached", "tokens_out", "usd")


def ask_all(
    run: "Run",
    engine: Engine,
    requests: Callable[[], Iterable[Request]],
    fault: Fault | None = None,
) -> None:
    """Ask what the journal lacks and journal every answer as it comes.

    `requests()` gives all requests of the stage, the same ones each time it is called. Failures of
    an earlier run are asked again, those that are about their request (`settles`) when a day has
    passed or with `--force`. Raises InputError when more than `max_failure_rate` of the requests
    fail, `fault` drops more than `max_drop_rate` of the answers, the server may serve another model
    than it did, or the engine cannot go on; on an interrupt, what is under way is waited for (a
    second one is immediate). In each case all answers so far are kept.
    """
    asking = _Asking(run, engine, fault)
    # two passes: the first counts and tells the cost before anything is sent, and keeps no request
    missing = asking.survey(requests())
    if missing and asking.replay:
        raise InputError(asking.no_replay(missing))
    asking.meet_server()
    # whatever the others bring, it cannot end well: nothing more is paid
    if asking.drops.surely_too_many or asking.failed > asking.allowed * asking.total:
        asking.check()
    if asking.in_batches:
        raise InputError(
            f"{asking.in_batches} of {missing} requests are under way in batch files and would be"
            " paid twice; run with engine openai_batch to collect them, or delete their files (in"
            f" {asking.batches}, or in batch_folder)"
        )
    if missing:
        _ask(run, asking, requests, missing)
    # a rerun pays nothing, and still tells what its data cost
    run.metrics |= {f"{name}_of_answers": amount for name, amount in asking.answers.items()}
    asking.check()


def _ask(
    run: "Run", asking: "_Asking", requests: Callable[[], Iterable[Request]], missing: int
) -> None:
    """Ask the `missing` ones, and journal what comes."""
    if asking.estimate:
        say(f"to ask: {asking.estimate.line()}")
    with run.progress(missing, "request") as progress, interrupts(asking.stop):
        lacking = asking.lacking(requests())
        try:
            # however this ends, what the engine has begun is ended by closing
            with closing(asking.engine.answer(lacking, spent=asking.spent)) as answers:
                for request, answer in answers:
                    asking.record(request, answer)
                    progress.update(1, **asking.shown())
                    asking.tell(run, every=_TELL_S)
        finally:
            # of a failed run too: the record says what it paid
            asking.tell(run)


def say(line: str) -> None:
    """Tell the user, on the page and in the log."""
    print(line, flush=True)
    logging.getLogger(__name__).info(line)


def preview(run: "Run", requests: Callable[[], Iterable[Request]]) -> str:
    """What `ask_all` would ask of the engine in `run.params`, and what that would take; writes and
    sends nothing.
    """
    looking: Any = copy(run)
    # a dry run of a set on a read-only disk, or beside a run at work
    looking.journal = lambda name: _Reading(run.journal_path(name))
    asking = _Asking(looking, open_engine(looking))
    if not (missing := asking.survey(requests())):
        return f"nothing to ask: all {asking.known:,} answers are in the journal"
    if asking.replay:
        return asking.no_replay(missing)
    return asking.estimate.line() if asking.estimate else "needs no model"


def check_parameters(params: Any) -> Engine:
    """The engine of `params`, which opens and asks nothing; raises InputError if it or the checks
    cannot work.
    """
    # before the first kernel there is no run yet, and no folder may be made for one
    no_run = SimpleNamespace(
        params=params,
        folder=Path(),
        inputs=lambda name: [Path(params.model)],
        journal=lambda name: SimpleNamespace(path=Path(name)),
    )
    Checks(params.checks, params.language)
    return open_engine(cast("Run", no_run))


class _Reading(Journal):
    """A journal as it stands, opened so that not even SQLite writes; empty if there is none."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            super().__init__(Path(":memory:"))
            return
        self.path = path
        self._lock = threading.Lock()
        # beside a run at work its log counts too; without a log the file alone is all there is
        in_use = any(path.with_name(f"{path.name}-{log}").exists() for log in ("wal", "journal"))
        how = "mode=ro" if in_use else "immutable=1"
        try:
            self._db = sqlite3.connect(f"file:{quote(str(path))}?{how}", uri=True)
            self._db.execute("SELECT key FROM answers UNION SELECT key FROM failures LIMIT 1")
        except sqlite3.Error as error:
            raise unusable(path, error) from error


class _Asking:
    """The state of one `ask_all`: what is known, what it cost, what the rest will take; what is
    asked and failed.

    Requests with equal keys are one.
    """

    def __init__(self, run: "Run", engine: Engine, fault: Fault | None = None) -> None:
        self.engine = engine
        self.journal = run.journal(engine.journal)
        self.allowed = float(run.params.max_failure_rate)
        self.replay = bool(run.params.replay)
        # the live engine must not ask what batch files of this stage are about to answer
        self.batches = state_folder(run) if engine.name == "openai" else None
        self.paid = hasattr(engine, "budget")
        self._forced = bool(os.environ.get(FORCE_VARIABLE))
        self.estimate = estimate_for(engine)
        self.origins = Origins(run.journal("servers"), engine) if self.paid else None
        self.drops = Drops(run.params, fault if self.paid and not self.replay else None)
        self._source = ""  # id of the server that is asked now
        self._other_model = ""  # why answers are not those of the model before
        # an engine that never waits has no event; a used one may be set from its last run
        self.stop: threading.Event = getattr(engine, "stop", threading.Event())
        self.stop.clear()
        self.known = self.failed = self.total = self.in_batches = 0
        self.spent = 0.0  # USD of journalled answers and failed attempts
        self.usage: dict[str, Any] = dict.fromkeys(_PAID, 0)  # of this run, failures too
        self.answers = dict(self.usage)  # of all answers, whichever run paid for them
        self._told = dict(self.usage)
        self._told_at = time.monotonic()
        self._last_failure = "of an earlier run"
        # keys under way or failed in this run: a twin is not asked too
        self._open = set[str]()

    def survey(self, requests: Iterable[Request]) -> int:
        """Count what is known and what it cost; return how many requests are to be asked."""
        # keys as numbers take a third of the memory
        missing = 0
        seen = set[int]()
        elsewhere = batched_keys(self.batches) if self.batches else frozenset()
        for request in requests:
            key = request_key(self.engine, request)
            if (number := int(key, 16)) in seen:
                continue
            seen.add(number)
            self.total += 1
            failure = self.journal.failure(key)
            self.spent += failure["usd"] if failure else 0.0  # it may have been billed
            body, answered_at = self.journal.entry(key) or ({}, 0.0)
            # a replay takes the journal as it was when the data were made
            if body and (self.replay or not self._spoilt(body)):
                self._learn(request, body, answered_at)
            # a failure about its request would come again, and be paid again
            elif self._settled(key) or (failure and self.replay):
                self.known += 1
                self.failed += 1
            else:
                missing += 1
                self.in_batches += key in elsewhere
                if self.estimate:
                    self.estimate.add(request)
        return missing

    def _learn(self, request: Request, body: Mapping[str, Any], answered_at: float) -> None:
        """Take account of a journalled answer."""
        self.known += 1
        self.spent += self._count(body)
        if self.origins:
            self.origins.add(body, answered_at)
        if self.estimate:
            self.estimate.learn(request, body)
        # as it is read today: an earlier version may have journalled thoughts with it
        self.drops.judge(request, without_thoughts(body["text"])[0])

    def meet_server(self) -> None:
        """Say what comes from the journal, and see that the server serves the model that gave
        it.
        """
        if not self.origins:
            return
        if self.origins.count:
            say(self.origins.line(self.total))
        if not self.replay:
            self._source, notes = self.origins.meet(self.engine)
            for note in notes:
                say(f"note: {note}")

    def no_replay(self, missing: int) -> str:
        """What is wrong when answers are missing that may not be asked for."""
        return (
            f"replay is on, and {self.journal.path} lacks {missing} of {self.total} answers; import"
            " the journal that the data were made with, or set replay to false"
        )

    def lacking(self, requests: Iterable[Request]) -> Iterator[Request]:
        """The requests without an answer, one of each key, until told to stop."""
        for request in requests:
            key = request_key(self.engine, request)
            if self.stop.is_set():
                return
            if key in self._open or self._settled(key):
                continue
            if body := self.journal.get(key):
                if not (reason := self._spoilt(body)):
                    continue
                said = f"finish_reason {body['finish_reason']}"
                # what it cost stays in the books, as a failure's does
                self.journal.retract(key, reason, said, body["usd"])
            self._open.add(key)
            yield request

    def record(self, request: Request, answer: Answer) -> None:
        """Journal one answer, count it, and stop asking when too many have failed."""
        key = request_key(self.engine, request)
        body = asdict(answer)
        self.known += 1
        _add(self.usage, body)
        if answer.status == "ok":
            if self.origins and self._source and not self._other_model:
                self._other_model = self.origins.renamed(answer.model)
            if not self._other_model:
                self._keep(key, request, body)
                return
            # in the journal it would pass for the one before
            self.stop.set()
            answer = replace(answer, reason="another_model", detail=answer.model)
        self.journal.fail(key, answer.reason, answer.detail, usd=answer.usd)
        if answer.reason == "no_evidence":  # the baseline has nothing to say: no fault to stop for
            return
        self.failed += 1
        said = f"{answer.reason} {_MENDS.get(answer.reason, '')}{answer.detail}"
        self._last_failure = f"{request.id}: {said}".strip()
        # early on, a few failures say nothing: twice as many answers count, or _FEW of them
        if self.failed > self.allowed * min(self.total, 2 * max(self.known, _FEW)):
            self.stop.set()

    def _keep(self, key: str, request: Request, body: dict[str, Any]) -> None:
        body.pop("request_sha")
        if self._source:
            body["server"] = self._source
        self._count(body)
        self.journal.put(key, body)
        self._open.discard(key)
        self.drops.judge(request, body["text"])
        if self.drops.surely_too_many:
            self.stop.set()

    def tell(self, run: "Run", *, every: float = 0.0) -> None:
        """Add what was paid since the last time to the run's usage, if `every` seconds have
        passed.
        """
        if time.monotonic() - self._told_at >= every:
            run.usage(**{name: amount - self._told[name] for name, amount in self.usage.items()})
            self._told = dict(self.usage)
            self._told_at = time.monotonic()

    def shown(self) -> dict[str, Any]:
        """What the progress line tells beside the count."""
        tokens = {name: self.usage[name] for name in ("tokens_in", "tokens_out")}
        return {"failed": self.failed, **tokens, "usd": round(self.usage["usd"], 4)}

    def check(self) -> None:
        """Raise InputError if more failed or were dropped than may, or another model answered."""
        if self._other_model:
            raise InputError(self._other_model)
        engine = f"{self.engine.name} {self.engine.model}"
        if self.drops.too_many:
            raise self.drops.error(engine, str(self.journal.path))
        if self.failed > self.allowed * self.known:
            raise InputError(
                f"{engine}: {self.failed} of {self.known} requests failed, more than"
                f" max_failure_rate {self.allowed:g} allows. The last: {self._last_failure}. Mend"
                " the cause or raise max_failure_rate and run again; answers stay in"
                f" {self.journal.path}"
            )

    def _count(self, body: Mapping[str, Any]) -> float:
        """Add an answer to the totals; its USD, by today's prices if none were set when it was
        paid.
        """
        usd = float(body["usd"])
        if self.estimate and not usd:
            # a price that was set later makes the totals true, not the ceiling of the run before
            usd = self.estimate.budget.cost(body["tokens_in"], body["tokens_out"])
        _add(self.answers, {**body, "usd": usd})
        return usd

    def _spoilt(self, body: Mapping[str, Any]) -> str:
        """Why an answer that an earlier version journalled is none."""
        return bad_end(body.get("finish_reason", "")) if self.paid else ""

    def _settled(self, key: str) -> bool:
        failure = self.journal.failure(key)
        if failure is None or self._forced or not settles(failure["reason"], failure["detail"]):
            return False
        return bool(time.time() - failure["last_at"] < _DUE_S)


def _add(totals: dict[str, Any], amounts: Mapping[str, Any]) -> None:
    for name in totals:
        totals[name] += amounts.get(name, 0)
