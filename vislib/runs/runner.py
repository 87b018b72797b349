"""`python -m vislib.run SET`: run a parameter set's notebooks in order, and only those whose key
has changed.

Nothing heavy is imported until a notebook must run, so that an unchanged set is skipped in about a
second.
"""

import argparse
import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from vislib.runs.digests import nothing_written
from vislib.runs.errors import InputError
from vislib.runs.keys import ROOT, expand, input_path, input_values
from vislib.runs.locking import FORCE_VARIABLE, FolderLock
from vislib.runs.provenance import pinned_versions
from vislib.runs.record import Run, summary
from vislib.runs.redaction import redact
from vislib.runs.sets import STAND_INS, SetFile, check_inputs, read_set, refuse_mixture, who_answers
from vislib.runs.stage import read_record, settle_runs_folder
from vislib.runs.terminal import any_terminal, reader_has_gone

_RUNS = "would run"


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line. Exit status: 0 all stages ok, 1 a stage failed, 2 bad input, 130
    interrupted.
    """
    any_terminal()
    settle_runs_folder()
    options = _parser().parse_args(arguments)
    try:
        entries = read_set(_set_folder(options.set))
        stages = _select(entries, options.only, options.start)
        if options.status:
            return _print_status(stages)
        check_inputs(entries, stages)
        if not options.only:
            refuse_mixture(entries)
        with nothing_written() if options.dry_run else nullcontext():
            return _run(stages, force=options.force, dry_run=options.dry_run)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of our lines has gone, as `head` does
        reader_has_gone()
        return 1
    except OSError as error:  # a full disk, a folder without permission: the message names it
        print(redact(f"error: {type(error).__name__}: {error}"), file=sys.stderr)
        return 1
    except Exception as error:
        print(
            redact(f"error: {type(error).__name__}: {error}\n{traceback.format_exc(limit=-3)}"),
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        print(
            "interrupted; what was done stays, and the same command goes on from there",
            file=sys.stderr,
        )
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m vislib.run", description=__doc__)
    parser.add_argument("set", help="folder of parameter files, such as params/sample")
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--only", default="", metavar="NAME", help="run this stage alone, as 07 or 07_qa_generation"
    )
    which.add_argument(
        "--from", default="", metavar="NAME", dest="start", help="run from this stage on"
    )
    parser.add_argument(
        "--force", action="store_true", help="run the selected stages even if nothing has changed"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="say what would run, and run nothing"
    )
    parser.add_argument(
        "--status", action="store_true", help="show the state of every stage, and run nothing"
    )
    return parser


def _set_folder(name: str) -> Path:
    """The folder as given, else under the project's root, else by name under params/."""
    given = Path(name).expanduser()
    return next((p for p in (given, ROOT / given, ROOT / "params" / given) if p.is_dir()), given)


def _select(entries: list[SetFile], only: str, start: str) -> list[SetFile]:
    names = [entry.stage.name for entry in entries]
    for wanted in filter(None, (only, start)):
        if not any(_matches(name, wanted) for name in names):
            raise InputError(f"no stage {wanted!r} in this set; its stages are {', '.join(names)}")
    if only:
        return [entry for entry in entries if _matches(entry.stage.name, only)]
    first = next((n for n, name in enumerate(names) if start and _matches(name, start)), 0)
    return entries[first:]


def _matches(name: str, wanted: str) -> bool:
    """`07`, `07_qa_generation` and `10_finetuning.leaky` name a stage; `10_finetuning` names all
    its variants.
    """
    return name == wanted or name.split("_")[0] == wanted or name.split(".")[0] == wanted


def _run(entries: list[SetFile], *, force: bool, dry_run: bool) -> int:
    for entry in entries:
        if omitted := [name for name in entry.omitted if name not in STAND_INS]:
            print(f"{entry.file.name}: takes the notebook's defaults for {', '.join(omitted)}")
    if answering := who_answers(entries):
        print(f"answers: {answering}")
    _meet_servers(entries, force=force)
    lock = FolderLock(entries[0].stage.run / ".lock")
    if not dry_run:
        lock.acquire()
    try:
        if force:
            os.environ[FORCE_VARIABLE] = "1"  # kernels ask failures again
        changed: set[str] = set()
        for entry in entries:
            if dry_run:
                _print_plan(entry, changed, force=force)
            elif not _run_stage(entry, force=force):
                return 1
    finally:
        os.environ.pop(FORCE_VARIABLE, None)
        lock.release()
    if not dry_run:
        _print_results(entries[0].stage.run)
    return 0


def _meet_servers(entries: list[SetFile], *, force: bool) -> None:
    """Raise InputError, with the file's name, for what an asking stage lacks: before earlier stages
    are paid.

    Settings, the key, and a server that answers. A stage that would not run, or has all answers,
    needs no server.
    """
    engines = {entry.stage.name: engine for entry in entries if (engine := _engine(entry))}
    changed: set[str] = set()
    for entry in entries if engines else ():
        try:
            verdict = _verdict(entry, changed, force=force)
        except InputError:  # an input is missing: its own turn says so
            verdict = _RUNS
        engine = engines.get(entry.stage.name)
        if (
            verdict == "unchanged"
            or not engine
            or not engine.places
            or entry.stage.values["replay"]
        ):
            continue
        try:
            seen = import_module("vislib.engines.identity").look_at_all(engine.places, engine.model)
        except InputError as error:
            if verdict == _RUNS and _estimate(entry).startswith("nothing to ask"):
                continue
            raise InputError(f"{entry.file}: {error}") from error
        for one in seen:
            if note := one.note or (
                one.unreachable and f"{one.url}: no connection ({one.unreachable})"
            ):
                print(f"{entry.file.name}: note: {note}")


