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
from vislib.runs.provenance import output

# As stat(1) of the GNU tools names them; what it does not know is treated with the same care.
_NETWORK = re.compile(
    r"nfs|cifs|smb|lustre|gpfs|fhgfs|v9fs|k?afs|ceph|gluster|ocfs2|gfs|panfs|pvfs|vboxsf|vmhgfs|fuse"
    r"|acfs|coda|ibrix|prl_fs|snfs|vxfs|UNKNOWN"
)


def network_type(place: Path) -> str:
    """Type of the network (or user-space) file system that a folder lies on; empty for a local one,
    or if unknown.
    """
    kind = output("stat", "-f", "-c", "%T", str(place)).strip()  # nothing on macOS: a local disk
    return kind if _NETWORK.match(kind) else ""


def journal_mode(folder: Path) -> str:
    """SQLite's `journal_mode` for a file in `folder`: WAL, or TRUNCATE on a network file system.

    Raises InputError where such a file system has no file locks: two writers would spoil what was
    paid for.
    """
    near = next(place for place in (folder, *folder.parents) if place.is_dir())
    kind = network_type(near)
    if not kind:
        return "WAL"
    # tried, not looked up: whether a mount has locks is an option of its server
    with TemporaryFile(dir=near) as probe:
        try:
            fcntl.lockf(probe, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError(
                f"{folder}: no journal of answers can be kept on this {kind}, whose file locks do"
                f" not work ({error}); set VISLIB_RUNS to a local disk, or mount it with locks"
            ) from error
    return "TRUNCATE"
