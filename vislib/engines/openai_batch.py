"""Engine `openai_batch`: the provider's batch files, half the price and answers within a day
(VisCon-100K, section 3).

Requests are written as JSONL, uploaded, begun, polled and collected. Each step is on record before
the next (`batch_files`), so a run may be killed anywhere and started again: what is under way is
taken up, never begun twice. A batch belongs to the stage and the set that asked. Keys and journal
are those of `openai`. The same files run under `vllm run-batch` (`batch_folder`), without a server.
"""

import json
import math
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vislib.engines import Answered, Request, request_key
from vislib.engines.asking import say
from vislib.engines.batch_files import BatchFile, BatchFiles, read_result, read_results
from vislib.engines.batch_server import ENDPOINT, BatchServer, Refused
from vislib.engines.budget import Budget, with_breakpoint
from vislib.engines.openai import OpenAIChat, chat_messages, unreadable
from vislib.engines.transport import PROVIDER
from vislib.runs.errors import InputError
from vislib.runs.keys import ROOT

if TYPE_CHECKING:
    from openai.types import Batch

    from vislib.runs.journal import Journal

_ENDED = ("completed", "failed", "expired", "cancelled")
# Ends of a line that was not run, nor billed: it is asked once more.
_NOT_RUN = ("batch_expired", "batch_cancelled", "request_timeout", "rate_limited", "server_error")
_SAY_S = 30.0  # polls that are so far apart are told


