"""Who answers a request for text: one interface, journalled answers (VisCon-100K, sections 3.2 and
3.3).

The paper asks GPT-4V for captions and OpenChat 3.5 for questions. Here a stage makes `Request`s and
an engine answers them: `openai` is any server of that protocol, `openai_batch` its batch files at
half the price, `recorded` what stands written in a folder, and `extractive` the page's own words,
without a model. Every answer is journalled before it is used, so that none is paid twice: a stage
first asks what the journal lacks
(`ask.ask_all`), then writes its tables from the journal in the order of its input (`answer_of`).
"""

import json
import logging
from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from vislib.runs import InputError, Run, short_hash
from vislib.runs.journal import Journal
from vislib.runs.keys import is_local_model
from vislib.runs.redaction import without_places

Json = dict[str, Any]  # an object, as it is sent or comes back
DATA_VERSION = 1  # raised when a mended fault changes what comes out of this room


@dataclass(frozen=True, kw_only=True)
class Request:
    """One question to an engine. Pixels, addresses and limits are no part of its key."""

    id: str  # sample_id
    prompt: str  # the whole user text; the image, if any, follows it
    prompt_sha: str  # of the template
    # characters that begin every prompt of the template: what a server's cache may hold
    shared: int = 0
    system: str = ""
    image_id: str = ""  # "": no image is sent
    image_path: Path | None = None
    image_side: int = 0  # px of the longest side sent, 0: as it is
    temperature: float = 0.0  # below 0: not sent, the model's own
    max_tokens: int = 1024  # of the answer
    seed: int = 0  # 0: not sent
    # JSON schema that the answer is to follow, where the server offers it
    schema: Mapping[str, Any] | None = None
    image_size: tuple[int, int] = (0, 0)  # px of the picture before scaling, for estimates
    # for the engines without a model, which read no prompt
    evidence: Mapping[str, Any] = field(default_factory=dict)


_TOKENS = ("tokens_in", "tokens_cached", "tokens_written", "tokens_out")


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What came back. `status` is ok or failed; a failed one says why in `reason` and has no usable
    text.
    """

    text: str = ""
    model: str = ""
    finish_reason: str = ""
    tokens_in: int = 0  # those in the server's cache included
    tokens_cached: int = 0
    tokens_written: int = 0  # into the server's cache, where the provider charges for that
    tokens_out: int = 0
    usd: float = 0.0
    seconds: float = 0.0  # from the first attempt to the answer
    status: str = "ok"
    reason: str = ""
    detail: str = ""
    request_sha: str = ""

    @property
    def used(self) -> dict[str, int]:
        """Its tokens by name."""
        return {name: getattr(self, name) for name in _TOKENS}

    def plus(self, other: "Answer") -> "Answer":
        """This answer with tokens and USD of both: each attempt at a request is billed."""
        both: dict[str, Any] = {name: n + getattr(other, name) for name, n in self.used.items()}
        return replace(self, usd=self.usd + other.usd, **both)


# Closing it ends what the engine has begun.
Answered = Generator[tuple[Request, Answer], None, None]


class Engine(Protocol):
    """Answers requests, in any order; failures are answers too.

    `basis` is what an answer depends on beyond model, sampling, messages and image (JSON values; it
    may replace `model`). `answer` reads `requests` no faster than it answers them. It raises
    InputError when going on is no use, after it has yielded what was under way. An engine that
    waits has an event `stop` too: once it is set, nothing more is begun; one that is paid has a
    `budget`, whose `spent` begins with what the stage's journalled answers cost.
    """

    name: str
    journal: str  # name of the journal file: engines that give the same answers share one
    model: str

    def basis(self, request: Request) -> Json: ...
    def answer(self, requests: Iterable[Request]) -> Answered: ...


def say(line: str) -> None:
    """Tell the user, on the page and in the log."""
    print(line, flush=True)
    logging.getLogger(__name__).info(line)


def open_engine(run: Run) -> Engine:
    """The engine that the parameters `engine`, `model`, `base_url` and the limits of `run`
    describe.

    A model in a folder is served here if no `base_url` is given; else its folder is but the name of
    the server's.
    """
    # Engines are imported when they are wanted: the runner plans without any client's second.
    params = run.params
    if params.engine == "recorded":
        from vislib.engines.recorded import Recorded

        if not params.answers:
            raise InputError("answers is empty: name the folder that engine recorded answers from")
        return Recorded(run.inputs("answers")[0])
    if params.engine == "extractive":
        from vislib.engines.extractive import Extractive

        return Extractive()
    folder = run.inputs("model")[0] if is_local_model(params.model) else None
    if params.engine == "openai" and folder is not None and not params.base_url:
        from vislib.engines.serve import OwnModel

        return OwnModel(run, folder)
    if params.engine == "openai":
        from vislib.engines.openai import OpenAIChat

        return OpenAIChat(params, folder)
    if params.engine == "openai_batch":
        from vislib.engines.batch import OpenAIBatch

        return OpenAIBatch(run, folder)
    raise InputError(
        f"engine: {params.engine!r} is none of recorded, extractive, openai, openai_batch"
    )


def request_key(engine: Engine, request: Request) -> str:
    """Id of an answer: model, sampling, messages, image and its scale, and the engine's own
    basis.
    """
    body = {
        "model": engine.model,
        "sampling": [request.temperature, request.max_tokens, request.seed],
        "messages": [request.system, request.prompt],
        # without an image its side means nothing, and must not change the key
        "image": [request.image_id, request.image_side if request.image_id else 0],
        **({"schema": request.schema} if request.schema else {}),
        **engine.basis(request),
    }
    return short_hash(json.dumps(body, sort_keys=True, ensure_ascii=False))


def answer_of(journal: Journal, engine: Engine, request: Request) -> Answer:
    """The journalled answer to `request`, or its recorded failure; never asked: a failure
    `not_asked`.
    """
    from vislib.engines.completions import read_again

    key = request_key(engine, request)
    if body := journal.get(key):
        body.pop("server", "")  # whose it is; see `identity`
        answer = read_again(body) if hasattr(engine, "budget") else Answer(**body)
    else:
        failed = journal.failure(key) or {"reason": "not_asked", "detail": ""}
        reason, detail = failed["reason"], failed["detail"]
        answer = Answer(model=engine.model, status="failed", reason=reason, detail=detail)
    # tables are published
    return replace(answer, detail=without_places(answer.detail), request_sha=key)
