"""The runner as a user meets it: what runs, what is skipped, what is refused; real kernels."""

import json
import os
import subprocess
from pathlib import Path

WRITE = '(run.data / "rows.txt").write_text(f"{n}\\n")'
COPY = '(run.data / "copy.txt").write_text((run.input("rows") / "rows.txt").read_text())'


def two_stages(project):
    project.notebook(
        "80_first",
        "n: int = 1  # a number [0..9]",
        'out = run.data / "numbers"; out.mkdir(exist_ok=True)',
        '(out / "rows.txt").write_text(f"{n}\\n")',
        "run.finish()",
    )
    project.notebook(
        "81_second", 'rows: str = "80_first/numbers"  # table [input]', COPY, "run.finish()"
    )
    project.parameters("80_first.yaml", "n: 3\nrun_dir: runs/demo\nvariant: ''\n")
    project.parameters("81_second.yaml", "rows: 80_first/numbers\n")


def allow_tables(project):
    """The test's stage is no stage of the contract, so its table is declared to the set's check."""
    contract = project.root / "vislib/runs/contract.py"
    contract.write_text(
        contract.read_text() + '\nSCHEMAS["80_first"] = {"numbers": DROPPED, "dropped": DROPPED}\n'
    )


def test_runs_skips_and_reruns_what_depends_on_a_change(project):
    two_stages(project)
    allow_tables(project)
    first = project.run()
    assert first.returncode == 0, first.stdout + first.stderr
    folder = project.root / "runs/demo/81_second"
    assert (folder / "data/copy.txt").read_text() == "3\n"
    assert {p.name for p in folder.iterdir()} == {
        "notebook.ipynb",
        "notebook.html",
        "params.yaml",
        "run.json",
        "inputs.csv",
        "data",
        "figures",
        "log.txt",
    }
    record = project.record("81_second")
    assert record["status"] == "ok"
    assert record["files"]["data/copy.txt"]["size"] == 2
    assert record["packages"]["pyarrow"]

    again = project.run()
    assert again.stdout.count("unchanged") == 2

    project.parameters("80_first.yaml", "n: 4\n")
    changed = project.run()
    assert changed.stdout.count(" ok ") == 2
    assert (folder / "data/copy.txt").read_text() == "4\n"
    assert (project.root / "runs/demo/81_second.previous/data/copy.txt").read_text() == "3\n"

    assert project.run("--dry-run", "--force").stdout.count("would run\n") == 2
    project.parameters("80_first.yaml", "n: 5\n")
    plan = project.run("--dry-run")
    assert "80_first               would run: parameter n 4 → 5\n" in plan.stdout
    assert "81_second              would run if 80_first changes its data" in plan.stdout
    status = project.run("--status")
    assert status.stdout.count("ok ") == 2


def test_a_table_changed_by_hand_is_made_again(project):
    two_stages(project)
    allow_tables(project)
    assert project.run().returncode == 0
    table = project.root / "runs/demo/80_first/data/numbers/rows.txt"
    table.write_text("9\n")
    assert (
        project.run().stdout.count(" ok ") == 1
    )  # 80 again; its data are then the same as before, so 81 stands
    assert table.read_text() == "3\n"
    table.unlink()
    assert project.run().stdout.count(" ok ") == 1
    for broken in ("[]", "null", "{", '{"inputs": [1]}'):
        (project.root / "runs/demo/81_second/run.json").write_text(broken)
        assert project.run("--dry-run").stdout.count("would run") == 1
    assert project.run().stdout.count(" ok ") == 1


def test_stray_files_and_reserved_variants_are_refused(project):
    project.notebook("80_first", "", '(run.data / "x").touch()', "run.finish()")
    project.parameters("80_first.yaml")
    for name, said in [
        ("80_first.yml", "rename it"),
        ("8_first.yaml", "rename it"),
        ("80_first.partial.yaml", "'partial' cannot"),
    ]:
        project.parameters(name)
        assert said in project.run().stderr
        (project.root / "params/demo" / name).unlink()
    assert project.run("--only", "80", "--from", "80").returncode == 2


def test_looking_and_finishing_twice_in_one_kernel(project):
    project.notebook(
        "80_first",
        "",
        '(run.data / "x").write_text("seen")',
        "run.finish()",
        'assert (run.data / "x").read_text() == "seen"',
        "",
        "from vislib.runs import InputError\nimport pytest",
        'with pytest.raises(InputError, match="is finished"): run.finish()',
    )
    project.parameters("80_first.yaml")
    done = project.run()
    assert done.returncode == 0, done.stdout


