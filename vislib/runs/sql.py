"""Joins, counts and samples over Parquet tables by DuckDB: linear in rows, in bounded memory.

A query sees every table as a view with one column more, `row`: a reference to the whole row. What a
query gives of `row` comes out as that row, and of `list(x.row)` as a list of rows. So DuckDB joins,
groups and sorts narrow references, and wide text (pages, captions) is fetched once, in the order in
which it is written. To sort the text itself, DuckDB would hold all of it in memory.
"""

import os
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from shutil import rmtree
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from vislib.runs.arrow_types import plain
from vislib.runs.errors import InputError
from vislib.runs.tables import ROWS_PER_PART, open_part, parts

_MEMORY = "500MB"  # of DuckDB; what it cannot hold goes to the disk
_TABLE_BIT = 48  # a reference is a table's number from this bit on, and a row's number below it
_HELD_BYTES = 2**25  # of the row groups that a table keeps while its rows are fetched in order
_BUCKET_BYTES = 2**25
_MOST_BUCKETS = 256  # files open at once

Numbers = NDArray[np.int64]


def connect(tables: Mapping[str, Path], scratch: Path) -> duckdb.DuckDBPyConnection:
    """A DuckDB connection in which each table is a view, with its column `row` (UBIGINT)."""
    connection = duckdb.connect()
    connection.execute(f"SET memory_limit = '{_MEMORY}'")
    with suppress(duckdb.Error):  # in a kernel without ipywidgets there is no bar to switch off
        connection.execute("SET enable_progress_bar = false")  # it would go to stdout
    connection.execute(f"SET temp_directory = {_literal(scratch / 'duckdb')}")
    for number, (name, table) in enumerate(tables.items(), 1):
        files = _parts(table)
        # Numbers run through all parts: the order of rows is the order of numbers.
        starts = np.cumsum([0, *map(_count, files)])[:-1].tolist()
        row = f"{starts}[file_index::BIGINT + 1] + file_row_number::BIGINT"
        connection.execute(
            f"CREATE VIEW {name} AS SELECT *, ({number << _TABLE_BIT} + {row})::UBIGINT AS row"
            f" FROM read_parquet([{', '.join(map(_literal, files))}])"
        )
    return connection


def drawn(column: str, seed: int) -> str:
    """SQL of the 16 hex digits that `seeding.seeded` reads as a number: to draw rows by hash."""
    return f"left(sha256('{seed}' || chr(0) || {column}), 16)"


def select(text: str, tables: Mapping[str, Path], scratch: Path) -> list[tuple[Any, ...]]:
    """The rows of a small result, such as counts."""
    with connect(tables, scratch) as connection:
        try:
            return connection.execute(text).fetchall()
        except duckdb.Error as error:
            raise InputError(f"DuckDB refuses {text!r} ({error})") from error


def query(
    text: str,
    into: Path,
    tables: Mapping[str, Path],
    *,
    scratch: Path,
    one_per: str | Sequence[str] = "",
    rows_per_part: int = ROWS_PER_PART,
) -> Path:
    """Write what `text` selects from `tables` as the parts of the table `into`, in its order.

    `one_per` is a column, a field of a row (`sample.sample_id`), or several of them, whose values
    must be there and differ. Raises InputError if they do not, or if DuckDB refuses the query.
    """
    # What a killed query left is of no use: nothing tells how far it had come.
    work = scratch / f"{into.name}.query"
    rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    with connect(tables, work) as connection:
        try:
            connection.execute(
                f"COPY ({text}) TO {_literal(work / 'references.parquet')}"
                " (FORMAT parquet, ROW_GROUP_SIZE 2048)"
            )
        except duckdb.Error as error:
            raise InputError(f"{into.name}: DuckDB refuses the query ({error})") from error
    references = pq.ParquetFile(work / "references.parquet")
    sources = _sources(references, tables, work, rows_per_part)
    rmtree(into, ignore_errors=True)
    into.mkdir(parents=True)
    seen: set[Any] = set()
    for part, batch in enumerate(_batches(references, rows_per_part)):
        columns = [_whole(batch.column(name), sources.get(name)) for name in batch.schema.names]
        rows = pa.Table.from_arrays(columns, names=batch.schema.names)
        if one_per:
            _check_unique(rows, one_per, seen, into)
        path = into / f"part-{part:05d}.parquet"
        pq.write_table(rows, path.with_suffix(".tmp"), compression="zstd", row_group_size=500)
        os.replace(path.with_suffix(".tmp"), path)
    rmtree(work)
    return into


