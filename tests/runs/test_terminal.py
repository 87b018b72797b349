"""The runner and papermill from any folder, on any terminal, into any folder."""

import json
import os
import subprocess
import sys
from pathlib import Path

from vislib.runs.accounts import summary

PLAIN = {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LC_ALL": "C"}


def elsewhere(project, folder: Path, **environment: str) -> dict:
    """Options of a subprocess in another folder, with the library installed as `pip install -e`
    does.
    """
    folder.mkdir(exist_ok=True)
    own = {
        "PYTHONPATH": str(project.root),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    return {"cwd": folder, "env": {**os.environ, **own, **environment}}


def one_stage(project) -> None:
    where = '(run.data / "where.txt").write_bytes(os.environb[b"VISLIB_RUNS"])'
    project.notebook("80_first", "n: int = 1  # a number", where, "run.finish()")
    project.parameters("80_first.yaml", "n: 1\n")


def test_an_ascii_terminal_another_folder_and_a_relative_one_for_the_runs(project, tmp_path):
    one_stage(project)
    options = elsewhere(project, tmp_path / "else", VISLIB_RUNS="my r\u00fcns", **PLAIN)
    command = [sys.executable, "-m", "vislib.run", str(project.root / "params/demo")]
    done = subprocess.run(command, capture_output=True, check=False, **options)
    assert (done.returncode, done.stderr) == (0, b""), done.stdout
    stage = tmp_path / "else/my r\u00fcns/demo/80_first"
    assert json.loads((stage / "run.json").read_text())["status"] == "ok"
    assert (stage / "data/where.txt").read_text() == str(tmp_path / "else/my r\u00fcns")
    assert not (project.root / "runs").exists()

    reader, writer = os.pipe()
    os.close(reader)  # as `| head` leaves it
    gone = subprocess.run(
        [*command, "--status"], stdout=writer, stderr=subprocess.PIPE, check=False, **options
    )
    os.close(writer)
    assert (gone.returncode, gone.stderr) == (1, b"")
    closed = subprocess.run(
        ["sh", "-c", '"$@" >&-', "sh", *command, "--status"],
        capture_output=True,
        check=False,
        **options,
    )
    assert (closed.returncode, closed.stderr) == (0, b"")


def test_an_unchanged_set_is_skipped_without_what_takes_long_to_import(project):
    one_stage(project)
    heavy = "{'papermill', 'IPython', 'nbconvert', 'pandas', 'torch', 'transformers'}"
    look = "import sys; from vislib.runs.runner import main; main(['params/demo', '--dry-run']); "
    command = [sys.executable, "-c", f"{look}print(sorted({heavy} & set(sys.modules)))"]
    done = subprocess.run(command, cwd=project.root, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1] == "[]", done.stdout + done.stderr


def test_papermill_in_another_folder(project, tmp_path):
    one_stage(project)
    options = elsewhere(project, tmp_path / "else", VISLIB_RUNS="mine")
    notebook = project.root / "notebooks/80_first.ipynb"
    done = subprocess.run(
        ["papermill", notebook, "out.ipynb"], capture_output=True, check=False, **options
    )
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "else/mine/demo/80_first/run.json").read_text())
    assert record["status"] == "finished"


def test_what_has_no_price_is_not_said_to_cost_nothing():
    used = {"tokens_in": 5, "tokens_out": 2}
    assert summary({"usage": used}) == "0.0 s · 7 tokens, no price set"
    assert summary({"usage": used | {"usd": 0.25}}) == "0.0 s · 7 tokens, $0.2500"
