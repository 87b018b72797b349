"""The key of a stage: equal keys, equal data. It holds what can change the data, and nothing else.

The cells that make data, the pure code that they reach (`code`), the resolved parameters (without
`run_dir` and those marked [throughput]), and the content of the inputs. Each part has a digest of
its own in the record, so that a plan can say what has changed.
"""

import builtins
import json
import os
import re
import symtable
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from vislib.runs.code import ENGINES, MAGIC, code_reached, imports_of, source_digest
from vislib.runs.code import ROOT as ROOT
from vislib.runs.errors import InputError
from vislib.runs.params import Schema
from vislib.runs.remote import local_copy
from vislib.runs.seeding import short_hash

_TABLE = re.compile(
    r"^(?:\.\./(?P<run>[^/]+)/)?(?P<stage>\d\d_\w+(?:\.[\w.-]+)?)/(?P<table>[\w./*-]+)$"
)
Hashes = dict[str, Any]


class Change(NamedTuple):
    """One difference between the key of a record and today's: what kind, and in words."""

    kind: str  # parameter, input or code
    text: str


def stage_hashes(
    notebook: Path, schema: Schema, values: Mapping[str, Any], inputs: Mapping[str, str]
) -> Hashes:
    """Digests of all that can change a stage's data, by cell, module, parameter and input."""
    cells, imports = _data_cells(notebook)
    # The engine is chosen by a parameter: no import of the notebook leads to its code.
    imports += ENGINES if "engine" in schema else ()
    return {
        "cells": {str(number): source_digest(source) for number, source in cells},
        "code": code_reached(imports, looks=_is_figure(notebook)),
        "parameters": {
            name: value
            for name, value in values.items()
            if name != "run_dir" and "throughput" not in schema[name].flags
        },
        "inputs": dict(sorted(inputs.items())),
    }


def key_of(hashes: Hashes) -> str:
    """One digest of all; where cells stand among prose and looks is left out."""
    # numbers of cells are for people: a new paragraph moves them
    said = {**hashes, "cells": list(hashes.get("cells", {}).values())}
    return short_hash(json.dumps(said, sort_keys=True, ensure_ascii=False))


def _is_figure(notebook: Path) -> bool:
    """Figures begin at 20; all of their code shows in the result."""
    return notebook.name[:2] >= "20"


def _data_cells(notebook: Path) -> tuple[list[tuple[int, str]], list[str]]:
    """Number and source of the cells that make data, and the dotted names that they import.

    These are the cells tagged `work`; all code cells where none is, and in figures.
    """
    cells, work = dict[int, str](), dict[int, str]()
    for number, cell in enumerate(json.loads(notebook.read_text(encoding="utf-8"))["cells"], 1):
        tags = set(cell.get("metadata", {}).get("tags", []))
        if cell["cell_type"] == "code" and not tags & {"parameters", "injected-parameters"}:
            cells[number] = "".join(cell["source"])
            if "work" in tags:
                work[number] = cells[number]
    if not work or _is_figure(notebook):
        work = cells
    used = _check_work(notebook, cells, work)
    return list(work.items()), [
        dotted
        for number, source in cells.items()
        for name, dotted in imports_of(source)
        if number in work or name in used
    ]


def _check_work(notebook: Path, cells: Mapping[int, str], work: Mapping[int, str]) -> set[str]:
    """The names that `work` cells use. Raises InputError for one that only a look cell makes."""
    names = {number: _names(source) for number, source in cells.items()}
    made_by_work = {name for number in work for name in names[number][1]}
    for number in work:
        for look in cells.keys() - work.keys():
            # `run` itself is the ground that every cell stands on
            foreign = (names[number][0] & names[look][1]) - made_by_work - {"run"}
            if foreign:
                raise InputError(
                    f"{notebook}: cell {number} is tagged `work` and uses {min(foreign)}, which"
                    f" cell {look} makes without that tag, so that an edit there would go unseen;"
                    f" tag cell {look} `work`, or make {min(foreign)} in a cell that is"
                )
    return {name for number in work for name in names[number][0]}


def _names(source: str) -> tuple[set[str], set[str]]:
    """Names that a cell takes from its surroundings, and those that it assigns (not imports)."""
    used, made = set[str](), set[str]()
    with suppress(SyntaxError):  # the kernel will say so
        waiting = [symtable.symtable(MAGIC.sub("", source), "cell", "exec")]
        while waiting:
            table = waiting.pop()
            top = table.get_type() == "module"
            for symbol in table.get_symbols():
                if symbol.is_referenced() and (top or symbol.is_global()):
                    used.add(symbol.get_name())
                if top and symbol.is_assigned() and not symbol.is_imported():
                    made.add(symbol.get_name())
            waiting += table.get_children()
    return used - set(dir(builtins)), made


