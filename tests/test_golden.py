"""The sample set gives the rows that stand in tests/golden/sample.

A change that is meant: `python -m tests.golden` writes them anew, and the commit says why they
changed. `python -m tests.golden runs/sample` takes the rows of a run that is there, and `git diff`
shows what a change does.
"""

import copy

import pytest

from tests.golden import (
    assert_same_rows,
    differences,
    read_golden,
    read_run,
    shortened,
    write_golden,
)

GOLDEN = read_golden()


@pytest.fixture(scope="module")
def made(sample_run):
    return read_run(sample_run)


def test_no_table_is_lost_or_new(made):
    assert sorted(made) == sorted(GOLDEN)


@pytest.mark.parametrize("table", GOLDEN)
def test_rows(made, table):
    assert_same_rows(table, GOLDEN, made)


def test_a_difference_names_table_row_column_and_both_values():
    old = [{"id": "string", "score": "double"}, ["a", 0.5], ["b", 0.25]]
    new = copy.deepcopy(old)
    new[2][1] = 0.75
    assert list(differences("03.images", old, old)) == []
    assert list(differences("03.images", old, new)) == [
        "03.images, row 1, score: is 0.75, was 0.25"
    ]
    assert list(differences("03.images", old, new[:2])) == ["03.images: has 1 rows, had 2"]
    assert "columns" in next(differences("03.images", old, [{"id": "string"}, ["a"]]))


def test_what_is_written_is_read_again_and_a_long_text_still_tells_all(tmp_path):
    page = "word " * 100
    table = [{"text": "string", "vector": "list"}, [shortened(page), shortened([0.125] * 48)]]
    write_golden({"old": table}, tmp_path)
    write_golden({"new": table}, tmp_path)
    assert read_golden(tmp_path) == {"new": table}
    assert shortened(page) != shortened(page + "!") != shortened(page[:-1])
    assert len(shortened(page)) < 60
