"""A full disk: said in words that help, and a record of the failure that outlives it."""

import os
import re
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

_FULL = re.compile(
    r"No space left on device|quota exceeded|database or disk is full|File too large", re.IGNORECASE
)
_RESERVE = ".reserve"
_RESERVED_BYTES = (
    256 * 1024
)  # a record of a stage with some thousand parts, its diff of the checkout included


def is_full(error: object) -> bool:
    """Whether an error, or what is left of it as a text, says that a disk or a quota is full."""
    return bool(_FULL.search(str(error)))


def explain(error: object, run: Path) -> str:
    """The error's first line, which folder has how much room, what was kept, and how to go on."""
    # the folder itself may not have been made for want of room
    near = next(place for place in (run, *run.parents) if place.is_dir())
    # sockets of kernels and work of libraries lie in the temporary folder, often a small disk
    free, full = min(
        (shutil.disk_usage(place).free, place) for place in (near, Path(tempfile.gettempdir()))
    )
    said = str(error).strip().partition("\n")[0][:300]
    room = f"{full} has {free / 1e6:,.1f} MB free of {shutil.disk_usage(full).total / 1e6:,.1f}"
    return (
        f"{said}; {room}. The last good results and the journal stay: make room, or name another"
        " folder (VISLIB_RUNS for runs, TMPDIR for temporary files), and run the same command"
        " again"
    )


def reserve(folder: Path) -> None:
    """Keep room for the record of a failure; bytes at random, since some file systems store zeros
    in no room.
    """
    (folder / _RESERVE).write_bytes(os.urandom(_RESERVED_BYTES))


def free_reserve(folder: Path) -> None:
    """Give that room back."""
    with suppress(OSError):
        (folder / _RESERVE).unlink(missing_ok=True)
