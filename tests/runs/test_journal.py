"""The journal of paid answers: damage is named with its mend wherever it is read."""

import pyarrow as pa
import pytest

from vislib.runs.errors import InputError
from vislib.runs.journal import Journal
from vislib.runs.replay import export_answers, import_answers
from vislib.runs.tables import write_table

KEYS = [f"{n:016x}" for n in range(400)]


@pytest.fixture
def damaged(tmp_path):
    """A journal that opens, and whose pages of answers are noise."""
    journal = Journal(tmp_path / "journal/openai.sqlite")
    for key in KEYS:
        journal.put(key, {"text": "x" * 300, "model": "m"})
        journal.fail(key, "timeout", "y" * 300)
    journal._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    journal._db.close()
    data = journal.path.read_bytes()
    journal.path.write_bytes(data[:16384] + b"\xa5" * (len(data) - 16384))
    return journal.path


def export(journal, keys=KEYS):
    """What a run beside the journal was made from, in a file."""
    captions = journal.parents[1] / "run/06_captioning/data/captions"
    schema = pa.schema({"request_sha": pa.string()})
    write_table(captions, schema, ({"request_sha": key} for key in keys))
    file = journal.with_name("x.parquet")
    export_answers(journal.parents[1] / "run", file)
    return file


def reads(path):
    journal = Journal(path)
    yield lambda: [journal.get(key) for key in KEYS]
    yield lambda: [journal.failure(key) for key in KEYS]
    yield lambda: len(journal)
    yield lambda: [journal.put(f"{key}x", {}) for key in KEYS]
    yield lambda: export(path)


@pytest.mark.parametrize("number", range(5))
def test_every_read_of_a_damaged_journal_names_it_and_its_mend(damaged, number):
    with pytest.raises(InputError, match=r"openai\.sqlite: not a usable journal.*\.recover"):
        list(reads(damaged))[number]()


def test_an_answer_that_is_no_json_is_damage_too(tmp_path):
    journal = Journal(tmp_path / "j.sqlite")
    journal.put("k", {"text": "whole"})
    for body in ('{"text": "ha', b"\xff\xfe", "[1]"):
        journal._db.execute("UPDATE answers SET body = ?", (body,))
        with pytest.raises(InputError, match=r"j\.sqlite: not a usable journal"):
            journal.get("k")


def test_an_answer_that_turned_out_to_be_none_is_a_failure(tmp_path):
    journal = Journal(tmp_path / "j.sqlite")
    journal.put("k", {"text": "half"})
    journal.retract("k", "length", "cut", 0.5)
    assert journal.get("k") is None
    assert (journal.failure("k")["reason"], journal.failure("k")["usd"]) == ("length", 0.5)


def test_an_import_into_a_damaged_journal_says_so(damaged, tmp_path):
    journal, keys = (
        Journal(tmp_path / "new/journal/openai.sqlite"),
        [f"{n:015x}z" for n in range(400)],
    )
    for key in keys:
        journal.put(key, {"text": "x" * 300, "model": "m"})
    file = export(journal.path, keys)
    with pytest.raises(InputError, match=r"openai\.sqlite: not a usable journal"):
        import_answers(file, damaged.parent)
