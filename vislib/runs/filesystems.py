"""What a file system can do: SQLite's write-ahead log needs memory shared by all who write, so one
machine's disk.

https://www.sqlite.org/wal.html rules it out on network file systems, where a run folder that
several nodes of a cluster share lies. There the journal of answers is kept in SQLite's rollback
form, under POSIX locks.
"""

import fcntl
import re
from pathlib import Path
from tempfile import TemporaryFile

from vislib.runs.errors import InputError

_MOUNTS = Path("/proc/mounts")  # statfs gives numbers, and FUSE one for all of its kinds
_NETWORK = re.compile(
    r"nfs|cifs|smb|lustre|gpfs|beegfs|9p|afs|ceph|gluster|ocfs2|gfs2|pvfs|orangefs|panfs|weka|virtiofs|vboxsf|"
    r"vmhgfs|fuse|davfs|sshfs"
)


def network_type(path: Path) -> str:
    """Type of the network (or user-space) file system that `path` lies on; empty for a local one,
    or if unknown.
    """
    try:
        lines = _MOUNTS.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:  # no /proc, as on macOS: a local disk is the likelier guess
        return ""
    where, longest, kind = path.absolute().resolve(), -1, ""
    for line in lines:
        _, mount, name, *_ = line.split(" ")
        place = Path(
            re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), mount)
        )  # blanks are written \040
        if (
            where.is_relative_to(place) and len(place.parts) >= longest
        ):  # of two on one place the later counts
            longest, kind = len(place.parts), name
    return kind if _NETWORK.match(kind) else ""


def journal_mode(folder: Path) -> str:
    """SQLite's `journal_mode` for a file in `folder`: WAL, or TRUNCATE on a network file system.

    Raises InputError where such a file system has no file locks: two writers would spoil what was
    paid for.
    """
    kind = network_type(folder)
    if not kind:
        return "WAL"
    # tried, not looked up: whether a mount has locks is an option of its server
    near = next(place for place in (folder, *folder.parents) if place.is_dir())
    with TemporaryFile(dir=near) as probe:
        try:
            fcntl.lockf(probe, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError(
                f"{folder}: no journal of answers can be kept on this {kind}, whose file locks do"
                f" not work ({error}); set VISLIB_RUNS to a local disk, or mount it with locks"
            ) from error
    return "TRUNCATE"
