"""Batch files on their way: here, until their answers are journalled, and at a server, where a
reply may be lost (VisCon-100K, section 3.2, asks 100 K times).

Beside the journal, each stage of a set has a folder `openai_batch/<set>.<stage>` of the files that
are under way. What is about to be done is on disk before it is done, and the server is asked what
it has before anything is sent to it again.
"""

import json
import pickle
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import uuid4

from vislib.engines import Request
from vislib.engines.replies import RETRIED, read_error, silent
from vislib.engines.transport import api_key
from vislib.runs.errors import InputError
from vislib.runs.redaction import write_redacted

if TYPE_CHECKING:
    from openai.types import Batch

    from vislib.runs import Run

ENDPOINT = "/v1/chat/completions"
T = TypeVar("T")


def state_folder(run: "Run") -> Path:
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
        """The requests; gone once all of them are answered."""
        return self.state / f"{self.name}.pickle"

    def note(self, batch: str = "") -> None:
        """Keep where it is under way, and the batch that the server made of it."""
        self.batch = batch
        said = {"place": self.place, "batch": batch}
        write_redacted(self.state / f"{self.name}.json", json.dumps(said))

    def requests(self) -> list[Request]:
        """Those that may still wait for an answer."""
        return pickle.loads(self.asked.read_bytes()) if self.asked.exists() else []

    def remove(self) -> None:
        """Forget it."""
        for path in (self.lines, self.asked, self.state / f"{self.name}.json"):
            path.unlink(missing_ok=True)


def under_way(state: Path) -> list[BatchFile]:
    """The files of a stage. One without its lines is forgotten: a kill came before they were
    whole, or somebody deleted them to give it up.
    """
    notes = sorted(state.glob("*.json"))
    files = [BatchFile(state, note.stem, **json.loads(note.read_text())) for note in notes]
    for file in files:
        if not file.lines.exists():
            file.remove()
    return [file for file in files if file.lines.exists()]


class Refused(InputError):
    """The server said no: nothing was done."""


class BatchServer:
    """The files and batches at `url`: calls whose reply may be lost; `over` cuts waiting short.

    Calls are tried again after what may pass; before an upload or the begin of a batch is
    repeated, the server is asked what the try before left there. They raise Refused when the
    server says no or has no batches, and InputError when it does not answer.
    """

    backoff_s = 0.5  # before the second try; doubles up to five minutes
    grace_s = 10.0  # after which a batch whose begin was cut off stands in the server's list

    def __init__(self, url: str, params: Any, over: Callable[[], bool]) -> None:
        from openai import OpenAI, Timeout

        timeout = Timeout(params.timeout_s, connect=min(params.timeout_s, 10.0))
        # the client's own retries would begin a batch twice where a reply was lost
        self._client = OpenAI(base_url=url, api_key=api_key(url), max_retries=0, timeout=timeout)
        self.url = url
        self._model = params.model
        self._over = over

    def upload(self, path: Path) -> str:
        """Upload a file; its id."""

        def send() -> str:
            with path.open("rb") as stream:  # sent as it is read
                return self._client.files.create(file=(path.name, stream), purpose="batch").id

        return self._call(send, lambda: self._uploaded(path.stem))

    def begin(self, upload: str, name: str) -> str:
        """Make a batch of an uploaded file, named after it; the batch's id."""
        settings: Any = {
            "input_file_id": upload,
            "endpoint": ENDPOINT,
            "completion_window": "24h",
            "metadata": {"vislib": name},
        }
        make = self._client.batches.create
        return self._call(lambda: make(**settings).id, lambda: self._begun(name))

    def begun(self, name: str) -> str:
        """The id of the batch that was made of a file; if none was, its upload is deleted, and the
        id empty.
        """
        if not (batch := self._call(lambda: self._begun(name))):
            self.delete(self._call(lambda: self._uploaded(name)))
        return batch

    def retrieve(self, batch: str) -> "Batch":
        """A batch as it stands; patient, for nothing is lost by waiting."""
        return self._call(lambda: self._client.batches.retrieve(batch), tries=12)

    def content(self, file: str) -> bytes:
        """A file of results."""
        return self._call(lambda: self._client.files.content(file).read())

    def delete(self, *files: str | None) -> None:
        """Delete what is there of `files`; what stays expires."""
        import openai

        for file in filter(None, files):
            # a leftover costs nothing: no reason to fail a run whose answers are safe
            with suppress(openai.OpenAIError):
                self._client.files.delete(file)

    def wait(self, seconds: float) -> None:
        """Sleep, but not beyond the end of the run."""
        until = monotonic() + seconds
        while not self._over() and (left := until - monotonic()) > 0:
            sleep(min(left, 0.2))

    def _uploaded(self, name: str) -> str:
        files = self._client.files.list(purpose="batch")
        return next((file.id for file in files if file.filename == f"{name}.jsonl"), "")

    def _begun(self, name: str) -> str:
        # a begin that was cut off may take a while to appear in the list
        self.wait(self.grace_s)
        batches = self._client.batches.list(limit=100)
        # metadata names our file; its id at the server was lost with the reply
        named = (batch for batch in batches if (batch.metadata or {}).get("vislib") == name)
        return next((batch.id for batch in named), "")

    def _call(
        self, make: Callable[[], T], find: Callable[[], T] | None = None, *, tries: int = 6
    ) -> T:
        """What `make` returns; once it was tried, `find` is asked first whether it was done."""
        import openai

        for tried in range(tries):
            try:
                return (find() if find and tried else None) or make()
            except (openai.OpenAIError, ValueError, TypeError, AttributeError) as error:
                said, wait = self._failure(error)
            self.wait(max(wait or 0.0, min(self.backoff_s * 2**tried, 300.0)))
        raise silent("unreachable", [self.url], said)

    def _failure(self, error: Any) -> tuple[str, float | None]:
        """What went wrong and the seconds to wait; raises Refused for what would not pass."""
        # a page in place of a reply comes out of the client as an odd value
        if isinstance(error, TypeError | AttributeError):
            return str(error), None
        where = getattr(error, "request", None) and f"{error.request.method} {error.request.url}"
        # no such endpoint, or no such file: neither passes by waiting
        if getattr(error, "status_code", 0) in (404, 405, 501) and error.code != "model_not_found":
            raise Refused(
                f"{where}: {error.status_code}. A server without batch files needs engine openai,"
                " or batch_folder. One that does not know a batch, or its results any longer,"
                " needs the key that made it; or delete the batch's file in openai_batch beside"
                " the journal, to ask again"
            )
        try:
            failure, wait = read_error(error, url=self.url, model=self._model)
        except InputError as final:
            raise Refused(str(final)) from error
        if failure.reason not in RETRIED:
            raise Refused(f"{where}: {failure.detail}")
        return failure.detail, wait
