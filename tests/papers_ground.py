"""The releases of the sample run, what is known of them, and copies of the run to change."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from vislib.publishing.facts import Facts, collect

INPUTS = [
    "08_merging/*/*/*.parquet",
    "02_filtering/samples",
    "03_images/images",
    "06_captioning/captions",
    "07_qa_generation/questions",
]
RELEASES = ("with_images", "links_only")


def known(run: Path, scratch: Path, answers: Path | None = None) -> list[Facts]:
    """Facts of both releases of a run."""
    folders = [run / "09_publishing/data" / name for name in RELEASES]
    return collect(folders, INPUTS, run, scratch, answers)


def changed(sample: Path, into: Path, stage: str, change: Callable[[dict], None]) -> Path:
    """A copy of the sample run in which one stage's record says something else."""
    run = into / "runs" / "other"
    shutil.copytree(sample, run, ignore=shutil.ignore_patterns("*.html", "*.ipynb", "2*", "3*"))
    file = run / stage / "run.json"
    record = json.loads(file.read_text())
    change(record)
    file.write_text(json.dumps(record))
    return run