def changes(before: Hashes, now: Hashes, schema: Schema) -> list[Change]:
    """What differs between the hashes of a record and today's.

    A parameter that the record does not know counts as code while it stands at its default.
    """
    old, new = before.get("parameters", {}), now.get("parameters", {})
    found = []
    for name, value in new.items():
        was = old.get(name, schema[name].default)
        if was != value:  # of equal type, since both were resolved by a schema
            found.append(Change("parameter", f"parameter {name} {_brief(was)} → {_brief(value)}"))
    for name, digest in now.get("inputs", {}).items():
        parameter, _, entry = name.partition(":")
        # an input of a new parameter at its default counts as code, as the parameter does
        if parameter in old and before.get("inputs", {}).get(name) != digest:
            found.append(Change("input", f"input {entry}"))
    return found + [Change("code", text) for text in _code_changes(before, now)]


def only_code(found: Sequence[Change]) -> bool:
    """Whether a result differs by its code alone, so that its owner may accept it."""
    return all(change.kind == "code" for change in found)


def in_words(found: Sequence[Change]) -> str:
    """The first changes, as a plan says them."""
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    return ", ".join(change.text for change in found[:3]) + more


def _brief(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)  # a list of paths may be long
    return text if len(text) <= 60 else f"{text[:57]}…"


def _code_changes(before: Hashes, now: Hashes) -> Iterator[str]:
    cells, new = before.get("cells", {}), now.get("cells", {})
    if list(cells.values()) != list(new.values()):
        # by content: a cell that only moved among looks has not changed
        numbers = [number for number, digest in new.items() if digest not in cells.values()]
        yield f"notebook cell {', '.join(numbers)}" if numbers else "order of notebook cells"
    code, reached = before.get("code", {}), now.get("code", {})
    if isinstance(code, str):  # a record of an earlier version: one hash of all files
        code = {}
    for name in sorted(code.keys() | reached.keys()):
        if code.get(name) != reached.get(name):
            yield f"files of {name[:-2]}" if name.endswith("/*") else f"code of {name}"


# ---- inputs


def table_reference(value: str) -> tuple[str, str, str] | None:
    """`(other run or '', stage, table)` when `value` names a table of a run, else None."""
    match = _TABLE.match(value)
    return (match["run"] or "", match["stage"], match["table"]) if match else None


def input_path(value: str, run_folder: Path) -> Path:
    """Where an [input] value lies: `<run_dir>/STAGE/data/TABLE`, an outside path (from the
    project's root), or the copy of what a store has at an address (`s3://…`).
    """
    if "://" in value:
        return local_copy(value, run_folder.parent / "remote")
    reference = table_reference(value)
    if reference is None:  # files from outside start at the project's root, as commands do
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
    path = Path(value).expanduser()
    return (
        table_reference(value) is not None  # a model that a stage of a run trained
        or path.is_absolute()
        or value.startswith((".", "~"))
        or value.count("/") > 1
        or bool(re.search(r"\.(json|model|gguf|txt)$", value))
        or (value != "" and (ROOT / path).exists())
    )


def input_values(schema: Schema, values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """`(parameter, entry)` of every non-empty [input] and every [model] that is a path, in order.

    With a `base_url`, a model is what the server calls it, whatever that looks like. `answers` is
    read by the engine `recorded` alone.
    """
    found = []
    for name, parameter in schema.items():
        if name == "answers" and values.get("engine") != "recorded":
            continue
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
    found: Iterable[Path]
    if path.is_dir():  # hidden files are other programs' notes (.DS_Store) and never data
        found = (p for p in _below(path) if not p.name.startswith("."))
    else:
        anchor = Path(path.anchor)
        found = anchor.glob(str(path.relative_to(anchor)))
    return sorted((p for p in found if p.is_file()), key=in_order)


def in_order(path: Path) -> tuple[str, Path]:
    """Sort key of files whose numbers count: part-100000 comes after part-99999, not after
    part-10000.
    """
    return re.sub("[0-9]+", lambda number: number[0].zfill(20), str(path)), path


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


def exists(path: Path) -> bool:
    """Whether an input's path or glob matches something."""
    return path.is_dir() or bool(expand(path))


def require_exists(path: Path, place: str, name: str, value: str) -> None:
    """Raise InputError unless an input's path or glob matches something."""
    if not exists(path):
        mend = "mend the path or make it first"
        if reference := table_reference(value):
            # what lies nearest tells a slip of the pen from a stage that has not run
            near = next(folder for folder in path.parents if folder.is_dir())
            has = (
                f"{near} has"
                f" {', '.join(sorted(item.name for item in near.glob('[!.]*')))[:300] or 'nothing'}"
            )
            mend = has if reference[1] in near.parts else f"run {reference[1]} first, {has}"
        raise InputError(f"{place}: {name} is {value!r}, but {path} does not exist; {mend}")
