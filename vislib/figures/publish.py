"""`make figures`: copy the figures of finished runs, and the tables behind them, into `figures/<set>/`.

Only stages whose status is `ok` are published; what a set no longer makes is removed from its folder.
"""

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from vislib.runs.errors import InputError
from vislib.runs.keys import ROOT
from vislib.runs.stage import read_record, run_folder

_KINDS = (".pdf", ".png", ".csv")


def publish(set_name: str, target: Path = ROOT / "figures") -> list[Path]:
    """Publish one set; returns the published files. Stages that are not `ok` are named and left out."""
    run = run_folder(f"runs/{set_name}")
    stages = [folder for folder in sorted(run.glob("[0-9][0-9]_*")) if any((folder / "figures").glob("*.pdf"))]
    stages = [folder for folder in stages if not folder.name.endswith((".partial", ".previous"))]
    good = [folder for folder in stages if read_record(folder).get("status") == "ok"]
    for folder in stages:
        if folder not in good:
            print(f"left out: {folder.name} is {read_record(folder).get('status', 'without a record')}, not ok")
    files = {
        f"{file.stem}.{variant}{file.suffix}".replace("..", "."): file
        for folder in good
        for variant in [folder.name.partition(".")[2]]
        for file in sorted((folder / "figures").iterdir())
        if file.suffix in _KINDS
    }
    if not files:
        raise InputError(f"{run}: no figure of a stage that is ok; run `python -m vislib.run params/{set_name}` first")
    shutil.rmtree(target / set_name, ignore_errors=True)
    (target / set_name).mkdir(parents=True)
    return [Path(shutil.copyfile(file, target / set_name / name)) for name, file in files.items()]


def main(sets: Sequence[str]) -> int:
    """Publish each named set (default: sample)."""
    try:
        for name in sets or ["sample"]:
            files = publish(name)
            print(f"{name}: {len(files)} files in {files[0].parent.relative_to(ROOT)}/")
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
