"""A full disk: words that say what to do, and a record that tells the truth."""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from vislib.runs import disk
from vislib.runs.stage import Stage, read_record


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 6 MB."""
    place = tmp_path / "small disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(place)]
    if os.getuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("file systems may not be mounted here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_is_named_with_its_room_and_the_way_on(project, small_disk):
    write = '(run.data / "big").write_bytes(b"x" * 9_000_000)'
    project.notebook("80_first", "", write, "run.finish()")
    project.parameters("80_first.yaml")
    good = small_disk / "demo/80_first"
    good.mkdir(parents=True)
    (good / "run.json").write_text('{"status": "ok"}')
    full = project.run(VISLIB_RUNS=str(small_disk))
    assert full.returncode == 1
    assert "Traceback" not in full.stdout + full.stderr
    assert "80_first: OSError: [Errno 28] No space left on device; " in full.stdout
    room = (
        rf"{re.escape(str(small_disk))}/demo has 0\.\d MB free of 6\.3\. The last good results and"
        r" the journal stay"
    )
    assert re.search(room, full.stdout), full.stdout
    assert read_record(good) == {"status": "ok"}
    status = project.run("--status", VISLIB_RUNS=str(small_disk)).stdout
    assert "newer attempt: failed: OSError: [Errno 28] No space left on device; " in status


def test_a_disk_that_is_full_when_the_result_is_taken_over(project):
    project.notebook("80_first", "", '(run.data / "x").touch()', "run.finish()")
    project.parameters("80_first.yaml")
    module = project.root / "vislib/runs/execution.py"
    fail = 'def _page(*_: Any) -> str: raise OSError(28, "No space left on device")\n'
    module.write_text(f"{module.read_text()}\n\n{fail}")
    full = project.run()
    assert full.returncode == 1
    assert "Traceback" not in full.stdout + full.stderr
    status = project.run("--status").stdout
    assert "newer attempt: failed: [Errno 28] No space left on device; " in status


def test_the_reason_of_a_failure_finds_room_on_a_full_disk(small_disk, monkeypatch):
    monkeypatch.setenv("VISLIB_RUNS", str(small_disk))
    stage = Stage(notebook="80_first", schema={}, values={"variant": "", "run_dir": "runs/demo"})
    stage.open_partial("key", {"hashes": {}, "inputs": {}})
    with pytest.raises(OSError, match="No space"):
        (small_disk / "filler").write_bytes(b"x" * 9_000_000)
    stage.fail("the reason")
    assert read_record(stage.partial)["reason"] == "the reason"
    with pytest.raises(OSError, match="No space"):
        (small_disk / "more").write_bytes(b"x" * 9_000_000)
    stage.fail("there is no room any more " * 9999)  # and no error
    assert json.loads((stage.partial / "run.json").read_text())["reason"] == "the reason"


def test_errors_that_say_full():
    for said in (
        OSError(28, os.strerror(28)),
        OSError(122, os.strerror(122)),
        "database or disk is full",
    ):
        assert disk.is_full(said)
    assert not disk.is_full(PermissionError(13, os.strerror(13)))
