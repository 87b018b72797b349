"""What an edit makes run again, told by `--dry-run` in a copy of the project where all is made."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vislib.runs import plan
from vislib.runs.keys import Change
from vislib.runs.stage import Stage, read_record, write_record

ROOT = Path(__file__).resolve().parents[2]
# Every stage counts as made, from inputs that stand for real tables: only a plan is asked for.
MAKE = """
from pathlib import Path
from vislib.runs.keys import input_path, input_values, key_of
from vislib.runs.sets import read_set
from vislib.runs.stage import write_record
entries = read_set(Path("params/sample"))
for entry in entries:
    for _, value in input_values(entry.stage.schema, entry.stage.values):
        path = input_path(value, entry.stage.run)
        if path.is_file():  # of the package: labels, paraphrases
            continue
        path.mkdir(parents=True, exist_ok=True)
        (path / "part-00000.parquet").write_text(value)
for entry in entries:
    facts = entry.stage.facts("")
    record = {"status": "ok", "seconds": 1.0, "files": {}, "hashes": facts["hashes"]}
    entry.stage.folder.mkdir(parents=True, exist_ok=True)
    write_record(entry.stage.folder, record | {"key": key_of(facts["hashes"])})
"""


class Copy:
    """The project in a folder of its own."""

    def __init__(self, root: Path) -> None:
        self.root, self.run = root, root / "runs/sample"

    def python(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=self.root,
            capture_output=True,
            text=True,
            env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(self.root)},
            check=False,
        )

    def plan(self, *options: str) -> dict[str, str]:
        """What `--dry-run` says of every stage."""
        done = self.python("-m", "vislib.run", "params/sample", "--dry-run", *options)
        assert done.returncode == 0, done.stdout + done.stderr
        lines = re.findall(r"^(\d\d_\S+) +(.*(?:\n {23}.*)*)", done.stdout, re.MULTILINE)
        return {name: " ".join(said.split()) for name, said in lines}

    def edit(self, pattern: str, change: Callable[[str], str]) -> None:
        """Change the text of every file that matches a glob."""
        files = sorted(self.root.glob(pattern))
        assert files, pattern
        for file in files:
            file.write_text(change(file.read_text()))

    def edit_cells(self, pattern: str, kind: str, change: Callable[[str], str]) -> None:
        """Change the notebooks' `markdown`, `work` or other `look` cells."""
        for file in self.root.glob(pattern):
            book = json.loads(file.read_text())
            for cell in book["cells"]:
                tags = cell["metadata"].get("tags", [])
                of_kind = "work" if "work" in tags else "look"
                is_code = cell["cell_type"] == "code" and "parameters" not in tags
                if cell["cell_type"] == kind or (is_code and of_kind == kind):
                    cell["source"] = change("".join(cell["source"]))
            file.write_text(json.dumps(book))


@pytest.fixture(scope="module")
def pristine(tmp_path_factory) -> Copy:
    copy = Copy(tmp_path_factory.mktemp("copy"))
    skip = shutil.ignore_patterns("__pycache__")
    for name in ("vislib", "notebooks", "params/sample"):
        shutil.copytree(ROOT / name, copy.root / name, ignore=skip)
    shutil.copy(ROOT / "requirements.txt", copy.root)
    done = copy.python("-c", MAKE)
    assert done.returncode == 0, done.stderr
    return copy


@pytest.fixture
def made(pristine, tmp_path) -> Iterator[Copy]:
    """The copy as it was, whatever a test edits."""
    kept = {n: pristine.root / n for n in ("vislib", "notebooks", "params", "runs")}
    for name, folder in kept.items():
        shutil.copytree(folder, tmp_path / name)
    yield pristine
    for name, folder in kept.items():
        shutil.rmtree(folder)
        shutil.copytree(tmp_path / name, folder)


def reorder_imports(copy: Copy) -> None:
    before = {p: p.read_text() for p in copy.root.glob("vislib/**/*.py")}
    rules = "lint.isort.force-sort-within-sections = true"
    sort = ["check", "--isolated", "--select", "I", "--config", rules, "--fix", "-q", "vislib"]
    assert copy.python("-m", "ruff", *sort).returncode == 0
    assert sum(p.read_text() != text for p, text in before.items()) > 20


def in_docstring(text: str) -> str:
    return text.replace('"""', '"""In other words. ', 1)


OF_NO_DATA: dict[str, Callable[[Copy], None]] = {
    "comments": lambda copy: copy.edit("vislib/**/*.py", lambda text: f"{text}\n# why\n"),
    "docstrings": lambda copy: copy.edit("vislib/**/[a-z]*.py", in_docstring),
    "order of imports": reorder_imports,
    "prose": lambda copy: copy.edit_cells(
        "notebooks/*.ipynb", "markdown", lambda text: text + "\nMore."
    ),
    "a look": lambda copy: copy.edit_cells(
        "notebooks/0*", "look", lambda text: text + "\nsize_of_a_plot = 4"
    ),
    **{
        place: lambda copy, place=place: copy.edit(place, lambda text: text + "\nEDITED = 1\n")
        for place in (
            "vislib/runs/[j-z]*.py",
            "vislib/engines/[lo][ip]*.py",
            "vislib/fetching/*.py",
            "vislib/training/launch.py",
        )
    },
}


@pytest.mark.parametrize("edit", OF_NO_DATA)
def test_an_edit_that_changes_no_data_makes_nothing_run(made, edit):
    OF_NO_DATA[edit](made)
    said = made.plan()
    assert len(said) >= 20
    assert {name: line for name, line in said.items() if line != "unchanged"} == {}


