"""A server's files and batches (VisCon-100K, section 3.2, at half the price): calls whose reply may
be lost.

Neither an upload nor the begin of a batch is repeated blindly: before another try the server is
asked what the one before left there. Reading and deleting are repeated as they are.
"""

import hashlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any, TypeVar

from vislib.engines.replies import RETRIED, read_error, unreachable
from vislib.engines.transport import api_key
from vislib.runs.errors import InputError

if TYPE_CHECKING:
    from openai.types import Batch

ENDPOINT = "/v1/chat/completions"
T = TypeVar("T")


class Refused(InputError):
    """The server said no: nothing was done."""


class BatchServer:
    """The files and batches at `url`; `over` cuts waiting short.

    Calls are tried again after what may pass. They raise Refused when the server says no or has no
    batches, and InputError when it does not answer.
    """

    backoff_s = 0.5  # before the second try; doubles up to five minutes
    grace_s = 10.0  # after which a batch whose begin was cut off stands in the server's list

    def __init__(self, url: str, params: Any, over: Callable[[], bool]) -> None:
        import httpx2
        from openai import OpenAI

        timeout = httpx2.Timeout(params.timeout_s, connect=min(params.timeout_s, 10.0))
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

    def begin(self, upload: str, path: Path) -> str:
        """Make a batch of an uploaded file, named after it; the batch's id."""
        with path.open("rb") as stream:
            # who looks at the provider's page sees which file of ours this batch ran
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        settings: Any = {
            "input_file_id": upload,
            "endpoint": ENDPOINT,
            "completion_window": "24h",
            "metadata": {"vislib": path.stem, "sha256": digest},
        }
        make = self._client.batches.create
        return self._call(lambda: make(**settings).id, lambda: self._begun(path.stem))

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

    def download(self, file: str, path: Path) -> None:
        """Bring a file of results to `path`."""

        def fetch() -> bool:
            with self._client.files.with_streaming_response.content(file) as response:
                response.stream_to_file(path)
            return True

        self._call(fetch)

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
        import httpx2
        import openai

        for tried in range(tries):
            try:
                return (find() if find and tried else None) or make()
            except openai.OpenAIError as error:
                said, wait = self._failure(error)
            # a body that was cut off, or is an odd one, comes out of the client as any of these
            except (httpx2.HTTPError, ValueError, TypeError, AttributeError) as error:
                said = str(error)
                wait = None
            self.wait(max(wait or 0.0, min(self.backoff_s * 2**tried, 300.0)))
        raise unreachable([self.url], said)

    def _failure(self, error: Any) -> tuple[str, float | None]:
        """What went wrong and the seconds to wait; raises Refused for what would not pass."""
        # no such endpoint, or no such file: neither passes by waiting
        if getattr(error, "status_code", 0) in (404, 405, 501) and error.code != "model_not_found":
            raise Refused(
                f"{error.request.method} {error.request.url}: {error.status_code}. A server without"
                " batch files needs engine openai, or batch_folder. One that does not know a"
                " batch, or its results any longer, needs the key that made it; or delete the"
                " batch's file in openai_batch beside the journal, to ask again"
            )
        try:
            failure, wait = read_error(error, url=self.url, model=self._model)
        except InputError as final:
            raise Refused(str(final)) from error
        if failure.reason not in RETRIED:
            raise Refused(f"{error.request.method} {error.request.url}: {failure.detail}")
        return failure.detail, wait
