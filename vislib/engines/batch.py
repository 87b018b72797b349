"""Engine `openai_batch`: the provider's batch files, half the price and answers within a day
(VisCon-100K, section 3).

Requests are written as JSONL, uploaded, begun, polled and collected. Each step is on disk before
the next, so a run may be killed anywhere and started again: what is under way is taken up, never
begun twice. Keys and journal are those of `openai`. The same files run under `vllm run-batch`
(`batch_folder`), without a server.
"""

import json
import math
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from vislib.engines import Answered, Json, Request, request_key, say
from vislib.engines.batch_files import (
    ENDPOINT,
    BatchFile,
    BatchServer,
    Refused,
    state_folder,
    under_way,
)
from vislib.engines.budget import Budget
from vislib.engines.completions import failure
from vislib.engines.openai import OpenAIChat
from vislib.engines.replies import NEVER_RUN, read_result
from vislib.engines.transport import PROVIDER
from vislib.runs import InputError, Run
from vislib.runs.keys import ROOT

if TYPE_CHECKING:
    from openai.types import Batch


_ENDED = ("completed", "failed", "expired", "cancelled")
# Ends of a line that was not run, nor billed: it is asked once more.
_NOT_RUN = (*NEVER_RUN, "rate_limited", "server_error")
_MISSED = 30  # looks that may bring nothing: two hours, when polls are far apart
_SAY_S = 30.0  # polls that are so far apart are told


