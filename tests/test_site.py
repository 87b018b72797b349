"""The site of a run: pages that open from the disk, link to what is there, and fetch nothing."""

import re
from pathlib import Path

import pytest

from vislib import site
from vislib.runs import InputError
from vislib.runs.stage import write_record

BOOK = '{"cells": [{"source": ["# 08 · A <b>\\n", "\\n", "Which?\\n", "\\n", "**In**"]}]}'
PAGE = """<html><head><title>x</title></head>
<body class="a"><script src="https://cdn.example/x.js"></script>
<a href="03_images.ipynb">03</a> <a href="10_finetuning.ipynb">10</a>
<script type="module">import a from "https://cdn.example/y.js"
</script></body></html>"""


def stage(run: Path, name: str, status: str = "ok") -> Path:
    (folder := run / name).mkdir(parents=True)
    (folder / "notebook.ipynb").write_text(BOOK)
    (folder / "notebook.html").write_text(PAGE)
    write_record(folder, {"status": status, "counts": {}, "seconds": 1.5})
    return folder


def test_pages_link_to_what_is_there_and_fetch_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VISLIB_RUNS", str(tmp_path))
    for name in ("03_images", "06_captioning.fused", "20_pipeline"):
        stage(tmp_path / "mine", name)
    stage(tmp_path / "mine", "03_images.previous")
    stage(tmp_path / "mine", "07_qa_generation", status="failed")
    for ending in ("png", "pdf", "csv"):
        file = tmp_path / f"mine/20_pipeline/figures/20_pipeline.{ending}"
        file.parent.mkdir(exist_ok=True)
        file.write_text(ending)
    (tmp_path / "mine/06_captioning.fused/data/gallery").mkdir(parents=True)
    (tmp_path / "mine/06_captioning.fused/data/gallery/index.html").write_text("gallery")
    index = site.build("mine", tmp_path / "site")
    pages = sorted(path.name for path in (tmp_path / "site/notebooks").iterdir())
    assert pages == ["03_images.html", "06_captioning.fused.html", "20_pipeline.html"]
    text = index.read_text()
    assert "A &lt;b&gt; · fused" in text
    for page in (index, *index.parent.glob("notebooks/*.html")):
        found = page.read_text()
        assert "<script" not in found
        links = re.findall(r'(?:href|src)="([^"#]+)"', found)
        assert links
        assert all((page.parent / link).exists() for link in links), links
    assert "gallery/index.html" in text
    assert site.build("mine", tmp_path / "site").read_text() == text


def test_what_is_no_site_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VISLIB_RUNS", str(tmp_path))
    with pytest.raises(InputError, match="no stage has finished"):
        site.build("mine", tmp_path / "site")
    stage(tmp_path / "mine", "03_images")
    (tmp_path / "site").mkdir()
    with pytest.raises(InputError, match="no site"):
        site.build("mine", tmp_path / "site")
