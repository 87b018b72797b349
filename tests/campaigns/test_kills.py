"""20 seeded SIGKILLs on a five-document set: the same bytes as an undisturbed run, and no answer
asked twice.
"""

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.sets import five_documents, result_bytes

ROOT = Path(__file__).resolve().parents[2]
KILLS = 20


def run_set(folder: Path, runs: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "vislib.run", str(folder)],
        cwd=ROOT,
        env={**os.environ, "VISLIB_RUNS": str(runs)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def answered_at(runs: Path) -> dict[str, float]:
    """When each journalled answer was written; an answer asked again would be given a later
    time.
    """
    files = sorted((runs / "journal").glob("*.sqlite"))
    return {
        key: at
        for file in files
        for key, at in sqlite3.connect(file).execute("SELECT key, answered_at FROM answers")
    }


@pytest.mark.campaign
def test_killed_runs_end_with_the_bytes_of_an_undisturbed_one(tmp_path):
    folder = five_documents(tmp_path / "five")
    whole = run_set(folder, tmp_path / "whole")
    output, _ = whole.communicate(timeout=900)
    assert whole.returncode == 0, output

    choice = random.Random(20)
    stages = sorted(file.stem for file in folder.glob("*.yaml"))
    answered: dict[str, float] = {}
    for number in range(KILLS):
        process = run_set(folder, tmp_path / "killed")
        wait_for_stage(process, stages[number * len(stages) // KILLS])
        time.sleep(choice.uniform(0.1, 3.0))
        assert process.poll() is None, f"kill {number} came too late"
        os.kill(choice.choice([process.pid, *kernels(process.pid)]), signal.SIGKILL)
        try:
            process.communicate(timeout=5)
        except (
            subprocess.TimeoutExpired
        ):  # the kernel had done its work: the runner went on with the next stage
            process.kill()
            process.communicate(timeout=60)
        now = answered_at(tmp_path / "killed")
        assert {key: now[key] for key in answered} == answered
        answered = now
    last = run_set(folder, tmp_path / "killed")
    output, _ = last.communicate(timeout=900)
    assert last.returncode == 0, output
    assert result_bytes(tmp_path / "killed/five") == result_bytes(tmp_path / "whole/five")
    assert answered_at(tmp_path / "killed").keys() == answered_at(tmp_path / "whole").keys()


def wait_for_stage(process: subprocess.Popen, stage: str) -> None:
    """Read the runner's lines until it has begun `stage`."""
    said = b""
    while stage.encode() not in said:
        block = os.read(process.stdout.fileno(), 4096)
        assert block, f"ended before {stage}: {said.decode()}"
        said += block


def kernels(parent: int) -> list[int]:
    """Processes that a runner has started."""
    found = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(parent)], capture_output=True, text=True, check=False
    )
    return [int(pid) for pid in found.stdout.split()]
