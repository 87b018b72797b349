"""Content hashes of files: each file is read once, as long as it stays what it was.

A model of 4 GB would be read at every look otherwise. What was read is kept for this process, and
beside the runs for the next (`.digests.sqlite`, which may be deleted at any time), under the file's
inode, size and times.
"""

import hashlib
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

FileFacts = dict[str, Any]  # size in bytes, sha256

# A file that was written a moment ago may be written again at the same time of the file system's
# clock, whose steps are of 2 s at most (FAT): it is read again, as git does with a "racily clean"
# file.
_SETTLED_NS = 2_100_000_000
_known: dict[str, str] = {}
_writes = True


def folder_facts(folder: Path, files: Iterable[Path]) -> dict[str, FileFacts]:
    """Facts of `files` by their path from `folder` (from its own folder, where it is a file or a
    glob).
    """
    # names within the input, not its place: a folder that was moved has the same content
    base = next(p for p in (folder, *folder.parents) if p.is_dir())
    named = sorted((str(path.relative_to(base)), path) for path in files)
    hashes = file_hashes([path for _, path in named])
    return {
        name: {"size": path.stat().st_size, "sha256": found}
        for (name, path), found in zip(named, hashes, strict=True)
    }


def content_hash(facts: Mapping[str, FileFacts]) -> str:
    """One hash over names and contents of a set of files."""
    lines = (f"{name} {fact['sha256']}" for name, fact in sorted(facts.items()))
    return hashlib.sha256("\n".join(lines).encode(errors="surrogateescape")).hexdigest()


def file_hashes(paths: Sequence[Path]) -> list[str]:
    """Hex SHA-256 of each file."""
    identities = [_identity(path) for path in paths]
    known, new = _recall(identities), {}
    for path, identity in zip(paths, identities, strict=True):
        if identity not in known:
            settled = _is_settled(path)
            with path.open("rb") as file:
                known[identity] = hashlib.file_digest(file, "sha256").hexdigest()
            if settled and _identity(path) == identity:  # not written while it was read
                new[identity] = known[identity]
    _remember(new)
    return [known[identity] for identity in identities]


def _identity(path: Path) -> str:
    """What changes with the content. The change time does even when a tool puts the time of writing
    back.
    """
    stat = path.stat()
    return f"{path.name!a} {stat.st_ino} {stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns}"


def _is_settled(path: Path) -> bool:
    stat = path.stat()
    age = time.time_ns() - max(stat.st_mtime_ns, stat.st_ctime_ns)
    return bool(stat.st_ino) and age > _SETTLED_NS  # some network mounts know no inodes


@contextmanager
def nothing_written() -> Iterator[None]:
    """Within the block hashes are kept for this process alone: a look writes nothing."""
    global _writes
    _writes = False
    try:
        yield
    finally:
        _writes = True


def _statement(sql: str, rows: Sequence[tuple[str, ...]]) -> list[tuple[str, str]]:
    """Run a statement for each row; a cache that cannot be read or written is no error."""
    found: list[tuple[str, str]] = []
    root = Path(__file__).resolve().parents[2]
    cache = Path(os.environ.get("VISLIB_RUNS") or root / "runs") / ".digests.sqlite"
    # a look makes no file, and no folder is made for the cache alone
    if rows and (cache.exists() or (_writes and cache.parent.is_dir())):
        with suppress(sqlite3.Error), closing(sqlite3.connect(cache, timeout=5)) as db, db:
            if _writes:
                db.execute(
                    "CREATE TABLE IF NOT EXISTS digests (identity TEXT PRIMARY KEY, sha256 TEXT)"
                    " WITHOUT ROWID"
                )
            for row in rows:
                found += db.execute(sql, row)
    return found


def _recall(identities: Sequence[str]) -> dict[str, str]:
    """The hashes that are known of these identities."""
    unknown = [(identity,) for identity in identities if identity not in _known]
    _known.update(_statement("SELECT identity, sha256 FROM digests WHERE identity = ?", unknown))
    return {identity: _known[identity] for identity in identities if identity in _known}


def _remember(new: Mapping[str, str]) -> None:
    """Keep hashes for this process and, if there is a folder of runs, for the next."""
    _known.update(new)
    if _writes:
        _statement("INSERT OR REPLACE INTO digests VALUES (?, ?)", list(new.items()))