def _batches(file: pq.ParquetFile, size: int) -> Iterator[pa.RecordBatch]:
    """Batches of `size` rows; one empty batch where there is none, so that columns are known."""
    yield from file.iter_batches(size)
    if not file.metadata.num_rows:
        yield pa.RecordBatch.from_pylist([], schema=file.schema_arrow)


def _check_unique(rows: pa.Table, names: str | Sequence[str], seen: set[Any], into: Path) -> None:
    if not len(rows):  # whose columns may be of no known type
        return
    columns: list[list[Any]] = []
    for name in [names] if isinstance(names, str) else names:
        column, *fields = name.split(".")
        values = rows.column(column)
        for field in fields:
            values = pc.struct_field(values, field)
        columns.append(values.to_pylist())
    for value in zip(*columns, strict=True):
        if None in value or value in seen:
            shown = "/".join(map(str, value))
            fault = "is missing in a row" if None in value else f"{shown!r} comes twice"
            raise InputError(f"{into.name}: {names} {fault}; take all tables from one run")
        seen.add(value)


class _Source:
    """Whole rows of a table by their numbers, read once where these come nearly in order."""

    def __init__(self, files: Sequence[Path], places: Numbers | None = None) -> None:
        self.files, self._places = files, places
        self._groups: list[tuple[Path, int | None]] = []  # what is read at once; None: a whole file
        sizes = [0]
        for file in files:
            with open_part(file) as opened:
                facts = opened.metadata
                groups = [facts.row_group(group) for group in range(facts.num_row_groups)]
                # a file of ours holds 2,000 rows; to open it for each of its groups takes longer
                if places is not None or sum(g.total_byte_size for g in groups) < _HELD_BYTES // 4:
                    self._groups.append((file, None))
                    sizes.append(facts.num_rows)
                    continue
                self._groups += [(file, group) for group in range(len(groups))]
                sizes += [group.num_rows for group in groups]
        self.starts = np.cumsum(sizes)  # numbers of the first row of each group, and of all rows
        self._held: OrderedDict[int, pa.Table] = OrderedDict()

    def groups_of(self, numbers: Numbers) -> Numbers:
        """The row groups in which rows lie."""
        found: Numbers = np.searchsorted(self.starts, numbers, "right") - 1
        return found

    def take(self, numbers: Numbers) -> pa.StructArray:
        """The rows of these numbers, in their order."""
        if self._places is not None:
            numbers = self._places[numbers]
        known = np.unique(numbers)  # a page's image may stand in many rows; it is read once
        groups = self.groups_of(known)
        pieces = [self.schema().empty_table()]
        for group in np.unique(groups):
            here = known[groups == group] - self.starts[group]
            pieces.append(self.group(int(group)).take(pa.array(here)))
        rows = pa.concat_tables(pieces).combine_chunks()
        columns = [_one_chunk(column) for column in rows.columns]
        whole = pa.StructArray.from_arrays(columns, fields=list(rows.schema))
        return whole.take(pa.array(np.searchsorted(known, numbers)))

    def group(self, number: int) -> pa.Table:
        """One row group, of which the last few are held."""
        if number not in self._held:
            file, group = self._groups[number]
            with open_part(file) as opened:
                rows = opened.read() if group is None else opened.read_row_group(group)
            self._held[number] = plain(rows)
            while len(self._held) > 1 and sum(g.nbytes for g in self._held.values()) > _HELD_BYTES:
                self._held.popitem(last=False)
        self._held.move_to_end(number)
        return self._held[number]

    def schema(self) -> pa.Schema:
        """The columns of the table, in plain types."""
        with open_part(self.files[0]) as opened:
            return plain(opened.schema_arrow.empty_table()).schema

    def in_order(self, order: Numbers, folder: Path) -> "_Source":
        """The same rows in buckets of the order in which they will be asked for.

        One pass over the table puts each row into the bucket of its place, and a bucket is small
        enough to be held. A table in another order than the query's would else be read anew for
        every part of the output.
        """
        size = sum(file.stat().st_size for file in self.files)
        buckets = min(1 + 4 * size // _BUCKET_BYTES, _MOST_BUCKETS)
        bucket_of = np.full(self.starts[-1], -1)
        bucket_of[order] = np.arange(len(order)) * buckets // len(order)
        folder.mkdir()
        moved: list[list[Numbers]] = [[] for _ in range(buckets)]
        with ExitStack() as writers:
            writer = [
                writers.enter_context(
                    pq.ParquetWriter(folder / f"part-{bucket:05d}.parquet", self.schema())
                )
                for bucket in range(buckets)
            ]
            for rows, first in self._together():
                theirs = bucket_of[first : first + len(rows)]
                for bucket in np.unique(theirs[theirs >= 0]).tolist():
                    here = np.flatnonzero(theirs == bucket)
                    writer[bucket].write_table(rows.take(pa.array(here)))
                    moved[bucket].append(first + here)
        places = np.full(self.starts[-1], -1)
        now = np.concatenate([numbers for bucket in moved for numbers in bucket])
        places[now] = np.arange(len(now))
        return _Source(parts(folder), places)

    def _together(self) -> Iterator[tuple[pa.Table, int]]:
        """All rows, as many at once as may be held, each time with the number of the first."""
        held: list[pa.Table] = []
        first = 0
        for group in range(len(self._groups)):
            held.append(self.group(group))
            if sum(rows.nbytes for rows in held) > _HELD_BYTES or group + 1 == len(self._groups):
                rows = pa.concat_tables(held)
                yield rows, first
                first += len(rows)
                held = []


def _sources(
    references: pq.ParquetFile, tables: Mapping[str, Path], work: Path, rows_per_part: int
) -> dict[str, _Source]:
    """The source of each column that holds references, its rows in order where that pays."""
    names = list(tables)
    found: dict[int, _Source] = {}
    column_of: dict[str, int] = {}
    reads: dict[int, int] = {}
    orders: dict[int, list[Numbers]] = {}
    n_parts = 0
    for batch in references.iter_batches(rows_per_part):
        n_parts += 1
        for name in batch.schema.names:
            if not len(values := _references(batch.column(name))):
                continue
            number = int(values[0] >> _TABLE_BIT)
            if not 0 < number <= len(names):  # an unsigned number of the query's own
                continue
            column_of[name] = number
            rows = values & ((1 << _TABLE_BIT) - 1)
            if number not in found:
                found[number] = _Source(_parts(tables[names[number - 1]]))
            source = found[number]
            reads[number] = reads.get(number, 0) + len(np.unique(source.groups_of(rows)))
            orders.setdefault(number, []).append(rows)
    # Nearly in order is good enough, and usual: stages write rows in the order of their inputs.
    for number, source in found.items():
        # in order, a part of the output reads its own groups and those that it shares
        if reads[number] > 4 * (len(source.starts) + n_parts):
            rows = np.concatenate(orders[number])
            _, first = np.unique(rows, return_index=True)
            order = rows[np.sort(first)]
            found[number] = source.in_order(order, work / names[number - 1])
    return {name: found[number] for name, number in column_of.items()}


def _references(column: pa.Array) -> Numbers:
    """The references in a column, or in its lists; none if it holds something else."""
    values = column.flatten() if pa.types.is_list(column.type) else column
    if values.type != pa.uint64():
        return np.array([], np.int64)
    found: Numbers = values.drop_null().to_numpy(zero_copy_only=False).astype(np.int64)
    return found


def _whole(column: pa.Array, source: _Source | None) -> pa.Array:
    """A column with its references replaced by the rows that they stand for."""
    if source is None:  # of a reference that no row has, nobody knows of which table it would be
        return pa.nulls(len(column)) if column.type == pa.uint64() else column
    rows = source.take(_references(column) & ((1 << _TABLE_BIT) - 1))
    if pa.types.is_list(column.type):
        lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
        return pa.ListArray.from_arrays(pa.array(np.cumsum([0, *lengths]), pa.int32()), rows)
    # Rows that a left join has not found stay null, the others follow in order.
    there = np.asarray(column.is_valid())
    return rows.take(pa.array(np.cumsum(there) - 1, mask=~there))


def _one_chunk(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)


def _parts(table: Path) -> list[Path]:
    if not (found := parts(table)):
        raise InputError(f"{table}: holds no Parquet file; run the stage that makes it")
    return found


def _count(file: Path) -> int:
    with open_part(file) as opened:
        return int(opened.metadata.num_rows)


def _literal(path: Path) -> str:
    return "'" + str(path).replace("'", "''") + "'"
