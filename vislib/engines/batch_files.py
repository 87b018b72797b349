"""Batch files of one stage that are under way: which requests stand in which file, and where it is.

Beside the journal, each stage of a set has a folder `openai_batch/<set>.<stage>`: its files, unless
they wait in a `batch_folder` to be answered, and a table. The table says before each step what is
about to be done, so a run may be killed anywhere: what is under way is taken up, never begun twice
(VisCon-100K, section 3.2, asks 100 K times).
"""

import json
import os
import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vislib.engines import Answer, Request
from vislib.engines.completions import as_dict, read_completion
from vislib.engines.replies import read_error, status_error, told_error
from vislib.runs.errors import InputError

if TYPE_CHECKING:
    from vislib.runs import Run

# A line whose `name` is empty stands in no file: it is to be asked once more.
_TABLES = """
PRAGMA synchronous=FULL;
CREATE TABLE IF NOT EXISTS files (name TEXT PRIMARY KEY, place TEXT, batch TEXT);
CREATE TABLE IF NOT EXISTS lines (key TEXT PRIMARY KEY, name TEXT, usd REAL, request TEXT);
CREATE INDEX IF NOT EXISTS lines_of_file ON lines (name);
"""
# What the provider calls lines that never came to the model; it bills none of them.
_NEVER_RUN = ("batch_expired", "batch_cancelled", "request_timeout")


def state_folder(run: "Run") -> Path:
    """Where the stage of `run` keeps what is under way; the name outlives its attempts."""
    # an attempt that ended well loses the suffix, and its batches must still be found
    stage = run.folder.name.removesuffix(".partial")
    return run.journal("openai").path.parent / "openai_batch" / f"{run.folder.parent.name}.{stage}"


@dataclass(frozen=True)
class BatchFile:
    """A JSONL file at `path`: `place` is a server's URL or a folder, `batch` the server's id."""

    name: str
    place: str
    batch: str  # "" until the server has said it
    path: Path


class BatchFiles:
    """The table in `folder`, and the files that go to `place`. One process uses it at a time, the
    one that holds the stage's lock. Changes last once `commit` was called.
    """

    def __init__(self, folder: Path, place: str) -> None:
        self.folder = folder
        self._place = place
        self._table = folder / "files.sqlite"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # SQLite's rollback journal: it works on network file systems too, and writes are few
            self._db = sqlite3.connect(self._table, timeout=60)
            self._db.executescript(_TABLES)
        except (sqlite3.Error, OSError) as error:
            raise _unusable(self._table, error) from error

    def run(self, statement: str, *values: Any) -> list[Any]:
        """Execute one statement; its rows."""
        try:
            return self._db.execute(statement, values).fetchall()
        except sqlite3.DatabaseError as error:
            raise _unusable(self._table, error) from error

    def commit(self, *, after: Path | None = None) -> None:
        """Let changes last; not before the disk keeps what was written to the journal at `after`,
        which syncs but once a second.
        """
        if after:
            with suppress(FileNotFoundError), Path(f"{after}-wal").open("rb") as log:
                os.fsync(log.fileno())
        self._db.commit()

    def close(self) -> None:
        """Undo what is not committed."""
        self._db.close()

    def all(self) -> list[BatchFile]:
        """The files under way. One that is not there is forgotten: a kill came before it was
        whole, or somebody deleted it to give it up.
        """
        rows = self.run("SELECT name, place, batch FROM files ORDER BY rowid")
        files = [
            BatchFile(name, place, batch, _path(self.folder, name, place))
            for name, place, batch in rows
        ]
        for file in files:
            if not file.path.exists():
                self.forget(file)
        return [file for file in files if file.path.exists()]

    def line(self, key: str) -> tuple[Request, float, str] | None:
        """The request of a line without an answer, the upper bound of its cost in USD, and the name
        of its file.
        """
        rows = self.run("SELECT request, usd, name FROM lines WHERE key = ?", key)
        for kept, usd, name in rows:
            values = json.loads(kept)
            path = values.pop("image_path")
            size = tuple(values.pop("image_size"))
            path = Path(path) if path else None
            return Request(**values, image_path=path, image_size=size), usd, name
        return None

    def left(self, name: str) -> dict[str, float]:
        """The lines of a file without an answer, each with the upper bound of its cost in USD."""
        return dict(self.run("SELECT key, usd FROM lines WHERE name = ?", name))

    def put_back(self, key: str) -> None:
        """A line is to be asked once more, in another file."""
        self.run("UPDATE lines SET name = '' WHERE key = ?", key)

    def drop(self, key: str) -> None:
        """A line is done with."""
        self.run("DELETE FROM lines WHERE key = ?", key)

    def is_sent(self, file: BatchFile, batch: str) -> None:
        """The server has made a batch of a file."""
        self.run("UPDATE files SET batch = ? WHERE name = ?", batch, file.name)
        self.commit()

    def forget(self, file: BatchFile) -> None:
        """A file is done with, and what still stands in it."""
        self.run("DELETE FROM lines WHERE name = ?", file.name)
        self.run("DELETE FROM files WHERE name = ?", file.name)
        self.commit()
        # last: a file without its row is litter, a row without its file would be asked anew
        for path in (file.path, *self.folder.glob(f"{file.name}.*")):
            path.unlink(missing_ok=True)

    def write(self) -> "Draft":
        """Begin a file."""
        return Draft(self, self._place)


