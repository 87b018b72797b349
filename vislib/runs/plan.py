"""What a run would do, stage by stage and why, before anything of it is done.

A change of code never destroys work in silence: what took long or would be paid again stops the run
until its owner says `--accept` (keep it) or `--redo` (make it again).
"""

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from vislib.runs.cells import preview
from vislib.runs.errors import InputError
from vislib.runs.keys import Change, exists, in_words, input_path, input_values, only_code
from vislib.runs.record import Run
from vislib.runs.sets import STAND_INS, SetFile, makers
from vislib.runs.stage import Record, Stage, read_record

_LONG_SECONDS = 600  # what takes less is sooner made again than asked about


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What becomes of one stage: `unchanged`, or `would run` with its reasons."""

    entry: SetFile
    verdict: str
    facts: Record
    attempt: str = ""  # what becomes of unfinished work
    accepted: Path | None = None  # the folder whose other code is accepted
    stop: str = ""  # why it must not be made again unasked
    lacking: InputError | None = None  # an input that no stage of this run makes

    @property
    def runs(self) -> bool:
        """Whether it would run, or might."""
        return self.verdict != "unchanged"


def matches(name: str, wanted: str) -> bool:
    """`07`, `07_qa_generation` and `10_finetuning.leaky` name a stage; `10_finetuning` names all
    its variants.
    """
    return wanted in (name, name.split("_")[0], name.split(".")[0])


def plan_all(entries: Sequence[SetFile], options: Namespace) -> list[Plan]:
    """The plan of every stage, in the light of those before it that would run."""
    plans: list[Plan] = []
    for entry in entries:
        running = {plan.entry.stage.name for plan in plans if plan.runs}
        plans.append(plan_one(entry, options, sorted(makers(entry) & running)))
    return plans


def plan_one(entry: SetFile, options: Namespace, before: Sequence[str] = ()) -> Plan:
    """The plan of a stage after others (`before`) that would run and may change its inputs."""
    stage, record = entry.stage, read_record(entry.stage.folder)
    try:
        facts = stage.facts(entry.place)
    except InputError as error:  # an input is missing, which a stage before it may make
        lacking = None if before else error
        return Plan(entry=entry, verdict="would run: not made yet", facts={}, lacking=lacking)
    found = _changes(stage, record, facts)
    accept, redo = (
        any(matches(stage.name, wanted) for wanted in names)
        for names in (options.accept, options.redo)
    )
    redo = redo or options.force
    accepted = _to_accept(stage, found, facts) if accept else None
    if accepted == stage.folder:  # an accepted attempt is gone on with, so its stage still runs
        found = []
    attempt = "" if accepted else stage.fate_of_attempt(facts)
    stop = ""
    if found or redo:
        verdict = "would run" + (f": {in_words(found)}" if found else "")
        if not redo and accepted is None and only_code(found):
            stop = _price(entry, record)
    elif before:
        # its inputs may come out the same, and then it stands
        verdict = f"would run if {', '.join(before)} changes its data"
    else:
        verdict = "unchanged"
    return Plan(
        entry=entry, verdict=verdict, facts=facts, attempt=attempt, accepted=accepted, stop=stop
    )


def _changes(stage: Stage, record: Record, facts: Record) -> list[Change]:
    """Why a stage's result is not that of today; empty if it is."""
    if not record:
        return [Change("new", "not made yet")]
    if record.get("status") != "ok":  # no page, no log of a whole run stands beside it
        return [Change("new", f"made outside the runner ({record.get('status')})")]
    found = stage.changes(record, facts)
    # hashed last: an edited table is rare, and reading all of them is slow
    if not found and not stage.is_intact(record):
        found = [Change("files", "its files are not those of its record")]
    return found


def _to_accept(stage: Stage, found: Sequence[Change], facts: Record) -> Path:
    """The result, the unfinished attempt or the one set aside that differs by its code alone."""
    reasons = []
    # the result first: who has one means it, and an attempt under way stays as it is
    for folder in (stage.folder, stage.partial, stage.aside()):
        if folder is None or not (record := read_record(folder)):
            continue
        differs = found if folder == stage.folder else stage.changes(record, facts)
        if differs and only_code(differs):
            return folder
        reasons.append(f"{folder.relative_to(stage.run)}: {in_words(differs) or 'no other code'}")
    said = "; ".join(reasons) or "nothing of it is there"
    raise InputError(
        f"--accept {stage.name}: it keeps work that differs by its code alone ({said});"
        " leave it out, or use --redo"
    )


def _price(entry: SetFile, record: Record) -> str:
    """What making a result again would cost; '' for little."""
    seconds = record.get("seconds", 0) + record.get("earlier_seconds", 0)
    if seconds > _LONG_SECONDS:
        return f"it took {seconds / 60:.0f} minutes"
    if asks(entry) and not (said := estimate(entry)).startswith("nothing to ask"):
        return f"it would ask a model again: {said}"
    return ""


def refuse_costly(plans: Sequence[Plan]) -> None:
    """Raise InputError if a costly result would be made again for its code alone."""
    lines = [
        f"{plan.entry.stage.name} {plan.verdict}, and {plan.stop}; give `--accept"
        f" {plan.entry.stage.name}` to keep its result (the record says so), or `--redo"
        f" {plan.entry.stage.name}` to make it again"
        for plan in plans
        if plan.stop
    ]
    if lines:
        raise InputError("\n       ".join(lines))


# ---- stages that ask a model


def asks(entry: SetFile) -> bool:
    """Whether a stage asks a model that may have a price."""
    return entry.stage.values.get("engine", "extractive") not in STAND_INS["engine"]


def engines_of(plans: Sequence[Plan]) -> list[tuple[Plan, Any]]:
    """The stages that ask a model with their engines, nothing opened yet. Raises InputError for
    settings of theirs.
    """
    found = []
    for plan in plans:
        if asks(plan.entry):
            # by name: sets that ask nobody do without the engines' imports
            check = import_module("vislib.engines.ask").check_parameters
            try:
                found.append((plan, check(SimpleNamespace(**plan.entry.stage.values))))
            except InputError as error:
                raise InputError(f"{plan.entry.place}: {error}") from error
    return found


def estimate(entry: SetFile) -> str:
    """What a stage that asks a model would ask, as far as its inputs are there already."""
    stage = entry.stage
    inputs = input_values(stage.schema, stage.values)
    if lacking := [value for _, value in inputs if not exists(input_path(value, stage.run))]:
        return f"no estimate before {', '.join(lacking)} is there"
    return preview(Run(stage, {}, []))  # without record or locks: it only looks


def meet_servers(engines: Sequence[tuple[Plan, Any]]) -> list[str]:
    """Raise InputError for what an asking stage lacks, before earlier stages are paid; notes.

    The key, and a server that answers. A stage that would not run, or has all answers, needs no
    server.
    """
    notes = []
    for plan, engine in engines:
        place, values = plan.entry.place, plan.entry.stage.values
        if not plan.runs or not engine.places or values["replay"]:
            continue
        try:
            seen = import_module("vislib.engines.identity").look(engine.places, engine.model)
        except InputError as error:
            # looked at only now: an estimate reads every row
            if estimate(plan.entry).startswith("nothing to ask"):
                continue
            raise InputError(f"{place}: {error}") from error
        notes += [f"{place}: note: {one.note}" for one in seen if one.note]
    return notes
