"""Asking what a journal lacks, and nothing twice (VisCon-100K, sections 3.2 and 3.3).

A stage gives all its requests; those without an answer go to the engine, and every answer is
journalled as it comes. Too many failures, answers of no use or an interrupt end the asking, never
what was answered before.
"""

import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from vislib.checks import Checks
from vislib.engines import Answer, Engine, Json, Request, open_engine, request_key, say
from vislib.engines.batch_files import state_folder, under_way
from vislib.engines.budget import Estimate
from vislib.engines.identity import Origins
from vislib.engines.recorded import REASONS as NOT_RECORDED
from vislib.engines.replies import settles
from vislib.engines.thoughts import without_thoughts
from vislib.runs import InputError, Run
from vislib.runs.interrupts import interrupts
from vislib.runs.journal import Journal
from vislib.runs.keys import input_path
from vislib.runs.locking import FORCE_VARIABLE

# Of a request and its text: the check that drops it, and what that found.
Check = Callable[[Request, str], tuple[str, str]]
_DUE_S = 86_400.0  # seconds after which a settled failure is asked again all the same
_FEW = 50  # answers before a rate means anything
# answers that are judged: a sample that tells a bad prompt or server, at no cost for the rest
_JUDGED = 200
_TELL_S = 30.0  # seconds between two notes of the usage in the record
_NO_PROTOCOL = "(no reply of this protocol: does base_url end in /v1, as a rule?) "
_MENDS = {
    "length": "(cut: raise max_answer_tokens) ",
    "not_json": _NO_PROTOCOL,
    "no_choices": _NO_PROTOCOL,
}
_PAID = ("tokens_in", "tokens_cached", "tokens_out", "usd")


def check_parameters(params: Any) -> Engine:
    """The engine of `params`, which opens and asks nothing; raises InputError if it or the checks
    cannot work.
    """
    if hasattr(params, "checks"):  # judges have none
        Checks(params.checks, params.language)
    # before the first kernel there is no run yet, and no folder may be made for one
    run: Any = SimpleNamespace(
        params=params,
        folder=Path(),
        inputs=lambda name: [input_path(getattr(params, name), Path(params.run_dir))],
    )
    return open_engine(run)


def preview(run: Run, requests: Callable[[], Iterable[Request]]) -> str:
    """What `ask_all` would ask of the engine in `run.params`, and what that would take; writes and
    sends nothing.
    """

    engine = open_engine(run)
    path = run.journal_path(engine.journal)
    asking = _Asking(run, engine, Journal(path if path.exists() else Path(":memory:")))
    if not (missing := asking.survey(requests())):
        return f"nothing to ask: all {asking.known:,} answers are in the journal"
    if run.params.replay:
        return asking.lacks(missing)
    return asking.estimate.line() if asking.estimate else "needs no model"


def ask_all(
    run: Run,
    engine: Engine,
    requests: Callable[[], Iterable[Request]],
    check: Check | None = None,
) -> None:
    """Ask what the journal lacks and journal every answer as it comes.

    `requests()` gives all requests of the stage, the same ones each time it is called. Failures of
    an earlier run are asked again, those that are about their request (`settles`) when a day has
    passed or with `--force`. Raises InputError when more than `max_failure_rate` of the requests
    fail, `check` drops more than `max_drop_rate` of the answers, the server may serve another model
    than it did, or the engine cannot go on; on an interrupt, what is under way is waited for (a
    second one is immediate). In each case all answers so far are kept.
    """
    asking = _Asking(run, engine, run.journal(engine.journal), check)
    # two passes: the first counts and tells the cost before anything is sent, and keeps no request
    missing = asking.survey(requests())
    if missing and run.params.replay:
        raise InputError(asking.lacks(missing))
    asking.meet_server()
    # whatever the others bring, it cannot end well: nothing more is paid
    asking.check(surely=True)
    # what batch files of this stage are about to answer, the live engine must not ask
    if missing and engine.name == "openai" and (files := under_way(state_folder(run))):
        raise InputError(
            f"{len(files)} batch files of this stage are under way, as {files[0].lines}: their"
            " requests would be paid twice. Run with engine openai_batch to collect them, or"
            " delete them"
        )
    if missing:
        asking.ask(requests(), missing)
    # a rerun pays nothing, and still tells what its data cost
    run.metrics |= {f"{name}_of_answers": amount for name, amount in asking.answers.items()}
    asking.check()


