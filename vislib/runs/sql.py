"""Joins, counts and samples over Parquet tables by DuckDB: linear in rows, in bounded memory.

A query sees every table as a view with one column more, `row`: a reference to the whole row. What a
query gives of `row` comes out as that row, and of `list(x.row)` as a list of rows. So DuckDB joins,
groups and sorts narrow references, and wide text (pages, captions) is fetched once, in the order in
which it is written. To sort the text itself, DuckDB would hold all of it in memory. A second view,
`<name>_with_file`, also tells the path of a row's part, as a table named by a glob needs it.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
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
from vislib.runs.tables import ROWS_PER_PART, count_rows, open_part, parts, record_batches

_MEMORY = "500MB"  # of DuckDB; what it cannot hold goes to the disk
_ROW_OF = "row of "  # a reference is {"row of TABLE": number}, so that its type names the table
_PIECE_BYTES = 2**25

Numbers = NDArray[np.int64]


def connect(tables: Mapping[str, Path], scratch: Path) -> duckdb.DuckDBPyConnection:
    """A DuckDB connection in which each table is a view, with its column `row`, in its order."""
    connection = duckdb.connect()
    connection.execute(f"SET memory_limit = '{_MEMORY}'")
    with suppress(duckdb.Error):  # in a kernel without ipywidgets there is no bar to switch off
        connection.execute("SET enable_progress_bar = false")  # it would go to stdout
    connection.execute(f"SET temp_directory = {_literal(scratch / 'duckdb')}")
    for name, table in tables.items():
        files = parts(table)
        if not files:
            raise InputError(f"{table}: holds no Parquet file; run the stage that makes it")
        # Numbers run through all parts: the order of rows is the order of numbers.
        starts = np.cumsum([0, *map(count_rows, files)])[:-1].tolist()
        number = f"{starts}[file_index::BIGINT + 1] + file_row_number::BIGINT"
        rows = (
            f"{{'{_ROW_OF}{name}': {number}}} AS row"
            f" FROM read_parquet([{', '.join(map(_literal, files))}])"
        )
        connection.execute(f"CREATE VIEW {name} AS SELECT *, {rows}")
        # Apart: whoever writes `* EXCLUDE row` means the table's own columns.
        connection.execute(f"CREATE VIEW {name}_with_file AS SELECT *, filename AS file, {rows}")
    return connection


def _literal(path: Path) -> str:
    return "'" + str(path).replace("'", "''") + "'"


def drawn(column: str, seed: int) -> str:
    """SQL of the 16 hex digits that `seeding.seeded` reads as a number: to draw rows by hash."""
    return f"left(sha256('{seed}' || chr(0) || {column}), 16)"


def split(
    seed: int, test_fraction: float, *, by: str = "coalesce(nullif(page_url, ''), doc_id)"
) -> str:
    """SQL of `test` for a `test_fraction` of pages and `train` for the others, by hash of seed and
    `page_url` (of `doc_id` where a page has no URL), or of another expression.
    """
    # By page at least, so that two images of one page never stand on both sides of the split.
    # A share of the 2^64 hashes, as the text that their 16 digits are compared with.
    edge = min(int(test_fraction * 2**64), 2**64 - 1)
    return f"if({drawn(by, seed)} < '{edge:016x}', 'test', 'train')"


def select(text: str, tables: Mapping[str, Path], scratch: Path) -> list[tuple[Any, ...]]:
    """The rows of a small result, such as counts."""
    with connect(tables, scratch) as connection:
        try:
            return connection.execute(text).fetchall()
        except duckdb.Error as error:
            raise _refused(f"DuckDB refuses {text!r}", tables, error) from error


def _refused(what: str, tables: Mapping[str, Path], error: duckdb.Error) -> InputError:
    # DuckDB names a column that is not there, and not in which files it looked for it.
    where = ", ".join(f"{name} = {path}" for name, path in tables.items())
    return InputError(
        f"{what} ({error}); it reads {where}: run the stages that make them again, or mend the"
        " parameter"
    )


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
    work = scratch / f"{into.name}.query"
    # What a killed query left is of no use: nothing tells how far it had come.
    for old in (work, into):
        rmtree(old, ignore_errors=True)
        old.mkdir(parents=True)
    with connect(tables, work) as connection:
        try:
            connection.execute(
                f"COPY ({text}) TO {_literal(work / 'references.parquet')}"
                " (FORMAT parquet, ROW_GROUP_SIZE 2048)"
            )
        except duckdb.Error as error:
            raise _refused(f"{into.name}: DuckDB refuses the query", tables, error) from error
    references = pq.ParquetFile(work / "references.parquet")
    read = {_table_of(field.type) for field in references.schema_arrow} & set(tables)
    sources = {name: _Rows(tables[name], work / f"{name}.arrow") for name in read}
    for part, batch in enumerate(_batches(references, rows_per_part)):
        columns = [_whole(column, sources.get(_table_of(column.type))) for column in batch.columns]
        rows = pa.Table.from_arrays(columns, names=batch.schema.names)
        path = into / f"part-{part:05d}.parquet"
        pq.write_table(rows, path.with_suffix(".tmp"), compression="zstd", row_group_size=500)
        os.replace(path.with_suffix(".tmp"), path)
    rmtree(work)
    if one_per and references.metadata.num_rows:
        _check_unique([one_per] if isinstance(one_per, str) else one_per, into, scratch)
    return into


def _batches(file: pq.ParquetFile, size: int) -> Iterator[pa.RecordBatch]:
    """Batches of `size` rows; one empty batch where there is none, so that columns are known."""
    yield from file.iter_batches(size)
    if not file.metadata.num_rows:
        yield pa.RecordBatch.from_pylist([], schema=file.schema_arrow)


def _check_unique(names: Sequence[str], into: Path, scratch: Path) -> None:
    columns = ", ".join(names)
    grouped = (
        f"SELECT {columns} FROM joined GROUP BY ALL"
        f" HAVING count(*) > 1 OR {' OR '.join(f'{name} IS NULL' for name in names)}"
        " ORDER BY ALL LIMIT 1"
    )
    for values in select(grouped, {"joined": into}, scratch):
        shown = "/".join(map(str, values))
        fault = "is missing in a row" if None in values else f"{shown!r} comes twice"
        raise InputError(f"{into.name}: {', '.join(names)} {fault}; take all tables from one run")


# ---- rows in place of references


class _Rows:
    """A table's rows by number, in any order at equal cost: from a copy that is mapped into memory.

    Parquet gives a row only with all of its row group, so a table in another order than the query's
    would be read anew for every part of the output.
    """

    def __init__(self, table: Path, copy: Path) -> None:
        self._copy = copy
        with open_part(parts(table)[0]) as first:
            self.schema = plain(first.schema_arrow.empty_table()).schema
        sizes = [0]
        with pa.ipc.new_file(str(copy), self.schema) as writer:
            for piece in _pieces(table):
                writer.write_batch(piece)
                sizes.append(len(piece))
        self._starts = np.cumsum(sizes)  # number of the first row of each piece

    def take(self, numbers: Numbers) -> pa.StructArray:
        """The rows of these numbers, in their order."""
        known, places = np.unique(numbers, return_inverse=True)  # in many rows, but read once
        piece_of = np.searchsorted(self._starts, known, "right") - 1
        found = [self.schema.empty_table()]
        # Mapped for one part of the output alone, so that what was read takes no memory for long.
        with pa.memory_map(str(self._copy)) as mapped, pa.ipc.open_file(mapped) as file:
            for piece in np.unique(piece_of).tolist():
                here = known[piece_of == piece] - self._starts[piece]
                taken = file.get_batch(piece).take(pa.array(here))
                found.append(pa.Table.from_batches([taken]))
        rows = pa.concat_tables(found).combine_chunks()
        return rows.to_struct_array().combine_chunks().take(pa.array(places))


def _pieces(table: Path) -> Iterator[pa.RecordBatch]:
    """All rows, as many at once as make a few pieces of a table without holding much of it."""
    held: list[pa.RecordBatch] = []
    size = 0  # bytes
    for batch in record_batches(table):
        held.append(batch)
        size += batch.nbytes
        if size > _PIECE_BYTES:
            yield pa.concat_batches(held)
            held, size = [], 0
    if held:
        yield pa.concat_batches(held)


def _table_of(kind: pa.DataType) -> str:
    """The table whose rows a column of this type refers to, alone or in lists; else ''."""
    of = kind.value_type if pa.types.is_list(kind) else kind
    name = of[0].name if pa.types.is_struct(of) else ""
    return name.removeprefix(_ROW_OF) if name.startswith(_ROW_OF) else ""


def _whole(column: pa.Array, source: _Rows | None) -> pa.Array:
    """A column with its references replaced by the rows that they stand for."""
    if source is None:
        return column
    many = pa.types.is_list(column.type)
    references = (column.flatten() if many else column).drop_null()
    rows = source.take(pc.struct_field(references, 0).to_numpy(zero_copy_only=False))
    if many:
        lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
        return pa.ListArray.from_arrays(pa.array(np.cumsum([0, *lengths]), pa.int32()), rows)
    # Rows that a left join has not found stay null, the others follow in order.
    there = np.asarray(column.is_valid())
    return rows.take(pa.array(np.cumsum(there) - 1, mask=~there))
