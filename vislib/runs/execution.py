"""Run one notebook under papermill and say truthfully how it ended.

The notebook file is no evidence: papermill marks every cell of a killed notebook completed. A stage
is `ok` only when papermill returned, every code cell has an execution count, and the last cell
wrote `finished` into the record.
"""

import logging
import os
import re
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

from vislib.runs.accounts import summary
from vislib.runs.disk import explain, is_full
from vislib.runs.errors import InputError
from vislib.runs.keys import ROOT, key_of
from vislib.runs.locking import RUNNER_VARIABLE, FolderLock, end_group
from vislib.runs.redaction import redact, write_redacted
from vislib.runs.stage import Stage, read_record, write_record

_PYTHONPATH = os.environ.get("PYTHONPATH", "").split(os.pathsep)
_SCHEME = "redacted:"  # papermill chooses who writes by the beginning of a path
_PROGRESS = re.compile(
    r"^\S+ \S+ INFO vislib\.(?:runs\.(?:progress|interrupts)|engines\.\w+): (.+)", re.M
)


class StageFailed(Exception):
    """A stage ended without a good result; the message is what the user should read."""


class _RedactingFiles:
    """papermill's way to a file, with no secret in what is written; papermill saves after every
    cell.
    """

    def write(self, buf: str, path: str) -> None:
        file = Path(path.removeprefix(_SCHEME))
        file.parent.mkdir(parents=True, exist_ok=True)
        write_redacted(file, buf)

    def pretty_path(self, path: str) -> str:
        return path


def execute(stage: Stage, facts: dict[str, Any], *, tell: Callable[[str], None]) -> dict[str, Any]:
    """Run `stage` in a kernel of its own, then promote it. Returns its record; raises StageFailed
    or KeyboardInterrupt.

    The caller holds the run folder's lock. `tell` is given every line of progress.
    """
    os.environ[RUNNER_VARIABLE] = str(os.getpid())
    # the kernel's library is this one, also where another checkout is installed
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, _PYTHONPATH)])
    try:
        stage.open_partial(key_of(facts["hashes"]), facts, tell)
        # a kernel's output goes into the notebook; its log tells the terminal how far it is
        with _followed(stage.partial / "log.txt", tell):
            book = _run_notebook(stage)
        record = read_record(stage.partial)
        for number, cell in enumerate(book.cells):
            if cell.cell_type == "code" and cell.source.strip() and not cell.execution_count:
                raise StageFailed(
                    f"ended before its last cell: cell {number} of {len(book.cells)} never ran"
                )
        if record.get("status") != "finished":
            raise StageFailed("its last cell did not finish the run: run.finish() is missing")
        # before the record says ok: a page that cannot be written is a failure
        write_redacted(stage.partial / "notebook.html", _page(book))
        record |= {"status": "ok"}
        write_record(stage.partial, record)
    except (Exception, KeyboardInterrupt) as error:
        _end_kernel(stage)  # first: it may still be writing
        reason = "interrupted" if isinstance(error, KeyboardInterrupt) else str(error)
        if is_full(error):
            reason = explain(error, stage.run)
        stage.fail(reason)
        if is_full(error):
            raise StageFailed(reason) from None  # a chain of tracebacks would hide the sentence
        raise
    finally:
        os.environ.pop(RUNNER_VARIABLE, None)
        _redact_logs(stage.partial)
    _log(stage, summary(record))
    stage.promote()
    return record


@contextmanager
def _followed(file: Path, tell: Callable[[str], None]) -> Iterator[None]:
    """Give `tell` the lines of progress that are written to the log meanwhile, each within a
    second.
    """
    over = threading.Event()
    file.touch()

    def follow() -> None:
        with file.open(encoding="utf-8", errors="replace") as log:
            log.seek(0, os.SEEK_END)
            last = False
            while not last:
                last = over.wait(1.0)
                for line in _PROGRESS.findall(log.read()):
                    tell(line)

    # a thread, since papermill gives control back only at the end
    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _kernel_manager(stage: Stage, sockets: str) -> type[Any]:
    """Kernels over IPC (no port to collide on), whose own messages go to a file and not between the
    runner's lines.
    """
    stderr = stage.partial / "scratch" / "kernel.log"
    from jupyter_client.manager import AsyncKernelManager
    from traitlets import default

    class QuietKernelManager(AsyncKernelManager):
        async def start_kernel(self, **options: Any) -> None:  # type: ignore[override]
            with stderr.open("w", encoding="utf-8") as file:
                await super().start_kernel(stderr=file, **options)

        @default("shutdown_wait_time")
        def _patience(self) -> float:
            # s: an interrupted stage finishes what is in flight (a second interrupt ends it at
            # once); one that has finished has nothing left to do, and taking its modules apart
            # would take a second or two
            return 1200.0 if stage.is_at_work() else 0.0

        @default("transport")
        def _over_ipc(self) -> str:
            return "ipc"

        @default("ip")
        def _where(self) -> str:
            return f"{sockets}/kernel"  # a short path: a socket's name holds about 100 characters

    return QuietKernelManager


