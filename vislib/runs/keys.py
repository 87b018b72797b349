"""The key of a stage: equal keys, equal data. It holds what can change the data, and nothing else.

Notebook source without outputs and without its parameters cell, the resolved parameters (without
`run_dir` and those marked [throughput]), content hashes of the inputs, and the `vislib` modules
that the notebook reaches by import.
"""

import ast
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from vislib.runs.errors import InputError
from vislib.runs.params import Schema

ROOT = Path(__file__).resolve().parents[2]
_TABLE = re.compile(
    r"^(?:\.\./(?P<run>[^/]+)/)?(?P<stage>\d\d_\w+(?:\.[\w.-]+)?)/(?P<table>[\w./-]+)$"
)


def sha256(data: bytes) -> str:
    """Hex SHA-256 of `data`."""
    return hashlib.sha256(data).hexdigest()


def notebook_hash(notebook: Path) -> str:
    """Hash of a notebook's cells (type and source), without outputs, metadata and the parameters
    cell.
    """
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    kept = [
        (cell["cell_type"], "".join(cell["source"]))
        for cell in cells
        if not {"parameters", "injected-parameters"} & set(cell.get("metadata", {}).get("tags", []))
    ]
    return sha256(json.dumps(kept).encode())


def code_files(notebook: Path) -> list[Path]:
    """Files of `vislib` that the notebook's code cells reach by import, templates and texts beside
    them included.
    """
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    plain = (re.sub(r"^\s*[%!].*$", "", source, flags=re.MULTILINE) for source in sources)
    waiting = [path for source in plain for path in _imports(source)]
    reached: set[Path] = set()
    while waiting:
        path = waiting.pop()
        if path not in reached:
            reached.add(path)
            waiting += _imports(path.read_text(encoding="utf-8"))
    packages = [path.parent for path in reached if path.name == "__init__.py"]
    return sorted(reached.union(*(_package_data(package) for package in packages)))


def _package_data(package: Path) -> set[Path]:
    """Files of a package that are not code (templates, texts, styles), without those of its
    subpackages.
    """
    files = {p for p in package.rglob("*") if p.is_file() and p.suffix not in (".py", ".pyc")}
    files = {
        p for p in files if not any(part.startswith(".") for part in p.relative_to(package).parts)
    }
    inner = [init.parent for init in package.rglob("__init__.py") if init.parent != package]
    return {p for p in files if not any(p.is_relative_to(folder) for folder in inner)}


def _imports(source: str) -> list[Path]:
    """Module files of `vislib` that a source imports at any depth, with the packages they stand
    in.
    """
    files = []
    for name in _imported(source):
        steps = name.split(".")
        for depth in range(1, len(steps) + 1):
            folder = ROOT.joinpath(*steps[:depth])
            files += [p for p in (folder.with_suffix(".py"), folder / "__init__.py") if p.is_file()]
    return files


