"""The journal of paid answers: one SQLite file per engine, shared by all sets, written before an answer is used.

A key names what was asked (model, sampling, messages, image), so an answer survives code edits, forced reruns
and kills. Failures stand apart, with their attempt times, and never pass for answers.
"""

import json
import sqlite3
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from threading import Lock
from typing import Any

from vislib.runs.redaction import redact

_TABLES = """
CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, body TEXT NOT NULL, answered_at REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS failures (
    key TEXT PRIMARY KEY, reason TEXT NOT NULL, detail TEXT NOT NULL, attempts INTEGER NOT NULL, last_at REAL NOT NULL
) WITHOUT ROWID;
"""


class Journal:
    """Answers and failures by key. One writer per process; several processes may share the file (WAL)."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._lock = Lock()
        self._db = sqlite3.connect(path, timeout=60, check_same_thread=False, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.executescript(_TABLES)

    def get(self, key: str) -> dict[str, Any] | None:
        """The answer journalled under `key`, or None."""
        row = self._one("SELECT body FROM answers WHERE key = ?", key)
        return json.loads(row[0]) if row else None

    def has(self, key: str) -> bool:
        """Whether `key` has an answer."""
        return self._one("SELECT 1 FROM answers WHERE key = ?", key) is not None

    def put(self, key: str, body: Mapping[str, Any]) -> None:
        """Keep an answer (the first one stays) and forget that the key ever failed."""
        text = redact(json.dumps(body, ensure_ascii=False, sort_keys=True))
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.execute("INSERT OR IGNORE INTO answers VALUES (?, ?, ?)", (key, text, time.time()))
            self._db.execute("DELETE FROM failures WHERE key = ?", (key,))
            self._db.execute("COMMIT")

    def fail(self, key: str, reason: str, detail: str = "") -> None:
        """Record one more failed attempt at `key`."""
        with self._lock:
            self._db.execute(
                "INSERT INTO failures VALUES (?, ?, ?, 1, ?) ON CONFLICT (key) DO UPDATE SET reason = excluded.reason,"
                " detail = excluded.detail, attempts = attempts + 1, last_at = excluded.last_at",
                (key, reason, redact(detail), time.time()),
            )

    def failure(self, key: str) -> dict[str, Any] | None:
        """The last failure of `key` (reason, detail, attempts, last_at in seconds of the epoch), or None."""
        row = self._one("SELECT reason, detail, attempts, last_at FROM failures WHERE key = ?", key)
        return dict(zip(("reason", "detail", "attempts", "last_at"), row, strict=True)) if row else None

    def keys(self) -> Iterator[str]:
        """All keys that have an answer, sorted."""
        with self._lock:
            rows = self._db.execute("SELECT key FROM answers ORDER BY key").fetchall()
        return (row[0] for row in rows)

    def close(self) -> None:
        """Fold the write-ahead log into the file and close it."""
        with self._lock:
            self._db.close()

    def _one(self, query: str, key: str) -> tuple[Any, ...] | None:
        with self._lock:
            row: tuple[Any, ...] | None = self._db.execute(query, (key,)).fetchone()
        return row
