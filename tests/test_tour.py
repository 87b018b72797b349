"""00_tour: committed with its outputs, which are those of today; no stage of a run."""

import json
from pathlib import Path

import nbformat
import papermill
import pytest

from tests.test_notebooks import TOUR, cells, is_parameters, source


def shown(notebook: Path) -> list[list[str]]:
    """What each cell shows but for printed lines, which hold times, and drawn figures."""
    kept = ("text/html", "text/plain")
    return [
        [
            "".join(output["data"].get(kept[0], output["data"].get(kept[1], "")))
            for output in cell["outputs"]
            if "data" in output and "image/png" not in output["data"]
        ]
        for cell in nbformat.read(notebook, 4).cells
        if cell.cell_type == "code"
    ]


def test_its_form() -> None:
    code = cells(TOUR, "code")
    lines = [len([s for s in source(c).splitlines() if s.strip()]) for c in code]
    assert len(json.loads(TOUR.read_text())["cells"]) <= 20
    assert max(lines) <= 12
    assert sum(lines) <= 100
    assert sum(map(is_parameters, code)) == 1
    assert not [c for c in code if any(o["output_type"] == "error" for o in c["outputs"])]
    assert str(Path.home()) not in TOUR.read_text()


def test_it_runs_twice_and_shows_what_it_is_committed_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VISLIB_RUNS", str(tmp_path / "runs"))
    made = tmp_path / "tour.ipynb"
    for _ in range(2):  # whoever reads it presses Run All again
        papermill.execute_notebook(TOUR, made, progress_bar=False, cwd=TOUR.parent)
    committed = [outputs for outputs in shown(TOUR) if outputs]
    assert len(committed) == 5  # cards and tables
    assert [outputs for outputs in shown(made) if outputs] == committed
