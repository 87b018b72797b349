"""What a record says of its checkout, whatever bytes that holds."""

import json
import os
import subprocess

from vislib.runs import provenance
from vislib.runs.stage import read_record, write_record


def git(folder, *command: str) -> None:
    name = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *name, *command], cwd=folder, check=True, capture_output=True)


def test_bytes_that_are_no_utf8_in_changed_files_and_names_end_no_stage(tmp_path, monkeypatch):
    git(tmp_path, "init")
    (tmp_path / "note.txt").write_bytes(b"caf\xe9\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "one")
    (tmp_path / "note.txt").write_bytes(b"caf\xe9 au lait\n")
    (tmp_path / os.fsdecode(b"na\xefve.txt")).touch()
    command = list(provenance._GIT)
    command[command.index(str(provenance.ROOT))] = str(tmp_path)
    monkeypatch.setattr(provenance, "_GIT", command)
    state = provenance.git_state()
    assert len(state["commit"]) == 40
    assert "+caf\ufffd au lait" in state["diff"]
    assert len(state["changed"]) == 2
    write_record(tmp_path, {"git": state, "file": os.fsdecode(b"na\xefve.txt")})
    assert json.loads((tmp_path / "run.json").read_text())["git"] == state
    assert os.fsencode(read_record(tmp_path)["file"]) == b"na\xefve.txt"
