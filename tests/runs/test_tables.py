"""Tables on disk, accounts, shards and the journal."""

import sqlite3
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vislib.runs import tables
from vislib.runs.contract import DROPPED, SCHEMAS
from vislib.runs.errors import InputError
from vislib.runs.journal import Journal
from vislib.runs.keys import expand
from vislib.runs.seeding import choose, seeded, short_hash
from vislib.runs.verbs import Drop, Mapped, To

SCHEMA = pa.schema([("id", pa.string()), ("n", pa.int64())])


def test_rows_roll_over_into_parts_and_stream_back_in_order(tmp_path):
    with tables.Output(tmp_path, {"rows": SCHEMA}, rows_per_part=3) as output:
        for n in range(7):
            output.write("rows", {"id": str(n), "n": n})
    assert [p.name for p in tables.parts(tmp_path / "rows")] == [
        f"part-0000{k}.parquet" for k in range(3)
    ]
    assert [row["n"] for row in tables.read_rows(tmp_path / "rows")] == list(range(7))
    assert tables.count_rows(tmp_path / "rows") == 7
    assert tables.count_rows(tmp_path / "dropped") == 0  # an empty table is a table
    assert pq.read_schema(tmp_path / "dropped/part-00000.parquet").equals(DROPPED)
    assert (
        pq.ParquetFile(tmp_path / "rows/part-00000.parquet")
        .metadata.row_group(0)
        .column(0)
        .compression
        == "ZSTD"
    )
    assert tables.lookup(tmp_path / "rows", "id", {"5", "none"}, ["n"]) == {
        "5": {"id": "5", "n": 5}
    }
    assert not list(tmp_path.rglob("*.tmp"))


def test_half_a_character_costs_itself_and_not_the_table(tmp_path):
    """Cut texts hold lone surrogates, which UTF-8 cannot write: in columns, lists and reasons
    alike.
    """
    schema = pa.schema(
        [("id", pa.string()), ("turns", pa.list_(pa.struct([("value", pa.string())])))]
    )
    with tables.Output(tmp_path, {"rows": schema}) as output:
        output.write("rows", {"id": "a", "turns": [{"value": "whole 😀"}]})
        output.write(
            "rows", {"id": "b\udfff", "turns": [{"value": "half \ud83d"}, {"value": None}]}
        )
        output.drop("row", "c", "bad", "\ud83d")
    assert output.counts["note/mended_characters"] == 3
    assert list(tables.read_rows(tmp_path / "rows")) == [
        {"id": "a", "turns": [{"value": "whole 😀"}]},
        {"id": "b\ufffd", "turns": [{"value": "half \ufffd"}, {"value": None}]},
    ]
    assert [row["detail"] for row in tables.read_rows(tmp_path / "dropped")] == ["\ufffd"]


def test_a_part_full_to_the_last_row_leaves_no_empty_part(tmp_path):
    with tables.Output(tmp_path, {"rows": SCHEMA}, rows_per_part=2) as output:
        for n in range(4):
            output.write("rows", {"id": str(n), "n": n})
    assert len(tables.parts(tmp_path / "rows")) == 2


def test_an_interrupted_part_never_appears_under_its_name(tmp_path):
    def interrupted():
        with tables.Output(tmp_path, {"rows": SCHEMA}) as output:
            for n in range(1200):
                output.write("rows", {"id": str(n), "n": n})
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        interrupted()
    assert list(tmp_path.rglob("*.parquet")) == []


def test_wrong_columns_missing_tables_and_broken_files_are_named(tmp_path):
    with tables.Output(tmp_path, {"rows": SCHEMA}) as output:
        with pytest.raises(KeyError, match="differ from the contract"):
            output.write("rows", {"id": "1"})
        with pytest.raises(KeyError, match="no table 'other'"):
            output.write("other", {})
    with pytest.raises(InputError, match="no such table"):
        tables.parts(tmp_path / "none")
    (tmp_path / "bad.parquet").write_bytes(b"not parquet")
    with pytest.raises(InputError, match=r"bad\.parquet: not a readable Parquet file"):
        list(tables.read_rows(tmp_path / "bad.parquet"))
    with pytest.raises(InputError, match="lacks the columns \\['text'\\]"):
        list(tables.read_rows(tmp_path / "rows", ["text"]))


def test_nested_tables_with_their_own_stem(tmp_path):
    with tables.Output(tmp_path, {"conversations": SCHEMA}) as output:
        output.writer("conversations", path="contextual/captions", stem="train").write(
            {"id": "a", "n": 1}
        )
    assert (tmp_path / "contextual/captions/train-00000.parquet").exists()
    assert not (tmp_path / "conversations").exists()


