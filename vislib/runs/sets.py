"""A parameter set: any folder of `NN_name[.variant].yaml` and `NN_name.csv`, each of which asks for
runs of one notebook; all are checked before any starts.

A file says what somebody decided; what it leaves out is the notebook's default. In a table each row
is a variant over the values of the YAML file of the same name. `engine.yaml` says once who answers
all stages that ask.
"""

import csv
import fnmatch
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vislib.runs.contract import SCHEMAS
from vislib.runs.errors import InputError
from vislib.runs.keys import ROOT, input_path, input_values, require_exists, table_reference
from vislib.runs.params import Schema, check_values, read_schema, refuse_unknown, resolve
from vislib.runs.stage import Stage
from vislib.runs.yaml_files import read_parameters

ENGINE_FILE = "engine.yaml"
# What answers where a model of the hub would, by the parameter that names it: the sample has these.
STAND_INS = {
    "engine": ("extractive", "recorded", "text evidence"),
    "tagger": ("efficientnet-lite0",),
    "detector": ("efficientnet-lite0",),
    "embedding_model": ("efficientnet-lite0",),
}
# A model behind an engine has a name of its own, and a place; the other two are models by name.
_ALSO = {"engine": "`engine: openai` with model and base_url"}
_OF_THE_NAME = ("run_dir", "variant")  # said by the names of folder, file and row
_VARIANT = re.compile(r"[\w.-]+")  # what an input `STAGE.VARIANT/TABLE` can name
_RUNNERS_OWN = ("partial", "previous", "")  # ends of the names of the runner's own folders


@dataclass(frozen=True, kw_only=True)
class SetFile:
    """One run of a notebook that a set asks for by a file, or by a row of a table; its stage, and
    the parameters that were left to engine.yaml and the notebook's defaults.
    """

    # what messages call it: a value may come from a row, its shared file or engine.yaml
    place: str
    stage: Stage
    # a stand-in that stands here was not chosen, which `refuse_mixture` asks for
    omitted: tuple[str, ...]


def read_set(folder: Path) -> list[SetFile]:
    """The stages of a set in order of file name, the rows of a table as they stand; what makes an
    input comes before what takes it. Any fault of any file is an InputError before anything runs.

    Inputs are checked by `check_inputs`, since those of a later stage may come after an earlier one
    has run.
    """
    schemas = {file: _schema_of(file) for file in _stage_files(folder)}
    shared = _read_engine(folder / ENGINE_FILE, list(schemas.values()))
    # by the stage's name, since two entries of one name would write one folder
    entries: dict[str, SetFile] = {}
    for file, schema in schemas.items():
        variant = file.stem.partition(".")[2]
        if file.suffix == ".csv":
            written = _read_table(file, schema)
        elif file.with_suffix(".csv") in schemas:
            continue  # what the rows of a table share is no variant of its own
        else:
            written = {variant: read_parameters(file)}
        for name, given in written.items():
            entry = _entry(file, schema, name, given, shared)
            if twin := entries.get(entry.stage.name):
                raise InputError(f"{entry.place}: {twin.place} is this variant already; keep one")
            entries[entry.stage.name] = entry
    return _makers_first(entries)


def makers(entry: SetFile) -> set[str]:
    """What may be the names of the stages that make a stage's inputs."""
    inputs = input_values(entry.stage.schema, entry.stage.values)
    return {value.split("/")[0] for _, value in inputs}


def _makers_first(entries: dict[str, SetFile]) -> list[SetFile]:
    """In the order given, but for a stage of a later number that makes an input: 17 may pass on to
    08 what 07 made.
    """
    ordered: dict[str, SetFile] = {}

    def place(name: str, takers: frozenset[str] = frozenset()) -> None:
        # in order of name too; of two that take from each other, the check of inputs refuses one
        for maker in sorted(
            makers(entries[name]) & entries.keys() - ordered.keys() - takers - {name}
        ):
            place(maker, takers | {name})
        ordered[name] = entries[name]

    for name in entries:
        if name not in ordered:
            place(name)
    return list(ordered.values())


def _stage_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        known = ", ".join(
            sorted(p.name for p in (ROOT / "params").iterdir() if any(p.glob("[0-9]*.yaml")))
        )
        raise InputError(
            f"{folder}: no such folder of parameter files; sets of this project in params/: {known}"
        )
    files = [*folder.glob("[0-9][0-9]_*.yaml"), *folder.glob("[0-9][0-9]_*.csv")]
    # variants of a table are rows, so that its own name holds none
    files = [file for file in files if file.suffix == ".yaml" or "." not in file.stem]
    # whatever looks like a parameter file is read or refused: a misspelt name must not be ignored
    for stray in sorted(set(folder.iterdir()) - {*files, folder / ENGINE_FILE}):
        if stray.suffix.lower() in (".yaml", ".yml", ".csv"):
            raise InputError(
                f"{stray}: is named neither NN_name.yaml, NN_name.variant.yaml nor NN_name.csv (a"
                " table of variants); rename it or move it away"
            )
    if not files:
        raise InputError(
            f"{folder}: holds no NN_name.yaml; each file must be named after a notebook"
        )
    return sorted(files)


