"""Replay as authors and readers do it: a run against a server, its answers in a file, the same
bytes without a key.
"""

import json
import shutil
import sqlite3

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.openai_server import KEY, MODEL, completion, error, openai_server
from tests.sets import result_bytes
from tests.test_captioning import inputs  # noqa: F401
from vislib.engines.openai import OpenAIChat
from vislib.qa_format import Round, render_rounds
from vislib.runs import InputError, start_run
from vislib.runs.cells import do_work
from vislib.runs.journal import Journal
from vislib.runs.replay import export_answers, import_answers, main
from vislib.runs.tables import write_table

FREE = render_rounds([Round(f"What is number {i}?", (), f"A thing of kind {i}.") for i in range(3)])
CHOICE = render_rounds([Round("Which is it?", ("one", "two", "three", "four"), "B")])
A, B, C = "a" * 16, "b" * 16, "c" * 16


@pytest.fixture(autouse=True)
def _environment(monkeypatch, tmp_path):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("VISLIB_RUNS", str(tmp_path / "authors"))
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.setattr(OpenAIChat, "backoff_s", 0.01)


def script(prompt, times):
    """Captions, rounds, and of each stage a request that is filtered, one that is refused, one
    without a round.
    """
    if "<Human>" in prompt:
        if "says 3" in prompt:
            return 200, completion("no rounds here"), {}
        if "says 4" in prompt:
            return error(400, "no", "content_filter")
        return 200, completion(CHOICE if "<Options>" in prompt else FREE), {}
    if "Page 1 " in prompt:
        return 200, completion(None, finish="content_filter"), {}
    if "Page 2 " in prompt:
        return error(400, "this page is not for me")
    page = next((n for n in range(12) if f"Page {n} " in prompt), "none")
    return 200, completion(f"A caption that says {page} of it."), {}


def run_both(inputs, url, **parameters):  # noqa: F811
    """06 and 07 one after the other; returns the run's folder."""
    given = {
        "engine": "openai",
        "model": MODEL,
        "base_url": url,
        "max_failure_rate": 0.5,
        **parameters,
    }
    run = start_run("06_captioning", {**given, **inputs, "image_side": 32})
    do_work(run)
    run.finish()
    run = start_run("07_qa_generation", {**given, **inputs, "captions": "06_captioning/captions"})
    do_work(run)
    run.finish()
    return run.stage.run


@pytest.fixture
def authors(inputs):  # noqa: F811
    with openai_server(script=script) as server:
        return run_both(inputs, server.url), server.url  # the server ends here


def test_readers_without_key_or_server_get_the_same_bytes(
    authors,
    inputs,  # noqa: F811
    tmp_path,
    monkeypatch,
    capsys,
):
    run, url = authors
    file = tmp_path / "answers.parquet"
    assert main(["export", str(run), str(file)]) == 0
    assert "answers " in capsys.readouterr().out
    before = result_bytes(run)
    dropped = b"".join(data for name, data in before.items() if "dropped" in name)
    assert dropped
    shutil.rmtree(run.parent)

    monkeypatch.setenv("VISLIB_RUNS", str(tmp_path / "readers"))
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(InputError, match="replay is on"):
        run_both(inputs, url, replay=True)
    assert main(["import", str(file)]) == 0
    assert "answers" in capsys.readouterr().out
    again = run_both(inputs, url, replay=True)
    assert again == tmp_path / "readers/sample"
    assert result_bytes(again) == before
    reasons = {
        row["reason"] for row in pq.read_table(again / "06_captioning/data/dropped").to_pylist()
    }
    assert reasons == {"content_filter", "refused", "image_failed"}


def test_a_runs_export_holds_what_the_run_used(authors, tmp_path):
    run, _ = authors
    journal = Journal(run.parent / "journal/openai.sqlite")
    counts = export_answers(run, tmp_path / "before.parquet")
    assert (counts["answers"], counts["failures"] > 0) == (len(journal), True)
    journal.put(A, {"text": "of another run", "model": "other"})
    assert export_answers(run, tmp_path / "run.parquet") == counts
    exported = pq.read_table(tmp_path / "run.parquet").column("request_sha").to_pylist()
    used = set(pq.read_table(run / "06_captioning/data/captions").column("request_sha").to_pylist())
    assert used < set(exported)
    assert A not in exported


def run_of(folder, **rows):
    """A run whose journal has one answer per keyword, and a failure of `B`; with the journal."""
    journal = Journal(folder / "journal/openai.sqlite")
    for key, text in rows.items():
        journal.put(key, {"text": text, "model": "m", "usd": 0.5})
    journal.fail(
        B,
        "timeout",
        "no reply from http://10.1.2.3:8000/v1 to /home/alice/pages/x.png for org-Ab12",
        0.25,
    )
    schema = pa.schema({"request_sha": pa.string()})
    captions = folder / "run/06_captioning/data/captions"
    write_table(captions, schema, ({"request_sha": key} for key in (*rows, B)))
    return folder / "run", journal


