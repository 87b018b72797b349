"""The verbs of a notebook: rows go on or are dropped, parts are made once, accounts close."""

import json
from functools import partial
from pathlib import Path

import pytest

from vislib.runs import Drop, InputError, Note, To, start_run, tables
from vislib.runs.contract import DOCUMENTS

PAGE = {"images": [], "texts": ["A."], "metadata": "[]", "general_metadata": "{}"}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A stage over five documents in parts of two."""
    monkeypatch.setenv("VISLIB_RUNS", str(tmp_path / "runs"))
    with tables.Output(tmp_path / "in", {"documents": DOCUMENTS}, rows_per_part=2) as output:
        for number in range(5):
            output.write("documents", PAGE | {"doc_id": f"d{number}"})
    given = {"documents": str(tmp_path / "in/documents"), "run_dir": "runs/demo"}
    made = start_run("02_filtering", given)
    yield made
    made.close()


def odd_pages_alone(pages, *, note="seen"):
    for page in pages:
        yield Note(note)
        if int(page["doc_id"][1:]) % 2:
            yield To("documents", page | {"n_tokens": 1})
        else:
            yield Drop("even", page["doc_id"])


def mapped(run, function, **options):
    run.map(function, run.params.documents, unit="document", id="doc_id", **options)


def rows(run, table):
    return list(tables.read_rows(run.data / table))


@pytest.mark.parametrize("batch", [1, 3])
def test_rows_go_on_or_are_dropped_and_the_account_closes(run, batch):
    mapped(run, odd_pages_alone, batch=batch)
    assert [row["doc_id"] for row in rows(run, "documents")] == ["d1", "d3"]
    assert [(row["id"], row["detail"]) for row in rows(run, "dropped")] == [
        ("d0", "d0"),
        ("d2", "d2"),
        ("d4", "d4"),
    ]
    assert run.counts() == {"document": {"taken": 5, "kept": 2, "dropped": {"even": 3}}}
    assert run.metrics == {"seen": 5}
    run.finish()


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda pages: [], "document d0 comes to nothing; yield a row To a table, with its doc_id"),
        (lambda pages: [Drop("no")], "names no id"),
        (lambda pages: [Drop("no", unit="image")], "names no id"),
        (lambda pages: [Drop("a", id="d0"), Drop("b", id="d0")], "drops document d0 twice"),
        (lambda pages: [pages[0]], r"yields \{.*, a dict; yield To\(table, row\), Drop"),
    ],
)
def test_what_is_neither_to_nor_drop_is_an_error_that_names_the_row(run, function, said):
    with pytest.raises(InputError, match=said):
        mapped(run, function)


def test_a_second_verb_takes_no_rows_of_the_first(run):
    documents, samples = ({name: run.schemas[name]} for name in ("documents", "samples"))
    mapped(run, odd_pages_alone, tables=documents)
    with pytest.raises(InputError, match="images_of: documents is written by odd_pages_alone"):
        mapped(run, images_of)
    mapped(run, lambda pages: [Drop("later", id=page["doc_id"]) for page in pages], tables=samples)
    assert len(rows(run, "documents")) == 2


def test_an_error_names_the_row_at_which_it_came(run):
    def rule(pages):
        for page in pages:
            yield To("documents", page | {"n_tokens": 1 // (int(page["doc_id"][1:]) - 3)})

    with pytest.raises(ZeroDivisionError) as caught:
        mapped(run, rule, batch=2)
    assert caught.value.__notes__ == ["rule: at document d3"]


def test_a_function_of_a_notebook_works_in_several_processes(run):
    """As it stands in a cell: no module holds it, and it reads a name beside it."""
    cell = {"__name__": "__main__", "To": To, "Drop": Drop, "first": 3}
    exec(
        "def rule(pages):\n    for page in pages:\n        number = int(page['doc_id'][1:])\n"
        "        yield To('documents', page | {'n_tokens': number}) if number >= first else"
        " Drop('early')\n",
        cell,
    )
    mapped(run, cell["rule"], workers=2)
    assert [row["doc_id"] for row in rows(run, "documents")] == ["d3", "d4"]
    lock_holder = {"__name__": "__main__", "run": run}
    exec("def rule(pages):\n    run.folder\n    yield from ()\n", lock_holder)
    with pytest.raises(InputError, match="cannot go to other processes"):
        mapped(run, lock_holder["rule"], workers=2)


def test_a_part_is_made_once_while_its_input_and_function_are_the_same(run, tmp_path):
    looked_at: list[str] = []

    def rule(pages, *, n_tokens):
        for page in pages:
            looked_at.append(page["doc_id"])
            yield To("documents", page | {"n_tokens": n_tokens})

    def again(**settings):
        run.accounts.by_verb.clear()  # as in the next attempt
        looked_at.clear()
        mapped(run, partial(rule, **settings))
        return len(looked_at)

    assert [again(n_tokens=1), again(n_tokens=1), again(n_tokens=2)] == [5, 0, 5]
    (part, *_) = tables.parts(tmp_path / "in/documents")
    with tables.Output(tmp_path / "new", {"documents": DOCUMENTS}) as output:
        output.write("documents", PAGE | {"doc_id": "d9"})
    part.write_bytes((tmp_path / "new/documents/part-00000.parquet").read_bytes())
    assert again(n_tokens=2) == 1
    assert [row["doc_id"] for row in rows(run, "documents")] == ["d9", "d2", "d3", "d4"]
    mark = json.loads((run.folder / "shards/rule/00000.json").read_text())
    assert mark["counts"] == {"document/kept": 1, "document/taken": 1}
    for file in (run.folder / "shards/rule").glob("*.json"):  # as `--accept` leaves them
        kept = json.loads(file.read_text())
        file.write_text(json.dumps({name: kept[name] for name in ("input", "counts")}))
    assert again(n_tokens=3) == 0
    mapped(run, partial(rule, n_tokens=2))  # a cell that is run again, runs again
    assert len(looked_at) == 4


def images_of(pages):
    for page in pages:
        yield To("documents", page | {"n_tokens": 1})
        yield Drop("broken", id=f"{page['doc_id']}/b", unit="image")


TAKEN = "SELECT doc_id || x FROM documents, (SELECT unnest(['/a', '/b']) AS x)"


def test_the_account_of_another_unit_closes_by_ids(run):
    mapped(run, images_of)
    account = run.account("image", taken=TAKEN, kept="SELECT doc_id || '/a' FROM documents")
    assert run.counts()["image"] == {"taken": 10, "kept": 5, "dropped": {"broken": 5}}
    assert account.values.tolist()[-1] == ["image", "dropped: broken", 5]
    run.account("image", taken=TAKEN)  # what is not dropped is kept
    assert run.counts()["image"]["kept"] == 5
    run.finish()


def test_rows_of_dropped_may_come_from_a_query_and_their_account_be_taken_twice(run):
    mapped(run, odd_pages_alone)
    pages = run.params.documents
    lost = "SELECT doc_id || '/c' AS id, 'lost' AS reason, '' AS detail FROM pages LIMIT 2"
    run.sql(lost, into="dropped", pages=pages)
    for _ in range(2):  # as a cell that is run again
        run.account("link", taken="SELECT doc_id || '/c' FROM pages", pages=pages)
        assert run.counts()["link"] == {"taken": 5, "kept": 3, "dropped": {"lost": 2}}
    names = [part.name for part in tables.parts(run.data / "dropped")]
    assert names[-1] == "part-100000.parquet"
    run.finish()


def test_a_query_into_a_table_leaves_what_others_have_dropped(run):
    mapped(run, odd_pages_alone)
    pages = run.params.documents
    kept = "SELECT * EXCLUDE row, 7::BIGINT AS n_tokens FROM pages LIMIT 1"
    run.sql(kept, into="documents", pages=pages)
    lost = "SELECT doc_id || '/{0}' AS id, 'lost' AS reason, '' AS detail FROM {0} LIMIT 1"
    run.sql(lost.format("pages"), into="dropped", pages=pages)
    for _ in range(2):  # as a cell that is run again
        run.sql(lost.format("others"), into="dropped", others=pages)
    expected = ["d0", "d2", "d4", "d0/pages", "d0/others"]
    assert [row["id"] for row in rows(run, "dropped")] == expected


@pytest.mark.parametrize(
    ("kept", "said"),
    [
        ("SELECT '' WHERE false", "image d0/a is taken 1 times, kept 0 times and dropped 0 times"),
        ("SELECT doc_id || '/b' FROM documents", "d0/a is taken 1 times, kept 0"),
        (
            "SELECT doc_id || x FROM documents, (SELECT unnest(['/a', '/z']) AS x)",
            "d0/z is taken 0",
        ),
    ],
)
def test_an_id_that_is_lost_or_invented_is_an_error(run, kept, said):
    mapped(run, images_of)
    with pytest.raises(InputError, match=said):
        run.account("image", taken=TAKEN, kept=kept)


def test_a_unit_that_was_dropped_and_never_accounted_ends_the_run(run):
    mapped(run, images_of)
    with pytest.raises(AssertionError, match="accounts of image do not close"):
        run.finish()
