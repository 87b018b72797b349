"""One lock per run folder: held by the runner, and by the kernel that works in it and its worker processes.

Three files in the run folder: `.lock` (the runner, or a kernel started by hand), `.kernel.lock` (the kernel) and
`.workers.lock` (shared by the kernel's workers). Locks are flock(2): they end with the process, whatever ended it.
"""

import fcntl
import json
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any, TextIO

from vislib.runs.errors import InputError

RUNNER_VARIABLE = "VISLIB_RUNNER_PID"  # set by the runner for the kernels that it starts
_WAIT_SECONDS = 20.0


class FolderLock:
    """An exclusive flock on one file, with the owner written in it for others to read."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._handle: TextIO | None = None

    def try_acquire(self) -> bool:
        """Take the lock if it is free; the owner's pid and command are then written into the file."""
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            handle = self.file.open("a+", encoding="utf-8")
        except OSError as error:
            raise InputError(f"{self.file.parent}: cannot be written ({error}); mend it, or set VISLIB_RUNS") from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.close()
            return False
        handle.truncate(0)
        runner = os.environ.get(RUNNER_VARIABLE, "")
        handle.write(
            json.dumps(
                {
                    "pid": os.getpid(),
                    "group": os.getpgid(0),
                    "host": socket.gethostname(),
                    "runner": runner,
                    "command": " ".join(sys.argv)[:200],
                }
            )
        )
        handle.flush()
        self._handle = handle
        return True

    def acquire(self, wait: float = _WAIT_SECONDS) -> None:
        """Wait for the lock; end an orphan that holds it; give up after `wait` seconds with an InputError."""
        deadline, said = time.monotonic() + wait, False
        while not self.try_acquire():
            owner = self.owner()
            if self._is_orphan(owner):
                end_group(int(owner["group"]))
            elif not said:
                print(f"{self.file.parent}: in use by process {owner.get('pid')}; waiting", file=sys.stderr)
                said = True
            if time.monotonic() > deadline:
                raise InputError(
                    f"{self.file.parent}: in use by process {owner.get('pid')} ({owner.get('command')}); "
                    "wait for it, or shut that runner or notebook kernel down"
                )
            time.sleep(0.1)

    def release(self) -> None:
        """Give the lock back (also when it is not held)."""
        if self._handle is not None:
            self._handle.close()
            self._handle = None

    def is_held(self) -> bool:
        """Whether any process holds the lock now."""
        if self._handle is not None:
            return True
        if not self.file.exists():
            return False
        with self.file.open(encoding="utf-8") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    def owner(self) -> dict[str, Any]:
        """What the last owner wrote: pid, runner (its runner's pid, or ''), command."""
        try:
            found: dict[str, Any] = json.loads(self.file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found

    @staticmethod
    def _is_orphan(owner: dict[str, Any]) -> bool:
        """A kernel of this machine whose runner is gone works for nobody."""
        here = owner.get("host") == socket.gethostname() and _is_alive(int(owner["pid"]))
        return here and bool(owner["runner"]) and not _is_alive(int(owner["runner"]))


def end_group(group: int) -> None:
    """End a kernel's process group, its children included: SIGTERM, and SIGKILL after two seconds."""
    if group == os.getpgid(0):
        return
    for signal_number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(group, signal_number)
        except (ProcessLookupError, PermissionError):
            return
        deadline = time.monotonic() + 2
        while time.monotonic() < deadline and _is_alive(group):
            time.sleep(0.05)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return True
    return state != "Z"  # a zombie holds nothing
