"""One lock per run folder, held by whoever runs its stages, and two per stage, held by the kernel
that works at it and by its worker processes.

`.lock` in the run folder is the runner's, or that of a kernel started by hand; in `.locks` a stage
has `NAME.kernel` and `NAME.workers` (shared by the kernel's workers). Locks are flock(2): they end
with the process, whatever ended it. Where a file system knows no flock (some network mounts), a
marker file beside it, `.lock.soft`, is the lock: whoever finds it takes it over when its process is
gone from the same machine.
"""

import errno
import fcntl
import json
import os
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from vislib.runs.errors import InputError

FORCE_VARIABLE = "VISLIB_FORCE"  # set by the runner's --force for the kernels that it starts
RUNNER_VARIABLE = "VISLIB_RUNNER_PID"  # set by the runner for the kernels that it starts
_WAIT_SECONDS = 20.0
_NO_FLOCK = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP}


class FolderLock:
    """An exclusive lock on one file, with the owner written in it for others to read."""

    def __init__(self, file: Path) -> None:
        self.file = file
        # A stage may be closed by another thread than the one that began it.
        self._lock: BaseFileLock = FileLock(
            file, blocking=False, thread_local=False, fallback_to_soft=False
        )

    def _take(self) -> bool:
        """Take the lock if it is free."""
        try:
            self._lock.acquire()
        except Timeout:
            return False
        except OSError as error:
            if error.errno not in _NO_FLOCK or isinstance(self._lock, SoftFileLock):
                raise
            # A name of its own: the lock's file stays behind and would pass for a marker.
            self._lock = SoftFileLock(f"{self.file}.soft", blocking=False, thread_local=False)
            return self._take()
        return True

    def acquire(self, wait: float = _WAIT_SECONDS) -> None:
        """Wait for the lock; end an orphan that holds it; give up after `wait` seconds with an
        InputError. The owner's pid and command are then written into the file.
        """
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            self._wait(wait)
            owner = {
                "pid": os.getpid(),
                "group": os.getpgid(0),
                "host": socket.gethostname(),
                "runner": os.environ.get(RUNNER_VARIABLE, ""),
                "command": " ".join(sys.argv)[:200],
            }
            self.file.write_text(json.dumps(owner), encoding="utf-8")
        except OSError as error:
            self.release()
            raise InputError(
                f"{self.file.parent}: cannot be written ({error}); mend it, or set VISLIB_RUNS"
            ) from error

    def _wait(self, wait: float) -> None:
        # a kernel that was told to end may need some seconds for what is in flight
        deadline, told = time.monotonic() + wait, False
        while not self._take():
            owner = self.owner()
            said = f"{self.file.parent}: in use by process {owner.get('pid')}"
            if _is_orphan(owner):  # left by a runner that was killed, and paying for nobody
                end_group(int(owner["group"]))
            elif not told:
                told = True
                print(f"{said}; waiting", file=sys.stderr)
            if time.monotonic() > deadline:
                said += f" ({owner.get('command')})"
                if owner.get("host", socket.gethostname()) != socket.gethostname():
                    said += f" on {owner['host']}; if it is gone, remove {self._lock.lock_file}"
                raise InputError(f"{said}; wait for it, or end that runner or notebook kernel")
            time.sleep(0.1)

    def release(self) -> None:
        """Give the lock back (also when it is not held)."""
        self._lock.release()

    def is_held(self) -> bool:
        """Whether any process holds the lock now."""
        if self._lock.is_locked:
            return True
        try:
            held = self.file.exists() and not self._take()  # a look makes no file
        except OSError:  # a folder that cannot be written
            return False
        self.release()
        return held

    def owner(self) -> dict[str, Any]:
        """What the last owner wrote: pid, runner (its runner's pid, or ''), command."""
        try:
            found: dict[str, Any] = json.loads(self.file.read_text(encoding="utf-8"))
        except (OSError, ValueError):  # it is being written
            return {}
        return found


def _is_orphan(owner: dict[str, Any]) -> bool:
    """A kernel of this machine whose runner is gone works for nobody."""
    here = owner.get("host") == socket.gethostname() and _is_alive(int(owner["pid"]))
    return here and bool(owner["runner"]) and not _is_alive(int(owner["runner"]))


def share(file: Path) -> int:
    """An open file that holds the shared lock until the last process that inherits it has ended.

    Where there is no flock it holds nothing: workers end with their parent, a moment later than its
    lock.
    """
    # filelock's own shared locks are kept by a database, which a child cannot inherit
    file.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(file, os.O_RDWR | os.O_CREAT)
    with suppress(OSError):
        fcntl.flock(handle, fcntl.LOCK_SH)
    return handle


def end_with(parent: int) -> None:
    """End this process when its parent is gone."""

    # a killed parent cannot tell; that the parent is another does
    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.3)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def end_group(group: int) -> None:
    """End a kernel's process group, its children included: SIGTERM, and SIGKILL after two
    seconds.
    """
    if group == os.getpgid(0):  # our own: a test's, or a shell's without job control
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
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    except ProcessLookupError:
        return False
    except (OSError, IndexError):  # another user's, or no /proc here
        return True
    return state != "Z"  # a zombie holds nothing
