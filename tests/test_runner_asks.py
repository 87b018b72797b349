"""What the runner finds before the first kernel: who answers, with which key, and whether a server
is there.
"""

import shutil

import pytest

from tests.openai_server import KEY, MODEL, openai_server
from tests.sets import ROOT
from tests.test_estimate_dry_run import inputs_of_06
from vislib.runs import InputError, sets
from vislib.runs.runner import main
from vislib.runs.yaml_files import read_parameters, write_parameters


@pytest.fixture(autouse=True)
def _environment(monkeypatch, tmp_path):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("VISLIB_RUNS", str(tmp_path / "runs"))
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


@pytest.fixture
def mine(tmp_path):
    """A copy of the sample."""
    folder = tmp_path / "mine"
    return shutil.copytree(ROOT / "params/sample", folder)


@pytest.fixture
def made(mine, tmp_path):
    """The same, with what 06 reads; without the variant, which reads 04."""
    inputs_of_06(tmp_path / "runs/mine")
    (mine / "06_captioning.fused.yaml").unlink()
    return mine


def set_to(file, **values):
    given = read_parameters(file)
    file.unlink()
    write_parameters(file, given | values)


def asks(url):
    return {"engine": "openai", "model": MODEL, "base_url": url}


def test_a_set_that_mixes_a_model_with_stand_ins_must_name_them(mine, capsys):
    with openai_server() as server:
        set_to(mine / "06_captioning.yaml", **asks(server.url))
        assert main([str(mine), "--dry-run"]) == 2
        said = capsys.readouterr().err
        assert "06_captioning.yaml asks a model" in said
        for name, line in (
            ("04_selection", "embedding_model: efficientnet-lite0"),
            ("05_experts", "tagger: efficientnet-lite0"),
            ("06_captioning.fused", "engine: recorded"),
            ("07_qa_generation", "engine: recorded"),
            ("13_grounding", "engine: text evidence"),
            ("14_leakage", "engine: text evidence"),
        ):
            assert f"{mine / name}.yaml: `{line}`" in said
            parameter, _, value = line.partition(": ")
            set_to(mine / f"{name}.yaml", **{parameter: value})
        assert main([str(mine), "--dry-run"]) == 0
        told = capsys.readouterr().out
    assert "answers: 04_selection efficientnet-lite0 · 05_experts efficientnet-lite0" in told
    assert f"06_captioning openai {MODEL} · " in told
    assert "07_qa_generation recorded (no model)" in told


def test_a_set_of_stand_ins_alone_is_one(mine, capsys):
    assert main([str(mine), "--dry-run"]) == 0
    assert "07_qa_generation recorded (no model)" in capsys.readouterr().out


def test_the_sets_of_this_project_mix_nothing():
    found = [folder for folder in (ROOT / "params").iterdir() if any(folder.glob("[0-9]*.yaml"))]
    assert len(found) >= 6
    refused = []
    for folder in found:
        try:
            sets.refuse_mixture(sets.read_set(folder))
        except InputError as error:
            refused.append(str(error))
    assert refused == []


@pytest.mark.parametrize("run", [["--dry-run"], []])
def test_key_and_server_are_looked_for_before_the_first_kernel(
    made, tmp_path, capsys, monkeypatch, run
):
    six = made / "06_captioning.yaml"
    set_to(six, **asks("http://127.0.0.1:9/v1"))
    assert main([str(made), "--only", "06_captioning", *run]) == 2
    assert (
        "06_captioning.yaml: base_url http://127.0.0.1:9/v1: no connection"
        in capsys.readouterr().err
    )
    set_to(six, base_url="")
    monkeypatch.delenv("OPENAI_API_KEY")
    assert main([str(made), "--only", "06_captioning", *run]) == 2
    assert "06_captioning.yaml: https://api.openai.com/v1 needs a key" in capsys.readouterr().err
    assert not (tmp_path / "runs/mine/06_captioning.partial").exists()


def test_a_server_that_lists_nothing_is_noted_and_one_of_several_may_be_down(
    made, tmp_path, capsys
):
    with openai_server() as server:
        set_to(made / "06_captioning.yaml", **asks(f"http://127.0.0.1:9/v1 {server.url}"))
        assert main([str(made), "--only", "06_captioning", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "06_captioning.yaml: note: http://127.0.0.1:9/v1: no connection" in said
    assert f"06_captioning.yaml: note: {server.url}/models lists nothing (status 501)" in said


def test_what_asks_nothing_needs_no_server(made, tmp_path, capsys):
    set_to(made / "06_captioning.yaml", **asks("http://127.0.0.1:9/v1"), replay=True)
    assert main([str(made), "--only", "06_captioning", "--dry-run"]) == 0


def test_a_server_is_looked_for_though_inputs_are_missing(mine, capsys):
    set_to(mine / "06_captioning.yaml", **asks("http://127.0.0.1:9/v1"))
    assert main([str(mine), "--only", "06", "--dry-run"]) == 2
    assert (
        "06_captioning.yaml: base_url http://127.0.0.1:9/v1: no connection"
        in capsys.readouterr().err
    )