class OpenAIBatch(OpenAIChat):
    """Asks the model of `run` by batch files at one server, or by files in `batch_folder` that
    others answer.
    """

    name = "openai_batch"
    # developers.openai.com/api/docs/guides/batch, November 2026: 50,000 requests and 200 MB a file.
    # How many tokens may wait depends on account and model, and only a refusal tells
    # (`token_limit_exceeded`).
    max_requests = 50_000
    max_bytes = 200_000_000
    poll_s = (10.0, 300.0)  # first and longest interval

    def __init__(self, run: Run, folder: Path | None = None) -> None:
        params = run.params
        super().__init__(params, folder)
        if folder and self.urls == [PROVIDER] and not params.batch_folder:
            raise InputError(
                "model is a folder, which the provider lacks; set batch_folder, or engine to openai"
            )
        # a batch lives at one server, and nobody could say at which a lost one was begun
        if len(self.urls) > 1:
            raise InputError(
                f"base_url names {len(self.urls)} servers; engine openai_batch takes one"
            )
        self.budget = Budget(params, share=params.batch_price)
        self._run = run
        # results name the model as the file asked for it: the same name, whatever the folder
        self._weights = f"{folder} --served-model-name {self.model}" if folder else self.model
        if params.batch_folder:
            self.places = []  # the files are answered elsewhere
            self.urls = [str((ROOT / Path(params.batch_folder).expanduser()).resolve())]
        self._place = self.urls[0]

    def answer(self, requests: Iterable[Request]) -> Answered:
        """Answers as batches end; see `Engine`. Those of batches that an earlier run of the stage
        began come too. Requests are read as far as the ceiling allows.
        """
        self._halt = None
        waiting = iter(requests)
        self._held_back: list[Request] = []  # to be asked once more, or held back by the ceiling
        self._retried = set[str]()
        self._bounds = dict[str, float]()  # USD of each request under way, by key
        self._room = math.inf
        self._most = self.max_requests
        self._pause = self.poll_s[0]
        self._missed = 0  # looks at a batch, one after the other, that brought nothing
        self._server = BatchServer(self._place, self.params, self.stop) if self.places else None
        self._files = under_way(state_folder(self._run))
        self._take_up()
        yield from self._send(waiting)  # first: what is under way already is left out of it
        if not self._server:
            for file in [*self._files]:
                if file.output.exists():
                    # what the results lack is written anew
                    yield from self._take(file, _results(file.output.read_bytes()), None)
                    self._clear(file)
            yield from self._send(waiting)
        while self._server and self._files and not self.stop.is_set():
            yield from self._poll(self._server)
            yield from self._send(waiting)
        self._conclude()

    def _take_up(self) -> None:
        """Go on where the last run of the stage was ended."""
        journal = self._run.journal(self.journal)
        for file in [*self._files]:
            if file.place != self._place:
                served = "set base_url to that, and batch_folder to ''"
                mend = served if "://" in file.place else "set batch_folder to that"
                raise InputError(
                    f"{file.lines.name} is under way at {file.place}: {mend}, to collect it; or"
                    f" delete {file.lines} to ask its requests again"
                )
            if self._server and not file.batch:  # the reply was lost, or there was none
                file.note(self._server.begun(file.name))
                if not file.batch:
                    self._clear(file)
                    continue
            bounds = {request_key(self, asked): self._bound(asked) for asked in file.requests()}
            # the kill may have come when some of them were journalled
            left = {key: usd for key, usd in bounds.items() if journal.get(key) is None}
            # until it is collected, it counts as if all of it were billed
            self.budget.reserved += sum(left.values())
            self._bounds |= left
            if not left:
                self._clear(file)

    def _bound(self, request: Request) -> float:
        # who answers files elsewhere pays elsewhere
        return self.budget.bound(request) if self._server else 0.0

    # -- sending
    def _send(self, waiting: Iterator[Request]) -> Answered:
        """Write and send what is not under way, as far as the ceiling and the provider's queue
        allow.
        """
        asked: list[Request] = []
        lines: list[bytes] = []
        size = 0
        while not self.stop.is_set() and len(self._files) < self._room:
            request = self._held_back.pop() if self._held_back else next(waiting, None)
            if request is None:
                break
            # in a file that is under way; its answer will come from there
            if (key := request_key(self, request)) in self._bounds:
                continue
            try:
                body = self._body(request)
            except (OSError, ValueError) as error:
                yield request, failure("image_unreadable", error)
                continue
            asks = {"custom_id": key, "method": "POST", "url": ENDPOINT, "body": body}
            line = json.dumps(asks).encode() + b"\n"  # ASCII: some readers end lines at U+2028
            usd = self._bound(request)
            busy = asked or self._files
            # until an answer has shown what an image costs, only one is risked
            unproven = usd and request.image_id and not self.budget.proven and busy
            if unproven or not self.budget.reserve(usd):
                self._held_back.append(request)  # until an answer has cost less than its bound
                if not busy:
                    self._end(self.budget.exhausted(usd))
                break
            if asked and (len(asked) >= self._most or size + len(line) > self.max_bytes):
                self._submit(asked, lines)
                asked, lines, size = [], [], 0
            asked.append(request)
            lines.append(line)
            size += len(line)
            self._bounds[key] = usd
        # stopped: nothing was sent yet, and nothing is lost by not sending it
        if asked and not self.stop.is_set():
            self._submit(asked, lines)

    def _submit(self, asked: list[Request], lines: list[bytes]) -> None:
        """Write a file, and have a batch made of it."""
        file = BatchFile.write(state_folder(self._run), self._place, asked, lines)
        self._files.append(file)
        if not self._server:
            return
        try:
            file.note(self._server.begin(file.lines))
        except Refused:  # else there may be a batch all the same: the next run asks after it
            self._clear(file)
            raise

    # -- collecting
    def _poll(self, server: BatchServer) -> Answered:
        """Ask after every batch; collect those that have ended, else wait."""
        changed = False
        done = 0
        for file in [*self._files]:
            try:
                batch = server.retrieve(file.batch)
            except InputError as error:
                self._missed += 1  # an outage costs nothing but time
                if isinstance(error, Refused) or self._missed > _MISSED:
                    raise
                continue
            self._missed = 0
            if batch.status not in _ENDED:
                done += batch.request_counts.completed if batch.request_counts else 0
                continue
            if batch.status == "failed":
                self._refused(file, batch)
            else:
                changed = True
                ids = filter(None, (batch.output_file_id, batch.error_file_id))
                results = _results(b"\n".join(map(server.content, ids)))
                # a batch that expired or was cancelled leaves lines out without a word
                said = f"no result in batch {batch.id}"
                missing = {"error": {"code": f"batch_{batch.status}", "message": said}}
                yield from self._take(file, results, missing)
            self._clear(file)
        # batches take hours: the pause grows until something ends
        self._pause = self.poll_s[0] if changed else min(1.5 * self._pause, self.poll_s[1])
        if self._pause > _SAY_S:
            batches = f"{len(self._files)} batches at {self._place}"
            say(f"{self.name}: {batches}, {done:,} requests done")
        if not changed:
            self.stop.wait(self._pause)

    def _clear(self, file: BatchFile) -> None:
        """Forget a file of which nothing waits any more."""
        file.remove()
        self._files.remove(file)

    def _refused(self, file: BatchFile, batch: "Batch") -> None:
        """A batch that was never begun: its lines wait for room in the provider's queue, or the run
        ends.
        """
        error = next(iter((batch.errors and batch.errors.data) or []), None)
        left = file.requests()
        others = len(self._files) - 1
        for request in left:
            self.budget.reserved -= self._bounds.pop(request_key(self, request))
        self._held_back += left
        # only that refusal passes; a single line that is too large never will
        if not error or error.code != "token_limit_exceeded" or not (others or len(left) > 1):
            said = f"line {error.line}: {error.message}" if error else "no word why"
            refused = f"{self._place} refuses batch {batch.id}, {said}. Mend it and run again"
            self._end(InputError(refused))
        self._room = max(1, others)
        if not others:  # smaller files only when nothing else of ours is in the queue
            self._most = max(1, len(left) // 2)

    def _take(self, file: BatchFile, results: Json, missing: Json | None) -> Answered:
        """The answers in `results`. What is `missing` there, or was not run, is asked again: once,
        where a server runs it.
        """
        for request in file.requests():
            key = request_key(self, request)
            if (usd := self._bounds.pop(key, None)) is None:  # journalled before a kill
                continue
            answer = None
            if result := results.get(key, missing):
                try:
                    answer = read_result(result, url=self._place, model=self.model)
                except InputError as error:  # no other request would survive it
                    self._end(error)
            self.budget.reserved -= usd
            once_more = self._server and key not in self._retried
            if answer is None or (once_more and answer.reason in _NOT_RUN):
                self._retried.add(key)
                self._held_back.append(request)
                continue
            cost = self.budget.pay(answer, usd)
            yield request, replace(answer, model=answer.model or self.model, usd=cost)

    def _conclude(self) -> None:
        """Say what is left to do."""
        if self._files and self._server:
            going = f"{len(self._files)} batches go on at {self._place}"
            say(f"{self.name}: {going}; the next run collects them")
        if self._halt:
            raise self._halt
        # no failure, but nothing can go on here before somebody has answered them
        if self._files and not self._server:
            first = self._files[0]
            command = f"vllm run-batch -i {first.lines} -o {first.output} --model {self._weights}"
            raise InputError(
                f"{len(self._bounds)} requests wait in {len(self._files)} files in {self._place}."
                f" Have each answered, as by `{command}`, and run again"
            )


def _results(data: bytes) -> Json:
    """Results by custom_id; a line that is none counts as missing."""
    results = {}
    for line in data.splitlines():
        with suppress(ValueError, TypeError, KeyError, RecursionError):
            result = json.loads(line)
            results[str(result["custom_id"])] = result
    return results