def _schema_of(file: Path) -> Schema:
    source = Stage.notebook_file(file.name.split(".")[0])
    if not source.exists():
        known = ", ".join(sorted(p.stem for p in source.parent.glob("*.ipynb")))
        raise InputError(f"{file}: no notebook {source.name}; there are {known}")
    return read_schema(source)


def _read_engine(file: Path, schemas: Sequence[Schema]) -> dict[str, Any]:
    """Who answers all stages that ask: each takes from it what it knows, and its own file wins."""
    if not file.exists():
        return {}
    given = read_parameters(file)
    # a stage that trains has a `model` too, which is another matter
    asking = [schema for schema in schemas if "engine" in schema]
    # what only some stages know is theirs alone; what none knows is a misspelt name. The first
    # stage that knows a name says what it may be: judges know fewer engines than writers
    known = {
        name: parameter for schema in reversed(asking) for name, parameter in sorted(schema.items())
    }
    for name in _OF_THE_NAME:
        known.pop(name, None)
    check_values(known, given, f"{file} (for the stages of this set that ask)")
    return given


def _read_table(file: Path, schema: Schema) -> dict[str, dict[str, Any]]:
    """What each variant of a table says, by its name: the values of the shared file and, over them,
    those of its own cells.
    """
    columns, *rows = _cells(file)
    allowed = [name for name in schema if name not in _OF_THE_NAME]
    for column in columns[1:]:
        refuse_unknown(column, allowed, f"{file}: first row")
    shared_file = file.with_suffix(".yaml")
    shared = read_parameters(shared_file) if shared_file.exists() else {}
    # checked here, so that the message names this file and not the first row that takes from it
    check_values(schema, shared, str(shared_file))
    found: dict[str, dict[str, Any]] = {}
    for number, row in enumerate(rows, start=2):  # as a spreadsheet numbers them
        if not any(row):  # spreadsheets leave empty rows behind
            continue
        place = f"{file}: row {number} ({row[0]})"
        # a list without quotes falls apart into cells, which would shift all that follow
        if len(row) != len(columns):
            raise InputError(
                f"{place}: {len(row)} cells for {len(columns)} columns; a cell that holds a comma,"
                " such as a list, stands in double quotes"
            )
        if row[0] in found:
            raise InputError(f"{place}: the table has a variant {row[0]!r} already; rename one")
        cells = zip(columns[1:], row[1:], strict=True)
        # an empty cell leaves the shared value
        found[row[0]] = shared | {c: schema[c].read(text, place) for c, text in cells if text}
    if not found:
        raise InputError(f"{file}: has no row; write one for each variant, or delete the file")
    return found


