"""The start of a stage in its notebook: parameters checked, folder locked, inputs found, record
begun.
"""

import logging
import os
import time
import warnings
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from vislib.runs.disk import explain, is_full
from vislib.runs.errors import InputError
from vislib.runs.keys import ROOT, key_of
from vislib.runs.locking import RUNNER_VARIABLE, FolderLock
from vislib.runs.params import read_schema, refuse_unknown, resolve
from vislib.runs.progress import interactive
from vislib.runs.provenance import all_versions, git_state, hardware
from vislib.runs.record import Run
from vislib.runs.redaction import redact
from vislib.runs.stage import (
    RUNS_VARIABLE,
    Record,
    Stage,
    read_record,
    settle_runs_folder,
    write_record,
)
from vislib.runs.yaml_files import write_parameters

_PLAIN = (int, float, str, bool, list, dict, type(None))
_current: Run | None = None
# In this kernel; a start cell that is run again finds the notebook's own variables too.
_started: list[str] = []


def start_run(notebook: str, namespace: Mapping[str, Any]) -> Run:
    """Begin the stage of `notebook` with the parameters that the notebook's `globals()` hold.

    Checks them as the runner does, takes the folder's lock, finds the inputs, and resumes or clears
    `.partial`. Raises InputError for anything that the user must mend.
    """
    global _current
    if _current is not None:  # the cell was run again in a live kernel
        _current.close()
        _current = None
    _settle_places()
    # Libraries ask for a bar that the house draws itself, and warn in red that there is none.
    warnings.filterwarnings("ignore", "IProgress not found")
    schema = read_schema(Stage.notebook_file(notebook))
    if not _started and not interactive():
        # a misspelt parameter given to plain papermill arrives as one more plain variable
        for name, value in namespace.items():
            if type(value) in _PLAIN and name not in ("In", "Out") and not name.startswith("_"):
                refuse_unknown(name, schema, notebook)
    _started.append(notebook)
    given = {name: namespace[name] for name in schema if name in namespace}
    stage = Stage(notebook=notebook, schema=schema, values=resolve(schema, given, notebook))
    # before the folder is looked at: another kernel may be at work in it
    locks = [FolderLock(stage.lock_file("kernel"))]
    if not os.environ.get(RUNNER_VARIABLE):  # else the runner holds it
        locks.insert(0, FolderLock(stage.run / ".lock"))
    with ExitStack() as held:
        for lock in locks:
            lock.acquire()
            held.callback(lock.release)
        record = _begin(stage, notebook)
        held.pop_all()  # the run gives them back
    if interactive():
        _reload_edited_modules()
    _current = Run(stage, record, locks)
    _watch_cells()
    return _current


def _begin(stage: Stage, notebook: str) -> Record:
    """The stage's folder made ready, and its record."""
    # what a kernel that was ended has left at work comes to its end first
    workers = FolderLock(stage.lock_file("workers"))
    workers.acquire()
    workers.release()
    if os.environ.get(RUNNER_VARIABLE):  # which has just made it ready
        record = read_record(stage.partial)
    else:
        facts = stage.facts(notebook)
        record = stage.open_partial(key_of(facts["hashes"]), facts)
    record |= {
        "seed": stage.values.get("seed"),
        "started_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "git": git_state(),
        "packages": all_versions(),
        "hardware": hardware(),
    }
    write_record(stage.partial, record)
    write_parameters(stage.partial / "params.yaml", stage.values)
    _log_to(stage.partial / "log.txt")
    return record


def _settle_places() -> None:
    """From here on the kernel works in the project's root, wherever it was started."""
    if interactive() and not Path(os.environ.get(RUNS_VARIABLE, "/")).expanduser().is_absolute():
        raise InputError(
            f"{RUNS_VARIABLE} is {os.environ[RUNS_VARIABLE]!r}, which JupyterLab cannot place;"
            " start it by `make lab`, or with the whole path in that variable"
        )
    settle_runs_folder()
    os.chdir(ROOT)  # paths in parameters start here, wherever the kernel does


def _record_error(result: Any) -> None:
    """After every cell: the record of an unfinished stage names the error, also without a
    runner.
    """
    error = result.error_in_exec
    if error is None or _current is None or _current.finished:
        return
    reason = f"{type(error).__name__}: {error}"
    # the first words of a full disk are a library's: say which disk and what is kept
    if is_full(error):
        reason = explain(reason, _current.stage.run)
        print(reason)
    _current.stage.fail(reason)


def _watch_cells() -> None:
    from IPython import get_ipython

    shell = get_ipython()  # None in tests and scripts
    if shell is not None and _record_error not in shell.events.callbacks["post_run_cell"]:
        shell.events.register("post_run_cell", _record_error)


class _RedactedFile(logging.FileHandler):
    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


def _log_to(file: Path) -> None:
    logger = logging.getLogger("vislib")
    logger.handlers.clear()  # of a stage before in this kernel
    handler = _RedactedFile(file, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)


def _reload_edited_modules() -> None:
    """In JupyterLab, an edit of the library takes effect without a new kernel."""
    from IPython import get_ipython

    shell = get_ipython()
    if shell is not None and "autoreload" not in shell.magics_manager.magics["line"]:
        shell.run_line_magic("load_ext", "autoreload")
        shell.run_line_magic("autoreload", "2")
