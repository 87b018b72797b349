"""Stages at once (`--jobs`): each in a process of its own, begun when the stages that make its
inputs have ended.
"""

import os
import signal
import sys
from collections.abc import Callable, Mapping, Set
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import wait
from multiprocessing.context import ForkProcess
from types import FrameType
from typing import cast

from vislib.runs.locking import end_with

_VARIABLE = "VISLIB_JOBS"  # in a stage's environment: how many run at once
INTERRUPTED = 130  # exit status, as a shell has it
_STOPS = (signal.SIGINT, signal.SIGTERM)


def own_cores() -> int:
    """Cores that a stage may fill: its share of this machine's, where several run at once."""
    cores = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):  # of a batch job's share of a machine; macOS has none
        cores = len(os.sched_getaffinity(0))
    return max(1, cores // int(os.environ.get(_VARIABLE, "1")))


def run_at_once(
    work: Mapping[str, Callable[[], int]], needs: Mapping[str, Set[str]], *, jobs: int
) -> int:
    """Do all `work`, which returns an exit status, up to `jobs` at once and each after what it
    `needs`; the worst status.

    Nothing more begins once one has failed. SIGINT and SIGTERM are passed on to what is at work,
    and waited for.
    """
    # forked, since papermill, which is imported by now, takes seconds
    fork, waiting, status = get_context("fork"), dict(work), 0
    working: dict[str, ForkProcess] = {}

    def pass_on(number: int, frame: FrameType | None) -> None:
        nonlocal status
        status = INTERRUPTED
        for process in working.values():
            with suppress(ProcessLookupError):  # it has just ended
                os.kill(cast(int, process.pid), signal.SIGINT)

    before = {number: signal.signal(number, pass_on) for number in _STOPS}
    try:
        while working or (waiting and not status):
            for name in list(waiting):
                blocked = needs[name] & (waiting.keys() | working.keys())
                if not status and not blocked and len(working) < jobs:
                    args = waiting.pop(name), os.getpid(), jobs
                    # a stop that comes now waits until the child can be told, and hears
                    signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)
                    working[name] = fork.Process(target=_child, args=args, name=name)
                    working[name].start()
                    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)
            wait([process.sentinel for process in working.values()])
            for name in [name for name in working if working[name].exitcode is not None]:
                ended = working.pop(name).exitcode or 0
                if ended < 0:  # it could say nothing
                    print(f"{name:<22} FAILED\nerror: {name}: ended by signal {-ended}", flush=True)
                status = max(status, ended if ended >= 0 else 1)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return status


def _child(work: Callable[[], int], parent: int, jobs: int) -> None:
    os.setpgid(0, 0)  # a terminal's interrupt comes by the parent alone, and once
    for number in _STOPS:
        signal.signal(number, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)
    end_with(parent)
    os.environ[_VARIABLE] = str(jobs)
    # threads that spin while they wait would take a core from the other stages
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    sys.exit(work())