def rows_of(journal):
    with sqlite3.connect(journal.path) as db:
        return db.execute("SELECT * FROM answers").fetchall(), db.execute(
            "SELECT * FROM failures"
        ).fetchall()


def test_equal_journals_give_equal_bytes_and_come_back_whole(tmp_path):
    run, journal = run_of(tmp_path, **{C: "last", A: "first ‹é\n\\n› 漢"})
    one, two = (tmp_path / f"{n}.parquet" for n in (1, 2))
    counts = export_answers(run, one)
    export_answers(run, two)
    assert one.read_bytes() == two.read_bytes()
    assert counts == {"answers": 2, "failures": 1}
    assert pq.read_table(one).column("request_sha").to_pylist() == [A, B, C]
    assert pq.ParquetFile(one).metadata.metadata[b"format"] == b"vislib answers 1"
    assert import_answers(one, tmp_path / "new") == {"answers": 2, "failures": 1, "read": 3}
    back = Journal(tmp_path / "new/openai.sqlite")
    assert rows_of(back)[0] == rows_of(journal)[0]
    assert back.failure(B)["usd"] == 0.25
    assert back.failure(B)["last_at"] == journal.failure(B)["last_at"]


def test_what_a_journal_holds_stays(tmp_path):
    run, _ = run_of(tmp_path, **{A: "theirs", C: "theirs"})
    export_answers(run, tmp_path / "x.parquet")
    own = Journal(tmp_path / "own/openai.sqlite")
    own.put(A, {"text": "mine", "model": "m"})
    assert import_answers(tmp_path / "x.parquet", tmp_path / "own") == {
        "answers": 1,
        "failures": 1,
        "read": 3,
    }
    assert (own.get(A)["text"], own.get(C)["text"]) == ("mine", "theirs")
    before = rows_of(own)
    assert import_answers(tmp_path / "x.parquet", tmp_path / "own") == {
        "answers": 0,
        "failures": 0,
        "read": 3,
    }
    assert rows_of(own) == before


def test_no_address_path_account_or_key_leaves_the_machine(tmp_path, monkeypatch):
    run, _ = run_of(tmp_path, **{A: "the key is hunter2-hunter2-hunter2"})
    monkeypatch.setenv("OPENAI_API_KEY", "hunter2-hunter2-hunter2")
    export_answers(run, tmp_path / "x.parquet")
    answer, failure = pq.read_table(tmp_path / "x.parquet").to_pylist()
    assert json.loads(answer["body"])["text"] == "the key is [OPENAI_API_KEY removed]"
    assert failure["detail"] == "no reply from [removed] to [removed] for [removed]"
    assert str(tmp_path).encode() not in (tmp_path / "x.parquet").read_bytes()


@pytest.mark.parametrize("wrong", ["text", "table", "version", "name", "missing"])
def test_a_file_that_is_no_export(tmp_path, capsys, monkeypatch, wrong):
    monkeypatch.setenv("VISLIB_RUNS", str(tmp_path / "runs"))
    file = tmp_path / "x.parquet"
    export_answers(run_of(tmp_path, **{A: "a"})[0], file)
    table = pq.read_table(file)
    if wrong == "text":
        file.write_text("journal,request_sha")
    elif wrong == "table":
        pq.write_table(pa.table({"request_sha": [A]}), file)
    elif wrong == "version":
        pq.write_table(table.replace_schema_metadata({"format": "vislib answers 9"}), file)
    elif wrong == "name":
        names = pa.array(["../../evil"] * len(table))
        changed = table.set_column(0, table.schema.field(0), names)
        with pq.ParquetWriter(file, table.schema) as writer:
            writer.write_table(changed)
            writer.add_key_value_metadata({"format": "vislib answers 1"})
    else:
        file.unlink()
    assert main(["import", str(file)]) == 2
    assert str(file) in capsys.readouterr().err
    assert not [*tmp_path.rglob("runs/**/*.sqlite"), *tmp_path.rglob("evil*")]


def test_an_export_that_could_not_be_replayed_is_refused(authors, tmp_path, capsys):
    run, _ = authors
    with sqlite3.connect(run.parent / "journal/openai.sqlite") as db:
        db.execute("DELETE FROM failures")
    for source in (run, tmp_path / "nowhere"):
        assert main(["export", str(source), str(tmp_path / "x.parquet")]) == 2
    said = capsys.readouterr().err
    assert "stand in no journal beside it" in said
    assert "nowhere: of the 0 requests" in said
    assert not [*tmp_path.glob("*.parquet"), *tmp_path.glob(".x*")]