def double(rows, *, traces: Path):
    """Doubles n; leaves a trace of every row; drops odd rows; fails where a file says so."""
    for row in rows:
        (traces / f"{row['id']}.calls").open("a").write("x")
        if (traces / f"{row['id']}.fail").exists():
            raise RuntimeError(f"{row['id']} fails")
        yield Drop("odd", str(row["n"])) if row["n"] % 2 else To("rows", row | {"n": 2 * row["n"]})


@pytest.mark.parametrize("workers", [1, 2])
def test_parts_resume_where_they_stopped(tmp_path, workers):
    with tables.Output(tmp_path / "in", {"rows": SCHEMA}, rows_per_part=2) as output:
        for n in range(6):
            output.write("rows", {"id": str(n), "n": n})
    doubling = Mapped(
        function=partial(double, traces=tmp_path),
        unit="row",
        id=("id",),
        folder=tmp_path / "out",
        schemas={"rows": SCHEMA},
        marks=tmp_path / "marks",
    )
    work = partial(doubling.run, tmp_path / "in/rows", workers=workers, lock=tmp_path / "lock")
    (tmp_path / "2.fail").touch()
    with pytest.raises(RuntimeError, match="2 fails"):
        work()
    (tmp_path / "2.fail").unlink()
    assert work() == {"row/taken": 6, "row/kept": 3, "row/dropped/odd": 3}
    assert len((tmp_path / "0.calls").read_text()) == 1  # done once, not again
    assert [row["n"] for row in tables.read_rows(tmp_path / "out/rows")] == [0, 4, 8]
    assert [row["detail"] for row in tables.read_rows(tmp_path / "out/dropped")] == ["1", "3", "5"]


def test_the_journal_keeps_answers_and_failures_apart(tmp_path, monkeypatch):
    monkeypatch.setenv("SERVICE_API_KEY", "a-long-secret-value")
    monkeypatch.setenv("SHORT_SECRET", "short")
    journal = Journal(tmp_path / "journal/demo.sqlite")
    journal.fail("k", "timeout", "after a-long-secret-value")
    journal.fail("k", "http_500", "again", usd=0.5)
    journal.fail("k", "length", usd=0.25)
    failure = journal.failure("k")
    assert (failure["reason"], failure["usd"]) == ("length", 0.75)
    assert journal.failure("other") is None
    assert journal.get("k") is None
    journal.put("k", {"text": "über", "n": 1})
    journal.put("k", {"text": "a later answer does not replace it"})
    assert journal.get("k") == {"text": "über", "n": 1}
    journal.put("s", {"text": "a-long-secret-value, short"})
    again = Journal(tmp_path / "journal/demo.sqlite")
    assert again.get("s") == {"text": "[SERVICE_API_KEY removed], short"}
    assert again.get("k")
    assert again.get("other") is None
    mode = sqlite3.connect(again.path).execute("PRAGMA journal_mode").fetchone()
    assert mode == ("wal",)


def test_ids_and_choices_depend_on_content_alone():
    assert short_hash("a", "b") == "59b271ae1bbcb1d3"  # sha256 of a, NUL, b
    assert len(short_hash(b"x")) == 16
    assert short_hash("ab") != short_hash("a", "b")
    assert seeded(1, "a") != seeded(2, "a")
    rows = [f"r{n}" for n in range(100)]
    chosen = choose(rows, 10, 3)
    assert len(chosen) == 10
    assert chosen == sorted(chosen, key=rows.index)
    assert set(choose(rows[::-1], 10, 3)) == set(chosen)
    assert choose(rows, 0, 3) == rows
    assert choose(rows, 10, 4) != chosen


def test_every_contract_table_has_text_ids_and_dropped():
    for stage, found in SCHEMAS.items():
        assert found["dropped"].equals(DROPPED), stage
        ids = [field for schema in found.values() for field in schema if field.name.endswith("_id")]
        assert all(field.type == pa.string() for field in ids), stage


def test_parts_are_in_order_beyond_99_999(tmp_path):
    for first in (99_998, 1_000_000):
        writer = tables.TableWriter(
            tmp_path / "t", pa.schema([("n", pa.int64())]), part=first, rows_per_part=1
        )
        for number in range(first, first + 4):
            writer.write({"n": number})
        writer.close()
    expected = [*range(99_998, 100_002), *range(1_000_000, 1_000_004)]
    assert [row["n"] for row in tables.read_rows(tmp_path / "t")] == expected
    assert [path.name for path in expand(tmp_path / "t")] == [
        f"part-{n:05d}.parquet" for n in expected
    ]
    assert expand(tmp_path / "t" / "part-*.parquet") == expand(tmp_path / "t")
