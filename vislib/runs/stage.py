"""One stage of one run on disk: its folder, its record, its promotion.

`<run>/<stage>.partial` is where a stage works; its record says `failed` from the first moment, so
whatever ends the work early leaves the truth behind. Promotion renames it to `<run>/<stage>`; the
folder before stays beside it.
"""

import csv
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from vislib.runs.digests import FileFacts, content_hash, file_hashes, folder_facts
from vislib.runs.disk import free_reserve, reserve
from vislib.runs.errors import InputError
from vislib.runs.keys import (
    ROOT,
    Change,
    changes,
    expand,
    in_words,
    input_path,
    input_values,
    key_of,
    only_code,
    require_exists,
    stage_hashes,
)
from vislib.runs.params import Schema
from vislib.runs.redaction import write_redacted

RUNS_VARIABLE = "VISLIB_RUNS"
_STORED = "data/files"  # a folder whose files are named by their content's hash
_UNFINISHED = "unfinished: it is still at work, or was ended before its last cell"
_TIME = "%Y%m%dT%H%M%S.%f"
_WORK = ("scratch", "shards")  # folders of `.partial` that promotion leaves out
Record = dict[str, Any]


def run_folder(run_dir: str) -> Path:
    """The folder of a run; the variable VISLIB_RUNS replaces the folder that holds it."""
    folder = ROOT / Path(run_dir).expanduser()
    elsewhere = os.environ.get(RUNS_VARIABLE)  # moves all sets at once, their journal with them
    return Path(elsewhere).expanduser().resolve() / folder.name if elsewhere else folder


def settle_runs_folder() -> None:
    """Make a relative VISLIB_RUNS, which counts from where its user stands, absolute: once, for all
    kernels.
    """
    if elsewhere := os.environ.get(RUNS_VARIABLE):
        os.environ[RUNS_VARIABLE] = str(Path(elsewhere).expanduser().resolve())