def _cells(file: Path) -> list[list[str]]:
    """The rows of a table; the first holds the names of its columns, each once."""
    try:
        # spreadsheets put a byte order mark before the first column, which utf-8-sig takes away
        with file.open(encoding="utf-8-sig", newline="") as stream:
            rows = [[cell.strip() for cell in row] for row in csv.reader(stream, strict=True)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{file}: is no table of comma-separated values ({error})") from error
    columns = rows[0] if rows else []
    if columns[:1] != ["variant"]:
        raise InputError(
            f"{file}: its first column must be `variant`, with commas between columns; it has"
            f" {', '.join(columns) or 'none'}"
        )
    # of two columns of one name the later would win unseen
    for column in columns:
        if columns.count(column) > 1:
            raise InputError(f"{file}: column {column!r} is there twice; keep one")
    return rows


def _entry(
    file: Path, schema: Schema, variant: str, given: dict[str, Any], shared: dict[str, Any]
) -> SetFile:
    # resolved, since a set may be named by a link or as `.`
    table, folder = file.suffix == ".csv", file.resolve().parent.name
    named = table or "." in file.stem  # `10_finetuning..yaml` names a variant, an empty one
    if named and (not _VARIANT.fullmatch(variant) or variant.split(".")[-1] in _RUNNERS_OWN):
        raise InputError(
            f"{file}: {variant!r} cannot name a variant: letters, digits, _, - and . can, but"
            " partial and previous are the runner's own folders"
        )
    place = f"{file}: row {variant}" if table else str(file)
    # both may stand in the file too, where a copied params.yaml has them
    values = {"variant": variant, "run_dir": f"runs/{folder}"}
    if "engine" in schema and shared:
        values |= {name: value for name, value in shared.items() if _takes(schema, name, value)}
        place += f" with {ENGINE_FILE}"  # a value that is refused later may be of either
    values = resolve(schema, values | given, place)
    if values["variant"] != variant:
        who = "first cell" if table else "file's name"
        raise InputError(
            f"{place}: variant is {values['variant']!r}, but the {who} says {variant!r}"
        )
    # `../SET/STAGE/TABLE` finds a run by the name of its set
    if Path(values["run_dir"]).name != folder:
        raise InputError(
            f"{place}: run_dir is {values['run_dir']!r}; its last part must be {folder!r}"
        )
    stage = Stage(notebook=file.name.split(".")[0], schema=schema, values=values)
    omitted = tuple(name for name in schema if name not in given)
    return SetFile(place=place, stage=stage, omitted=omitted)


def _takes(schema: Schema, name: str, value: Any) -> bool:
    """Whether a stage takes a value of engine.yaml: a judge that the set's writers' rules cannot
    be stays with its own default.
    """
    return name in schema and (name != "engine" or value in schema[name].choices)


def _asking(stages: Sequence[SetFile]) -> list[tuple[SetFile, str, str]]:
    """Each parameter that names a model or what stands in for one, with its value."""
    # the embedding models of other stages than 04 are models by default: nothing stands in there
    return [
        (entry, name, entry.stage.values[name])
        for entry in stages
        for name in STAND_INS
        if name in entry.stage.values
        and (name != "embedding_model" or entry.stage.notebook == "04_selection")
    ]


def who_answers(stages: Sequence[SetFile]) -> str:
    """Which model, or stand-in for one, each stage of a set asks; empty if none does."""
    found: dict[str, dict[str, None]] = {}
    for entry, name, value in _asking(stages):
        if name == "engine":
            stands_in = value in STAND_INS[name]
            value += " (no model)" if stands_in else f" {entry.stage.values['model']}"
        found.setdefault(entry.stage.name, {})[value or "none"] = None
    return " · ".join(f"{stage} {', '.join(values)}" for stage, values in found.items())


def refuse_mixture(stages: Sequence[SetFile]) -> None:
    """A set whose one stage asks a model must say in each other's own file that a stand-in answers
    there.
    """
    asking = _asking(stages)
    # an empty text asks nobody: 05 without a tagger is a choice, and mixes nothing
    modelled = [entry for entry, name, value in asking if value not in ("", *STAND_INS[name])]
    stand_ins = [(entry, name, value) for entry, name, value in asking if value in STAND_INS[name]]
    # a file that names one of its stand-ins has chosen: 05 has the same one in two places
    choosing = {entry.place for entry, name, _ in stand_ins if name not in entry.omitted}
    unnamed = [
        f"{entry.place}: `{name}: {value}`, or a model's {_ALSO.get(name, 'name')}"
        for entry, name, value in stand_ins
        if entry.place not in choosing
    ]
    if modelled and unnamed:
        raise InputError(
            f"{modelled[0].place} asks a model, while other stages are left to stand-ins that none"
            " of their files has chosen: data of both would be mixed. Write the line that is meant:"
            f" {'; '.join(unnamed)}"
        )


def check_inputs(stages: Sequence[SetFile], chosen: Sequence[SetFile]) -> None:
    """Every input of the `chosen` stages of a set must exist, or be a table that an earlier file of
    the set makes.
    """
    for number, entry in enumerate(stages):
        if entry in chosen:
            _check_inputs(entry, [earlier.stage for earlier in stages[:number]])


def _check_inputs(entry: SetFile, earlier: Sequence[Stage]) -> None:
    # the name holds the variant, while what a stage makes is told by its notebook
    made = {stage.name: stage.notebook for stage in earlier}
    kinds = [
        kind
        for stage in earlier
        for kind in stage.values.get("kinds", [])
        if stage.notebook == "06_captioning"
    ]
    for name, value in input_values(entry.stage.schema, entry.stage.values):
        reference = table_reference(value)
        if reference and not reference[0] and reference[1] in made:
            table, tables = reference[2], list(SCHEMAS.get(made[reference[1]], {}))
            # 08 writes <kind>/<configuration>, of the kinds that 06 writes
            if "conversations" in tables:
                table = table.split("/")[0]
                # without a 06 in this set its kinds are another run's, and any may be right
                known = kinds if made[reference[1]] == "08_merging" else []
                tables = ["dropped", *(known or [table])]
            if "arms" in tables:
                tables.append("model")  # the folder of what was trained
            if not fnmatch.filter(tables, table):  # `*/*/*.parquet` takes all kinds
                raise InputError(
                    f"{entry.place}: {name} is {value!r}; {reference[1]} makes {', '.join(tables)}"
                )
        else:
            require_exists(input_path(value, entry.stage.run), entry.place, name, value)
