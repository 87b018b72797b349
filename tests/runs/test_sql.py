"""Joins over Parquet: rows whole and in order, whatever the order of the tables, read once."""

import random
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vislib.runs import InputError, sql, tables

JOIN = """
WITH asked AS (SELECT sample_id, list(row ORDER BY row) AS questions FROM questions GROUP BY ALL)
SELECT samples.row AS sample, images.row AS image, asked.questions, samples.n + 1 AS next
FROM samples LEFT JOIN images USING (url) LEFT JOIN asked USING (sample_id)
ORDER BY samples.row
"""


def write(folder: Path, rows: list[dict], rows_per_part: int, **options: int) -> Path:
    folder.mkdir(parents=True)
    for part, start in enumerate(range(0, len(rows), rows_per_part)):
        table = pa.Table.from_pylist(rows[start : start + rows_per_part])
        pq.write_table(table, folder / f"part-{part:05d}.parquet", **options)
    return folder


def made(tmp_path: Path, n: int, *, shuffled: bool = False) -> dict[str, Path]:
    samples = [{"sample_id": f"s{i}", "url": f"u{i % 7}", "n": i} for i in range(n)]
    images = [{"url": f"u{i}", "size": {"width": i}} for i in range(6)]  # none for u6
    questions = [
        {"sample_id": f"s{i // 3}", "text": f"q{i}", "options": [f"o{i}"]}
        for i in range(3 * n - 3)  # none for the last sample
    ]
    if shuffled:
        random.Random(1).shuffle(questions)
    return {
        "samples": write(tmp_path / "samples", samples, 30),
        "images": write(tmp_path / "images", images, 4),
        "questions": write(tmp_path / "questions", questions, 50, row_group_size=5),
    }


@pytest.mark.parametrize("shuffled", [False, True])
def test_rows_come_whole_and_in_order(tmp_path, shuffled):
    n = 400
    given = made(tmp_path, n, shuffled=shuffled)
    into = sql.query(
        JOIN,
        tmp_path / "joined",
        given,
        scratch=tmp_path / "scratch",
        one_per="sample.sample_id",
        rows_per_part=100,
    )
    assert [tables.count_rows(part) for part in tables.parts(into)] == [100] * 4
    rows = list(tables.read_rows(into))
    assert [row["sample"]["sample_id"] for row in rows] == [f"s{i}" for i in range(n)]
    assert [row["next"] for row in rows] == list(range(1, n + 1))
    for i, row in enumerate(rows):
        assert row["image"] == (
            None if i % 7 == 6 else {"url": f"u{i % 7}", "size": {"width": i % 7}}
        )
    found = [{q["text"] for q in row["questions"]} for row in rows]
    assert found == [{f"q{3 * i + k}" for k in range(3)} for i in range(n - 1)] + [set()]
    assert rows[5]["questions"][0]["options"] == [f"o{rows[5]['questions'][0]['text'][1:]}"]
    assert not list((tmp_path / "scratch").iterdir())


def test_a_shuffled_table_is_read_once_and_not_for_every_part(tmp_path, monkeypatch):
    monkeypatch.setattr(sql, "_PIECE_BYTES", 20_000)
    given = made(tmp_path, 1000, shuffled=True)
    opened = []
    open_part = tables.open_part
    for module in (sql, tables):
        monkeypatch.setattr(
            module, "open_part", lambda part: opened.append(part) or open_part(part)
        )
    into = sql.query(
        JOIN, tmp_path / "joined", given, scratch=tmp_path / "scratch", rows_per_part=20
    )
    # 50 parts of which each has questions in nearly all of the 60 files
    assert max(Counter(opened).values()) <= 3
    rows = list(tables.read_rows(into))
    assert sum(len(row["questions"]) for row in rows) == 3 * 1000 - 3
    for number, row in enumerate(rows):
        assert {question["sample_id"] for question in row["questions"]} <= {f"s{number}"}


def test_an_empty_result_has_columns_and_an_empty_table_is_joined(tmp_path):
    given = made(tmp_path, 10)
    into = sql.query(
        "SELECT row AS sample, n FROM samples WHERE n < 0",
        tmp_path / "none",
        given,
        scratch=tmp_path / "scratch",
    )
    assert [tables.count_rows(part) for part in tables.parts(into)] == [0]
    assert tables.open_part(tables.parts(into)[0]).schema_arrow.names == ["sample", "n"]


@pytest.mark.parametrize(
    ("text", "one_per", "said"),
    [
        (
            "SELECT lacking FROM samples",
            "",
            "(?s)joined: DuckDB refuses the query .*lacking.*reads .*samples = /.*run the stages",
        ),
        (
            "SELECT row AS sample FROM samples UNION ALL SELECT row FROM samples",
            "sample.sample_id",
            "joined: sample.sample_id 's0' comes twice",
        ),
        ("SELECT NULL::VARCHAR AS id FROM samples", "id", "joined: id is missing in a row"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, text, one_per, said):
    given = made(tmp_path, 10)
    with pytest.raises(InputError, match=said):
        sql.query(text, tmp_path / "joined", given, scratch=tmp_path / "scratch", one_per=one_per)


def test_a_table_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match="nowhere: no such table"):
        sql.query(
            "SELECT 1", tmp_path / "x", {"a": tmp_path / "nowhere"}, scratch=tmp_path / "scratch"
        )