class _Asking:
    """The state of one `ask_all`: what is known, what it cost, what the rest will take; what is
    asked, failed and of no use. Requests with equal keys are one.
    """

    def __init__(
        self, run: Run, engine: Engine, journal: Journal, check: Check | None = None
    ) -> None:
        self._run = run
        self._engine = engine
        self._journal = journal
        self._replay = run.params.replay
        self._allowed = run.params.max_failure_rate
        paid = hasattr(engine, "budget")
        self.estimate = Estimate(engine) if paid else None
        self._origins = Origins(run, engine)
        self._other_model = ""  # why answers are not those of the model before
        self._check = check if paid and not self._replay else None
        self._judged = 0
        self._dropped = Counter[str]()  # by reason
        self._reasons = Counter[str]()  # of failures in this run
        # an engine that never waits has no event; a used one may be set from its last run
        self._stop: threading.Event = getattr(engine, "stop", threading.Event())
        self._stop.clear()
        self.known = self._failed = self._total = 0
        self._spent = 0.0  # USD of journalled answers and failed attempts
        # since it was told last, failures too
        self._usage: dict[str, float] = dict.fromkeys(_PAID, 0)
        self._told_at = time.monotonic()
        # of all answers, whichever run paid for them
        self.answers = dict(self._usage)
        self._last_failure = "of an earlier run"
        self._last_drop = ""
        # keys to be asked, as numbers: they take a third of the memory
        self._missing = set[int]()

    def survey(self, requests: Iterable[Request]) -> int:
        """Count what is known and what it cost; return how many requests are to be asked."""
        seen = set[int]()
        for request in requests:
            key = request_key(self._engine, request)
            if (number := int(key, 16)) in seen:
                continue
            seen.add(number)
            self._total += 1
            failure = self._journal.failure(key)
            self._spent += failure["usd"] if failure else 0.0  # it may have been billed
            body, answered_at = self._journal.entry(key) or ({}, 0.0)
            if body:
                self.known += 1
                self._spent += body["usd"]
                _add(self.answers, body)
                self._origins.add(body, answered_at)
                if self.estimate:
                    self.estimate.learn(request, body)
                # as it is read today: an earlier version may have journalled thoughts with it
                self._judge(request, without_thoughts(body["text"]))
            # a failure about its request would come again, and be paid again
            elif self._is_settled(failure) or (failure and self._replay):
                self.known += 1
                self._failed += 1
            else:
                self._missing.add(number)
                if self.estimate:
                    self.estimate.add(request)
        return len(self._missing)

    def lacks(self, missing: int) -> str:
        """What is wrong when answers are missing that may not be asked for."""
        return (
            f"replay is on, and {self._journal.path} lacks {missing} of {self._total} answers;"
            " import the journal that the data were made with, or set replay to false"
        )

    def meet_server(self) -> None:
        """Say what comes from the journal, and see that the server serves the model that gave
        it.
        """
        if self.estimate and self._origins.count:
            say(self._origins.line(self._total))
        if not self._replay:
            for note in self._origins.meet():
                say(f"note: {note}")

    def ask(self, requests: Iterable[Request], missing: int) -> None:
        """Ask the `missing` ones, and journal what comes."""
        if self.estimate:
            say(f"to ask: {self.estimate.line()}")
            self.estimate.budget.spent = self._spent
        with self._run.progress(missing, "request") as progress, interrupts(self._stop):
            lacking = self._lacking(requests)
            try:
                # however this ends, what the engine has begun is ended by closing
                with closing(self._engine.answer(lacking)) as answers:
                    for request, answer in answers:
                        self._record(request, answer)
                        usd = round(self.answers["usd"], 4)
                        progress.update(1, failed=self._failed, usd=usd)
                        if time.monotonic() - self._told_at >= _TELL_S:
                            self._tell()
            finally:
                # of a failed run too: the record says what it paid
                self._tell()

    def _lacking(self, requests: Iterable[Request]) -> Iterator[Request]:
        """The requests without an answer, one of each key, until told to stop."""
        for request in requests:
            if self._stop.is_set():
                return
            number = int(key := request_key(self._engine, request), 16)
            # once for all its twins, and not if another set has paid for it meanwhile
            if number in self._missing and not self._journal.get(key):
                self._missing.remove(number)
                yield request

    def _record(self, request: Request, answer: Answer) -> None:
        """Journal one answer, count it, and stop asking when too many have failed."""
        key = request_key(self._engine, request)
        self.known += 1
        _add(self._usage, vars(answer))
        if answer.status == "ok":
            self._other_model = self._other_model or self._origins.renamed(answer.model)
            if not self._other_model:
                self._keep(key, request, answer)
                return
            # in the journal it would pass for the one before
            self._stop.set()
            answer = replace(answer, reason="another_model", detail=answer.model)
        self._journal.fail(key, answer.reason, answer.detail, usd=answer.usd)
        said = f"{answer.reason} {_MENDS.get(answer.reason, '')}{answer.detail}"
        self._last_failure = f"{request.id}: {said}".strip()
        self._reasons[answer.reason] += 1
        # who needs no model may have nothing to say: no fault to stop for
        if answer.reason == "no_evidence" or answer.reason in NOT_RECORDED:
            return
        self._failed += 1
        # early on, a few failures say nothing: twice as many answers count, or _FEW of them
        if self._failed > self._allowed * min(self._total, 2 * max(self.known, _FEW)):
            self._stop.set()

    def _keep(self, key: str, request: Request, answer: Answer) -> None:
        body = {name: value for name, value in vars(answer).items() if name != "request_sha"}
        if self._origins.source:
            body["server"] = self._origins.source
        self._journal.put(key, body)
        _add(self.answers, body)
        self._judge(request, answer.text)
        if self._drops_too_many(_FEW):
            self._stop.set()

    def _judge(self, request: Request, text: str) -> None:
        """See whether an answer is of any use."""
        # the first answers are as good a sample as any: requests come in the order of pages
        if self._check is None or self._judged >= _JUDGED:
            return
        self._judged += 1
        reason, found = self._check(request, text)
        if reason:
            self._dropped[reason] += 1
            self._last_drop = f"{request.id}: {reason} {found[:200]}"

    def _drops_too_many(self, least: int) -> bool:
        most = self._run.params.max_drop_rate * self._judged
        return self._judged >= least and self._dropped.total() > most

    def _tell(self) -> None:
        """Add what was paid since the last time to the run's usage."""
        self._run.usage(**self._usage)
        self._usage = dict.fromkeys(_PAID, 0)
        self._told_at = time.monotonic()

    def check(self, *, surely: bool = False) -> None:
        """Raise InputError if more failed or were dropped than may, or another model answered;
        `surely`: while more may come.
        """
        if self._other_model:
            raise InputError(self._other_model)
        if sum(self._reasons[reason] for reason in NOT_RECORDED) == self._total > 0:
            raise InputError(
                f"recorded: none of {self._total} requests has an answer"
                f" ({_listed(self._reasons)}; the last:"
                f" {self._last_failure}). Write answers for these pages, undo the edit of the"
                " prompt, or set engine to extractive (no model) or openai"
            )
        engine = f"{self._engine.name} {self._engine.model}"
        kept = f"answers stay in {self._journal.path}"
        # a bad start of a few answers is no reason to stop a stage of 100 K
        if self._drops_too_many(_FEW if surely else 0):
            raise InputError(
                f"{engine}: {self._dropped.total()} of {self._judged} answers fail a check"
                f" ({_listed(self._dropped)}), more than max_drop_rate"
                f" {self._run.params.max_drop_rate:g} allows."
                f" The last: {self._last_drop}. Mend the prompt, or the server (with another"
                " model_revision, to ask it anew), leave the check out of checks, or raise"
                f" max_drop_rate, and run again; {kept}"
            )
        if self._failed > self._allowed * (self._total if surely else self.known):
            raise InputError(
                f"{engine}: {self._failed} of {self.known} requests failed, more than"
                f" max_failure_rate {self._allowed:g} allows. The last:"
                f" {self._last_failure}. Mend the cause or raise max_failure_rate and run again;"
                f" {kept}"
            )

    def _is_settled(self, failure: Json | None) -> bool:
        return (
            failure is not None
            and not os.environ.get(FORCE_VARIABLE)
            and settles(failure["reason"], failure["detail"])
            and time.time() - failure["last_at"] < _DUE_S
        )


def _listed(reasons: Counter[str]) -> str:
    return ", ".join(f"{reason} {n}" for reason, n in reasons.most_common())


def _add(totals: dict[str, float], amounts: Json) -> None:
    for name in totals:
        totals[name] += amounts.get(name, 0)