def _run_notebook(stage: Stage) -> Any:
    """The executed notebook. Errors become StageFailed with one clear message; the traceback goes
    to log.txt.
    """
    _import_papermill()
    from papermill import execute_notebook
    from papermill.exceptions import PapermillExecutionError
    from papermill.iorw import papermill_io

    # once a process, which runs many stages
    if all(scheme != _SCHEME for scheme, _ in papermill_io._handlers):
        papermill_io.register(_SCHEME, _RedactingFiles())
    for name in (
        "papermill",
        "asyncio",
    ):  # what they log comes as an exception too, which an interrupt overtakes
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        with TemporaryDirectory(prefix="vislib-", ignore_cleanup_errors=True) as sockets:
            return execute_notebook(
                str(Stage.notebook_file(stage.notebook)),
                f"{_SCHEME}{stage.partial / 'notebook.ipynb'}",
                parameters=stage.values,
                kernel_name="python3",
                cwd=str(ROOT),
                progress_bar=False,
                kernel_manager_class=_kernel_manager(stage, sockets),
            )
    except PapermillExecutionError as error:
        _log(stage, "\n".join(error.traceback))
        # what a user can mend needs no name of an exception
        plain = error.ename in (InputError.__name__, "SystemExit")
        raise StageFailed(error.evalue if plain else f"{error.ename}: {error.evalue}") from error
    except Exception as error:  # a dead kernel, a kernel that does not start, a full disk
        _log(stage, traceback.format_exc())
        mend = "; was it killed, or out of memory? The same command goes on" * (
            "Kernel died" in str(error)
        )
        raise StageFailed(
            f"{type(error).__name__}: {' '.join(str(error).split())}{mend}"
        ) from error


def _end_kernel(stage: Stage) -> None:
    """No kernel of ours outlives its stage."""
    # the lock's owner is asked, since papermill keeps the process to itself
    lock = FolderLock(stage.lock_file("kernel"))
    if lock.is_held() and lock.owner().get("runner") == str(os.getpid()):
        end_group(int(lock.owner()["group"]))


def _import_papermill() -> None:
    """Import papermill in a third of its time."""
    # its check of notebooks, jsonschema, would have a parser made for each rule of an international
    # address: two seconds, for a form of text that no notebook's schema names
    rules = "rfc3987_syntax"
    spared = sys.modules.setdefault(rules, cast(Any, None)) is None
    try:
        import papermill  # noqa: F401
    finally:
        if spared:
            sys.modules.pop(rules, None)


def warm_up() -> None:
    """Import papermill and make a page: what takes seconds, once for all stages that are forked."""
    _import_papermill()
    from nbformat import v4

    cells = [v4.new_markdown_cell("-"), v4.new_code_cell("0")]  # type: ignore[no-untyped-call]
    _page(v4.new_notebook(cells=cells))  # type: ignore[no-untyped-call]


@cache
def _exporter() -> Any:
    # kept, since it compiles its templates
    from nbconvert import HTMLExporter

    return HTMLExporter(embed_images=True)  # type: ignore[no-untyped-call]


def _page(book: Any) -> str:
    body, _ = _exporter().from_notebook_node(book)
    return str(body)


def _log(stage: Stage, text: str) -> None:
    with (
        suppress(OSError),
        (stage.partial / "log.txt").open("a", encoding="utf-8", errors="backslashreplace") as file,
    ):
        file.write(redact(text) + "\n")


def _redact_logs(folder: Path) -> None:
    """What programs that a stage started have logged by themselves."""
    # servers write logs of their own, with the key that they were given
    with suppress(OSError):
        for file in folder.glob("*.log"):
            write_redacted(file, file.read_text(encoding="utf-8", errors="replace"))
