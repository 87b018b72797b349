"""How a stage ends, told truthfully: real kernels, real kills, signals and secrets."""

import re
import signal
import subprocess
import time
from pathlib import Path


def test_an_early_exit_and_a_missing_last_cell_are_failures(project):
    project.notebook("80_first", "", "sys.exit(0)", "run.finish()")
    project.parameters("80_first.yaml")
    exited = project.run()
    assert exited.returncode == 1
    assert project.record("80_first.partial")["status"] == "failed"
    project.notebook("80_first", "", "1 + 1")
    unfinished = project.run()
    assert "run.finish() is missing" in unfinished.stdout
    assert not (project.root / "runs/demo/80_first").exists()


def test_a_killed_kernel_is_a_failure_and_the_stage_resumes(project):
    project.notebook(
        "80_first",
        "",
        'done = run.scratch / "done"',
        "if not done.exists(): done.touch(); os.kill(os.getpid(), 9)",
        '(run.data / "rows.txt").write_text("resumed")',
        "run.finish()",
    )
    project.parameters("80_first.yaml")
    killed = project.run()
    assert killed.returncode == 1
    assert "FAILED" in killed.stdout
    assert project.record("80_first.partial")["status"] == "failed"
    assert project.run().returncode == 0
    assert project.record("80_first")["status"] == "ok"


def _start_slow(project) -> subprocess.Popen:
    project.notebook(
        "80_first",
        "",
        '(run.data / "pid").write_text(str(os.getpid()))',
        'import time; time.sleep(0 if os.environ.get("FAST") else 600)',
        '(run.data / "pid").write_text("done")',
        "run.finish()",
    )
    project.parameters("80_first.yaml")
    process = subprocess.Popen(
        project.command(),
        cwd=project.root,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    pid = project.root / "runs/demo/80_first.partial/data/pid"
    deadline = time.monotonic() + 300
    while not pid.exists() or not pid.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return process


def _alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def test_ctrl_c_ends_the_kernel_and_records_a_failure(project):
    process = _start_slow(project)
    kernel = int((project.root / "runs/demo/80_first.partial/data/pid").read_text())
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 130, output
    assert not _alive(kernel)
    assert project.record("80_first.partial")["status"] == "failed"
    assert "interrupted" in project.record("80_first.partial")["reason"]


def test_a_killed_runner_leaves_a_failure_and_its_orphan_is_ended_by_the_next(project):
    process = _start_slow(project)
    kernel = int((project.root / "runs/demo/80_first.partial/data/pid").read_text())
    process.kill()
    process.communicate()
    assert project.record("80_first.partial")["status"] == "failed"
    rerun = project.run(FAST="1")
    assert rerun.returncode == 0, rerun.stdout + rerun.stderr
    assert not _alive(kernel)


def test_two_runners_do_not_share_a_folder(project):
    locking = project.root / "vislib/runs/locking.py"
    locking.write_text(locking.read_text().replace("_WAIT_SECONDS = 20.0", "_WAIT_SECONDS = 1.0"))
    process = _start_slow(project)
    second = subprocess.run(
        [*project.command()],
        cwd=project.root,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert second.returncode == 2
    assert f"in use by process {process.pid}" in second.stderr
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=300)


def test_no_secret_reaches_an_artefact(project):
    project.notebook(
        "80_first",
        "",
        'print(os.environ["OPENAI_API_KEY"])',
        'import logging; logging.getLogger("vislib").warning("key %s",'
        ' os.environ["OPENAI_API_KEY"])',
        'run.journal("demo").put("k", {"text": os.environ["OPENAI_API_KEY"]})',
        '(run.folder / "server.log").write_text(os.environ["OPENAI_API_KEY"])',
        'run.metrics["key"] = os.environ["OPENAI_API_KEY"]; (run.data / "x").touch()',
        "run.finish()",
    )
    project.parameters("80_first.yaml")
    secret = "sk-loopback-0123456789"
    assert project.run(OPENAI_API_KEY=secret).returncode == 0
    kept = [p for p in (project.root / "runs").rglob("*") if p.is_file()]
    assert any(p.suffix == ".sqlite" for p in kept)
    assert [p.name for p in kept if secret.encode() in p.read_bytes()] == []
    assert (
        "[OPENAI_API_KEY removed]"
        in (project.root / "runs/demo/80_first/notebook.ipynb").read_text()
    )


def test_progress_is_shown_below_the_stages_name_which_its_end_repeats(project):
    say = 'import logging; logging.getLogger("vislib.runs.progress").info("9 of 20 images · {}")'
    note = 'logging.getLogger("vislib.other").info("9 of 20 notes")'
    project.notebook(
        "80_first",
        "",
        say.format(1),
        note,
        say.format(2),
        '(run.data / "x").touch()',
        "run.finish()",
    )
    project.notebook("81_second", "", say.format(3), "1 / 0")
    project.notebook("79_quiet", "", '(run.data / "x").touch()', "run.finish()")
    for name in ("79_quiet", "80_first", "81_second"):
        project.parameters(f"{name}.yaml")
    lines = [line.rstrip() for line in project.run().stdout.splitlines()]
    assert re.match(r"79_quiet +ok ", lines[0])
    assert lines[1:4] == ["80_first", "    9 of 20 images · 1", "    9 of 20 images · 2"]
    assert re.match(r"80_first +ok ", lines[4])
    assert lines[5:7] == ["81_second", "    9 of 20 images · 3"]
    assert re.match(r"81_second +FAILED$", lines[7])
    (project.root / "params/demo/81_second.yaml").unlink()
    assert "9 of 20" not in project.run("--force", "--only", "79").stdout


def test_a_kernel_that_hangs_on_its_way_out_holds_nothing_up(project):
    hang = "import atexit, threading; atexit.register(threading.Event().wait)"
    project.notebook("80_first", "", hang, '(run.data / "x").touch()', "run.finish()")
    project.parameters("80_first.yaml")
    assert re.match(r"80_first +ok ", project.run().stdout)  # within the limit of a command
