"""A small project in a temporary folder: the library as it is, with notebooks that the tests
write.
"""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Project:
    root: Path

    def notebook(self, name: str, parameters: str, *cells: str) -> Path:
        """Write a notebook whose stage starts before `cells`."""
        lines = (
            f'{parameters}\nrun_dir: str = "runs/demo"  # folder of this run\nvariant: str = ""  #'
            " variant"
        )
        first = "import os\nimport sys\nfrom vislib.runs import start_run"
        sources = [
            (first, []),
            (lines, ["parameters"]),
            (f'run = start_run("{name}", globals())', []),
        ]
        sources += [(cell, []) for cell in cells]
        book = {
            "cells": [
                {
                    "cell_type": "code",
                    "id": f"c{n}",
                    "metadata": {"tags": tags},
                    "source": source,
                    "outputs": [],
                    "execution_count": None,
                }
                for n, (source, tags) in enumerate(sources)
            ],
            "metadata": {
                "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}
            },
            "nbformat": 4,
            "nbformat_minor": 5,
        }
        file = self.root / "notebooks" / f"{name}.ipynb"
        file.write_text(json.dumps(book), encoding="utf-8")
        return file

    def parameters(self, file: str, text: str = "") -> None:
        folder = self.root / "params" / "demo"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(text, encoding="utf-8")

    def command(self, *options: str) -> list[str]:
        return [sys.executable, "-m", "vislib.run", "params/demo", *options]

    def run(self, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*options),
            cwd=self.root,
            capture_output=True,
            text=True,
            timeout=600,
            env={**os.environ, **environment},
        )

    def record(self, stage: str) -> dict:
        return json.loads(
            (self.root / "runs" / "demo" / stage / "run.json").read_text(encoding="utf-8")
        )


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.delenv("VISLIB_RUNS", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))  # the copy goes before an installed library
    for name in ("notebooks", "params"):
        (tmp_path / name).mkdir()
    skip = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "vislib" / "runs", tmp_path / "vislib" / "runs", ignore=skip)
    for name in ("vislib/__init__.py", "vislib/run.py", "requirements.txt"):
        shutil.copy(ROOT / name, tmp_path / name)
    return Project(tmp_path)
