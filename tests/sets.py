"""Parameter sets that tests make from the sample set, their runs, and what two are compared by."""

import os
import subprocess
import sys
from pathlib import Path

from vislib.runs.yaml_files import read_parameters, write_parameters

ROOT = Path(__file__).resolve().parents[1]


def variation(folder: Path, *, only: str = "", **changes: dict) -> Path:
    """The sample set with changed parameters, as `variation(folder, **{"01_documents": {"limit":
    5}})`.

    `only`: beginnings of file names; variants then take part if one of these holds a dot.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for file in sorted((ROOT / "params/sample").glob("*.yaml")):
        if file.stem.startswith(tuple(only.split() or [""])) and (
            "." not in file.stem or not only or "." in only
        ):
            values = read_parameters(file) | changes.get(file.stem, {})
            write_parameters(folder / file.name, values)
    return folder


def five_documents(folder: Path) -> Path:
    """Five documents of the sample through every stage, answered by rules: the golden rows are of
    the written answers.
    """
    rules = {"engine": "extractive"}
    asking = dict.fromkeys(("06_captioning", "06_captioning.fused", "07_qa_generation"), rules)
    return variation(
        folder, **{"01_documents": {"limit": 5}, "08_merging": {"test_fraction": 0.0}}, **asking
    )


# What tells of a release when its stages ran, for how long and on which machine: no two runs agree.
PAPERS = ("README.md", "datasheet.md", "croissant.json", "SHA256SUMS")


def result_bytes(run: Path) -> dict[str, bytes]:
    """Every file under the `data/` and `figures/` of a run's stages, but for `PAPERS`."""
    folders = [
        p
        for p in sorted(run.glob("[0-9][0-9]_*"))
        if not p.name.endswith((".partial", ".previous"))
    ]
    files = [
        f
        for p in folders
        for kind in ("data", "figures")
        for f in sorted((p / kind).rglob("*"))
        if f.is_file() and f.name not in PAPERS
    ]
    return {str(f.relative_to(run)): f.read_bytes() for f in files}


def run_set(folder: Path, runs: Path, *options: str) -> str:
    """Run a set as its users do, its results under `runs`; what the runner printed."""
    done = subprocess.run(
        [sys.executable, "-m", "vislib.run", str(folder), *options],
        cwd=ROOT,
        env={**os.environ, "VISLIB_RUNS": str(runs)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def run_sample(folder: Path) -> Path:
    """Run the sample set's stages that write tables; the run's folder."""
    made = variation(folder / "sample", only="0 1 40 06_captioning.")
    run_set(made, folder / "runs", "--jobs", "2")
    return folder / "runs/sample"
