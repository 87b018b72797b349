"""Engine `openai_batch`: the provider's batch files, half the price and answers within a day
(VisCon-100K, section 3).

Requests are written as JSONL, uploaded, begun, polled and collected. Each step is on record before
the next, so a run may be killed anywhere and started again: what is under way is taken up, never
begun twice. Keys and journal are those of `openai`. The same files run under `vllm run-batch`
(`batch_folder`), without a server.

A run collects the files that hold a line it is asked for, and whole: other lines are journalled for
their own stage to find. All other files wait for a run that asks for them.
"""

import json
import logging
import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vislib.engines import Answer, Answered, Request, request_key
from vislib.engines.batch_files import BatchFile, BatchFiles
from vislib.engines.batch_results import read_result, read_results
from vislib.engines.batch_server import ENDPOINT, BatchServer
from vislib.engines.breakpoints import with_breakpoint
from vislib.engines.budget import Budget
from vislib.engines.chat_client import PROVIDER
from vislib.engines.openai_chat import OpenAIChat, chat_messages
from vislib.runs.errors import InputError
from vislib.runs.keys import ROOT

if TYPE_CHECKING:
    from openai.types import Batch

    from vislib.runs.journal import Journal

_ENDED = ("completed", "failed", "expired", "cancelled")
_NOT_RUN = {
    "batch_expired",
    "batch_cancelled",
    "request_timeout",
    "rate_limited",
    "server_error",
}  # nor billed
_SAY_S = 30.0  # polls that are so far apart are told


