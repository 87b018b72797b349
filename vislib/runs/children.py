"""Processes that train, generate or serve: started by a stage, watched by it, and never longer
alive than it is.

The notebook's kernel must not initialise CUDA, and training needs one process per GPU (VisCon-100K,
section 5: eight); so both run in children. A child says what it does in events, one JSON object per
line of its output.
"""

import atexit
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from vislib.runs.errors import InputError
from vislib.runs.interrupts import interrupts
from vislib.runs.keys import ROOT
from vislib.runs.locking import share
from vislib.runs.redaction import redact

Event = dict[str, Any]
_START = '{"event":'
_TAIL = 8  # lines of a failed child's output that its error message shows
_NO_MEMORY = re.compile(r"out of memory|can't allocate memory|ALLOC_FAILED", re.IGNORECASE)
_FROM_LOADER = re.compile(r"\ACaught .*InputError: ", re.DOTALL)  # a traceback comes before it
_KILLED = "; it was killed: was memory short?"


def run_child(
    command: Sequence[str],
    *,
    log: Path,
    lock: Path,
    environment: Mapping[str, str] = {},
) -> Generator[Event, None, None]:
    """Run `command` from the project's root, and yield its events; all else goes to `log`.

    The command and all that it starts hold `lock` (shared) and end with this process, also when
    that is killed, or with the generator, when that is closed. The first SIGINT or SIGTERM is
    passed on and waited for, then delivered here; a second one kills. Raises InputError with the
    child's own message, or the last lines that it printed, when it does not end well.
    """
    stop, tail, errors, pids = threading.Event(), deque[str](maxlen=_TAIL), list[str](), list[int]()
    with interrupts(stop), log.open("a", encoding="utf-8") as file:
        process = start_process(command, lock, environment)
        watch = threading.Thread(target=_watch, args=(process, stop, pids), daemon=True)
        watch.start()
        try:
            for line in process.stdout or ():
                if line.startswith(_START):
                    event = json.loads(line)
                    if event["event"] == "child":
                        pids.append(event["pid"])
                    elif event["event"] == "error":
                        errors.append(event["message"])
                    yield event
                elif line.strip():
                    tail.append(redact(line.rstrip()))
                    print(tail[-1], file=file, flush=True)
        finally:
            end_process(process)
            watch.join()
    if stop.is_set():
        raise InputError("interrupted; the same command goes on where it stopped")
    if process.returncode and errors:
        raise InputError(redact(errors[0]))
    if process.returncode:
        ended = f"{Path(command[0]).name} ended with {process.returncode}: " + " | ".join(tail)
        # the OOM killer leaves no word but its signal, seen by us or by the launcher
        if process.returncode == 128 + signal.SIGKILL or "SIGKILL" in ended:
            ended += _KILLED
        raise InputError(f"{ended}; all it said is in {log.name}")


def start_process(
    command: Sequence[str],
    lock: Path,
    environment: Mapping[str, str],
    output: IO[str] | int = subprocess.PIPE,
) -> "subprocess.Popen[str]":
    """The command under a guard (`main`), in a process group of its own. The guard's stdin ends
    with this process.
    """
    held = share(lock)
    try:
        return subprocess.Popen(
            [sys.executable, "-m", __name__, *command],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
            pass_fds=[held],
            env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
        )
    finally:
        os.close(held)


def _watch(process: "subprocess.Popen[str]", stop: threading.Event, pids: Sequence[int]) -> None:
    """Passes a stop on to the children that announced themselves, else to all; clears up behind an
    ended command.
    """
    told = False
    while process.poll() is None:
        time.sleep(0.1)
        if stop.is_set() and not told:
            told = True
            # straight to them: the launcher between would give them 30 s only
            for pid in pids or [-process.pid]:
                _send(pid, signal.SIGTERM)
    # what the command left running would hold its output open
    _send(-process.pid, signal.SIGKILL)


def end_process(process: "subprocess.Popen[str]") -> None:
    """Let a command that has closed its output end by itself; kill it, and all that it started,
    after that.
    """
    with suppress(subprocess.TimeoutExpired):
        if sys.exc_info()[0] is None:
            process.wait(10)
    _send(-process.pid, signal.SIGKILL)
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            stream.close()


def _send(pid: int, number: signal.Signals) -> None:
    """Signal a process, or the group of it when negative, that may be gone."""
    with suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


# ---- in the child


def emit(event: str, **values: Any) -> None:
    """Tell the stage: one line, written whole, after whatever stands unfinished on the current
    line.
    """
    sys.stdout.write("\n" + json.dumps({"event": event, **values}, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def child_main(
    function: Callable[[], None], *, on_no_memory: str = "lower batch_size or max_length"
) -> None:
    """Run a child's work; an error becomes an event that the stage raises. `on_no_memory` says what
    to change.
    """
    emit("child", pid=os.getpid())
    try:
        function()
    except Exception as error:
        said = str(error).strip().partition("\n")[0]
        if isinstance(error, InputError):
            emit("error", message=_FROM_LOADER.sub("", str(error)))
        elif isinstance(error, MemoryError) or _NO_MEMORY.search(str(error)):
            emit("error", message=f"out of memory ({said[:200]}); {on_no_memory}")
        else:
            traceback.print_exc()
            emit("error", message=f"{type(error).__name__}: {said[:500]}")
        sys.exit(1)
    sys.stdout.flush()
    atexit._run_exitfuncs()
    os._exit(0)  # taking torch's modules apart one by one takes a second or more


def main(command: Sequence[str]) -> int:
    """The guard: runs `command`, and ends the whole group when the process that holds its stdin is
    gone.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        # meant for the command, which would inherit a signal that is ignored, but not a handler
        signal.signal(number, lambda *_: None)
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, close_fds=False)

    def watch() -> None:
        os.read(0, 1)  # nothing is ever written: it returns at the end of the file
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
    code = process.wait()
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
