"""`make figures`: copy the figures of finished runs, and the tables behind them, into
`figures/<set>/`.

A stage counts when the runner (`ok`) or a notebook run by hand (`finished`) came to its end. A
published figure is only ever replaced: one that the run does not make is named and stays.
"""

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from vislib.runs.errors import InputError
from vislib.runs.keys import ROOT
from vislib.runs.stage import read_record, run_folder
from vislib.runs.terminal import any_terminal

_KINDS = (
    ".pdf",
    ".png",
    ".csv",
    ".md",
    ".tex",
)  # of figures, and of the tables behind them


def publish(set_name: str, target: Path = ROOT / "figures") -> list[Path]:
    """Publish one set; returns the published files. Names what is left out and what it did not
    replace.
    """
    run = run_folder(f"runs/{set_name}")
    files: dict[str, Path] = {}
    for folder in sorted(run.glob("[0-9][0-9]_*")):
        # attempts and results of before are not the run's
        if folder.name.endswith((".partial", ".previous")) or not any(
            (folder / "figures").glob("*.pdf")
        ):
            continue
        status = read_record(folder).get("status", "without a record")
        if status not in ("ok", "finished"):
            print(f"left out: {folder.name} is {status}")
            continue
        # two variants of a notebook make figures of one name
        variant = folder.name.partition(".")[2]
        for file in sorted((folder / "figures").iterdir()):
            if file.suffix in _KINDS:
                files[f"{file.stem}.{variant}{file.suffix}".replace("..", ".")] = file
    if not files:
        raise InputError(
            f"{run}: no figure of a finished stage; run `python -m vislib.run params/{set_name}`"
            " first"
        )
    (target / set_name).mkdir(parents=True, exist_ok=True)
    # a figure may be of a run elsewhere: deleting it is nobody's wish here
    others = sorted(
        p.name for p in (target / set_name).iterdir() if p.suffix in _KINDS and p.name not in files
    )
    if others:
        print(f"not of this run, left as published: {', '.join(others)}")
    return [_replace(file, target / set_name / name) for name, file in files.items()]


def _replace(file: Path, published: Path) -> Path:
    """Copy whole or not at all: a full disk leaves what was published before."""
    # beside its target, as a rename is whole within one file system only
    copy = published.with_name(f".{published.name}.tmp")
    shutil.copyfile(file, copy)
    os.replace(copy, published)
    return published


def main(sets: Sequence[str]) -> int:
    """Publish each named set (default: sample)."""
    any_terminal()
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
