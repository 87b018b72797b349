"""A rule of one's own, a `def` in a work cell: the stage runs again with it, and what reads it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sets import ROOT, five_documents
from vislib.runs import tables

pytestmark = pytest.mark.campaign
OWN = {
    # pages with at least two images, whatever their length, by two processes
    "02_filtering": """
def rule(pages):
    for page in pages:
        if sum(map(bool, page["images"])) < 2:
            yield Drop("few_images")
        else:
            yield To("documents", page | {"n_tokens": max_tokens})
            for sample in filtering.page_samples(page):
                yield To("samples", sample | {"context": "<image>", "n_context_tokens": 2})
""",
    # captions in capitals, of no more than eight words
    "06_captioning": """
def shout(rows):
    for said in plan.captions(rows):
        if isinstance(said, To):
            words = said.row["caption"].upper().split()[:8]
            said = To("captions", said.row | {"caption": " ".join(words)})
        yield said
""",
    # no question is dropped, and conversations are captions alone
    "08_merging": """
def rule(samples):
    for said in merging.conversations(
        samples, kinds=kinds, vectors=vectors, threshold=1.1, minimum=1, seed=seed
    ):
        if not isinstance(said, To) or said.path.endswith("/captions"):
            yield said
""",
}


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A checkout in which five documents went through 01 to 08, without its figures."""
    folder = tmp_path_factory.mktemp("own") / "project"
    for name in ("vislib", "notebooks", "params"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "requirements.txt", folder)
    five_documents(folder / "params/five")
    for file in (folder / "params/five").glob("[!0]*"):
        file.unlink()
    for name in ("04_selection", "05_experts", "06_captioning.fused"):
        (folder / f"params/five/{name}.yaml").unlink()
    assert run(folder).count(" ok ") == 6
    return folder


def run(project: Path, *options: str) -> str:
    places = {"PYTHONPATH": str(project), "VISLIB_RUNS": str(project / "runs")}
    done = subprocess.run(
        [sys.executable, "-m", "vislib.run", "params/five", *options],
        cwd=project,
        env=os.environ | places,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def put(project: Path, name: str) -> None:
    """The `def` goes before the first verb that maps, which is given its name."""
    file = project / f"notebooks/{name}.ipynb"
    book = json.loads(file.read_text())
    (cell,) = [c for c in book["cells"] if "run.map(" in "".join(c["source"])]
    before, verb, after = "".join(cell["source"]).partition("run.map(")
    given, rest = after.split(",", 1)
    own = OWN[name].split("(", 1)[0].split()[-1]
    assert given.strip() in ("rule", "plan.captions")
    source = f"from vislib.runs import Drop, To\n{before}{OWN[name]}{verb}{own},{rest}"
    cell["source"] = source.splitlines(keepends=True)
    file.write_text(json.dumps(book))


def rows(project: Path, table: str) -> list[dict]:
    stage, _, name = table.partition("/")
    return list(tables.read_rows(project / "runs/five" / stage / "data" / name))


def test_a_rule_of_ones_own_runs_with_its_stage_and_what_reads_it(project):
    assert run(project).count("unchanged") == 6
    captions = rows(project, "06_captioning/captions")
    put(project, "08_merging")
    assert run(project).count(" ok ") == 1
    kind = project / "runs/five/08_merging/data/contextual"
    assert [path.name for path in kind.iterdir()] == ["captions"]

    put(project, "06_captioning")
    plan = run(project, "--dry-run")
    assert "notebook cell" in plan
    assert run(project).count(" ok ") == 3  # 06, 07 and 08
    shouted = [row["caption"] for row in rows(project, "06_captioning/captions")]
    assert shouted == [" ".join(row["caption"].upper().split()[:8]) for row in captions]

    put(project, "02_filtering")
    (project / "params/five/02_filtering.yaml").write_text("workers: 2\n")
    assert run(project).count(" ok ") == 5
    documents = rows(project, "02_filtering/documents")
    assert documents
    assert all(sum(map(bool, page["images"])) >= 2 for page in documents)
    assert {row["context"] for row in rows(project, "02_filtering/samples")} == {"<image>"}
    dropped = {row["reason"] for row in rows(project, "02_filtering/dropped")}
    assert dropped <= {"few_images"}