def change_merging(copy: Copy) -> None:
    for file in [*copy.root.glob("vislib/merging.py"), *copy.root.glob("vislib/merging/*.py")][-1:]:
        file.write_text(file.read_text() + "\nMORE = 1\n")


def test_a_changed_rule_runs_its_stage_and_what_reads_it(made):
    change_merging(made)
    said = made.plan()
    assert re.fullmatch(r"would run: code of vislib/merging\S*", said.pop("08_merging"))
    waiting = {name for name, line in said.items() if line != "unchanged"}
    assert said.pop("35_leakage") == "would run if 14_leakage changes its data"
    assert {said[name] for name in waiting & said.keys()} == {
        "would run if 08_merging changes its data"
    }
    assert "20_pipeline" in waiting
    assert not waiting & {"01_documents", "06_captioning", "07_qa_generation"}


def test_a_changed_parameter_cell_and_input_are_named(made):
    changed = "similarity_threshold: 0.8\n"
    made.edit("params/sample/08_*", lambda t: re.sub(r"similarity_threshold.*\n", "", t) + changed)
    made.edit_cells("notebooks/02_*", "work", lambda text: text + "\nlimit = 3")
    made.edit("runs/sample/03_images/data/images/*", lambda text: "other images")
    said = made.plan()
    assert re.match(r"would run: parameter similarity_threshold 0\.\d+ → 0\.8", said["08_merging"])
    assert re.match(r"would run: notebook cell \d+", said["02_filtering"])
    assert re.match(r"would run: input 03_images/images", said["06_captioning"])


def costly(copy: Copy, name: str, **facts) -> None:
    folder = copy.run / name
    write_record(folder, read_record(folder) | facts)


def test_a_costly_result_is_not_made_again_for_code_alone(made):
    costly(made, "08_merging", seconds=300.0, earlier_seconds=400.0)
    change_merging(made)
    done = made.python("-m", "vislib.run", "params/sample")
    assert done.returncode == 2
    assert re.search(r"08_merging would run: code of \S+, and it took 12 minutes; ", done.stderr)
    assert "`--accept 08_merging`" in done.stderr
    assert "`--redo 08_merging`" in done.stderr
    assert "the run would stop: it took 12 minutes" in made.plan()["08_merging"]
    kept = made.plan("--accept", "08")
    assert kept["08_merging"] == "unchanged (accepted: 08_merging)"
    assert set(kept.values()) == {"unchanged", kept["08_merging"]}
    assert "stop" not in made.plan("--redo", "08_merging")["08_merging"]
    assert made.python("-m", "vislib.run", "params/sample", "--accept", "99").returncode == 2
    made.edit("runs/sample/08_merging/run.json", lambda t: t.replace('"limit": 0', '"limit": 7'))
    both = made.python("-m", "vislib.run", "params/sample", "--dry-run", "--accept", "08")
    assert "keeps work that differs by its code alone (08_merging: parameter limit" in both.stderr


def test_unfinished_work_is_continued_or_kept_aside(made):
    shutil.copytree(made.run / "08_merging", made.run / "08_merging.partial")
    shutil.rmtree(made.run / "08_merging")
    (made.run / "08_merging.partial/shards/rule").mkdir(parents=True)
    (made.run / "08_merging.partial/shards/rule/00000.json").write_text("{}")
    OF_NO_DATA["comments"](made)
    OF_NO_DATA["a look"](made)
    assert "its unfinished work is continued" in made.plan()["08_merging"]
    change_merging(made)
    said = made.plan()["08_merging"]
    assert "its unfinished work is kept aside: code of vislib/merging" in said
    assert "; `--accept 08_merging` goes on with it" in said
    assert "(accepted: 08_merging.partial)" in made.plan("--accept", "08_merging")["08_merging"]


def facts(code: str, **parameters) -> dict:
    hashes = {"cells": {}, "code": {"a.py": code}, "parameters": parameters, "inputs": {}}
    return {"hashes": hashes, "inputs": {}}


@pytest.fixture
def stage(tmp_path, monkeypatch) -> Stage:
    monkeypatch.setenv("VISLIB_RUNS", str(tmp_path))
    return Stage(notebook="05_a", schema={}, values={"variant": "", "run_dir": "runs/demo"})


def test_an_attempt_of_other_code_is_set_aside_and_comes_back_when_accepted(stage, capsys):
    stage.open_partial("one", facts("1"))
    mark = stage.partial / "shards/rule/00000.json"
    mark.parent.mkdir(parents=True)
    mark.write_text('{"input": "x", "code": "1", "counts": {}}')
    stage.open_partial("one again", facts("1"))
    assert mark.exists()
    stage.open_partial("two", facts("2"))
    assert not mark.exists()
    assert "kept aside: code of a.py" in capsys.readouterr().out
    aside = stage.aside()
    assert aside is not None
    assert aside.parent == stage.run / "aside" / stage.name
    assert plan._to_accept(stage, [Change("new", "not made yet")], facts("2")) == aside
    stage.accept(aside, facts("2"))
    record = stage.open_partial("two", facts("2"))
    assert [one["made_with_other"] for one in record["accepted"]] == [["code of a.py"]]
    assert json.loads(mark.read_text()) == {"input": "x", "counts": {}}
    assert stage.aside() is None


def test_an_attempt_without_work_is_cleared(stage, capsys):
    stage.open_partial("one", facts("1"))
    (stage.partial / "scratch/kernel.log").touch()
    (stage.partial / "data/half").touch()
    stage.open_partial("two", facts("2"))
    assert not (stage.partial / "data/half").exists()
    assert stage.aside() is None
    assert not capsys.readouterr().out