def read_record(folder: Path) -> Record:
    """The run.json in `folder`; empty if there is none or it is broken."""
    try:
        record: Record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):  # a broken record counts as none: its stage is made again
        return {}
    return record if isinstance(record, dict) else {}


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Write run.json atomically and without secrets."""
    # str: a metric may be a path, or a number of numpy
    text = json.dumps(record, indent=1, ensure_ascii=False, default=str)
    write_redacted(folder / "run.json", text + "\n")


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A notebook with resolved parameters, and where it works."""

    notebook: str
    schema: Schema
    values: dict[str, Any]

    @staticmethod
    def notebook_file(notebook: str) -> Path:
        """Where the notebook of that name lies."""
        return ROOT / "notebooks" / f"{notebook}.ipynb"

    @property
    def name(self) -> str:
        """`NN_name` or `NN_name.variant`: the stage's folder."""
        return (
            f"{self.notebook}.{self.values['variant']}" if self.values["variant"] else self.notebook
        )

    @property
    def run(self) -> Path:
        """The run's folder."""
        return run_folder(self.values["run_dir"])

    @property
    def folder(self) -> Path:
        """The last good result."""
        return self.run / self.name

    @property
    def partial(self) -> Path:
        """Where the stage works until it is promoted."""
        return self.run / f"{self.name}.partial"

    def lock_file(self, of: str) -> Path:
        """The file that is locked by the stage's `kernel`, or by its `workers`."""
        return self.run / ".locks" / f"{self.name}.{of}"

    def facts(self, place: str) -> Record:
        """The hashes of the stage's key, and size and hash of every input file.

        Raises InputError, which names `place`, for an input that is not there.
        """
        facts = {}
        for name, entry in input_values(self.schema, self.values):
            path = input_path(entry, self.run)
            require_exists(path, place, name, entry)
            facts[f"{name}:{entry}"] = folder_facts(path, expand(path))
        # one digest an input in the key: an image folder has many thousand files
        contents = {name: content_hash(found) for name, found in facts.items()}
        notebook = self.notebook_file(self.notebook)
        hashes = stage_hashes(notebook, self.schema, self.values, contents)
        return {"hashes": hashes, "inputs": facts}

    def changes(self, record: Record, facts: Record) -> list[Change]:
        """What differs between the key that a record was made under and today's."""
        return changes(record.get("hashes", {}), facts["hashes"], self.schema)

    def open_partial(self, key: str, facts: Record, tell: Callable[[str], None] = print) -> Record:
        """Make `.partial` ready and return its record.

        An attempt of the same key is continued; the work of any other is set aside, and told.
        """
        before = read_record(self.partial)
        if before.get("key") != key and self.changes(before, facts):
            if fate := self.fate_of_attempt(facts):
                tell(f"{fate} ({self.set_aside().relative_to(self.run)})")
            shutil.rmtree(self.partial, ignore_errors=True)
            before = {}
        for name in ("data", "figures", "scratch"):
            (self.partial / name).mkdir(parents=True, exist_ok=True)
        record = {
            "status": "failed",
            "reason": _UNFINISHED,
            "stage": self.name,
            "set": self.run.name,
            "key": key,
            **facts,
            # sums alone, since the record is written anew after every batch of answers
            "inputs": {name: _sum(files) for name, files in facts["inputs"].items()},
            # what earlier attempts at the same work took, and whose code was accepted
            "earlier_seconds": before.get("earlier_seconds", 0) + _worked(self.partial, before),
            "accepted": before.get("accepted", []),
        }
        write_record(self.partial, record)  # first: whatever follows may be ended by a full disk
        reserve(self.partial)
        _write_inputs(self.partial / "inputs.csv", facts["inputs"])
        return record

    def fate_of_attempt(self, facts: Record) -> str:
        """What becomes of an unfinished attempt, '' if it holds no finished part or checkpoint."""
        if not self.has_work():
            return ""
        found = self.changes(read_record(self.partial), facts)
        if not found:
            return "its unfinished work is continued"
        mend = f"; `--accept {self.name}` goes on with it" if only_code(found) else ""
        return f"its unfinished work is kept aside: {in_words(found)}{mend}"

    def has_work(self) -> bool:
        """Whether an unfinished attempt holds a finished part, a checkpoint or the like."""
        work = (path for name in _WORK for path in (self.partial / name).rglob("*"))
        return any(path.is_file() and path.name != "kernel.log" for path in work)

    def set_aside(self) -> Path:
        """Move an unfinished attempt to `<run>/aside`, where no glob over stages meets it."""
        aside = self.run / "aside" / self.name / f"{datetime.now():{_TIME}}"
        # renamed within one file system: whole or not at all
        aside.parent.mkdir(parents=True, exist_ok=True)
        return self.partial.rename(aside)

    def aside(self) -> Path | None:
        """The attempt that was set aside last."""
        return max((self.run / "aside" / self.name).glob("*"), default=None)

    def accept(self, folder: Path, facts: Record) -> None:
        """Let what other code made in `folder` count as made by today's; its record says so."""
        if folder.parent != self.run:  # one that was set aside
            if self.has_work():
                self.set_aside()
            shutil.rmtree(self.partial, ignore_errors=True)
            folder.rename(self.partial)
            folder = self.partial
        record = read_record(folder)
        texts = [change.text for change in self.changes(record, facts)]
        # a part's mark without the digest of its code holds for any code
        for mark in folder.glob("shards/*/*.json"):
            said = json.loads(mark.read_text(encoding="utf-8"))
            said.pop("code", None)
            mark.write_text(json.dumps(said), encoding="utf-8")
        note = {"at": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "made_with_other": texts}
        accepted = [*record.get("accepted", []), note]
        hashes = facts["hashes"]
        write_record(
            folder, record | {"key": key_of(hashes), "hashes": hashes, "accepted": accepted}
        )

    def is_intact(self, record: Record) -> bool:
        """Whether the result's files are those that its record names."""
        facts = record.get("files", {})
        written = {self.folder / name: f["sha256"] for name, f in facts.items() if "sha256" in f}
        if not all(path.is_file() for path in written):
            return False
        # files that are named by their content are only counted: their names are their hashes
        stored = facts.get(_STORED, {"files": 0})["files"]
        return (
            file_hashes(list(written)) == list(written.values())
            and _count_stored(self.folder) == stored
        )

    def fail(self, reason: str) -> None:
        """Record in `.partial` how an attempt ended, as far as the disk allows; the last good
        folder stays.
        """
        # what ended the attempt matters more; a record without a reason says failed too
        with suppress(OSError):
            self.partial.mkdir(parents=True, exist_ok=True)
            free_reserve(self.partial)  # the room that was kept for this very record
            record = {"stage": self.name, "set": self.run.name, **read_record(self.partial)}
            write_record(self.partial, record | {"status": "failed", "reason": reason})

    def is_at_work(self) -> bool:
        """Whether its notebook has neither finished nor failed yet."""
        return read_record(self.partial).get("reason") == _UNFINISHED

    def promote(self) -> None:
        """`.partial` becomes the stage's folder; the folder before becomes `.previous`."""
        free_reserve(self.partial)
        for name in _WORK:
            shutil.rmtree(self.partial / name, ignore_errors=True)
        # two renames, each whole; a kill between them is mended by `finish_promotion`
        previous = self.run / f"{self.name}.previous"
        if self.folder.exists():
            shutil.rmtree(previous, ignore_errors=True)
            os.replace(self.folder, previous)
        os.replace(self.partial, self.folder)

    def finish_promotion(self) -> None:
        """Complete a promotion that was cut short between its two renames."""
        if not self.folder.exists() and read_record(self.partial).get("status") == "ok":
            self.promote()


def _worked(partial: Path, record: Record) -> float:
    """Seconds from an attempt's start to its last sign of life; a killed one has left no more."""
    with suppress(OSError, KeyError, ValueError):
        started = datetime.fromisoformat(record["started_at"]).timestamp()
        return max(0.0, round((partial / "log.txt").stat().st_mtime - started, 1))
    return 0.0


def _sum(files: Mapping[str, FileFacts]) -> Record:
    """What the record keeps of an input, which may be a folder of many thousand images."""
    size = sum(fact["size"] for fact in files.values())
    return {"files": len(files), "size": size, "sha256": content_hash(files)}


def _write_inputs(file: Path, inputs: Mapping[str, Mapping[str, FileFacts]]) -> None:
    """Every input file in a table beside the record."""
    with file.open("w", encoding="utf-8", errors="backslashreplace", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(("input", "file", "size", "sha256"))
        for name, files in inputs.items():
            table.writerows((name, path, *fact.values()) for path, fact in files.items())


def _count_stored(folder: Path) -> int:
    return sum(1 for _ in (folder / _STORED).glob("*/*"))


def output_facts(folder: Path) -> Record:
    """Size and hash of every file under `data/` and `figures/`; leftovers of a killed write are
    removed.

    Files under `data/files/` are named by their own content and only counted.
    """
    # before files are counted: what a killed writer left is no part of a table
    for leftover in folder.rglob("*.tmp"):
        leftover.unlink()
    found = [
        path
        for name in ("data", "figures")
        for path in expand(folder / name)
        if path.parent.parent != folder / _STORED
    ]
    facts: Record = dict(folder_facts(folder, found))
    if stored := _count_stored(folder):
        facts[_STORED] = {"files": stored}
    # a stage without a result is a notebook that somebody has emptied
    if not facts:
        raise InputError(f"{folder}: the stage wrote neither data nor figures")
    return facts