def test_a_failed_stage_keeps_the_last_good_folder_and_stops_the_set(project):
    two_stages(project)
    allow_tables(project)
    assert project.run().returncode == 0
    project.notebook(
        "80_first", "n: int = 1  # a number [0..9]", 'raise ValueError("the disk is full")'
    )
    failed = project.run()
    assert failed.returncode == 1
    assert "error: 80_first: ValueError: the disk is full" in failed.stdout
    assert "81_second" not in failed.stdout
    assert project.record("80_first")["status"] == "ok"
    partial = project.record("80_first.partial")
    assert (partial["status"], partial["reason"]) == ("failed", "ValueError: the disk is full")
    assert "Traceback" in (project.root / "runs/demo/80_first.partial/log.txt").read_text()


def test_every_file_is_checked_before_a_kernel_starts(project):
    two_stages(project)
    allow_tables(project)
    for text, said in [
        ("rows: 80_first/nothing\n", "80_first makes numbers, dropped"),
        ("rows: 79_other/rows\n", "does not exist"),
        ("rows: 7\n", "rows is 7 (int)"),
        ("row: x\n", "unknown parameter 'row'"),
        ("run_dir: runs/other\n", "its last part must be 'demo'"),
        ("variant: other\n", "the file's name says ''"),
    ]:
        project.parameters("81_second.yaml", text)
        bad = project.run()
        assert bad.returncode == 2, text
        assert said in bad.stderr, bad.stderr
        assert "81_second.yaml" in bad.stderr
        assert not (project.root / "runs").exists()


def test_an_input_that_only_a_later_stage_lacks_does_not_hold_up_an_earlier_one(project):
    two_stages(project)
    project.parameters("81_second.yaml", "rows: 79_other/rows\n")
    assert project.run("--only", "80").returncode == 0
    assert "79_other" in project.run("--from", "81").stderr
    assert project.run("--dry-run").returncode == 2


def test_unknown_sets_notebooks_and_stages_are_named(project):
    assert "no such folder" in project.run().stderr
    project.parameters("80_first.yaml")
    assert "no notebook 80_first.ipynb" in project.run().stderr
    project.notebook("80_first", "", '(run.data / "x").touch()', "run.finish()")
    assert "its stages are 80_first" in project.run("--only", "85").stderr


def test_a_variant_runs_the_notebook_twice_and_a_promotion_cut_short_is_completed(project):
    project.notebook("80_first", "n: int = 1  # a number [0..9]", WRITE, "run.finish()")
    project.parameters("80_first.a.yaml", "n: 1\n")
    project.parameters("80_first.b.yaml", "n: 2\n")
    assert project.run().returncode == 0
    runs = project.root / "runs/demo"
    assert (runs / "80_first.b/data/rows.txt").read_text() == "2\n"
    os.replace(runs / "80_first.a", runs / "80_first.a.partial")
    assert "80_first.a             unchanged" in project.run("--only", "80_first.a").stdout
    assert json.loads((runs / "80_first.a/run.json").read_text())["status"] == "ok"


def test_plain_papermill_ends_finished_and_runs_again_under_the_runner(project):
    project.notebook("80_first", "n: int = 1  # a number [0..9]", WRITE, "run.finish()")
    project.parameters("80_first.yaml", "n: 5\n")
    papermill = [
        "papermill",
        "notebooks/80_first.ipynb",
        "out.ipynb",
        "-f",
        "params/demo/80_first.yaml",
    ]
    environment = {**os.environ, "PATH": f"{Path(os.sys.executable).parent}:{os.environ['PATH']}"}
    plain = subprocess.run(
        papermill, cwd=project.root, capture_output=True, text=True, env=environment, check=False
    )
    assert plain.returncode == 0, plain.stderr
    assert project.record("80_first")["status"] == "finished"
    project.notebook("82_third", "", 'raise ValueError("no disk")')
    failing = subprocess.run(
        ["papermill", "notebooks/82_third.ipynb", "out.ipynb"],
        cwd=project.root,
        capture_output=True,
        env=environment,
        check=False,
    )
    assert failing.returncode != 0
    assert project.record("82_third.partial")["reason"] == "ValueError: no disk"
    typo = subprocess.run(
        [*papermill, "-p", "m", "3"],
        cwd=project.root,
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert typo.returncode != 0
    assert "unknown parameter 'm'" in typo.stderr
    assert " ok " in project.run().stdout
    assert project.record("80_first")["status"] == "ok"
