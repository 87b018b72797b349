"""Figures of finished runs are published, and no published figure is lost."""

import json

from vislib.figures.publish import publish


def stage(runs, name: str, status: str, content: str) -> None:
    figures = runs / "demo" / name / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    (figures.parent / "run.json").write_text(json.dumps({"status": status}))
    for ending in (".pdf", ".png", ".csv"):
        (figures / f"{name.split('.')[0]}{ending}").write_text(content)


def test_what_was_run_by_hand_is_published_and_nothing_published_is_lost(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("VISLIB_RUNS", str(tmp_path / "runs"))
    for name, status in [("20_a", "ok"), ("21_b", "ok"), ("22_c", "ok"), ("22_c.wide", "ok")]:
        stage(tmp_path / "runs", name, status, "one")
    assert len(publish("demo", tmp_path / "figures")) == 12
    stage(tmp_path / "runs", "20_a", "finished", "two")  # Run All in JupyterLab
    stage(tmp_path / "runs", "21_b", "failed", "half")
    stage(tmp_path / "runs", "21_b.partial", "finished", "half")
    stage(tmp_path / "runs", "22_c", "ok", "two")
    (tmp_path / "runs/demo/22_c.wide/run.json").unlink()
    capsys.readouterr()
    assert len(publish("demo", tmp_path / "figures")) == 6
    published = tmp_path / "figures/demo"
    assert {p.name: p.read_text() for p in published.glob("*.pdf")} == {
        "20_a.pdf": "two",
        "21_b.pdf": "one",
        "22_c.pdf": "two",
        "22_c.wide.pdf": "one",
    }
    said = capsys.readouterr().out
    assert "left out: 21_b is failed\n" in said
    for ending in (".md", ".tex"):  # a table beside its figure
        (tmp_path / f"runs/demo/20_a/figures/20_table{ending}").write_text("table")
    assert len(publish("demo", tmp_path / "figures")) == 8
    assert (published / "20_table.md").read_text() == "table"
    assert "left out: 22_c.wide is without a record" in said
    assert "left as published: 21_b.csv, 21_b.pdf, 21_b.png, 22_c.wide.csv" in said
