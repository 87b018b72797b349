"""Content hashes of files: each file is read once, as long as it stays what it was.

A model of 4 GB would be read at every look otherwise. What was read is kept beside the runs
(`.digests.sqlite`, which may be deleted at any time), under the file's inode, size and times.
"""

import hashlib
import os
import sqlite3
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

FileFacts = dict[str, Any]  # size in bytes, sha256

# A file that was written a moment ago may be written again at the same time of the file system's
# clock, whose steps are of 2 s at most (FAT): it is read again, as git does with a "racily clean"
# file.
_SETTLED_NS = 2_100_000_000
_TABLE = "CREATE TABLE IF NOT EXISTS digests (identity TEXT PRIMARY KEY, sha256 TEXT) WITHOUT ROWID"


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
    runs = os.environ.get("VISLIB_RUNS") or Path(__file__).resolve().parents[2] / "runs"
    cache = _cache(Path(runs, ".digests.sqlite"))
    found, new = list[str](), dict[str, str]()
    for path in paths:
        identity, settled = _identity(path)
        digest = _recall(cache, identity)
        if not digest:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            if settled and _identity(path)[0] == identity:  # not written while it was read
                new[identity] = digest
        found.append(digest)
    with suppress(sqlite3.Error), cache:
        cache.executemany("INSERT OR REPLACE INTO digests VALUES (?, ?)", new.items())
    return found


def _identity(path: Path) -> tuple[str, bool]:
    """What changes with the content, and whether it is sure to. The change time does even when a
    tool puts the time of writing back.
    """
    stat = path.stat()
    age = time.time_ns() - max(stat.st_mtime_ns, stat.st_ctime_ns)
    times = f"{stat.st_mtime_ns} {stat.st_ctime_ns}"
    return f"{path.name!a} {stat.st_ino} {stat.st_size} {times}", age > _SETTLED_NS


@lru_cache(maxsize=8)
def _cache(file: Path) -> sqlite3.Connection:
    """Where hashes are kept: in the memory of this process where a file cannot be."""
    with suppress(sqlite3.Error):
        cache = sqlite3.connect(file, timeout=5, check_same_thread=False)
        cache.execute(_TABLE)
        return cache
    cache = sqlite3.connect(":memory:", check_same_thread=False)
    cache.execute(_TABLE)
    return cache


def _recall(cache: sqlite3.Connection, identity: str) -> str:
    """The hash that is known of an identity; a cache that cannot be read is no error."""
    with suppress(sqlite3.Error):
        for (digest,) in cache.execute("SELECT sha256 FROM digests WHERE identity = ?", [identity]):
            return str(digest)
    return ""
