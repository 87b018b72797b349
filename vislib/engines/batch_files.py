"""Batch files under way: which requests stand in which file, and where it is (VisCon-100K, section
3.2).

One table for all sets, `openai_batch.sqlite` beside the journal; the files lie beside it too, or in
the folder where they wait to be answered. A key stands in one file at a time, so what is under way
is not asked again, whichever stage or set comes. Whoever changes anything holds the lock, which
ends with its process.
"""

import json
import math
import os
import sqlite3
import uuid
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vislib.engines import Request
from vislib.engines.batch_server import BatchServer, Refused
from vislib.runs.errors import InputError
from vislib.runs.locking import FolderLock

_TABLES = """
PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;
CREATE TABLE IF NOT EXISTS files (name TEXT PRIMARY KEY, place TEXT, batch TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS lines (
    key TEXT PRIMARY KEY, name TEXT, usd REAL, request TEXT
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS lines_of_file ON lines (name);
"""


@dataclass(frozen=True)
class BatchFile:
    """`place` is a server's URL or a folder, `batch` the id at the server once it is known, `path`
    the JSONL.
    """

    name: str
    place: str
    batch: str
    path: Path


class BatchFiles:
    """The table in `folder`, and the files at `place`, whose `server` is None if it is a folder.

    Changes are made `with working()` and last once `commit` was called.
    """

    def __init__(self, folder: Path, place: str, server: BatchServer | None) -> None:
        self.folder, self._place, self._server = folder / "openai_batch", place, server
        table = folder / "openai_batch.sqlite"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(table, timeout=60)
            self._db.executescript(_TABLES)
        except (sqlite3.Error, OSError) as error:
            raise _unusable(table, error) from error
        self._table = table

    def run(self, statement: str, values: Iterable[Any] = ()) -> list[Any]:
        """Execute one statement; its rows."""
        try:
            return self._db.execute(statement, tuple(values)).fetchall()
        except sqlite3.DatabaseError as error:
            raise _unusable(self._table, error) from error

    @contextmanager
    def working(self) -> Iterator[None]:
        """Be the one that changes files; what is not committed is undone."""
        lock = FolderLock(self.folder / ".lock")
        lock.acquire(wait=math.inf)
        try:
            yield
        finally:
            self._db.rollback()
            lock.release()

    def commit(self, *, after: Path | None = None) -> None:
        """Let changes last; not before the disk keeps what was written to the journal at
        `after`.
        """
        if after:  # which syncs but once a second
            with suppress(FileNotFoundError), Path(f"{after}-wal").open("rb") as log:
                os.fsync(log.fileno())
        self._db.commit()

    def find(self, **where: str) -> list[BatchFile]:
        """Files by `name`, `place`, or a `key` that stands in them."""
        ((column, value),) = where.items()
        condition = (
            "name = (SELECT name FROM lines WHERE key = ?)" if column == "key" else f"{column} = ?"
        )
        rows = self.run(f"SELECT name, place, batch FROM files WHERE {condition}", (value,))
        return [
            BatchFile(name, place, batch, self._path(place, f"{name}.jsonl"))
            for name, place, batch in rows
        ]

    def write(self) -> "Draft":
        """Begin a file."""
        part = self._path(self._place, "vislib.part")
        try:
            part.parent.mkdir(parents=True, exist_ok=True)
            return Draft(self, self._place, part, self._server)
        except OSError as error:
            raise InputError(
                f"{part}: cannot be written ({error}); mend it, or batch_folder"
            ) from error

    def under_way(self, key: str) -> BatchFile | None:
        """The file of which an answer to `key` is to come. Raises InputError if it is to come to
        another place.
        """
        return next((file for file in self.find(key=key) if self._is_sound(file)), None)

    def line(self, key: str, file: BatchFile) -> tuple[Request, float] | None:
        """The request of a line that has no answer, and the upper bound of its cost in USD."""
        query = "SELECT request, usd FROM lines WHERE key = ? AND name = ?"
        if not (rows := self.run(query, (key, file.name))):
            return None
        ((kept, usd),) = rows
        values = json.loads(kept)
        path, size = values.pop("image_path"), tuple(values.pop("image_size"))
        return Request(**values, image_path=Path(path) if path else None, image_size=size), usd

    def left(self, file: BatchFile) -> dict[str, float]:
        """The lines that have no answer, each with the upper bound of its cost in USD."""
        return dict(self.run("SELECT key, usd FROM lines WHERE name = ?", (file.name,)))

    def drop(self, key: str) -> None:
        """A line is done with."""
        self.run("DELETE FROM lines WHERE key = ?", (key,))

    def send(self, file: BatchFile, server: BatchServer) -> None:
        """Have a batch made of a file. One that was surely not made is forgotten."""
        upload = ""
        try:
            upload = server.upload(file.path)
            self._is_sent(file, server.begin(upload, file.path))
        except InputError as error:
            if not upload or isinstance(error, Refused):
                server.delete(upload)
                self._forget(file)
                self.commit()
            raise

    def clear(self) -> None:
        """Clear away, here and at the server, files whose lines have all been journalled, or moved
        to others.
        """
        for file in self.find(place=self._place):
            if self._is_sound(file) and not self.left(file):
                if self._server and file.batch:
                    batch = self._server.retrieve(file.batch)
                    self._server.delete(
                        batch.input_file_id, batch.output_file_id, batch.error_file_id
                    )
                self._forget(file)
        self.commit()

    def _is_sound(self, file: BatchFile) -> bool:
        """Whether answers are to come of a file. If not (cut off, or deleted to give it up), it is
        forgotten.
        """
        there = file.path.exists()
        if there and file.place != self._place:
            mend = (
                "set base_url to that, and batch_folder to ''"
                if "://" in file.place
                else "set batch_folder to that"
            )
            raise InputError(
                f"{file.path.name} is under way at {file.place}: {mend}, to collect it; or delete"
                f" {file.path} to ask its requests again"
            )
        if there:
            if file.batch or not self._server:
                return True
            if batch := self._server.begun(file.name):  # the reply was lost
                self._is_sent(file, batch)
                return True
        self._forget(file)
        return False

    def _is_sent(self, file: BatchFile, batch: str) -> None:
        self.run("UPDATE files SET batch = ? WHERE name = ?", (batch, file.name))
        self.commit()

    def _forget(self, file: BatchFile) -> None:
        self.run("DELETE FROM lines WHERE name = ?", (file.name,))
        self.run("DELETE FROM files WHERE name = ?", (file.name,))
        for path in (file.path, *self.folder.glob(f"{file.name}.*")):
            path.unlink(missing_ok=True)

    def _path(self, place: str, name: str) -> Path:
        return _where(self.folder, place) / name