@lru_cache(maxsize=1024)  # the stages of a set reach the same modules
def _imported(source: str) -> list[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return sorted(name for name in names if name.split(".")[0] == "vislib")


def code_hash(notebook: Path) -> str:
    """Hash over the names and contents of `code_files`."""
    lines = (
        f"{path.relative_to(ROOT)} {sha256(path.read_bytes())}" for path in code_files(notebook)
    )
    return sha256("\n".join(lines).encode())


def stage_key(
    notebook: Path, schema: Schema, values: Mapping[str, Any], input_hashes: Mapping[str, str]
) -> tuple[str, dict[str, Any]]:
    """The key of one stage and the hashes in it."""
    kept = {
        name: value
        for name, value in values.items()
        if name != "run_dir" and "throughput" not in schema[name].flags
    }
    hashes = {
        "notebook": notebook_hash(notebook),
        "code": code_hash(notebook),
        "parameters": kept,
        "inputs": dict(sorted(input_hashes.items())),
    }
    return sha256(json.dumps(hashes, sort_keys=True, ensure_ascii=False).encode()), hashes


# ---- inputs
# -------------------------------------------------------------------------------------------------


def table_reference(value: str) -> tuple[str, str, str] | None:
    """`(other run or '', stage, table)` when `value` names a table of a run, else None."""
    match = _TABLE.match(value)
    return (match["run"] or "", match["stage"], match["table"]) if match else None


def input_path(value: str, run_folder: Path) -> Path:
    """Where an [input] value lies: `<run_dir>/STAGE/data/TABLE`, or an outside path (from the
    project's root).
    """
    reference = table_reference(value)
    if reference is None:
        try:
            path = ROOT / Path(value).expanduser()
            path.exists()  # a name that is too long shows here
        except (OSError, RuntimeError, ValueError) as error:
            raise InputError(f"{value[:200]!r} is no usable path ({error})") from error
        return path
    run, stage, table = reference
    return (run_folder.parent / run if run else run_folder) / stage / "data" / table


def is_local_model(value: str) -> bool:
    """Whether a [model] value is a run's table or a path (which must exist), not an installed name
    or a hub id.
    """
    if table_reference(value):
        return True
    path = Path(value).expanduser()
    if (ROOT / path).exists() and value:
        return True
    return (
        path.is_absolute()
        or value.startswith((".", "~"))
        or value.count("/") > 1
        or bool(re.search(r"\.(json|model|gguf|txt)$", value))
    )


def input_values(schema: Schema, values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """`(parameter, entry)` of every non-empty [input] and every [model] that is a path, in order.

    With a `base_url`, a model is what the server calls it, whatever that looks like.
    """
    found = []
    for name, parameter in schema.items():
        entries = values[name] if isinstance(values[name], list) else [values[name]]
        if "input" in parameter.flags:
            found += [(name, entry) for entry in entries if entry]
        elif "model" in parameter.flags and not values.get("base_url"):
            found += [(name, entry) for entry in entries if is_local_model(entry)]
    return found


def expand(path: Path) -> list[Path]:
    """Files of an input: a file, all files below a folder, or the matches of a glob, `in_order`.

    Links to folders are followed, each folder is entered once.
    """
    if path.is_file():
        return [path]
    if path.is_dir():
        return sorted(
            (p for p in _below(path) if p.is_file() and not p.name.startswith(".")), key=in_order
        )
    anchor = Path(path.anchor)
    return sorted(
        (p for p in anchor.glob(str(path.relative_to(anchor))) if p.is_file()), key=in_order
    )


def in_order(path: Path) -> tuple[list[str | int], Path]:
    """Sort key of files whose numbers count: part-100000 comes after part-99999, not after
    part-10000.
    """
    pieces = re.split(r"([0-9]+)", str(path))
    return [int(piece) if number % 2 else piece for number, piece in enumerate(pieces)], path


def _below(folder: Path) -> Iterator[Path]:
    entered = set[tuple[int, int]]()
    for place, folders, names in os.walk(folder, followlinks=True):
        stat = os.stat(place)
        if (stat.st_dev, stat.st_ino) in entered:  # a link back to it
            folders.clear()
            continue
        entered.add((stat.st_dev, stat.st_ino))
        folders.sort()
        yield from (Path(place, name) for name in names)


def require_exists(path: Path, place: str, name: str, value: str) -> None:
    """Raise InputError unless an input's path or glob matches something."""
    if not expand(path) and not path.is_dir():
        mend = "mend the path or make it first"
        if reference := table_reference(value):
            near = next(folder for folder in path.parents if folder.is_dir())
            has = (
                f"{near} has"
                f" {', '.join(sorted(item.name for item in near.glob('[!.]*')))[:300] or 'nothing'}"
            )
            mend = has if reference[1] in near.parts else f"run {reference[1]} first, {has}"
        raise InputError(f"{place}: {name} is {value!r}, but {path} does not exist; {mend}")
