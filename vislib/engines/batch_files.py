"""Batch files on their way: here, until their answers are journalled, and at a server, where a
reply may be lost (VisCon-100K, section 3.2, asks 100 K times).

Beside the journal, each stage of a set has a folder `openai_batch/<set>.<stage>` of the files that
are under way. What is about to be done is on disk before it is done, and the server is asked what
it has before anything is sent to it again.
"""

import json
import pickle
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from vislib.engines import Request
from vislib.engines.replies import RETRIED, read_error, silent
from vislib.engines.transport import api_key, proxied
from vislib.runs import InputError, Run
from vislib.runs.redaction import write_redacted

if TYPE_CHECKING:
    from openai.types import Batch

ENDPOINT = "/v1/chat/completions"


def state_folder(run: Run) -> Path:
    """Where the stage of `run` keeps what is under way; the name outlives its attempts."""
    # an attempt that ended well loses the suffix, and its batches must still be found
    stage = run.folder.name.removesuffix(".partial")
    return run.journal("openai").path.parent / "openai_batch" / f"{run.folder.parent.name}.{stage}"


@dataclass
class BatchFile:
    """Requests that are under way at `place`, a server's URL or a folder where others answer them.

    What is sent stands in `lines`; a note of the place and the requests themselves stay in `state`.
    """

    state: Path
    name: str
    place: str
    batch: str = ""  # the server's id, "" until it has said it

    @classmethod
    def write(
        cls, state: Path, place: str, requests: Sequence[Request], lines: Iterable[bytes]
    ) -> "BatchFile":
        """A new file. Its lines appear last, and whole: without them the rest counts nothing."""
        file = cls(state, f"vislib-{uuid4().hex[:16]}", place)
        part = file.lines.with_name("vislib.part")
        try:
            for folder in (state, part.parent):
                folder.mkdir(parents=True, exist_ok=True)
            # whole, for the checks of an answer look at the page that it was made of
            file.asked.write_bytes(pickle.dumps(requests))
            file.note()
            with part.open("wb") as stream:
                stream.writelines(lines)
            part.replace(file.lines)
        except OSError as error:
            raise InputError(
                f"{part}: cannot be written ({error}); mend it, or batch_folder"
            ) from error
        return file

    @property
    def lines(self) -> Path:
        """The JSONL file."""
        return (self.state if "://" in self.place else Path(self.place)) / f"{self.name}.jsonl"

    @property
    def output(self) -> Path:
        """Where the results lie of a file that others answer."""
        return self.lines.with_suffix(".output.jsonl")

    @property
    def asked(self) -> Path:
        """The requests, whole."""
        return self.state / f"{self.name}.pickle"

    def note(self, batch: str = "") -> None:
        """Keep where it is under way, and the batch that the server made of it."""
        self.batch = batch
        said = {"place": self.place, "batch": batch}
        write_redacted(self.state / f"{self.name}.json", json.dumps(said))

    def requests(self) -> list[Request]:
        """What it asks."""
        requests: list[Request] = pickle.loads(self.asked.read_bytes())
        return requests

    def remove(self) -> None:
        """Forget it."""
        for path in (self.lines, self.asked, self.state / f"{self.name}.json"):
            path.unlink(missing_ok=True)


def under_way(state: Path) -> list[BatchFile]:
    """The files of a stage. One without its lines is forgotten: a kill came before they were
    whole, or somebody deleted them to give it up.
    """
    files = []
    for note in sorted(state.glob("*.json")):
        file = BatchFile(state, note.stem, **json.loads(note.read_text()))
        if file.lines.exists():
            files.append(file)
        else:
            file.remove()
    return files


class Refused(InputError):
    """The server said no: nothing was done."""


class BatchServer:
    """The files and batches at `url`; `stop` cuts waiting short.

    The client tries again what may pass; only the begin of a batch is never repeated before the
    server was asked whether it has begun. What was uploaded the provider itself deletes after 30
    days. Calls raise Refused when the server says no or has no
    batches, and InputError when it does not answer.
    """

    retries = 5  # of the client, up to 8 s apart
    grace_s = 10.0  # after which a batch whose begin was cut off stands in the server's list

    def __init__(self, url: str, params: Any, stop: Event) -> None:
        from openai import DefaultHttpxClient, OpenAI, Timeout

        self._client = OpenAI(
            base_url=url,
            api_key=api_key(url),
            max_retries=self.retries,
            timeout=Timeout(params.timeout_s, connect=min(params.timeout_s, 10.0)),
            http_client=DefaultHttpxClient(trust_env=proxied(url)),
        )
        self.url = url
        self._model = params.model
        self._stop = stop

    def begin(self, path: Path) -> str:
        """Have a batch made of a file, named after it; the batch's id."""
        try:
            with self._told():
                upload = self._client.files.create(file=path, purpose="batch").id
        except InputError as error:  # whatever became of the file, no batch was made of it
            raise Refused(str(error)) from error
        settings: Any = {
            "input_file_id": upload,
            "endpoint": ENDPOINT,
            "completion_window": "24h",
            "metadata": {"vislib": path.stem},
        }
        # the client's own retries would begin it twice where a reply was lost
        make = self._client.with_options(max_retries=0).batches.create
        for _ in range(self.retries):
            try:
                with self._told():
                    return make(**settings).id
            except Refused:
                raise
            except InputError as error:
                failed = error
            if begun := self.begun(path.stem):
                return begun
        raise failed

    def begun(self, name: str) -> str:
        """The id of the batch that was made of a file, "" if none was."""
        # a begin that was cut off may take a while to appear in the list
        self._stop.wait(self.grace_s)
        with self._told():
            batches = self._client.batches.list(limit=100)
            # metadata names our file; its id at the server was lost with the reply
            return next((b.id for b in batches if (b.metadata or {}).get("vislib") == name), "")

    def retrieve(self, batch: str) -> "Batch":
        """A batch as it stands."""
        with self._told():
            return self._client.batches.retrieve(batch)

    def content(self, file: str) -> bytes:
        """A file of results."""
        with self._told():
            return self._client.files.content(file).read()

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Name what goes wrong, as the live engine does."""
        import openai

        try:
            yield
        # a page in place of a reply comes out of the client as a value without fields
        except (openai.OpenAIError, ValueError, AttributeError) as error:
            raise self._named(error) from error

    def _named(self, error: Any) -> InputError:
        # no such endpoint, or no such file: neither passes by waiting
        if getattr(error, "status_code", 0) in (404, 405, 501) and error.code != "model_not_found":
            return Refused(
                f"{error.request.method} {error.request.url}: {error.status_code}. A server without"
                " batch files needs engine openai, or batch_folder. One that does not know a batch,"
                " or its results any longer, needs the key that made it; or delete the batch's file"
                " in openai_batch beside the journal, to ask again"
            )
        if isinstance(error, AttributeError):
            error = ValueError(str(error))
        try:
            failure = read_error(error, url=self.url, model=self._model)
        except InputError as final:
            return Refused(str(final))
        if failure.reason == "unreachable":
            return silent("unreachable", [self.url], failure.detail)
        kind = InputError if failure.reason in RETRIED else Refused
        return kind(f"{self.url}: {failure.reason}, {failure.detail}")
