"""Types of other writers become the plain ones, with the same values, text or not."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vislib.runs import InputError, tables
from vislib.runs.arrow_types import plain, plain_type

VALUES = [["x"], ["a", None], [], None, ["b"]]


@pytest.mark.parametrize(
    "item", [pa.string_view(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())]
)
@pytest.mark.parametrize("of", [pa.list_, pa.large_list, pa.list_view, pa.large_list_view])
def test_lists_of_every_kind_keep_their_values(of, item):
    if of in (pa.list_view, pa.large_list_view) and pa.types.is_dictionary(item):
        pytest.skip("pyarrow cannot make it")
    column = pa.array(VALUES, of(item))
    for rows in (
        pa.table({"x": column}),
        pa.record_batch({"x": column[1:]}),
        pa.table({"x": column[:0]}),
    ):
        made = plain(rows)
        assert type(made) is type(rows)
        assert made.schema.field("x").type == pa.list_(pa.string())
        assert made.column("x").to_pylist() == VALUES[len(VALUES) - len(rows) :][: len(rows)]


def test_text_that_is_no_text_stays_and_plain_rows_are_not_copied():
    rows = pa.record_batch({"x": pa.array([b"caf\xe9"], pa.binary_view())})
    assert plain(rows).to_pydict() == {"x": [b"caf\xe9"]}
    whole = pa.table({"x": ["a"], "y": [[1]]})
    assert plain(whole) is whole
    inner = pa.struct([("a", pa.large_list(pa.string_view()))])
    assert plain_type(inner) == pa.struct([("a", pa.list_(pa.string()))])


def test_tables_with_views_are_read_and_looked_up(tmp_path):
    rows = {
        "id": pa.array(["a", "b"], pa.string_view()),
        "text": pa.array(["A", "B"], pa.string_view()),
    }
    (tmp_path / "t").mkdir()
    pq.write_table(pa.table(rows), tmp_path / "t/part-00000.parquet")
    assert list(tables.read_rows(tmp_path / "t")) == [
        {"id": "a", "text": "A"},
        {"id": "b", "text": "B"},
    ]
    assert tables.lookup(tmp_path / "t", "id", ["b"]) == {"b": {"id": "b", "text": "B"}}


def test_long_rows_are_read_a_few_at_a_time(tmp_path):
    table = pa.table({"text": [f"{n}" + "x" * 2**20 for n in range(100)]})
    pq.write_table(table, tmp_path / "long.parquet", compression="none", use_dictionary=False)
    with tables.open_part(tmp_path / "long.parquet") as file:
        sizes = [len(batch) for batch in tables.batches(file)]
    assert sum(sizes) == 100
    assert max(sizes) <= 33


def test_a_value_that_no_column_holds_is_named(tmp_path):
    writer = tables.TableWriter(
        tmp_path / "samples", pa.schema([("id", pa.string()), ("width", pa.int64())])
    )
    writer.write({"id": "one", "width": 1})
    writer.write({"id": "two", "width": 10**20})
    with pytest.raises(
        InputError, match=r"samples: the row of 'two' holds 1000\d+ as width, which is no int64"
    ):
        writer.close()
