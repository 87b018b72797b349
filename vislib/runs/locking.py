"""One lock per run folder: held by the runner, and by the kernel that works in it and its worker
processes.

Three files in the run folder: `.lock` (the runner, or a kernel started by hand), `.kernel.lock`
(the kernel) and `.workers.lock` (shared by the kernel's workers). Locks are flock(2): they end with
the process, whatever ended it. Where a file system knows no flock (some network mounts), a marker
file beside it, `.lock.soft`, is the lock: whoever finds it takes it over when its process is gone
from the same machine.
"""

import errno
import fcntl
import json
import os
import signal
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, TextIO

from filelock import SoftFileLock, Timeout

from vislib.runs.errors import InputError

FORCE_VARIABLE = "VISLIB_FORCE"  # set by the runner's --force for the kernels that it starts
RUNNER_VARIABLE = "VISLIB_RUNNER_PID"  # set by the runner for the kernels that it starts
_WAIT_SECONDS = 20.0
_NO_FLOCK = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP}


class FolderLock:
    """An exclusive lock on one file, with the owner written in it for others to read."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._handle: TextIO | None = None
        self._soft = SoftFileLock(f"{file}.soft", blocking=False, thread_local=False)

    def try_acquire(self) -> bool:
        """Take the lock if it is free; the owner's pid and command are then written into the
        file.
        """
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            handle = self.file.open("a+", encoding="utf-8")
            if not self._take(handle, fcntl.LOCK_EX):
                handle.close()
                return False
            owner = {
                "pid": os.getpid(),
                "group": os.getpgid(0),
                "host": socket.gethostname(),
                "runner": os.environ.get(RUNNER_VARIABLE, ""),
                "command": " ".join(sys.argv)[:200],
            }
            handle.truncate(0)
            handle.write(json.dumps(owner))
            handle.flush()
        except OSError as error:
            self._soft.release()
            raise InputError(
                f"{self.file.parent}: cannot be written ({error}); mend it, or set VISLIB_RUNS"
            ) from error
        self._handle = handle
        return True

    def _take(self, handle: IO[str], kind: int) -> bool:
        try:
            return flock(handle.fileno(), kind | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in _NO_FLOCK:
                raise
        try:
            self._soft.acquire()
        except Timeout:
            return False
        return True

    def acquire(self, wait: float = _WAIT_SECONDS) -> None:
        """Wait for the lock; end an orphan that holds it; give up after `wait` seconds with an
        InputError.
        """
        deadline, said = time.monotonic() + wait, False
        while not self.try_acquire():
            owner = self.owner()
            if self._is_orphan(owner):
                end_group(int(owner["group"]))
            elif not said:
                print(
                    f"{self.file.parent}: in use by process {owner.get('pid')}; waiting",
                    file=sys.stderr,
                )
                said = True
            if time.monotonic() > deadline:
                raise InputError(f"{self.file.parent}: {self._in_use(owner)}")
            time.sleep(0.1)

    def _in_use(self, owner: dict[str, Any]) -> str:
        said = f"in use by process {owner.get('pid')} ({owner.get('command')})"
        mend = "wait for it, or shut that runner or notebook kernel down"
        if owner.get("host") not in (None, socket.gethostname()):
            said += f" on {owner['host']}"
            mend += f"; if that machine is gone, remove {self._soft.lock_file}"
        return f"{said}; {mend}"

    def release(self) -> None:
        """Give the lock back (also when it is not held)."""
        self._soft.release()
        if self._handle is not None:
            self._handle.close()
            self._handle = None

    def is_held(self) -> bool:
        """Whether any process holds the lock now."""
        if self._handle is not None:
            return True
        try:
            with self.file.open(encoding="utf-8") as handle:
                free = self._take(
                    handle, fcntl.LOCK_SH
                )  # shared: on NFS a file open for reading gives no other
        except FileNotFoundError:
            return False
        except OSError:  # a marker in a folder that cannot be written
            return Path(self._soft.lock_file).exists()
        self._soft.release()
        return not free

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


def flock(handle: int, kind: int) -> bool:
    """flock(2) of an open file: whether it was to be had. Raises OSError where it is not
    supported.
    """
    try:
        fcntl.flock(handle, kind)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise
    return True


def share(file: Path) -> int:
    """An open file that holds the shared lock until the last process that inherits it has ended.

    Where there is no flock it holds nothing: workers end with their parent, a moment later than its
    lock.
    """
    handle = os.open(file, os.O_RDWR | os.O_CREAT)
    with suppress(OSError):
        flock(handle, fcntl.LOCK_SH)
    return handle


def end_group(group: int) -> None:
    """End a kernel's process group, its children included: SIGTERM, and SIGKILL after two
    seconds.
    """
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