def batched_keys(folder: Path) -> frozenset[str]:
    """Keys of the requests in batch files that are there, by the table in `folder`; nothing is
    written.
    """
    if not (table := folder / "openai_batch.sqlite").exists():
        return frozenset()
    try:
        with closing(sqlite3.connect(f"{table.resolve().as_uri()}?mode=ro", uri=True)) as db:
            files = db.execute("SELECT name, place FROM files").fetchall()
            places = {name: _where(folder / "openai_batch", place) for name, place in files}
            there = {name for name, place in places.items() if (place / f"{name}.jsonl").exists()}
            return frozenset(
                key for key, name in db.execute("SELECT key, name FROM lines") if name in there
            )
    except sqlite3.Error as error:
        raise _unusable(table, error) from error


def _unusable(table: Path, error: Exception) -> InputError:
    return InputError(
        f"{table}: not usable ({error}); it names paid batches: try sqlite3's `.recover`"
    )


def _where(folder: Path, place: str) -> Path:
    return folder if "://" in place else Path(place)


class Draft:
    """The file that is being written; there is one at a time."""

    def __init__(
        self, files: BatchFiles, place: str, part: Path, server: BatchServer | None
    ) -> None:
        self._files, self._part, self._server, self.lines, self.size = files, part, server, 0, 0
        self._stream, self._name = part.open("wb"), f"vislib-{uuid.uuid4().hex[:16]}"
        files.run("INSERT INTO files VALUES (?, ?, '')", (self._name, place))

    def add(self, key: str, line: bytes, *, request: Request, usd: float) -> None:
        """Write the line of `key`, which leaves the file in which it stood."""
        kept = json.dumps(vars(request) | {"evidence": {}}, default=str)
        self._files.run("REPLACE INTO lines VALUES (?, ?, ?, ?)", (key, self._name, usd, kept))
        self._stream.write(line)
        self.lines, self.size = self.lines + 1, self.size + len(line)

    def send(self) -> str:
        """Commit the lines, let the whole file appear (without it they count for nothing), have a
        batch made of it.
        """
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._stream.close()
        self._files.commit()
        (file,) = self._files.find(name=self._name)
        self._part.replace(file.path)
        if self._server:
            self._files.send(file, self._server)
        return file.name
