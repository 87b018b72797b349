"""Who answers a request for text: one interface, journalled answers (VisCon-100K, sections 3.2 and 3.3).

The paper asks GPT-4V for captions and OpenChat 3.5 for questions. Here a stage makes `Request`s and an engine
answers them: `openai` is any server of that protocol, `extractive` the page's own words, without a model.
Every answer is journalled before it is used, so that none is paid twice: a stage first asks what the journal
lacks (`ask_all`), then writes its tables from the journal in the order of its input (`answer_of`).
"""

import json
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Protocol

from vislib.runs.errors import InputError
from vislib.runs.seeding import short_hash

if TYPE_CHECKING:
    from vislib.runs import Run
    from vislib.runs.journal import Journal

SETTLED = ("content_filter", "length", "refused")  # the same request would fail again, and be paid again
_DUE_S = 86_400.0  # seconds after which a settled failure is asked again all the same
_FEW = 50  # answers before a failure rate means anything


@dataclass(frozen=True, kw_only=True)
class Request:
    """One question to an engine. Pixels, addresses and limits are no part of its key."""

    id: str  # sample_id
    prompt: str  # the whole user text; the image, if any, follows it
    prompt_sha: str  # of the template
    system: str = ""
    image_id: str = ""  # "": no image is sent
    image_path: Path | None = None
    image_side: int = 0  # px of the longest side sent, 0: as it is
    temperature: float = 0.0  # below 0: not sent, the model's own
    max_tokens: int = 1024  # of the answer
    seed: int = 0  # 0: not sent
    evidence: Mapping[str, Any] = field(default_factory=dict)  # for the extractive engine alone


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What came back. `status` is ok or failed; a failed one says why in `reason` and has no usable text."""

    text: str = ""
    model: str = ""
    finish_reason: str = ""
    tokens_in: int = 0
    tokens_out: int = 0
    usd: float = 0.0
    status: str = "ok"
    reason: str = ""
    detail: str = ""
    request_sha: str = ""


class Engine(Protocol):
    """Answers requests, in any order; failures are answers too.

    `study` sees all requests before the first key is made; `basis` is what an answer depends on beyond model,
    sampling, messages and image (JSON values; it may replace `model`). `answer` reads `requests` no faster than
    it answers them; `spent` is what the stage's journalled answers cost in USD. It raises InputError when going
    on is no use, after it has yielded what was under way. An engine that waits has an event `stop` too: once it
    is set, nothing more is begun.
    """

    name: str
    model: str

    def study(self, requests: Iterable[Request]) -> None: ...
    def basis(self, request: Request) -> Mapping[str, Any]: ...
    def answer(self, requests: Iterable[Request], *, spent: float = 0.0) -> Iterator[tuple[Request, Answer]]: ...


def open_engine(run: "Run") -> Engine:
    """The engine that the parameters `engine`, `model`, `base_url` and the limits of `run` describe."""
    if run.params.engine == "extractive":
        from vislib.engines.extractive import Extractive

        return Extractive()
    if run.params.engine == "openai":
        from vislib.engines.openai_chat import OpenAIChat

        return OpenAIChat(run.params)
    raise InputError(f"engine: {run.params.engine!r} is none of extractive, openai")


def request_key(engine: Engine, request: Request) -> str:
    """Id of an answer: model, sampling, messages, image and its scale, and the engine's own basis."""
    body = {
        "model": engine.model,
        "sampling": [request.temperature, request.max_tokens, request.seed],
        "messages": [request.system, request.prompt],
        "image": [request.image_id, request.image_side if request.image_id else 0],
        **engine.basis(request),
    }
    return short_hash(json.dumps(body, sort_keys=True, ensure_ascii=False))


def answer_of(journal: "Journal", engine: Engine, request: Request) -> Answer:
    """The journalled answer to `request`, or its recorded failure; never asked: a failure `not_asked`."""
    key = request_key(engine, request)
    if body := journal.get(key):
        return Answer(**body, request_sha=key)
    failure = journal.failure(key) or {"reason": "not_asked", "detail": ""}
    said = {name: failure[name] for name in ("reason", "detail")}
    return Answer(model=engine.model, status="failed", request_sha=key, **said)


