"""What a stage's key holds, and what it leaves out."""

import json
from pathlib import Path

import pytest

from vislib.runs import keys
from vislib.runs.errors import InputError
from vislib.runs.params import Parameter


def book(file: Path, *cells: tuple[str, str, list[str]]) -> Path:
    file.write_text(
        json.dumps(
            {
                "cells": [
                    {
                        "cell_type": kind,
                        "source": source,
                        "metadata": {"tags": tags},
                        "outputs": [source],
                        "execution_count": 3,
                    }
                    for kind, source, tags in cells
                ]
            }
        )
    )
    return file


def test_outputs_and_the_parameters_cell_are_not_in_the_notebooks_hash(tmp_path):
    one = keys.notebook_hash(
        book(tmp_path / "a.ipynb", ("code", "x = 1", []), ("code", "n: int = 1", ["parameters"]))
    )
    other = json.loads((tmp_path / "a.ipynb").read_text())
    other["cells"][0] |= {"outputs": ["new"], "execution_count": 9}
    other["cells"][1]["source"] = "n: int = 2"
    (tmp_path / "b.ipynb").write_text(json.dumps(other))
    assert keys.notebook_hash(tmp_path / "b.ipynb") == one
    other["cells"][0]["source"] = "x = 2"
    (tmp_path / "b.ipynb").write_text(json.dumps(other))
    assert keys.notebook_hash(tmp_path / "b.ipynb") != one


def test_code_is_followed_through_imports_at_any_depth_with_its_templates(tmp_path, monkeypatch):
    library = tmp_path / "vislib"
    for name, text in {
        "__init__.py": "",
        "one.py": "def f():\n    from vislib.deep import inner\n",
        "two.py": "",
        "deep/__init__.py": "",
        "deep/inner.py": "import json",
        "deep/words.txt": "template",
        "deep/more/__init__.py": "",
        "deep/more/other.txt": "of a package that nobody imports",
        "stray.txt": "beside the code",
    }.items():
        (library / name).parent.mkdir(parents=True, exist_ok=True)
        (library / name).write_text(text)
    monkeypatch.setattr(keys, "ROOT", tmp_path)
    notebook = book(
        tmp_path / "a.ipynb",
        ("code", "%matplotlib inline\nfrom vislib import one", []),
        ("markdown", "import vislib.two", []),
    )
    names = {str(p.relative_to(library)) for p in keys.code_files(notebook)}
    assert names == {
        "__init__.py",
        "one.py",
        "deep/__init__.py",
        "deep/inner.py",
        "deep/words.txt",
        "stray.txt",
    }
    before = keys.code_hash(notebook)
    (library / "two.py").write_text("changed = 1")
    assert keys.code_hash(notebook) == before
    (library / "deep/words.txt").write_text("another template")
    assert keys.code_hash(notebook) != before


def parameter(name, *flags):
    return Parameter(name=name, type="str", default="", help="", flags=frozenset(flags))


def test_throughput_and_run_dir_are_not_keyed_but_inputs_are(tmp_path):
    notebook = book(tmp_path / "a.ipynb", ("code", "x = 1", []))
    schema = {
        n: parameter(n, *f) for n, f in {"a": [], "workers": ["throughput"], "run_dir": []}.items()
    }

    def key(values, hashes):
        return keys.stage_key(notebook, schema, values, hashes)[0]

    base = key({"a": 1, "workers": 1, "run_dir": "runs/x"}, {"i": "1"})
    assert key({"a": 1, "workers": 8, "run_dir": "runs/y"}, {"i": "1"}) == base
    assert key({"a": 2, "workers": 1, "run_dir": "runs/x"}, {"i": "1"}) != base
    assert key({"a": 1, "workers": 1, "run_dir": "runs/x"}, {"i": "2"}) != base


def test_tables_of_this_run_of_another_run_and_outside_files(tmp_path):
    run = tmp_path / "runs/demo"
    assert keys.input_path("02_filtering/samples", run) == run / "02_filtering/data/samples"
    assert (
        keys.input_path("08_merging/contextual/leaky_mix", run)
        == run / "08_merging/data/contextual/leaky_mix"
    )
    assert (
        keys.input_path("../sample/06_captioning.b/captions", run)
        == tmp_path / "runs/sample/06_captioning.b/data/captions"
    )
    assert keys.input_path("/data/shards/*.parquet", run) == Path("/data/shards/*.parquet")
    assert keys.input_path("data/shards", run) == keys.ROOT / "data/shards"


def test_a_model_is_a_path_only_when_it_looks_like_one(tmp_path):
    assert not keys.is_local_model("lmsys/vicuna-7b-v1.5")
    assert not keys.is_local_model("mistral-common")
    assert keys.is_local_model("/no/such/tokenizer.json")
    assert keys.is_local_model("tokenizer.json")
    assert keys.is_local_model("./model")
    schema = {"tokenizer": parameter("tokenizer", "model"), "paths": parameter("paths", "input")}
    assert keys.input_values(schema, {"tokenizer": "a/b", "paths": ["x", ""]}) == [("paths", "x")]
    with pytest.raises(InputError, match="does not exist"):
        keys.require_exists(tmp_path / "none", "here", "paths", "none")


def test_an_input_that_is_misspelt_is_told_what_there_is(tmp_path):
    (tmp_path / "sample/08_merging/data/leaky_mix").mkdir(parents=True)
    for value, said in [
        ("../sample/08_merging/leaky", r"08_merging/data has leaky_mix$"),
        ("../smaple/08_merging/leaky_mix", r"run 08_merging first, \S+ has sample$"),
    ]:
        with pytest.raises(InputError, match=said):
            keys.require_exists(
                keys.input_path(value, tmp_path / "mine"), "here", "conversations", value
            )
