"""`make figures`: copy the figures of finished runs, and the tables behind them, into
`figures/<set>/`.

A stage counts when the runner (`ok`) or a notebook run by hand (`finished`) came to its end. A
published figure is only ever replaced: one that the run does not make is named and stays.
"""

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from vislib.runs.errors import InputError
from vislib.runs.keys import ROOT
from vislib.runs.stage import read_record, run_folder
from vislib.runs.terminal import any_terminal

_KINDS = (".pdf", ".png", ".csv", ".md", ".tex")  # of figures, and of the tables behind them


def publish(set_name: str, target: Path = ROOT / "figures") -> list[Path]:
    """Publish one set; returns the published files. Names what is left out and what it did not
    replace.
    """
    run = run_folder(f"runs/{set_name}")
    published = target / set_name
    files: dict[str, Path] = {}
    for folder in sorted(run.glob("[0-9][0-9]_*")):
        found = [file for file in folder.glob("figures/*") if file.suffix in _KINDS]
        # attempts and results of before are not the run's
        if not found or folder.suffix in (".partial", ".previous"):
            continue
        status = read_record(folder).get("status", "without a record")
        if status in ("ok", "finished"):
            # two variants of a notebook make figures of one name
            files |= {f"{file.stem}{folder.suffix}{file.suffix}": file for file in found}
        else:
            print(f"left out: {folder.name} is {status}")
    if not files:
        raise InputError(
            f"{run}: no figure of a finished stage; run `python -m vislib.run params/{set_name}`"
            " first"
        )
    published.mkdir(parents=True, exist_ok=True)
    # a figure may be of a run elsewhere: deleting it is nobody's wish here
    before = {file.name for file in published.iterdir() if file.suffix in _KINDS}
    if others := sorted(before - set(files)):
        print(f"not of this run, left as published: {', '.join(others)}")
    return [shutil.copyfile(file, published / name) for name, file in sorted(files.items())]


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
