"""A model of one's own as engine `openai`: its folder is served on this machine for as long as a
stage asks.

VisCon-100K (section 5.6) and DenseFusion-1M both train a captioner on 100 K captions and let it
write the next million. With an empty `base_url` and a `model` that names a folder, stage 06 starts
`vllm serve` where that is installed, else `transformers serve`, on a free port of loopback, and
ends it when the stage ends, in whatever way.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from vislib.engines import Answered, Json, Request
from vislib.engines.openai import OpenAIChat
from vislib.runs import InputError, Run
from vislib.runs.children import end_process, start_process
from vislib.runs.keys import table_reference
from vislib.runs.redaction import redact

LOG = "server.log"  # beside the stage's log
_HOST = "127.0.0.1"
_SERVERS = ("vllm", "transformers")  # the first that is installed
_ENVIRONMENT = {
    # a folder needs no network
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    # the server has no use for the one and would ask for the other
    "OPENAI_API_KEY": "",
    "VLLM_API_KEY": "",
}
_TAIL = 1500  # characters of the log that an error shows
_GRACE_S = 5.0  # for a server that is told to end, or that no longer answers


class OwnModel(OpenAIChat):
    """Asks the model in `folder`, served while answers are awaited; its log is written into the
    folder of `run`.

    Raises InputError if no server is installed, or it does not come up or ends: with the last lines
    of its log.
    """

    def __init__(self, run: Run, folder: Path) -> None:
        model = run.params.model
        if (folder / "adapter_config.json").exists():
            raise InputError(
                f"model is {model!r}, adapters alone; name whole weights, such as"
                " 11_captioner/model"
            )
        super().__init__(run.params, folder)
        self.places = []  # it is started here
        self._folder = folder
        self._run, self._log = run, run.folder / LOG
        self._command = _command()
        reference = table_reference(model)
        self.model = f"{'/'.join(reference[1:]) if reference else folder.name}@{self._identity[:8]}"

    def answer(self, requests: Iterable[Request]) -> Answered:
        """Answers as they come; see `Engine`."""
        with self._served():
            for request, answer in super().answer(requests):
                # the server's name for it is a path of this machine
                yield request, replace(answer, model=self.model)

    def _body(self, request: Request) -> Json:
        return super()._body(request) | {"model": str(self._folder)}

    @contextmanager
    def _served(self) -> Iterator[None]:
        """The server is up, unless this was interrupted before; it ends with the block, and with
        this process.
        """
        with socket.socket() as probe:
            # the system picks a free port; the server takes it a moment later
            probe.bind((_HOST, 0))
            port = probe.getsockname()[1]
        self.urls = [f"http://{_HOST}:{port}/v1"]
        command = [*self._command, str(self._folder), "--host", _HOST, "--port", str(port)]
        with self._log.open("w", encoding="utf-8") as log:
            # who starts the stage anew waits until this server is gone, however the run ended
            process = start_process(command, self._run.workers_lock, _ENVIRONMENT, log)
        verb = " ".join(self._command[-2:])
        try:
            print(f"serving {self.model}: {verb} on {_HOST}:{port}, log in {LOG}", flush=True)
            while not self.stop.wait(0.25):
                if process.poll() is not None:
                    raise self._ended(f"did not come up (it ended with {process.returncode})")
                if _is_up(port):
                    break
            try:
                yield
            except InputError as error:
                with suppress(subprocess.TimeoutExpired):  # perhaps it is about to
                    raise self._ended(f"ended with {process.wait(_GRACE_S)}") from error
                raise
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.wait(_GRACE_S)
            # kills the guard, and with it all that still runs
            end_process(process)

    def _ended(self, how: str) -> InputError:
        said = redact(self._log.read_text(encoding="utf-8", errors="replace")[-_TAIL:]).strip()
        return InputError(
            f"{' '.join(self._command[-2:])} {self.params.model} {how}; mend the model or serve it"
            f" yourself and set base_url. Its log {self._log} ends with:\n{said}"
        )


def _command() -> list[str]:
    """The server that is installed, with this Python or on the path."""
    # an environment need not be activated for its server to be found
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    for name in _SERVERS:
        if found := shutil.which(name, path=path):
            return [found, "serve"]
    raise InputError(
        "model is a folder and base_url is empty, but neither vllm nor transformers is installed"
        " here"
    )


def _is_up(port: int) -> bool:
    """Whether the server answers; asked past any proxy."""
    import httpx2

    with suppress(httpx2.HTTPError):
        reply = httpx2.get(f"http://{_HOST}:{port}/health", timeout=5, trust_env=False)
        return reply.status_code == 200
    return False