def _engine(entry: SetFile) -> Any:
    """The engine of a stage that asks a model, nothing opened yet; None for others."""
    if entry.stage.values.get("engine", "extractive") == "extractive":
        return None
    try:
        return import_module("vislib.engines.asking").check_parameters(
            SimpleNamespace(**entry.stage.values)
        )
    except InputError as error:
        raise InputError(f"{entry.file}: {error}") from error


def _print_results(run: Path) -> None:
    """Where to look: the data set, the figures, the notebooks."""
    stages = [
        p
        for p in sorted(run.glob("[0-9][0-9]_*"))
        if not p.name.endswith((".partial", ".previous"))
    ]
    shown = {
        "data set": [p / "data" for p in stages if p.name[:2] in ("08", "09")][-1:],
        "figures": [p / "figures" for p in stages if any((p / "figures").glob("*"))],
        "notebooks": [p / "notebook.html" for p in stages if (p / "notebook.html").exists()],
    }
    for what, found in shown.items():
        if found:
            one = found[0] if len(found) == 1 else Path(run, "*", found[0].name)
            print(f"{what:<10} {_shown(one)}")


def _run_stage(entry: SetFile, *, force: bool) -> bool:
    """Skip or run one stage and print its line; whether it is ok."""
    stage = entry.stage
    stage.finish_promotion()
    try:
        key, facts = stage.key(str(entry.file))
    except InputError as error:
        stage.fail(str(error))
        print(f"{stage.name:<22} FAILED\nerror: {error}", flush=True)
        return False
    record = read_record(stage.folder)
    if not force and stage.is_current(key):
        print(f"{stage.name:<22} unchanged  {summary(record)}{_version_warning(record)}")
        return True
    from vislib.runs.execution import StageFailed, execute, interrupt_on_termination

    interrupt_on_termination()
    line = _Line(stage.name)
    try:
        record = execute(stage, key, facts, tell=line.tell)
    except StageFailed as error:
        said = str(error).removeprefix(f"{stage.notebook}: ")
        reason = redact(f"FAILED\nerror: {stage.name}: {said}")
        line.end(f"{reason}\n       log and notebook: {_shown(stage.partial)}")
        return False
    line.end(f"ok         {summary(record)}")
    return True


class _Line:
    """A stage's line on the terminal. Progress breaks it, and its end then begins with the name
    again.
    """

    def __init__(self, name: str) -> None:
        self._name, self._broken = f"{name:<22} ", False
        print(self._name, end="", flush=True)

    def tell(self, progress: str) -> None:
        with suppress(BrokenPipeError):  # the end finds out
            print("" if self._broken else "\n", f"    {progress}\n", sep="", end="", flush=True)
        self._broken = True

    def end(self, text: str) -> None:
        print(f"{self._name if self._broken else ''}{text}", flush=True)


def _verdict(entry: SetFile, changed: set[str], *, force: bool) -> str:
    """Whether a stage would run, in the light of those before it that would (`changed`, to which it
    is added).
    """
    stage = entry.stage
    upstream = [
        v for _, v in input_values(stage.schema, stage.values) if v.split("/")[0] in changed
    ]
    if upstream and (force or not read_record(stage.folder)):
        verdict = _RUNS
    elif upstream:
        verdict = (
            f"would run if {', '.join(sorted({v.split('/')[0] for v in upstream}))} changes its"
            " data"
        )
    else:
        verdict = (
            "unchanged" if not force and stage.is_current(stage.key(str(entry.file))[0]) else _RUNS
        )
    if verdict != "unchanged":
        changed.add(stage.name)
    return verdict


def _print_plan(entry: SetFile, changed: set[str], *, force: bool) -> None:
    verdict = _verdict(entry, changed, force=force)
    print(f"{entry.stage.name:<22} {verdict}")
    if verdict != "unchanged" and entry.stage.values.get("engine", "extractive") != "extractive":
        print(f"{'':<22}   {_estimate(entry)}", flush=True)


def _estimate(entry: SetFile) -> str:
    """What a stage that asks a model would ask, as far as its inputs are there already."""
    stage = entry.stage
    lacking = [
        value
        for _, value in input_values(stage.schema, stage.values)
        if not _exists(value, stage.run)
    ]
    if lacking:
        return f"no estimate before {', '.join(lacking)} is there"
    from vislib.engines.asking import preview

    run = Run(stage, {}, [])
    plan = import_module(f"vislib.{stage.notebook[3:]}").Plan.of(run)
    return preview(run, plan.requests)


def _exists(value: str, run: Path) -> bool:
    path = input_path(value, run)
    return path.is_dir() or bool(expand(path))


def _print_status(entries: list[SetFile]) -> int:
    running = FolderLock(entries[0].stage.run / ".kernel.lock").is_held()
    for entry in entries:
        stage = entry.stage
        record, partial = read_record(stage.folder), read_record(stage.partial)
        line = f"{record.get('status')!s:<9} {summary(record)}" if record else "not made"
        if stage.partial.exists():
            state = "at work" if running and stage.is_at_work() else partial.get("status", "failed")
            reason = partial.get("reason") or "ended before its result was taken over"
            line += f"\n{'':<22}   newer attempt: {state}: {reason}"
        print(f"{stage.name:<22} {line}")
    return 0


def _version_warning(record: dict[str, object]) -> str:
    packages = record.get("packages")
    made = {str(k).lower(): v for k, v in packages.items()} if isinstance(packages, dict) else {}
    other = [n for n, v in pinned_versions().items() if made.get(n.lower()) not in (None, v)]
    return (
        f"\n{'':<22} warning: made with other versions of {', '.join(other)}; --force makes it anew"
        if other
        else ""
    )


def _shown(path: Path) -> str:
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)
