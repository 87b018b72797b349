"""12 as a researcher changes it: a reader of replies of their own in its work cell, headless."""

import json
from pathlib import Path

import papermill

from tests.test_evaluation import begin, ground, told, write_model  # noqa: F401
from vislib.runs import Run, tables
from vislib.runs.keys import stage_hashes
from vislib.runs.params import read_schema

NOTEBOOK = Path(__file__).parents[1] / "notebooks/12_evaluation.ipynb"
OWN = '''
def read(reply, options):
    """Whatever was said: the last option."""
    return "ABCD"[len(options) - 1] if reply else ""
'''


def with_reader(source: str, place: Path) -> Path:
    """The notebook with another reader of replies."""
    book = json.loads(NOTEBOOK.read_text())
    (work,) = (c for c in book["cells"] if "work" in c["metadata"].get("tags", []))
    assert "read = lenient_letter\n" in work["source"]
    work["source"] = "".join(work["source"]).replace("read = lenient_letter\n", source)
    place.write_text(json.dumps(book))
    return place


def execute(notebook: Path, model: str) -> None:
    values = {"models": [model], "run_dir": "runs/demo", "device": "cpu"}
    papermill.execute_notebook(
        notebook, notebook.with_suffix(".out.ipynb"), values, progress_bar=False
    )


def test_a_reader_of_ones_own_runs_headless_and_asks_nobody_again(ground, tmp_path):  # noqa: F811
    model = write_model(ground, "base")
    run: Run = begin([model])
    told(run, model, {"multiple_choice": "The answer is A.", "free_form": "A red square"})
    run.close()
    execute(with_reader(OWN.lstrip(), tmp_path / NOTEBOOK.name), model)
    results = tables.read_rows(ground / "12_evaluation/data/results")
    found = [row for row in results if row["question_type"] == "multiple_choice"]
    assert [row["answer"] for row in found] == ["A", "C"] * 3
    assert [row["correct"] for row in found] == [False] * 6  # the shipped reader finds A in all
    assert all(row["parsed"] and not row["strictly_correct"] for row in found)


def test_a_changed_reader_is_a_changed_key(tmp_path):
    schema = read_schema(NOTEBOOK)
    values = {name: parameter.default for name, parameter in schema.items()}
    ours, theirs = (
        stage_hashes(notebook, schema, values, {})["cells"]
        for notebook in (NOTEBOOK, with_reader(OWN.lstrip(), tmp_path / NOTEBOOK.name))
    )
    assert list(ours) == list(theirs)
    assert ours != theirs