class OpenAIBatch(OpenAIChat):
    """Asks `params.model` by batch files at one server, or by files in `batch_folder` that others
    answer.
    """

    name = "openai_batch"
    # developers.openai.com/api/docs/guides/batch, November 2026: 50,000 requests and 200 MB a file.
    # How many tokens may wait depends on account and model, and only a refusal tells
    # (`token_limit_exceeded`).
    max_requests, max_bytes = 50_000, 200_000_000
    poll_s = (10.0, 300.0)  # first and longest interval

    def __init__(self, params: Any, journal: "Journal", folder: Path | None = None) -> None:
        super().__init__(params, folder)
        if folder is not None and self.urls == [PROVIDER] and not params.batch_folder:
            raise InputError(
                "model is a folder, which the provider lacks; set batch_folder, or engine to openai"
            )
        if len(self.urls) > 1:
            raise InputError(
                f"base_url names {len(self.urls)} servers; engine openai_batch takes one"
            )
        self.budget, self._journal, place = (
            Budget(params, share=params.batch_price),
            journal,
            params.batch_folder,
        )
        self._weights = (
            f"{folder} --served-model-name {self.model}" if folder is not None else self.model
        )
        self._folder = (ROOT / Path(place).expanduser()).resolve() if place else None
        self._place = str(self._folder or self.urls[0])

    def answer(self, requests: Iterable[Request], *, spent: float = 0.0) -> Answered:
        """Answers as batches end; see `Engine`. Before the first, requests are read as far as the
        ceiling allows.
        """
        self.budget.spent, self._halt, self._held, waiting = spent, None, None, iter(requests)
        self._asked: set[str] = set()  # keys under way
        self._awaited: set[str] = set()  # names of the files in which they stand
        self._retries: dict[str, BatchFile] = {}  # keys to be asked once more, and where they stand
        self._retried: set[str] = set()
        self._room, self._most, self._pause = math.inf, self.max_requests, self.poll_s[0]
        self._odd: list[str] = []  # lines that are no results of ours
        self._server = None if self._folder else BatchServer(self._place, self.params, self._ending)
        self._files = BatchFiles(self._journal.path.parent, self._place, self._server)
        with self._files.working():
            self._settle()
        while True:
            with self._files.working():
                self._files.clear()
                yield from self._send(waiting)
                if self._folder:
                    yield from self._import(self._folder)
                    yield from self._send(waiting)
                    self._files.clear()
            if self._ending() or self._server is None or not (self._awaited or self._retries):
                break
            yield from self._poll(self._server)
        self._conclude()

    @property
    def places(self) -> list[str]:
        """None where the files are answered elsewhere."""
        return [] if self._folder else self.urls

    def _settle(self) -> None:
        """Let go of lines whose answers a run journalled before it was killed: nobody asks for them
        any more.
        """
        for file in self._files.find(place=self._place):
            for key in filter(self._journal.has, self._files.left(file)):
                self._files.drop(key)
        self._files.commit(after=self._journal.path)

    # -- sending
    def _send(self, waiting: Iterator[Request]) -> Answered:
        """Write and send what is not under way, as far as the ceiling and the provider's queue
        allow.
        """
        draft = None
        while (
            not self._ending()
            and len(self._awaited) < self._room
            and (request := self._next(waiting))
        ):
            key = request_key(self, request)
            if key not in self._retries and self._joins(key):
                continue
            try:
                body = self._settings(request) | {"messages": chat_messages(request)}
                body = with_breakpoint(body, request, urls=[self._place])
            except (OSError, ValueError) as error:
                yield (
                    request,
                    Answer(status="failed", reason="image_unreadable", detail=str(error)[:200]),
                )
                self._drop(key)
                continue
            usd = self.budget.bound(request) if self._server else 0.0
            unproven = (
                usd and request.image_id and not self.budget.proven and (draft or self._awaited)
            )
            if unproven or not self.budget.reserve(usd):
                # until an answer has shown what an image costs, or cost less than its bound
                self._held = request
                if not (draft or self._awaited):
                    self._halt = self.budget.exhausted(usd)
                break
            # ASCII, since some readers end lines at U+2028
            line = (
                json.dumps(
                    {"custom_id": key, "method": "POST", "url": ENDPOINT, "body": body}
                ).encode()
                + b"\n"
            )
            if draft and (draft.lines >= self._most or draft.size + len(line) > self.max_bytes):
                self._awaited.add(draft.send())
                draft = None
            draft = draft or self._files.write()
            draft.add(key, line, request=request, usd=usd)
            self._asked.add(key)
            self._retries.pop(key, None)
        if draft and not self.stop.is_set():
            self._awaited.add(draft.send())

    def _next(self, waiting: Iterator[Request]) -> Request | None:
        held, self._held = self._held, None
        while self._retries and not held:
            key, file = next(iter(self._retries.items()))
            if line := self._files.line(key, file):
                return line[0]
            del self._retries[key]
            self._joins(key)  # another run was faster
        return held or next(waiting, None)

    def _joins(self, key: str) -> bool:
        """Whether a file holds `key`, and is waited for."""
        if file := self._files.under_way(key):
            self._asked.add(key)
            if file.name not in self._awaited:
                self._awaited.add(file.name)
                self.budget.reserved += sum(self._files.left(file).values())
        return file is not None

    # -- collecting
    def _poll(self, server: BatchServer) -> Answered:
        """Ask after every batch; collect those that have ended, else wait."""
        changed, done = False, 0
        for name in list(self._awaited):
            file = next(iter(self._files.find(name=name)), None)
            batch = server.retrieve(file.batch) if file else None
            if batch and batch.status not in _ENDED:
                done += batch.request_counts.completed if batch.request_counts else 0
                continue
            with self._files.working():
                self._awaited.discard(name)
                changed |= batch is None or batch.status != "failed"
                if (
                    file and batch and self._files.find(name=name)
                ):  # else another run has collected it
                    yield from self._collect(file, batch, server)
                    self._files.commit(after=self._journal.path)
        self._pause = self.poll_s[0] if changed else min(1.5 * self._pause, self.poll_s[1])
        if self._pause > _SAY_S:
            self._say(f"{len(self._awaited)} batches at {self._place}, {done:,} requests done")
        server.wait(0.0 if changed else self._pause)

    def _collect(self, file: BatchFile, batch: "Batch", server: BatchServer) -> Answered:
        """Take what came back; what did not is asked once more."""
        if batch.status == "failed":
            self._refused(file, batch)
            return
        for kind, results in (("output", batch.output_file_id), ("errors", batch.error_file_id)):
            if results:
                path = server.download(results, self._files.folder / f"{file.name}.{kind}")
                for _, key, result in read_results(path, self._odd):
                    yield from self._take(key, file, result)
        missing = {
            "error": {"code": f"batch_{batch.status}", "message": f"no result in batch {batch.id}"}
        }
        for key in self._files.left(file).keys() - self._retries.keys():
            yield from self._take(key, file, missing)

    def _refused(self, file: BatchFile, batch: "Batch") -> None:
        """A batch that was never begun: its lines wait for room in the provider's queue, or the run
        ends.
        """
        error = next(iter((batch.errors and batch.errors.data) or []), None)
        left, others = self._files.left(file), len(self._awaited)
        full = error and error.code == "token_limit_exceeded" and (others or len(left) > 1)
        self._put_back(file, left, retry=bool(full))
        if full:  # smaller files only when nothing else of ours is in the queue
            self._room, self._most = (others, self._most) if others else (1, max(1, len(left) // 2))
        else:
            said = f"line {error.line}: {error.message}" if error else "no word why"
            self._halt = InputError(
                f"{self._place} refuses batch {batch.id}, {said}. Mend it and run again"
            )

    def _take(
        self, key: str, file: BatchFile, result: dict[str, Any], *, stale: bool = False
    ) -> Answered:
        """Give back the answer to what was asked for, or ask again; journal the answer to what was
        not.
        """
        if (line := self._files.line(key, file)) is None:  # twice in the results
            return
        answer: Answer | None = None
        try:
            answer = read_result(result, url=self.urls[0], model=self.model)
        except InputError as error:
            self._halt = self._halt or error
        if answer and answer.status != "ok" and stale:
            return
        if answer is None or (
            self._server and answer.reason in _NOT_RUN and key not in self._retried
        ):
            self._put_back(file, {key: line[1]}, retry=answer is not None)
            self._retried.add(key)
            return
        cost = self.budget.cost(
            answer.tokens_in, answer.tokens_out, answer.tokens_cached, answer.tokens_written
        )
        unknown = (
            answer.status == "ok" and not answer.tokens_in
        )  # the server does not tell: the bound counts
        answer = replace(answer, model=answer.model or self.model, usd=line[1] if unknown else cost)
        self.budget.settle(line[1], answer)
        if key in self._asked:
            yield line[0], answer
        elif answer.status == "ok":
            self._journal.put(
                key,
                {name: value for name, value in asdict(answer).items() if name != "request_sha"},
            )
        else:
            self._journal.fail(key, answer.reason, answer.detail, usd=answer.usd)
        self._drop(key)

    def _put_back(self, file: BatchFile, lines: dict[str, float], *, retry: bool) -> None:
        """Take lines out of a file, to ask once more what this run was asked; the rest is left to
        its own stage.
        """
        for key, usd in lines.items():
            self.budget.settle(usd, None)
            if retry and key in self._asked:
                self._retries[key] = file
            else:
                self._drop(key)

    def _drop(self, key: str) -> None:
        self._asked.discard(key)
        self._retries.pop(key, None)
        self._files.drop(key)

    # -- files that others answer
    def _import(self, folder: Path) -> Answered:
        """Take the results that lie in the folder; what is left of their files is written anew."""
        here = {file: len(self._files.left(file)) for file in self._files.find(place=self._place)}
        for path in sorted(path for path in folder.glob("*.jsonl") if path.is_file()):
            for number, key, result in read_results(path, self._odd):
                if file := next((file for file in self._files.find(key=key) if file in here), None):
                    stale = path.stat().st_mtime < file.path.stat().st_mtime
                    yield from self._take(key, file, result, stale=stale)
                elif not (self._journal.has(key) or self._journal.failure(key)):
                    self._odd.append(
                        f"{path.name} line {number} has an unknown custom_id, {key[:40]!r}"
                    )
        for file, lines in here.items():
            if len(left := self._files.left(file)) < lines:
                self._put_back(file, left, retry=True)
                self._awaited.discard(file.name)

    def _conclude(self) -> None:
        """Say what is left to do."""
        if self._odd:
            self._say(
                f"{len(self._odd)} lines set aside:"
                f" {'; '.join(self._odd[:3])}{' …' * (len(self._odd) > 3)}"
            )
        if self._awaited and self._server:
            self._say(
                f"{len(self._awaited)} batches go on at {self._place}; the next run collects them"
            )
        if self._halt:
            raise self._halt
        if self._folder and (
            paths := [file.path for name in self._awaited for file in self._files.find(name=name)]
        ):
            requests = (
                f"{len(self._asked)} request{'s wait' if len(self._asked) != 1 else ' waits'}"
            )
            waiting = f"{requests} in {len(paths)} file{'s' * (len(paths) != 1)} in {self._folder}"
            command = (
                f"vllm run-batch -i {paths[0]} -o {paths[0].with_suffix('.output.jsonl')} --model"
                f" {self._weights}"
            )
            raise InputError(f"{waiting}. Have each answered, as by `{command}`, and run again")

    def _say(self, text: str) -> None:
        print(f"{self.name}: {text}", flush=True)
        logging.getLogger(__name__).info(text)