def ask_all(run: "Run", engine: Engine, requests: Callable[[], Iterable[Request]]) -> None:
    """Ask what the journal lacks and journal every answer as it comes.

    `requests()` gives all requests of the stage, the same ones each time it is called. Failures of an earlier run
    are asked again, `SETTLED` ones when a day has passed. Raises InputError when more than `max_failure_rate` of
    the requests fail or the engine cannot go on; on an interrupt, what is under way is waited for (a second one
    is immediate). In each case all answers so far are kept.
    """
    engine.study(requests())
    asking = _Asking(run, engine)
    if missing := asking.survey(requests()):
        with run.progress(missing, "request") as progress, _interrupts(asking.stop):
            lacking = asking.lacking(requests())
            try:
                for request, answer in engine.answer(lacking, spent=asking.spent):
                    asking.record(request, answer)
                    progress.update(1, failed=asking.failed, usd=round(asking.usage["usd"], 4))
            finally:
                run.usage(**asking.usage)
    asking.check()


class _Asking:
    """The state of one `ask_all`: what is known, asked and failed."""

    def __init__(self, run: "Run", engine: Engine) -> None:
        self.engine, self.journal = engine, run.journal(engine.name)
        self.allowed = float(run.params.max_failure_rate)
        self.stop: threading.Event = getattr(engine, "stop", threading.Event())
        self.stop.clear()
        self.known = self.failed = self.total = 0
        self.spent = 0.0
        self.usage: dict[str, Any] = {"tokens_in": 0, "tokens_out": 0, "usd": 0.0}
        self.last_failure = ""
        self._open: set[str] = set()  # keys under way or failed in this run: a twin is not asked too

    def survey(self, requests: Iterable[Request]) -> int:
        """Count what is known and what it cost; return how many requests are to be asked."""
        missing = 0
        for self.total, request in enumerate(requests, start=1):
            key = request_key(self.engine, request)
            if failure := self.journal.failure(key):  # failed attempts may have been billed
                self.spent += failure["usd"]
            if body := self.journal.get(key):
                self.known, self.spent = self.known + 1, self.spent + body["usd"]
            elif self._settled(key):
                self.known, self.failed = self.known + 1, self.failed + 1
            else:
                missing += 1
        return missing

    def lacking(self, requests: Iterable[Request]) -> Iterator[Request]:
        """The requests without an answer, one of each key, until told to stop."""
        for request in requests:
            key = request_key(self.engine, request)
            if self.stop.is_set():
                return
            if key not in self._open and not self.journal.has(key) and not self._settled(key):
                self._open.add(key)
                yield request

    def record(self, request: Request, answer: Answer) -> None:
        """Journal one answer, count it, and stop asking when too many have failed."""
        key = request_key(self.engine, request)
        self.known += 1
        for name in self.usage:
            self.usage[name] += getattr(answer, name)
        if answer.status == "ok":
            body = asdict(answer)
            body.pop("request_sha")
            self.journal.put(key, body)
            self._open.discard(key)
            return
        self.journal.fail(key, answer.reason, answer.detail, usd=answer.usd)
        if answer.reason == "no_evidence":  # the extractive engine has nothing to say: no fault to stop for
            return
        self.failed, self.last_failure = self.failed + 1, f"{request.id}: {answer.reason} {answer.detail}".strip()
        if self.failed > self.allowed * min(self.total, 2 * max(self.known, _FEW)):
            self.stop.set()

    def check(self) -> None:
        """Raise InputError if more failed than may."""
        if self.failed > self.allowed * self.known:
            raise InputError(
                f"{self.engine.name} {self.engine.model}: {self.failed} of {self.known} requests failed, more than "
                f"max_failure_rate {self.allowed:g} allows. The last: {self.last_failure or 'of an earlier run'}. "
                f"Mend the cause or raise max_failure_rate and run again; answers stay in {self.journal.path}"
            )

    def _settled(self, key: str) -> bool:
        failure = self.journal.failure(key)
        return failure is not None and failure["reason"] in SETTLED and time.time() - failure["last_at"] < _DUE_S


@contextmanager
def _interrupts(stop: threading.Event) -> Iterator[None]:
    """Turn the first SIGINT or SIGTERM into `stop`; deliver it when what was under way has been journalled."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    caught: list[int] = []

    def ask_to_stop(number: int, frame: FrameType | None) -> None:
        caught.append(number)
        stop.set()
        restore()

    before = {number: signal.signal(number, ask_to_stop) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    try:
        yield
    finally:
        restore()
    if caught:
        signal.raise_signal(caught[0])