class Draft:
    """The file that is being written; there is one at a time."""

    def __init__(self, files: BatchFiles, place: str) -> None:
        self._files = files
        self._name = f"vislib-{uuid.uuid4().hex[:16]}"
        self.file = BatchFile(self._name, place, "", _path(files.folder, self._name, place))
        self._part = self.file.path.with_name("vislib.part")
        self.lines = self.size = 0
        try:
            self._part.parent.mkdir(parents=True, exist_ok=True)
            self._stream = self._part.open("wb")
        except OSError as error:
            raise InputError(
                f"{self._part}: cannot be written ({error}); mend it, or batch_folder"
            ) from error
        files.run("INSERT INTO files VALUES (?, ?, '')", self._name, place)

    def add(self, key: str, line: bytes, *, request: Request, usd: float) -> None:
        """Write the line of `key`; from now on it stands in this file."""
        # whole, for the checks of its answer look at the page that it was made of
        kept = json.dumps(vars(request), default=str)
        self._files.run("REPLACE INTO lines VALUES (?, ?, ?, ?)", key, self._name, usd, kept)
        self._stream.write(line)
        self.lines += 1
        self.size += len(line)

    def close(self) -> BatchFile:
        """Commit the lines, then let the whole file appear: without it they count for nothing."""
        self._stream.flush()
        # the file's name says that all of it is there, after a power cut too
        os.fsync(self._stream.fileno())
        self._stream.close()
        self._files.commit()
        self._part.replace(self.file.path)
        return self.file


def batched_keys(folder: Path) -> frozenset[str]:
    """Keys of the requests in files that are there, by the table in `folder`; writes nothing."""
    if not (table := folder / "files.sqlite").exists():
        return frozenset()
    try:
        with closing(sqlite3.connect(f"{table.resolve().as_uri()}?mode=ro", uri=True)) as db:
            # reading alone: the dry run of a live engine may look while a batch run is at work
            rows = db.execute("SELECT key, name, place FROM lines JOIN files USING (name)")
            return frozenset(key for key, *file in rows if _path(folder, *file).exists())
    except sqlite3.Error as error:
        raise _unusable(table, error) from error


def _unusable(table: Path, error: Exception) -> InputError:
    return InputError(
        f"{table}: not usable ({error}); it names paid batches: try sqlite3's `.recover`"
    )


def _path(folder: Path, name: str, place: str) -> Path:
    return (folder if "://" in place else Path(place)) / f"{name}.jsonl"


def read_results(path: Path, odd: list[str]) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Number, custom_id and result of each line; nothing from a file of requests. What is no result
    goes to `odd`.
    """
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                result = json.loads(line)
                key = str(result["custom_id"])
                is_request = "method" in result
            except (ValueError, TypeError, KeyError, RecursionError):
                odd.append(f"{path.name} line {number} is no result")
                continue
            # the files that wait to be answered lie in the same folder
            if is_request:
                return
            yield number, key, result


def read_result(result: dict[str, Any], *, url: str, model: str) -> Answer:
    """The answer in a line of the provider's results, or of `vllm run-batch`; its failures are
    named as the live engine names them.

    Raises InputError, as that does, for what no other request would survive.
    """
    error = result.get("error")
    response = as_dict(result.get("response"))
    status = response.get("status_code")
    body = response.get("body")
    # a failure may be told in a whole reply, as live servers do
    if status == 200 and body:
        if refused := told_error(body, url):
            return read_error(refused, url=url, model=model)[0]
        return read_completion(body)
    told = (part.get("error") or part for part in map(as_dict, (body, error)))
    plain = {"message": str(error or body or "no word why")}  # vLLM's error is a text
    said: dict[str, Any] = next(filter(None, map(as_dict, told)), plain)
    if not isinstance(status, int) or status < 400:  # it never came to the model
        reason = said["code"] if said.get("code") in _NEVER_RUN else "server_error"
        detail = str(said.get("message") or reason)[:200]
        return Answer(status="failed", reason=reason, detail=detail)
    return read_error(status_error(status, said, url), url=url, model=model)[0]
