"""Stages at once: `--jobs`, with real kernels."""

import os
import signal
import subprocess
import time
from pathlib import Path

KEEP = '(run.data / "rows").mkdir(); (run.data / "rows/x.txt").write_text("kept")'
# Each stage says that it is there, and goes on when the other one is.
MEET = """
import time
from pathlib import Path
Path(run.stage.run / "{own}").write_text(str(os.getpid()))
until = time.monotonic() + 120
while not (run.stage.run / "{other}").exists() and time.monotonic() < until:
    time.sleep(0.05)
assert (run.stage.run / "{other}").exists()
"""
SHARE = """
from vislib.runs.jobs import own_cores
assert own_cores() == max(1, len(os.sched_getaffinity(0)) // 2)
"""
SLEEP = 'import os, time; time.sleep(0 if os.environ.get("FAST") else 600)'


def two_that_meet(project, *then: str) -> None:
    for name, own, other in (("80_first", "a", "b"), ("81_second", "b", "a")):
        meet = MEET.format(own=own, other=other)
        project.notebook(name, "", meet, *then, KEEP, "run.finish()")
        project.parameters(f"{name}.yaml")


def test_stages_that_do_not_wait_for_each_other_run_at_once_and_others_after_them(project):
    two_that_meet(project, SHARE)
    contract = project.root / "vislib/runs/contract.py"
    tables = '{"rows": DROPPED, "dropped": DROPPED}'
    declared = f'SCHEMAS |= dict.fromkeys(("80_first", "81_second"), {tables})'
    contract.write_text(contract.read_text() + f"\n{declared}\n")
    both = 'a: str = "80_first"  # [input]\nb: str = "81_second"  # [input]'
    project.notebook("82_third", both, KEEP, "run.finish()")
    project.parameters("82_third.yaml", "a: 80_first/rows\nb: 81_second/rows\n")
    done = project.run("--jobs", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    *first, third, end = [line.split()[:2] for line in done.stdout.splitlines()]
    assert sorted(first) == [["80_first", "ok"], ["81_second", "ok"]]
    assert third == ["82_third", "ok"]
    assert end[0] == "results"
    again = project.run("--jobs", "2")
    assert (again.returncode, again.stdout.count("unchanged")) == (0, 3)


def test_after_a_failure_what_is_at_work_ends_and_nothing_begins(project):
    project.notebook("80_first", "", "1 / 0")
    for name in ("81_second", "82_third"):
        project.notebook(name, "", "import time; time.sleep(3)", KEEP, "run.finish()")
    for name in ("80_first", "81_second", "82_third"):
        project.parameters(f"{name}.yaml")
    done = project.run("--jobs", "2")
    assert done.returncode == 1
    assert "error: 80_first: ZeroDivisionError" in done.stdout
    assert project.record("81_second")["status"] == "ok"
    assert not (project.root / "runs/demo/82_third").exists()
    assert "results" not in done.stdout


def test_no_job_is_refused(project):
    two_that_meet(project)
    said = project.run("--jobs", "0")
    assert (said.returncode, said.stderr) == (2, "error: --jobs is 0; give 1 or more\n")


def begun(project, *options: str) -> tuple[subprocess.Popen[str], list[int]]:
    two_that_meet(project, SLEEP)
    process = subprocess.Popen(
        project.command("--jobs", "2"),
        cwd=project.root,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    files = [project.root / "runs/demo" / name for name in "ab"]
    deadline = time.monotonic() + 300
    while not all(file.exists() and file.read_text() for file in files):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return process, [int(file.read_text()) for file in files]


def is_alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def test_an_interrupt_ends_all_that_is_at_work_and_is_told_once(project):
    process, kernels = begun(project)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 130, said
    assert said.count("interrupted") == 1, said
    assert not any(map(is_alive, kernels))
    for name in ("80_first", "81_second"):
        assert "interrupted" in project.record(f"{name}.partial")["reason"]


def test_a_killed_runner_leaves_no_process_behind_and_the_next_goes_on(project):
    process, kernels = begun(project)
    process.kill()
    process.communicate(timeout=300)  # its children held the pipe open: they have ended
    again = project.run("--jobs", "2", FAST="1")
    assert again.returncode == 0, again.stdout + again.stderr
    assert not any(map(is_alive, kernels))


def test_a_stage_whose_process_is_killed_has_failed(project):
    process, kernels = begun(project)
    parent = Path(f"/proc/{kernels[0]}/stat").read_text().rpartition(")")[2].split()[1]
    os.kill(int(parent), signal.SIGKILL)
    process.send_signal(signal.SIGTERM)  # the other one sleeps
    said, _ = process.communicate(timeout=300)
    assert "80_first               FAILED\nerror: 80_first: ended by signal 9" in said
    assert process.returncode == 130
