"""Runs on network file systems: the journal's form, and locks where there is no flock."""

import errno
import fcntl
import json
import os
import sqlite3
import subprocess
import sys

import pytest

from vislib.runs import filesystems, locking, provenance
from vislib.runs.errors import InputError
from vislib.runs.journal import Journal
from vislib.runs.locking import FolderLock


@pytest.fixture
def mount(tmp_path, monkeypatch):
    """Makes a folder that stat(1) says is on a file system of some kind."""

    def make(kind: str):
        place = tmp_path / "on the net"
        place.mkdir()

        def stat(*command: str) -> str:
            return f"{kind}\n" if str(place) in command[-1] else "ext2/ext3\n"

        monkeypatch.setattr(filesystems, "output", stat)
        return place

    return make


def test_this_machine_tells_its_file_system(tmp_path):
    assert provenance.output("stat", "-f", "-c", "%T", str(tmp_path)).strip()


@pytest.mark.parametrize(
    "kind", ["nfs", "smb2", "lustre", "gpfs", "fuseblk", "v9fs", "UNKNOWN (0x1)"]
)
def test_no_write_ahead_log_where_memory_is_not_shared(tmp_path, mount, kind):
    place = mount(kind)
    assert filesystems.network_type(place) == kind
    assert not filesystems.network_type(tmp_path)
    one, other = Journal(place / "journal/demo.sqlite"), Journal(place / "journal/demo.sqlite")
    one.put("k", {"text": "paid"})
    assert other.get("k") == {"text": "paid"}
    assert not list(place.rglob("*-wal"))
    mode = sqlite3.connect(one.path).execute("PRAGMA journal_mode").fetchone()
    assert mode == ("delete",)  # what a new connection takes: the file holds no mark of WAL


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS])
def test_a_network_without_file_locks_is_named_before_anything_is_paid(monkeypatch, mount, number):
    place = mount("lustre")

    def no_locks(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "lockf", no_locks)
    with pytest.raises(
        InputError, match=r"this lustre, whose file locks do not work .* set VISLIB_RUNS"
    ):
        Journal(place / "journal/demo.sqlite")


@pytest.fixture(params=[errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def no_flock(request, monkeypatch):
    def missing(*_):
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(fcntl, "flock", missing)


def test_without_flock_a_marker_is_the_lock(tmp_path, monkeypatch, no_flock):
    monkeypatch.setattr(locking, "_WAIT_SECONDS", 0.1)
    first, second = FolderLock(tmp_path / "run/.lock"), FolderLock(tmp_path / "run/.lock")
    assert not second.is_held()
    first.acquire()
    assert second.is_held()
    with pytest.raises(InputError, match=f"in use by process {os.getpid()}"):
        second.acquire(wait=0.1)
    first.release()
    assert not second.is_held()
    second.acquire()
    second.release()
    os.close(locking.share(tmp_path / "run/.locks/80_first.workers"))


def test_without_flock_the_lock_of_a_killed_process_is_taken_over(tmp_path, no_flock):
    take = (
        "import fcntl, os, sys; from pathlib import Path\n"
        "def missing(*_): raise OSError(38, 'Function not implemented')\n"
        "fcntl.flock = missing\n"
        "from vislib.runs.locking import FolderLock\n"
        "lock = FolderLock(Path(sys.argv[1])); lock.acquire(); os.kill(os.getpid(), 9)"
    )
    file = tmp_path / ".lock"
    subprocess.run([sys.executable, "-c", take, str(file)], check=False)
    assert (tmp_path / ".lock.soft").exists()
    lock = FolderLock(file)
    lock.acquire()
    assert lock.owner()["pid"] == os.getpid()
    lock.release()


def test_a_holder_on_another_machine_is_named_with_the_way_out(tmp_path, no_flock):
    FolderLock(tmp_path / ".lock").acquire()
    owner = {"pid": 7, "host": "node17", "runner": "", "command": "vislib.run", "group": 7}
    (tmp_path / ".lock").write_text(json.dumps(owner))
    (tmp_path / ".lock.soft").write_text("7\nnode17\n")
    with pytest.raises(
        InputError, match=r"process 7 \(vislib.run\) on node17; .* remove \S+\.lock\.soft; wait"
    ):
        FolderLock(tmp_path / ".lock").acquire(wait=0.1)


def test_a_set_runs_and_tells_its_state_without_flock(project):
    project.notebook("80_first", "", '(run.data / "x").touch()', "run.finish()")
    project.parameters("80_first.yaml")
    module = project.root / "vislib/runs/locking.py"
    missing = 'def _missing(*_: Any) -> None: raise OSError(37, "No locks available")\n'
    module.write_text(f"{module.read_text()}\n{missing}fcntl.flock = _missing\n")
    done = project.run()
    assert done.returncode == 0, done.stdout + done.stderr
    status = project.run("--status")
    assert (status.returncode, status.stderr) == (0, "")
    assert status.stdout.startswith("80_first               ok ")
