"""`python -m vislib.run SET`: run a parameter set's notebooks in order, and only those whose key
has changed.

Nothing heavy is imported until a notebook must run, so that an unchanged set is skipped in about a
second.
"""

import argparse
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from vislib.runs.accounts import summary
from vislib.runs.errors import InputError
from vislib.runs.jobs import INTERRUPTED, run_at_once
from vislib.runs.locking import FORCE_VARIABLE, FolderLock
from vislib.runs.plan import (
    Plan,
    asks,
    engines_of,
    estimate,
    matches,
    meet_servers,
    plan_all,
    plan_one,
    refuse_costly,
)
from vislib.runs.provenance import pinned_versions, relative_to_root
from vislib.runs.redaction import redact
from vislib.runs.sets import (
    SetFile,
    check_inputs,
    makers,
    read_set,
    refuse_mixture,
    who_answers,
)
from vislib.runs.stage import Record, read_record, settle_runs_folder
from vislib.runs.terminal import any_terminal, reader_has_gone


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line. Exit status: 0 all stages ok, 1 a stage failed, 2 bad input, 130
    interrupted.
    """
    any_terminal()
    settle_runs_folder()  # a relative VISLIB_RUNS counts from where the user stands
    status = _guarded(_begin, _parser().parse_args(arguments))
    if status == INTERRUPTED:
        print(
            "interrupted; what was done stays, and the same command goes on from there",
            file=sys.stderr,
        )
    return status


def _begin(options: argparse.Namespace) -> int:
    if options.jobs < 1:
        raise InputError(f"--jobs is {options.jobs}; give 1 or more")
    entries = read_set(Path(options.set).expanduser())
    stages = _select(entries, options.only, options.start)
    for name in options.accept + options.redo:
        _select(stages, name, "")
    if options.status:
        return _print_status(stages)
    check_inputs(entries, stages)
    # a stage alone mixes nothing
    if not options.only:
        refuse_mixture(entries)
    return _run(stages, options)


def _guarded(work: Callable[..., int], *given: Any) -> int:
    """What `work` returns, or what its error says as an exit status and a message."""
    try:
        return work(*given)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of our lines has gone, as `head` does
        reader_has_gone()
        return 1
    except Exception as error:
        # a full disk or a folder without permission is named by its message
        trace = "" if isinstance(error, OSError) else f"\n{traceback.format_exc(limit=-3)}"
        print(redact(f"error: {type(error).__name__}: {error}{trace}"), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m vislib.run", description=__doc__)
    parser.add_argument("set", help="folder of parameter files, such as params/sample")
    which = parser.add_mutually_exclusive_group()
    of_one: dict[str, Any] = {"default": "", "metavar": "NAME"}
    which.add_argument("--only", help="run this stage alone, as 07 or 07_qa_generation", **of_one)
    which.add_argument("--from", help="run from this stage on", dest="start", **of_one)
    of_number: dict[str, Any] = {"type": int, "default": 1, "metavar": "N"}
    of_several: dict[str, Any] = {"action": "append", "default": [], "metavar": "NAME"}
    parser.add_argument("--accept", help="keep what other code made of this stage", **of_several)
    parser.add_argument("--redo", help="make this stage again, whatever it cost", **of_several)
    parser.add_argument(
        "--jobs", help="stages at once, as far as they do not wait for each other (1)", **of_number
    )
    for flag, what in (
        ("--force", "run the selected stages even if nothing has changed"),
        ("--dry-run", "say what would run and why, and run nothing"),
        ("--status", "show the state of every stage, and run nothing"),
    ):
        parser.add_argument(flag, action="store_true", help=what)
    return parser


def _select(entries: list[SetFile], only: str, start: str) -> list[SetFile]:
    wanted = only or start
    if not wanted:
        return entries
    found = [n for n, entry in enumerate(entries) if matches(entry.stage.name, wanted)]
    if not found:
        names = ", ".join(entry.stage.name for entry in entries)
        raise InputError(f"no stage {wanted!r} in this set; its stages are {names}")
    return [entries[n] for n in found] if only else entries[found[0] :]


def _run(entries: list[SetFile], options: argparse.Namespace) -> int:
    if answering := who_answers(entries):
        print(f"answers: {answering}")
    plans = plan_all(entries, options)
    engines = engines_of(plans)
    if options.dry_run:
        # first, since whoever has no key or server yet asks what it would cost
        for plan in plans:
            _print_plan(plan)
    for note in meet_servers(engines):
        print(note)
    if options.dry_run:
        for plan in plans:
            if plan.lacking:
                raise plan.lacking
        return 0
    refuse_costly(plans)  # before anything starts: a night's run stops now or not at all
    lock = FolderLock(entries[0].stage.run / ".lock")
    lock.acquire()
    try:
        for plan in plans:
            if plan.accepted:
                plan.entry.stage.accept(plan.accepted, plan.facts)
        if options.force:
            os.environ[FORCE_VARIABLE] = "1"  # kernels ask failures again
        # each is planned anew at its turn, when those before it have made its inputs
        options.accept = []
        status = _run_stages(entries, options, any(plan.runs for plan in plans))
    finally:
        os.environ.pop(FORCE_VARIABLE, None)
        lock.release()
    if not status:
        print(f"results in {relative_to_root(entries[0].stage.run)}")
    return status


def _run_stages(entries: list[SetFile], options: argparse.Namespace, runs: bool) -> int:
    """All stages in order, or several at once; the exit status."""
    if options.jobs < 2 or not runs:
        return next(filter(None, (_run_stage(entry, options) for entry in entries)), 0)
    from vislib.runs.execution import warm_up

    warm_up()
    work, needs = dict[str, Callable[[], int]](), dict[str, set[str]]()
    for entry in entries:
        needs[entry.stage.name] = makers(entry) & work.keys()
        work[entry.stage.name] = partial(_guarded, _run_stage, entry, options)
    return run_at_once(work, needs, jobs=options.jobs)


def _run_stage(entry: SetFile, options: argparse.Namespace) -> int:
    """Skip or run one stage and print its line; 0 if it is ok."""
    stage = entry.stage
    stage.finish_promotion()  # a kill between two renames left the result under its old name
    plan = plan_one(entry, options)
    if plan.lacking:
        stage.fail(str(plan.lacking))
        print(f"{stage.name:<22} FAILED\nerror: {plan.lacking}", flush=True)
        return 1
    if not plan.runs:
        record = read_record(stage.folder)
        print(f"{stage.name:<22} unchanged  {summary(record)}{_version_warning(record)}")
        return 0
    # papermill and the kernel's client take a second to import
    from vislib.runs.execution import StageFailed, execute

    # a scheduler sends SIGTERM a moment before it kills: the kernel is ended, the record written
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    line = _Line(stage.name, alone=options.jobs < 2)
    try:
        record = execute(stage, plan.facts, tell=line.tell)
    except StageFailed as error:
        said = str(error).removeprefix(f"{stage.notebook}: ")
        reason = redact(f"FAILED\nerror: {stage.name}: {said}")
        line.end(f"{reason}\n       log and notebook: {relative_to_root(stage.partial)}")
        return 1
    finally:
        signal.signal(signal.SIGTERM, before)  # a notebook that runs a set keeps its own
    line.end(f"ok         {summary(record)}")
    return 0


class _Line:
    """A stage's line on the terminal. Progress breaks it, and its end then begins with the name
    again. Where stages run at once (not `alone`), each line is written whole, with the name.
    """

    def __init__(self, name: str, *, alone: bool) -> None:
        self._name, self._alone, self._broken = f"{name:<22} ", alone, not alone
        if alone:
            print(self._name, end="", flush=True)  # what is at work is named before it ends

    def tell(self, progress: str) -> None:
        begin = "" if self._broken else "\n"
        with suppress(BrokenPipeError):  # the end finds out
            name = "    " if self._alone else self._name
            print(f"{begin}{name}{progress}\n", end="", flush=True)
        self._broken = True

    def end(self, text: str) -> None:
        print(f"{self._name if self._broken else ''}{text}", flush=True)


def _print_plan(plan: Plan) -> None:
    stage, accepted = plan.entry.stage, ""
    if plan.accepted:
        accepted = f" (accepted: {plan.accepted.relative_to(stage.run)})"
    print(f"{stage.name:<22} {plan.verdict}{accepted}")
    below = [plan.attempt] if plan.runs else []
    if plan.stop:
        below.append(f"the run would stop: {plan.stop}; give --accept or --redo with its name")
    if plan.runs and asks(plan.entry):
        below.append(estimate(plan.entry))
    for text in filter(None, below):
        print(f"{'':<22}   {text}", flush=True)


def _print_status(entries: list[SetFile]) -> int:
    for entry in entries:
        stage = entry.stage
        # a record cannot tell a stage at work from one whose kernel was killed; its lock can
        running = FolderLock(stage.lock_file("kernel")).is_held()
        record, partial = read_record(stage.folder), read_record(stage.partial)
        line = f"{record.get('status')!s:<9} {summary(record)}" if record else "not made"
        if stage.partial.exists():
            state = "at work" if running and stage.is_at_work() else partial.get("status", "failed")
            reason = partial.get("reason") or "ended before its result was taken over"
            line += f"\n{'':<22}   newer attempt: {state}: {reason}"
        print(f"{stage.name:<22} {line}")
    return 0


def _version_warning(record: Record) -> str:
    # no part of the key: a patch release of one package would make everything again
    made = {name.lower(): version for name, version in record.get("packages", {}).items()}
    other = [n for n, v in pinned_versions().items() if made.get(n.lower()) not in (None, v)]
    warning = f"made with other versions of {', '.join(other)}; --force makes it anew"
    return f"\n{'':<22} warning: {warning}" if other else ""
