"""The journal of paid answers: one SQLite file per engine, shared by all sets, written before an
answer is used.

A key names what was asked (model, sampling, messages, image), so an answer survives code edits,
forced reruns and kills. Failed attempts stand apart, with time and cost, and never pass for
answers.
"""

import json
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

from vislib.runs.errors import InputError
from vislib.runs.filesystems import journal_mode
from vislib.runs.redaction import redact

_TABLES = """
CREATE TABLE IF NOT EXISTS answers (
    key TEXT PRIMARY KEY, body TEXT NOT NULL, answered_at REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS failures (
    key TEXT NOT NULL, failed_at REAL NOT NULL, reason TEXT NOT NULL, detail TEXT NOT NULL,
    usd REAL NOT NULL,
    PRIMARY KEY (key, failed_at)
) WITHOUT ROWID;
"""
_SYNC_S = 1.0


@contextmanager
def usable(path: Path) -> Iterator[None]:
    """What a journal cannot do within the block is an InputError that names it and the mend."""
    try:
        yield
    except InputError:  # that there are no file locks, say
        raise
    except (sqlite3.OperationalError, OSError) as error:  # a full disk
        raise InputError(
            f"{path}: cannot be read or written ({error}); make room, or mend the disk, and run the"
            " same command again"
        ) from error
    except (sqlite3.Error, ValueError, TypeError) as error:  # JSON too
        raise InputError(
            f"{path}: not a usable journal ({error}); it may hold paid answers: mend the disk, try"
            " sqlite3's `.recover`, or move it aside to begin a new one"
        ) from error


class Journal:
    """Answers and failures by key. One writer per process; several processes may share the file
    (see `filesystems`).

    Each answer is committed before it counts, so a kill loses none; the disk is made to keep them
    once a second, so a power cut costs those of the last one. A disk that needs 10 ms for that
    would allow 100 answers a second.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        # one connection for all threads of an engine, since SQLite has one writer anyway
        self._lock, self._synced = Lock(), -_SYNC_S
        with usable(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(
                # another set may be writing: wait for it rather than lose a paid answer
                path,
                timeout=60,
                check_same_thread=False,
                isolation_level=None,
            )
            # WAL lets a look read while answers are written; not every file system has it
            self._db.execute(f"PRAGMA journal_mode={journal_mode(path.parent)}")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.executescript(_TABLES)

    def get(self, key: str) -> dict[str, Any] | None:
        """The answer journalled under `key`, or None."""
        entry = self.entry(key)
        return entry and entry[0]

    def entry(self, key: str) -> tuple[dict[str, Any], float] | None:
        """The answer journalled under `key`, and when (seconds of the epoch), or None."""
        row = self._one("SELECT body, answered_at FROM answers WHERE key = ?", key)
        with usable(self.path):
            return (dict(json.loads(row[0])), float(row[1])) if row else None

    def __len__(self) -> int:
        """Number of answers."""
        row = self._one("SELECT count(*) FROM answers")
        return int(row[0]) if row else 0

    def put(self, key: str, body: Mapping[str, Any]) -> None:
        """Keep an answer; the first one of a key stays."""
        # sorted, so that equal answers are equal bytes in an export
        text = redact(json.dumps(body, ensure_ascii=False, sort_keys=True))
        self._write("INSERT OR IGNORE INTO answers VALUES (?, ?, ?)", (key, text, time.time()))

    def fail(self, key: str, reason: str, detail: str = "", usd: float = 0.0) -> None:
        """Record one more failed attempt at `key`, and what it cost."""
        values = (key, time.time(), reason, redact(detail), usd)
        self._write("INSERT OR REPLACE INTO failures VALUES (?, ?, ?, ?, ?)", values)

    def retract(self, key: str, reason: str, detail: str, usd: float) -> None:
        """An answer turned out to be none: it stands with the failures from now on, and may be
        asked again.
        """
        # the failure first: a kill between the two leaves the cost counted
        self.fail(key, reason, detail, usd)
        self._write("DELETE FROM answers WHERE key = ?", (key,))

    def failure(self, key: str) -> dict[str, Any] | None:
        """Failed attempts at `key`: reason, detail, last_at (seconds of the epoch) of the last one,
        usd of all.
        """
        row = self._one(
            "SELECT reason, detail, max(failed_at), sum(usd) FROM failures WHERE key = ?"
            " HAVING count(*)",  # SQLite gives reason and detail of the row with the maximum
            key,
        )
        return dict(zip(("reason", "detail", "last_at", "usd"), row, strict=True)) if row else None

    def _write(self, statement: str, values: tuple[Any, ...]) -> None:
        # FULL costs about 10 ms a commit; once a second bounds what a power cut takes
        with self._lock, usable(self.path):
            due = time.monotonic() - self._synced >= _SYNC_S
            if due:  # this commit, and with it all before, reaches the disk
                self._db.execute("PRAGMA synchronous=FULL")
            self._db.execute(statement, values)
            if due:
                self._db.execute("PRAGMA synchronous=NORMAL")
                self._synced = time.monotonic()

    def _one(self, query: str, *values: str) -> tuple[Any, ...] | None:
        with self._lock, usable(self.path):
            row: tuple[Any, ...] | None = self._db.execute(query, values).fetchone()
        return row
