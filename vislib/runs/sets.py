"""A parameter set: any folder of `NN_name[.variant].yaml`, one per notebook run, checked before any
starts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vislib.runs.contract import SCHEMAS
from vislib.runs.errors import InputError
from vislib.runs.keys import ROOT, input_path, input_values, require_exists, table_reference
from vislib.runs.params import resolve
from vislib.runs.stage import Stage
from vislib.runs.yaml_files import read_parameters

# Parameters whose default stands in for a model, so that the sample needs none, and that default.
STAND_INS = {"engine": "extractive", "tagger": "measured", "embedding_model": "colour-gradient"}
_NO_MODEL = " (no model)"
_ALSO = {"engine": "`engine: openai` with model and base_url"}


@dataclass(frozen=True, kw_only=True)
class SetFile:
    """One file of a set, its stage, and the parameters that it left to the notebook's defaults."""

    file: Path
    stage: Stage
    omitted: tuple[str, ...]


def read_set(folder: Path) -> list[SetFile]:
    """The stages of a set in order of file name. Any fault of any file is an InputError before
    anything runs.

    Inputs are checked by `check_inputs`, since those of a later stage may come after an earlier one
    has run.
    """
    if not folder.is_dir():
        known = ", ".join(
            sorted(p.name for p in (ROOT / "params").iterdir() if any(p.glob("[0-9]*.yaml")))
        )
        raise InputError(
            f"{folder}: no such folder of parameter files; sets of this project in params/: {known}"
        )
    files = sorted(folder.glob("[0-9][0-9]_*.yaml"))
    for stray in sorted(
        {p for p in folder.iterdir() if p.suffix.lower() in (".yaml", ".yml")} - set(files)
    ):
        raise InputError(
            f"{stray}: is not named NN_name.yaml or NN_name.variant.yaml; rename it or move it away"
        )
    if not files:
        raise InputError(
            f"{folder}: holds no NN_name.yaml; each file must be named after a notebook"
        )
    return [_read_file(file, folder) for file in files]


def _read_file(file: Path, folder: Path) -> SetFile:
    notebook, dot, variant = file.name.removesuffix(".yaml").partition(".")
    if dot and (not variant or variant.split(".")[-1] in ("partial", "previous", "")):
        raise InputError(
            f"{file}: {variant!r} cannot name a variant; partial and previous are the runner's own"
            " folders"
        )
    source = Stage.notebook_file(notebook)
    if not source.exists():
        known = ", ".join(sorted(p.stem for p in source.parent.glob("*.ipynb")))
        raise InputError(f"{file}: no notebook {notebook}.ipynb; there are {known}")
    given = read_parameters(file)
    stage = Stage.of(notebook, {})
    omitted = tuple(
        name for name in stage.schema if name not in given and name not in ("run_dir", "variant")
    )
    given.setdefault("variant", variant)
    given.setdefault("run_dir", f"runs/{folder.resolve().name}")
    values = resolve(stage.schema, given, str(file))
    if values["variant"] != variant:
        raise InputError(
            f"{file}: variant is {values['variant']!r}, but the file's name says {variant!r}"
        )
    if Path(values["run_dir"]).name != folder.resolve().name:
        raise InputError(
            f"{file}: run_dir is {values['run_dir']!r}; its last part must be"
            f" {folder.resolve().name!r}"
        )
    return SetFile(file=file, stage=Stage.of(notebook, values), omitted=omitted)


def who_answers(stages: Sequence[SetFile]) -> str:
    """Which model, or stand-in for one, each stage of a set asks; empty if none does."""
    found = []
    for entry in stages:
        for name in (n for n in STAND_INS if n in entry.stage.values and _is_ours(entry, n)):
            value = entry.stage.values[name]
            model = (
                f" {entry.stage.values['model']}"
                if name == "engine" and value != STAND_INS[name]
                else ""
            )
            found.append(
                f"{entry.stage.name}"
                f" {value or 'none'}{model}{_NO_MODEL * (value == STAND_INS[name])}"
            )
    return " · ".join(found)


def refuse_mixture(stages: Sequence[SetFile]) -> None:
    """A set whose one stage asks a model must say in each other's own file that a stand-in answers
    there.
    """
    asking = [(e, n) for e in stages for n in STAND_INS if n in e.stage.values and _is_ours(e, n)]
    modelled = [e for e, name in asking if e.stage.values[name] not in ("", STAND_INS[name])]
    unnamed = [(e, n) for e, n in asking if e.stage.values[n] == STAND_INS[n] and n in e.omitted]
    if modelled and unnamed:
        lines = "; ".join(
            f"{e.file}: `{n}: {STAND_INS[n]}`, or a model's {_ALSO.get(n, 'name')}"
            for e, n in unnamed
        )
        raise InputError(
            f"{modelled[0].file} asks a model, while other stages are left to stand-ins that none"
            f" has chosen: data of both would be mixed. Write the line that is meant: {lines}"
        )


def _is_ours(entry: SetFile, name: str) -> bool:
    return (
        name != "embedding_model" or entry.stage.notebook == "04_selection"
    )  # 08's default is a model


def check_inputs(stages: Sequence[SetFile], chosen: Sequence[SetFile]) -> None:
    """Every input of the `chosen` stages of a set must exist, or be a table that an earlier file of
    the set makes.
    """
    for number, entry in enumerate(stages):
        if entry in chosen:
            _check_inputs(entry, [earlier.stage for earlier in stages[:number]])


def _check_inputs(entry: SetFile, earlier: Sequence[Stage]) -> None:
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
            if (
                "conversations" in tables
            ):  # 08 writes <kind>/<configuration>, of the kinds that 06 writes
                table, tables = table.split("/")[0], ["dropped", *(kinds or [table.split("/")[0]])]
            tables += ["model"] if "arms" in tables else []  # the folder of what was trained
            if table not in tables:
                raise InputError(
                    f"{entry.file}: {name} is {value!r}; {reference[1]} makes {', '.join(tables)}"
                )
        else:
            require_exists(input_path(value, entry.stage.run), str(entry.file), name, value)