class OpenAIBatch(OpenAIChat):
    """Asks `params.model` by batch files at one server, or by files in `batch_folder` that others
    answer; `state` is where the stage keeps what is under way.
    """

    name = "openai_batch"
    # developers.openai.com/api/docs/guides/batch, November 2026: 50,000 requests and 200 MB a file.
    # How many tokens may wait depends on account and model, and only a refusal tells
    # (`token_limit_exceeded`).
    max_requests = 50_000
    max_bytes = 200_000_000
    poll_s = (10.0, 300.0)  # first and longest interval

    def __init__(
        self, params: Any, journal: "Journal", state: Path, folder: Path | None = None
    ) -> None:
        super().__init__(params, folder)
        if folder is not None and self.urls == [PROVIDER] and not params.batch_folder:
            raise InputError(
                "model is a folder, which the provider lacks; set batch_folder, or engine to openai"
            )
        # a batch lives at one server, and nobody could say at which a lost one was begun
        if len(self.urls) > 1:
            raise InputError(
                f"base_url names {len(self.urls)} servers; engine openai_batch takes one"
            )
        self.budget = Budget(params, share=params.batch_price)
        self._journal = journal
        # results name the model as the file asked for it: the same name, whatever the folder
        served = f"{folder} --served-model-name {self.model}"
        self._weights = served if folder is not None else self.model
        self._state = state
        place = params.batch_folder and ROOT / Path(params.batch_folder).expanduser()
        self._folder = place.resolve() if place else None
        self._place = str(self._folder or self.urls[0])

    @property
    def places(self) -> list[str]:
        """None where the files are answered elsewhere."""
        return [] if self._folder else self.urls

    def answer(self, requests: Iterable[Request], *, spent: float = 0.0) -> Answered:
        """Answers as batches end; see `Engine`. Those of batches that an earlier run of the stage
        began come too. Requests are read as far as the ceiling allows.
        """
        self.budget.spent = spent
        self._halt = None
        self._held = None
        waiting = iter(requests)
        self._room = math.inf
        self._most = self.max_requests
        self._pause = self.poll_s[0]
        self._retried: set[str] = set()
        self._odd: list[str] = []  # lines that are no results of ours
        self._server = None if self._folder else BatchServer(self._place, self.params, self._ending)
        self._files = BatchFiles(self._state, self._place)
        with closing(self._files):  # however this ends, what is not committed is undone
            self._take_up()
            yield from self._send(waiting)
            if self._folder:
                # first: what is answered already needs no new file
                yield from self._import(self._folder)
                yield from self._send(waiting)
            while self._server and not self._ending() and self._files.all():
                yield from self._poll(self._server)
                yield from self._send(waiting)
            self._conclude()

    def _take_up(self) -> None:
        """Go on where the last run of the stage was ended."""
        self._files.run("DELETE FROM lines WHERE name = ''")  # asked anew, if still wanted
        for file in self._files.all():
            if file.place != self._place:
                served = "set base_url to that, and batch_folder to ''"
                mend = served if "://" in file.place else "set batch_folder to that"
                raise InputError(
                    f"{file.path.name} is under way at {file.place}: {mend}, to collect it; or"
                    f" delete {file.path} to ask its requests again"
                )
            # the kill came between an answer's journalling and the commit of its file
            for key in filter(self._journal.has, self._files.left(file.name)):
                self._files.drop(key)
            if self._server and not file.batch:  # the reply was lost, or there was none
                if batch := self._server.begun(file.name):
                    self._files.is_sent(file, batch)
                else:
                    self._files.forget(file)
            left = self._files.left(file.name)
            # until it is collected, it counts as if all of it were billed
            self.budget.reserved += sum(left.values())
            if not left:
                self._clear(file)
        self._files.commit()

    # -- sending
    def _send(self, waiting: Iterator[Request]) -> Answered:
        """Write and send what is not under way, as far as the ceiling and the provider's queue
        allow.
        """
        draft = None
        under_way = len(self._files.all())
        while not self._ending() and under_way < self._room and (request := self._next(waiting)):
            key = request_key(self, request)
            # in a file that is under way; its answer will come from there
            if (known := self._files.line(key)) and known[2]:
                continue
            try:
                body = self._settings(request) | {"messages": chat_messages(request)}
            except (OSError, ValueError) as error:
                self._files.drop(key)
                yield request, unreadable(error)
                continue
            # who answers files elsewhere pays elsewhere
            usd = self.budget.bound(request) if self._server else 0.0
            busy = draft is not None or under_way > 0
            # until an answer has shown what an image costs, only one is risked
            unproven = usd and request.image_id and not self.budget.proven and busy
            if unproven or not self.budget.reserve(usd):
                self._held = request  # until an answer has cost less than its bound
                self._halt = None if busy else self.budget.exhausted(usd)
                break
            body = with_breakpoint(body, request, urls=[self._place])
            asked = {"custom_id": key, "method": "POST", "url": ENDPOINT, "body": body}
            line = json.dumps(asked).encode() + b"\n"  # ASCII: some readers end lines at U+2028
            if draft and (draft.lines >= self._most or draft.size + len(line) > self.max_bytes):
                self._submit(draft.close())
                draft = None
                under_way = under_way + 1
            draft = draft or self._files.write()
            draft.add(key, line, request=request, usd=usd)
        # stopped: nothing was sent yet, and nothing is lost by not sending it
        if draft and not self.stop.is_set():
            self._submit(draft.close())

    def _next(self, waiting: Iterator[Request]) -> Request | None:
        """The request that was held back, one to be asked once more, or a new one."""
        request = self._held
        self._held = None
        for (key,) in self._files.run("SELECT key FROM lines WHERE name = '' LIMIT 1"):
            line = self._files.line(key)
            request = request or (line and line[0])
        return request or next(waiting, None)

    def _submit(self, file: BatchFile) -> None:
        """Have a batch made of a file."""
        if not self._server:
            return
        upload = ""
        try:
            upload = self._server.upload(file.path)
            self._files.is_sent(file, self._server.begin(upload, file.path))
        except InputError as error:
            # else there may be a batch all the same: the next run asks after it
            if not upload or isinstance(error, Refused):
                self._server.delete(upload)
                self._files.forget(file)
            raise

    # -- collecting
    def _poll(self, server: BatchServer) -> Answered:
        """Ask after every batch; collect those that have ended, else wait."""
        changed = False
        done = 0
        files = self._files.all()
        for file in files:
            batch = server.retrieve(file.batch)
            if batch.status in _ENDED:
                changed |= batch.status != "failed"
                yield from self._collect(file, batch, server)
            elif batch.request_counts:
                done += batch.request_counts.completed
        # batches take hours: the pause grows until something ends
        self._pause = self.poll_s[0] if changed else min(1.5 * self._pause, self.poll_s[1])
        if self._pause > _SAY_S:
            say(f"{self.name}: {len(files)} batches at {self._place}, {done:,} requests done")
        server.wait(0.0 if changed else self._pause)

    def _collect(self, file: BatchFile, batch: "Batch", server: BatchServer) -> Answered:
        """Take what came back; what did not is asked once more."""
        if batch.status == "failed":
            self._refused(file, batch)
        for results in filter(None, (batch.output_file_id, batch.error_file_id)):
            path = self._files.folder / f"{file.name}.results"
            server.download(results, path)
            for _, key, result in read_results(path, self._odd):
                yield from self._take(key, result)
        # a batch that expired or was cancelled leaves lines out without a word
        said = f"no result in batch {batch.id}"
        missing = {"error": {"code": f"batch_{batch.status}", "message": said}}
        for key in self._files.left(file.name):
            yield from self._take(key, missing)
        self._files.commit(after=self._journal.path)
        self._clear(file, batch)

    def _clear(self, file: BatchFile, batch: "Batch | None" = None) -> None:
        """Clear away, here and at the server, a file without a line that waits."""
        if self._server and file.batch:
            batch = batch or self._server.retrieve(file.batch)
            self._server.delete(batch.input_file_id, batch.output_file_id, batch.error_file_id)
        self._files.forget(file)

    def _refused(self, file: BatchFile, batch: "Batch") -> None:
        """A batch that was never begun: its lines wait for room in the provider's queue, or the run
        ends.
        """
        error = next(iter((batch.errors and batch.errors.data) or []), None)
        left = self._files.left(file.name)
        others = len(self._files.all()) - 1
        # only that refusal passes; a single line that is too large never will
        full = error and error.code == "token_limit_exceeded" and (others or len(left) > 1)
        for key, usd in left.items():
            self._put_back(key, usd, retry=bool(full))
        if not full:
            said = f"line {error.line}: {error.message}" if error else "no word why"
            self._halt = InputError(
                f"{self._place} refuses batch {batch.id}, {said}. Mend it and run again"
            )
        elif others:  # smaller files only when nothing else of ours is in the queue
            self._room = others
        else:
            self._room = 1
            self._most = max(1, len(left) // 2)

    def _take(self, key: str, result: dict[str, Any], *, stale: bool = False) -> Answered:
        """Give back the answer to a line, or ask again; of a `stale` result only an answer counts,
        for its failure may be that of an earlier question.
        """
        if (line := self._files.line(key)) is None or not line[2]:  # twice in the results
            return
        answer = None
        (request, usd, _) = line
        try:
            answer = read_result(result, url=self.urls[0], model=self.model)
        except InputError as error:
            self._halt = self._halt or error
        if answer and answer.status != "ok" and stale:
            return
        passing = answer is not None and answer.reason in _NOT_RUN and key not in self._retried
        if answer is None or (self._server and passing):
            self._put_back(key, usd, retry=answer is not None)
            self._retried.add(key)
            return
        cost = self.budget.cost(**answer.used)
        # a server that tells no tokens: the bound counts
        unknown = answer.status == "ok" and not answer.tokens_in
        answer = replace(answer, model=answer.model or self.model, usd=usd if unknown else cost)
        self.budget.settle(usd, answer)
        yield request, answer
        self._files.drop(key)

    def _put_back(self, key: str, usd: float, *, retry: bool) -> None:
        """Take a line out of its file, to ask it once more or not."""
        self.budget.settle(usd, None)
        if retry:
            self._files.put_back(key)
        else:
            self._files.drop(key)

    # -- files that others answer
    def _import(self, folder: Path) -> Answered:
        """Take the results that lie in the folder; what is left of their files is written anew."""
        here = {file.name: file for file in self._files.all()}
        lines = {name: len(self._files.left(name)) for name in here}
        for path in sorted(path for path in folder.glob("*.jsonl") if path.is_file()):
            for number, key, result in read_results(path, self._odd):
                if (line := self._files.line(key)) and (file := here.get(line[2])):
                    # the folder may still hold results of a file that asked the same before
                    stale = path.stat().st_mtime < file.path.stat().st_mtime
                    yield from self._take(key, result, stale=stale)
                # results of files that were taken in before may stay where they are
                elif not (self._journal.has(key) or self._journal.failure(key)):
                    self._odd.append(
                        f"{path.name} line {number} has an unknown custom_id, {key[:40]!r}"
                    )
        for name, file in here.items():
            if len(left := self._files.left(name)) < lines[name]:
                for key, usd in left.items():
                    self._put_back(key, usd, retry=True)
                self._files.commit(after=self._journal.path)
                self._files.forget(file)

    def _conclude(self) -> None:
        """Say what is left to do."""
        if self._odd:
            more = "" if len(self._odd) <= 3 else " …"
            say(f"{self.name}: {len(self._odd)} lines set aside: {'; '.join(self._odd[:3])}{more}")
        files = self._files.all()
        if files and self._server:
            going = f"{len(files)} batches go on at {self._place}"
            say(f"{self.name}: {going}; the next run collects them")
        if self._halt:
            raise self._halt
        # no failure, but nothing can go on here before somebody has answered them
        if files and self._folder:
            ((waiting,),) = self._files.run("SELECT count(*) FROM lines")
            said = f"{waiting} requests wait in {len(files)} files in {self._folder}"
            first = files[0].path
            output = first.with_suffix(".output.jsonl")
            command = f"vllm run-batch -i {first} -o {output} --model {self._weights}"
            raise InputError(f"{said}. Have each answered, as by `{command}`, and run again")
