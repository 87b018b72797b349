"""Tables of the data contract on disk: sharded Parquet, streamed row by row, written atomically.

Memory is bounded by a row group, never by a table. Parts are named `part-00000.parquet` and read in
order of number, so that the order of rows is the order of the inputs.
"""

import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vislib.runs.arrow_types import plain
from vislib.runs.contract import DROPPED, FOLDERS
from vislib.runs.errors import InputError
from vislib.runs.keys import expand, in_order

ROWS_PER_PART = 2000
_BUFFERED_ROWS = 500
_BUFFERED_BYTES = 2**25
_HALF = re.compile("[\ud800-\udfff]")
_UNFIT = (pa.ArrowException, OverflowError, TypeError, ValueError)  # a value no column holds
Row = dict[str, Any]


def mend_text(value: Any) -> tuple[Any, int]:
    """`value`, text at any depth mended, and the number of characters that were.

    Half of a pair (a lone surrogate, as `\\ud83d` in JSON of a cut text) is no character: UTF-8
    cannot write it. U+FFFD takes its place, so that it costs no more than itself.
    """
    if isinstance(value, str):
        return _HALF.subn("\ufffd", value)
    if isinstance(value, Mapping):
        pairs = [mend_text(part) for pair in value.items() for part in pair]
        texts = [text for text, _ in pairs]
        return dict(zip(texts[::2], texts[1::2], strict=True)), sum(n for _, n in pairs)
    if isinstance(value, list | tuple):
        parts = [mend_text(part) for part in value]
        return [text for text, _ in parts], sum(n for _, n in parts)
    return value, 0


def parts(table: Path) -> list[Path]:
    """The Parquet parts of a table folder in order of number; a single file is its own only
    part, and a glob (`*/test-*.parquet`) names the parts of several tables.
    """
    if table.is_file():
        return [table]
    if "*" in table.name:
        return expand(table)
    if not table.is_dir():
        raise InputError(
            f"{table}: no such table; run the stage that makes it, or mend the parameter"
        )
    # By number: as text, part-100000 would come before part-99999.
    return sorted(
        (path for path in table.glob("*.parquet") if not path.name.startswith(".")), key=in_order
    )


def open_part(part: Path) -> pq.ParquetFile:
    """Open one part; an unreadable file is an InputError that names it."""
    try:
        return pq.ParquetFile(part)
    except (pa.ArrowException, OSError) as error:
        raise InputError(
            f"{part}: not a readable Parquet file ({error}); make it again or leave it out"
        ) from error


def count_rows(table: Path) -> int:
    """Number of rows of a table, from the files' footers alone."""
    return sum(open_part(part).metadata.num_rows for part in parts(table))


def read_rows(
    table: Path, columns: Sequence[str] | None = None, *, unreadable: Row | None = None
) -> Iterator[Row]:
    """Stream the rows of a table folder or of one part as dictionaries, in order.

    `unreadable` stands for a row whose text is no UTF-8, as in files from outside (None: an error).
    """
    for rows in read_batches(table, columns, unreadable=unreadable):
        yield from rows


def read_batches(
    table: Path, columns: Sequence[str] | None = None, *, unreadable: Row | None = None
) -> Iterator[list[Row]]:
    """The same rows, as many at once as `batches` takes."""
    for batch in record_batches(table, columns):
        yield _as_rows(batch, unreadable)


