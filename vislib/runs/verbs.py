"""What a notebook says of rows: `To` a table, `Drop` with a reason, `Note` a number; and how a
function that says so is run over the parts of a table.

Part k of the output comes from part k of the input alone, so the number of workers never changes a
byte. A part that is done leaves a mark with the hash of its input, the function's code and its
settings; while these hold, a later attempt takes it as done. Every row of the input goes on or is
dropped, by its id: what comes to nothing is an error, never silence.
"""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial, reduce
from hashlib import sha256
from multiprocessing import get_context
from operator import getitem
from pathlib import Path
from typing import Any

import cloudpickle
import pyarrow as pa

from vislib.runs.code import code_digest
from vislib.runs.errors import InputError
from vislib.runs.locking import end_with, share
from vislib.runs.progress import Progress
from vislib.runs.redaction import write_redacted
from vislib.runs.tables import Output, Row, count_rows, parts, read_batches

PARTS_PER_VERB = 100_000  # `dropped` is written by every verb of a stage, each from such a number


@dataclass(frozen=True)
class To:
    """A row of a table of this stage (`path` and `stem` of its file, where a table has several)."""

    table: str
    row: Mapping[str, Any]
    path: str = ""
    stem: str = "part"


@dataclass(frozen=True)
class Drop:
    """A unit that is set aside. Without `id` and `unit` it is the row that is being looked at."""

    reason: str
    detail: str = ""
    id: str = ""
    unit: str = ""


@dataclass(frozen=True)
class Note:
    """`n` more of a number that the record keeps under `metrics`."""

    name: str
    n: float = 1


Said = To | Drop | Note
RowFunction = Callable[[Sequence[Row]], Iterable[Said]]


def row_id(row: Mapping[str, Any], columns: Sequence[str]) -> str:
    """The id of a row: a column, or one of a row within it (`sample.sample_id`); several by `/`."""
    return "/".join(str(reduce(getitem, column.split("."), row)) for column in columns)


class Rows(list[Row]):
    """A batch of rows that knows which one is being looked at."""

    current: Row | None = None

    def __iter__(self) -> Iterator[Row]:
        for row in super().__iter__():
            self.current = row
            yield row
        self.current = None


def name_of(function: Any) -> str:
    """The name of a function, or of the one that a partial holds; it is the verb's too."""
    return str(getattr(getattr(function, "func", function), "__name__", "map"))


