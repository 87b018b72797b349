"""One stage of one run on disk: its folder, its record, its promotion.

`<run>/<stage>.partial` is where a stage works; its record says `failed` from the first moment, so
whatever ends the work early leaves the truth behind. Promotion renames it to `<run>/<stage>`; the
folder before stays beside it.
"""

import csv
import json
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vislib.runs.digests import FileFacts, content_hash, file_hashes, folder_facts
from vislib.runs.disk import free_reserve, reserve
from vislib.runs.errors import InputError
from vislib.runs.keys import ROOT, expand, input_path, input_values, require_exists, stage_key
from vislib.runs.params import Schema, read_schema
from vislib.runs.redaction import write_redacted

RUNS_VARIABLE = "VISLIB_RUNS"
CONTENT_ADDRESSED = "files"  # folder under data/ whose files are named by their content's hash
_UNFINISHED = "unfinished: it is still at work, or was ended before its last cell"
Record = dict[str, Any]


def run_folder(run_dir: str) -> Path:
    """The folder of a run; the variable VISLIB_RUNS replaces the folder that holds it."""
    folder = ROOT / Path(run_dir).expanduser()
    elsewhere = os.environ.get(RUNS_VARIABLE)
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
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) and isinstance(record.get("inputs", {}), dict) else {}


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Write run.json atomically and without secrets."""
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

    @classmethod
    def of(cls, notebook: str, values: dict[str, Any]) -> "Stage":
        """The stage of a project notebook with `values` already resolved."""
        return cls(
            notebook=notebook, schema=read_schema(cls.notebook_file(notebook)), values=values
        )

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

    def input_files(self, place: str) -> dict[str, Path]:
        """Path of every input by `parameter:entry`; a missing one is an InputError that names
        `place`.
        """
        found = {}
        for name, entry in input_values(self.schema, self.values):
            path = input_path(entry, self.run)
            require_exists(path, place, name, entry)
            found[f"{name}:{entry}"] = path
        return found

    def key(self, place: str) -> tuple[str, Record]:
        """The stage's key and the hashes in it, with the facts of all input files."""
        facts = {
            name: folder_facts(path, expand(path)) for name, path in self.input_files(place).items()
        }
        hashes = {name: content_hash(found) for name, found in facts.items()}
        key, parts = stage_key(self.notebook_file(self.notebook), self.schema, self.values, hashes)
        return key, {"hashes": parts, "inputs": facts}

    def open_partial(self, key: str, facts: Record) -> Record:
        """Make `.partial` ready: one of the same key is resumed, any other cleared. Returns its
        record.
        """
        before = read_record(self.partial)
        if before.get("key") != key and self.partial.exists():
            shutil.rmtree(self.partial)
        for name in ("data", "figures", "scratch"):
            (self.partial / name).mkdir(parents=True, exist_ok=True)
        record = {
            "status": "failed",
            "reason": _UNFINISHED,
            "stage": self.name,
            "set": self.run.name,
            "key": key,
            **facts,
            "inputs": {name: _sum(files) for name, files in facts["inputs"].items()},
        }
        write_record(self.partial, record)  # first: whatever follows may be ended by a full disk
        reserve(self.partial)
        _write_inputs(self.partial / "inputs.csv", facts["inputs"])
        return record

    def is_current(self, key: str) -> bool:
        """Whether the folder holds an `ok` result of this key whose files are those that the record
        names.
        """
        record = read_record(self.folder)
        return record.get("status") == "ok" and record.get("key") == key and self._is_intact(record)

    def _is_intact(self, record: Record) -> bool:
        written = {
            self.folder / name: fact
            for name, fact in record.get("files", {}).items()
            if "files" not in fact
        }
        if not all(path.is_file() for path in written):
            return False
        if file_hashes(list(written)) != [fact["sha256"] for fact in written.values()]:
            return False
        stored = {
            name: fact["files"] for name, fact in record.get("files", {}).items() if "files" in fact
        }
        return all(
            sum(1 for _ in (self.folder / name).glob("*/*")) == count
            for name, count in stored.items()
        )

    def fail(self, reason: str) -> None:
        """Record in `.partial` how an attempt ended, as far as the disk allows; the last good
        folder stays.
        """
        with suppress(
            OSError
        ):  # what ended the attempt matters more; a record without a reason says failed too
            self.partial.mkdir(parents=True, exist_ok=True)
            free_reserve(self.partial)
            record = {"stage": self.name, "set": self.run.name, **read_record(self.partial)}
            write_record(self.partial, record | {"status": "failed", "reason": reason})

    def is_at_work(self) -> bool:
        """Whether its notebook has neither finished nor failed yet."""
        return read_record(self.partial).get("reason") == _UNFINISHED

    def promote(self) -> None:
        """`.partial` becomes the stage's folder; the folder before becomes `.previous`."""
        free_reserve(self.partial)
        for name in ("scratch", "shards"):
            shutil.rmtree(self.partial / name, ignore_errors=True)
        previous = self.run / f"{self.name}.previous"
        if self.folder.exists():
            shutil.rmtree(previous, ignore_errors=True)
            os.replace(self.folder, previous)
        os.replace(self.partial, self.folder)

    def finish_promotion(self) -> None:
        """Complete a promotion that was cut short between its two renames."""
        if not self.folder.exists() and read_record(self.partial).get("status") == "ok":
            self.promote()


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
            table.writerows(
                (name, path, fact["size"], fact["sha256"]) for path, fact in files.items()
            )


def output_facts(folder: Path) -> Record:
    """Size and hash of every file under `data/` and `figures/`; leftovers of a killed write are
    removed.

    Files under `data/files/` are named by their own content and only counted.
    """
    for leftover in folder.rglob("*.tmp"):
        leftover.unlink()
    facts: Record = {}
    for name in ("data", "figures"):
        found = [
            path for path in expand(folder / name) if path.parent.parent.name != CONTENT_ADDRESSED
        ]
        facts |= {
            f"{name}/{path}": fact for path, fact in folder_facts(folder / name, found).items()
        }
    if stored := sum(1 for _ in (folder / "data" / CONTENT_ADDRESSED).glob("*/*")):
        facts[f"data/{CONTENT_ADDRESSED}"] = {"files": stored}
    if not facts:
        raise InputError(f"{folder}: the stage wrote neither data nor figures")
    return facts