def record_batches(table: Path, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """The same, as Arrow has them. Raises InputError for a column that a part lacks."""
    for part in parts(table):
        with open_part(part) as file:
            lacking = set(columns or ()) - set(file.schema_arrow.names)
            if lacking:
                raise InputError(
                    f"{part}: lacks the columns {sorted(lacking)}; it has {file.schema_arrow.names}"
                )
            yield from batches(file, columns=columns)


def _as_rows(batch: pa.RecordBatch, unreadable: Row | None) -> list[Row]:
    try:
        rows: list[Row] = batch.to_pylist()
    except UnicodeDecodeError:
        if unreadable is None:
            raise
        if batch.num_rows == 1:
            return [unreadable]
        # One row is at fault; which one shows when each is read alone.
        ones = (batch.slice(number, 1) for number in range(batch.num_rows))
        return [row for one in ones for row in _as_rows(one, unreadable)]
    return rows


def batches(
    file: pq.ParquetFile,
    groups: Sequence[int] | None = None,
    *,
    columns: Sequence[str] | None = None,
) -> Iterator[pa.RecordBatch]:
    """The rows of an open part, of some row groups or all, in plain types and bounded memory.

    A batch has at most 500 rows, and about 32 MiB where rows are long.
    """
    for group in range(file.num_row_groups) if groups is None else groups:
        # By bytes as well as by number: rows of other writers may be megabytes long.
        facts = file.metadata.row_group(group)
        fitting = _BUFFERED_BYTES * facts.num_rows // max(1, facts.total_byte_size)
        size = min(max(1, fitting), _BUFFERED_ROWS)
        yield from map(plain, file.iter_batches(size, [group], columns))


def lookup(
    table: Path, key: str, values: Collection[str], columns: Sequence[str] | None = None
) -> dict[str, Row]:
    """Rows whose `key` is among `values`, by that key (the first row wins); memory grows with
    `values` alone.
    """
    # For a handful to look at: a join of tables is `run.sql`'s.
    chosen = None if columns is None else sorted({key, *columns})
    wanted = pa.array(sorted(set(values)), pa.string())
    found: dict[str, Row] = {}
    for batch in record_batches(table, chosen):
        among = batch.filter(pc.is_in(batch.column(key), value_set=wanted))
        found = {row[key]: row for row in among.to_pylist()} | found
    return found


class TableWriter:
    """Append rows to one table folder; rolls over to the next part every `rows_per_part` rows (0:
    never).

    A part appears under its name only when complete. A part without rows is written too: an empty
    table has a schema.
    """

    def __init__(
        self,
        folder: Path,
        schema: pa.Schema,
        *,
        part: int = 0,
        rows_per_part: int = 0,
        stem: str = "part",
    ) -> None:
        self.folder, self.schema, self.stem = folder, schema, stem
        self.part, self.rows_per_part = part, rows_per_part
        self.rows = 0
        self.mended = 0  # characters
        self._in_part = 0
        self._buffer: list[Mapping[str, Any]] = []
        self._held = 0  # characters in the buffer, about
        self._file: pq.ParquetWriter | None = None

    def write(self, row: Mapping[str, Any]) -> None:
        """Append one row; its keys must be exactly the schema's columns."""
        # Arrow would fill a missing column with nulls, and drop one too many.
        if row.keys() != set(self.schema.names):
            wrong = sorted(row.keys() ^ set(self.schema.names))
            raise KeyError(
                f"{self.folder.name}: columns {wrong} differ from the contract's"
                f" {self.schema.names}"
            )
        self._buffer.append(row)
        self._held += sum(map(_length, row.values()))
        self.rows += 1
        self._in_part += 1
        if self.rows_per_part and self._in_part >= self.rows_per_part:
            self._close_part()
            self.part += 1
        # A row group is what a reader must hold, so it is bounded as readers' batches are.
        elif len(self._buffer) >= _BUFFERED_ROWS or self._held >= _BUFFERED_BYTES:
            self._flush()

    def close(self) -> None:
        """Complete the last part; a table without any row becomes one empty part."""
        if self._in_part or self.rows == 0:
            self._close_part()

    @property
    def _path(self) -> Path:
        return self.folder / f"{self.stem}-{self.part:05d}.parquet"

    def _flush(self) -> None:
        if self._file is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            # Under another name until it is whole: a killed write leaves no part.
            self._file = pq.ParquetWriter(
                self._path.with_suffix(".tmp"),
                self.schema,
                compression="zstd",
                write_page_index=True,
            )
        if self._buffer:
            self._file.write_table(self._table())
            self._buffer.clear()
            self._held = 0

    def _table(self) -> pa.Table:
        try:
            return pa.Table.from_pylist(list(self._buffer), schema=self.schema)
        except UnicodeEncodeError:  # looked for only now: it is rare, and looking costs time
            self._buffer, mended = mend_text(self._buffer)
            self.mended += mended
            return self._table()
        except _UNFIT as error:
            for row, field in product(self._buffer, self.schema):
                # Which one it was, the error does not say.
                try:
                    pa.array([row[field.name]], field.type)
                except _UNFIT as fault:
                    raise InputError(
                        f"{self.folder.name}: the row of {str(next(iter(row.values())))!r:.80}"
                        f" holds {row[field.name]!r:.80} as {field.name}, which is no {field.type}"
                        f" ({fault})"
                    ) from error
            raise

    def _close_part(self) -> None:
        self._flush()
        assert self._file is not None
        self._file.close()
        os.replace(self._path.with_suffix(".tmp"), self._path)
        self._file, self._in_part = None, 0


def write_table(
    folder: Path,
    schema: pa.Schema,
    rows: Iterable[Mapping[str, Any]],
    *,
    first_part: int = 0,
    rows_per_part: int = 0,
) -> None:
    """Write all `rows` as one table folder, or as its parts from a number on."""
    writer = TableWriter(folder, schema, part=first_part, rows_per_part=rows_per_part)
    for row in rows:
        writer.write(row)
    writer.close()


def _length(value: Any) -> int:
    # About: to measure a row exactly would cost more than to write it.
    if isinstance(value, list):
        return sum(len(item) for item in value if isinstance(item, str))
    if isinstance(value, dict):  # a picture and its name
        return sum(map(_length, value.values()))
    return len(value) if isinstance(value, str | bytes) else 0


class Output:
    """What one stream or shard of a stage writes: contract tables, the `dropped` table, and closed
    accounts.

    For each unit (`document`, `image`, ...) `take` counts what came in, `keep` what went on and
    `drop` what was set aside; the stage's last cell asks that taken equals kept plus dropped.
    """

    def __init__(
        self,
        folder: Path,
        schemas: Mapping[str, pa.Schema],
        *,
        part: int = 0,
        rows_per_part: int = 0,
        first_dropped: int = 0,
    ) -> None:
        self.folder, self.schemas = folder, {**schemas, "dropped": DROPPED}
        self._part, self._rows_per_part = part, rows_per_part
        # `dropped` is written by several verbs, each from another part on.
        self._first = {"dropped": first_dropped}
        self._writers: dict[str, TableWriter] = {}
        self.counts: Counter[str] = Counter()

    def writer(self, table: str, *, path: str = "", stem: str = "part") -> TableWriter:
        """The writer of `table`, or of another folder (`path`, `stem`) with that table's schema."""
        name = f"{path or table}/{stem}"
        if name not in self._writers:
            if table not in self.schemas:
                raise KeyError(
                    f"no table {table!r} in this stage's contract: {sorted(self.schemas)}"
                )
            folder = self.folder / (path or table)
            self._writers[name] = TableWriter(
                folder,
                self.schemas[table],
                stem=stem,
                part=self._part + self._first.get(table, 0),
                rows_per_part=self._rows_per_part,
            )
        return self._writers[name]

    def write(self, table: str, row: Mapping[str, Any]) -> None:
        """Append `row` to `table`."""
        self.writer(table).write(row)

    def take(self, unit: str, n: int = 1) -> None:
        """Count `n` inputs of a unit."""
        self.counts[f"{unit}/taken"] += n

    def keep(self, unit: str, n: int = 1) -> None:
        """Count `n` inputs of a unit as used."""
        self.counts[f"{unit}/kept"] += n

    def drop(self, unit: str, id: str, reason: str, detail: str = "") -> None:
        """Set one input aside, with its reason, in the table `dropped`."""
        self.counts[f"{unit}/dropped/{reason}"] += 1
        self.write("dropped", {"id": id, "reason": reason, "detail": detail})

    def note(self, name: str, n: Any = 1) -> None:
        """Add `n` (whole or not) to a number that run.json keeps under `metrics` (placeholders
        neutralised, say).
        """
        self.counts[f"note/{name}"] += n

    def close(self) -> None:
        """Complete all parts; tables without a row are written empty."""
        # A table without rows is written all the same: who reads it finds its columns.
        written = {name.split("/")[0] for name in self._writers}
        for table in self.schemas.keys() - written - set(FOLDERS):
            self.writer(table)
        for writer in self._writers.values():
            writer.close()
        if mended := sum(writer.mended for writer in self._writers.values()):
            self.note("mended_characters", mended)

    def __enter__(self) -> "Output":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:  # after an error the parts under way are of no use
            self.close()