@dataclass(frozen=True, kw_only=True)
class Mapped:
    """A function over the parts of a table: how rows are named, and where its output goes."""

    function: RowFunction
    unit: str
    id: tuple[str, ...]
    folder: Path
    schemas: Mapping[str, pa.Schema]
    marks: Path  # a folder: one file for each part that is done
    batch: int = 1
    first_dropped: int = 0  # number of its first part of `dropped`

    def run(self, table: Path, *, workers: int, lock: Path) -> Counter[str]:
        """Map every part, several at once if there are `workers`; the sum of their counts.

        Workers hold `lock` (shared) and end with their parent.
        """
        self.marks.mkdir(parents=True, exist_ok=True)
        sizes = {source: count_rows(source) for source in parts(table)}
        counts: Counter[str] = Counter()
        with Progress(sum(sizes.values()), self.unit) as progress:
            for source, found in self._made(list(sizes), workers, lock):
                counts.update(found)
                progress.update(sizes[source])
        return counts

    def _made(
        self, sources: list[Path], workers: int, lock: Path
    ) -> Iterator[tuple[Path, Counter[str]]]:
        code = code_digest(self.function)
        if workers == 1 or len(sources) == 1:
            for index, source in enumerate(sources):
                yield source, self.part(index, source, code)
            return
        try:  # a function of a notebook travels by value, with what it reads of the notebook
            work = cloudpickle.dumps(self)
        except Exception as error:
            raise InputError(
                f"{name_of(self.function)} cannot go to other processes ({error}); let it read"
                " parameters and imports alone, or set workers to 1"
            ) from error
        # spawn and not fork: a kernel has threads, and a forked child of theirs may hang.
        spawn, begin = get_context("spawn"), partial(start_worker, os.getpid(), lock)
        with ProcessPoolExecutor(workers, spawn, initializer=begin) as pool:
            # After an error the parts under way end, and the others do not begin.
            counts = pool.map(partial(_part, work, code), *zip(*enumerate(sources), strict=True))
            yield from zip(sources, counts, strict=True)

    def part(self, index: int, source: Path, code: str) -> Counter[str]:
        """Map one part, or take it as done."""
        # By content, not by date: an input that was made again and came out the same is the same.
        mark = self.marks / f"{index:05d}.json"
        given = {"input": sha256(source.read_bytes()).hexdigest(), "code": code}
        if mark.exists():
            before = json.loads(mark.read_text(encoding="utf-8"))
            # marks of an attempt that was accepted hold no code: they stand for any
            if {"code": code, **before, "counts": 0} == given | {"counts": 0}:
                return Counter(before["counts"])
        first = self.first_dropped
        with Output(self.folder, self.schemas, part=index, first_dropped=first) as output:
            for rows in read_batches(source):
                for start in range(0, len(rows), self.batch):
                    self._write(Rows(rows[start : start + self.batch]), output)
        text = json.dumps(given | {"counts": output.counts}, sort_keys=True)
        write_redacted(mark, text)  # last: without it the part is made again
        return output.counts

    def _write(self, rows: Rows, output: Output) -> None:
        # Of one batch alone, so that memory does not grow with the table.
        went_on: set[str] = set()
        dropped: set[str] = set()
        name = name_of(self.function)
        try:
            for said in self.function(rows):
                if isinstance(said, To):
                    output.writer(said.table, path=said.path, stem=said.stem).write(said.row)
                    went_on.add(self._id_of_output(said.row))
                elif isinstance(said, Drop):
                    id = self._drop(said, rows, output)
                    if id in dropped:
                        raise InputError(f"{name} drops {self.unit} {id} twice")
                    dropped |= {id} - {""}
                elif isinstance(said, Note):
                    output.note(said.name, said.n)
                else:
                    raise InputError(
                        f"{name} yields {said!r:.80}, a {type(said).__name__}; yield To(table,"
                        " row), Drop(reason) or Note(name)"
                    )
        except Exception as error:
            if rows.current is not None:
                at = row_id(rows.current, self.id)
                error.add_note(f"{name}: at {self.unit} {at}")
            raise
        for id in (row_id(row, self.id) for row in list.__iter__(rows)):
            output.take(self.unit)
            if id not in went_on | dropped:
                raise InputError(
                    f"{name}: {self.unit} {id} comes to nothing; yield a row To a table, with its"
                    f" {', '.join(self.id)}, or a Drop"
                )
            if id not in dropped:  # a row of a failed answer stands in its table all the same
                output.keep(self.unit)

    def _id_of_output(self, row: Mapping[str, Any]) -> str:
        """The id that a row of the output carries on: as the input has it, or in columns alone."""
        # A rule may write a row within the row (`sample`), or its columns alone.
        for columns in (self.id, [column.split(".")[-1] for column in self.id]):
            with suppress(KeyError, TypeError):
                return row_id(row, columns)
        return ""

    def _drop(self, said: Drop, rows: Rows, output: Output) -> str:
        """Set aside what is said; its id if it is a row of the input, else ''."""
        id = said.id
        if not id:
            if rows.current is None or said.unit:
                raise InputError(
                    f"{name_of(self.function)}: {said} names no id, and it is not said while going"
                    " over the rows; give it the id of what it drops"
                )
            id = row_id(rows.current, self.id)
        unit = said.unit or self.unit
        output.drop(unit, id, said.reason, said.detail)
        return id if unit == self.unit else ""


def _part(work: bytes, code: str, index: int, source: Path) -> Counter[str]:
    mapped: Mapped = cloudpickle.loads(work)
    return mapped.part(index, source, code)


def start_worker(parent: int, lock: Path) -> None:
    """Hold the folder's lock for as long as this worker lives, and end when the kernel is gone."""
    # So long as a worker lives, nobody begins the stage anew: both would write the same parts.
    share(lock)  # kept open: the lock ends with the process
    end_with(parent)
