"""What a stage's key holds, and what it leaves out."""

import json
from pathlib import Path

import pytest

from vislib.runs import keys
from vislib.runs.errors import InputError
from vislib.runs.params import Parameter


def book(file: Path, *cells: tuple[str, str, list[str]]) -> Path:
    """A notebook of `(kind, source, tags)`."""
    made = [
        {
            "cell_type": kind,
            "source": source,
            "metadata": {"tags": tags},
            "outputs": [source],
            "execution_count": 3,
        }
        for kind, source, tags in cells
    ]
    file.write_text(json.dumps({"cells": made}))
    return file


def parameter(name, *flags, default=""):
    return Parameter(name=name, type="str", default=default, help="", flags=frozenset(flags))


SCHEMA = {
    "a": parameter("a", default=1),
    "table": parameter("table", "input"),
    "workers": parameter("workers", "throughput"),
    "run_dir": parameter("run_dir"),
}
VALUES = {"a": 1, "table": "x", "workers": 1, "run_dir": "runs/x"}
CELLS = {
    "prose": ("markdown", "# A title", []),
    "imports": ("code", "import math\nfrom vislib import qa_options, sizes", []),
    "parameters": ("code", "a: int = 1", ["parameters"]),
    "look": ("code", "%matplotlib inline\nsize = 3\nsizes", []),
    "work": ("code", "def rule(x): return qa_options, x + a\nrun.map(rule)", ["work"]),
    "last": ("code", "run.finish()", []),
}


def differs(tmp_path, schema=SCHEMA, inputs=None, name="02_a.ipynb", values=VALUES, **edits):
    """What changes say of an edit of CELLS, of values or of inputs."""
    before = book(tmp_path / name, *CELLS.values())
    old = keys.stage_hashes(before, SCHEMA, VALUES, {"table:x": "1"})
    after = book(tmp_path / name, *(CELLS | edits).values())
    new = keys.stage_hashes(after, schema, values, inputs or {"table:x": "1"})
    found = keys.changes(old, new, schema)
    assert (keys.key_of(old) == keys.key_of(new)) is (not found) or schema is not SCHEMA
    return [(change.kind, change.text) for change in found]


@pytest.mark.parametrize(
    "edit",
    [
        {"prose": ("markdown", "# Another", [])},
        {"more": ("markdown", "at the end", [])},
        {
            "parameters": (
                "code",
                "a: int = 2  # another default, which the set overrides",
                ["parameters"],
            )
        },
        {"look": ("code", "size = 4", [])},
        {"imports": ("code", "from vislib import sizes\nfrom vislib import qa_options  # why", [])},
        {
            "work": (
                "code",
                "# why\ndef rule(x):\n    'Say it.'\n    return qa_options, x + a\nrun.map(rule)",
                ["work"],
            )
        },
        {"values": VALUES | {"workers": 8, "run_dir": "runs/y"}},
    ],
)
def test_what_changes_no_data_is_no_change(tmp_path, edit):
    assert differs(tmp_path, **edit) == []


@pytest.mark.parametrize(
    ("edit", "kind", "text"),
    [
        (
            {"work": ("code", "def rule(x): return qa_options, x - a\nrun.map(rule)", ["work"])},
            "code",
            "notebook cell 5",
        ),
        ({"work": ("code", "run.map(sizes, a)", ["work"])}, "code", "notebook cell 5"),
        ({"values": VALUES | {"a": 2}}, "parameter", "parameter a 1 → 2"),
        ({"inputs": {"table:x": "2"}}, "input", "input x"),
    ],
)
def test_what_changes_data_is_named(tmp_path, edit, kind, text):
    assert (kind, text) in differs(tmp_path, **edit)


def test_what_only_looks_use_is_not_reached(tmp_path):
    def code(*cells):
        return keys.stage_hashes(book(tmp_path / "02_a.ipynb", *cells), SCHEMA, VALUES, {})["code"]

    reached = code(*CELLS.values())
    assert "vislib/qa_options.py" in reached
    assert "vislib/sizes.py" not in reached
    assert reached["vislib/qa_options.py"] != reached.get("vislib/sizes.py")
    untagged = code(*(cell for cell in CELLS.values() if cell[2] != ["work"]))
    assert "vislib/sizes.py" in untagged


def test_all_code_of_a_figure_counts(tmp_path):
    look = ("code", "size = 4\nsizes", [])
    assert differs(tmp_path, name="21_a.ipynb", look=look) == [("code", "notebook cell 4")]
    assert differs(tmp_path, name="21_a.ipynb", prose=("markdown", "another", [])) == []


def test_a_new_parameter_at_its_default_is_no_change(tmp_path):
    schema = SCHEMA | {"new": parameter("new", default="old way")}
    assert differs(tmp_path, schema, values=VALUES | {"new": "old way"}) == []
    found = differs(tmp_path, schema, values=VALUES | {"new": "another"})
    assert found == [("parameter", 'parameter new "old way" → "another"')]
    gone = {name: one for name, one in SCHEMA.items() if name != "a"}
    kept = {name: value for name, value in VALUES.items() if name != "a"}
    assert differs(tmp_path, gone, values=kept) == []


def test_a_stage_that_asks_depends_on_what_decides_what_is_sent(tmp_path):
    schema = SCHEMA | {"engine": parameter("engine")}
    notebook = book(tmp_path / "06_a.ipynb", *CELLS.values())
    asking = keys.stage_hashes(notebook, schema, VALUES | {"engine": ""}, {})["code"]
    assert asking.keys() >= {"vislib/engines/replies.py", "vislib.engines"}
    assert "vislib/engines/limits.py" not in asking


def test_a_work_cell_that_leans_on_a_look_cell_is_refused(tmp_path):
    def hashes(look, work="run.map(rule, a)"):
        cells = CELLS | {"look": ("code", look, []), "work": ("code", work, ["work"])}
        return keys.stage_hashes(book(tmp_path / "02_a.ipynb", *cells.values()), SCHEMA, VALUES, {})

    with pytest.raises(
        InputError, match=r"cell 5 is tagged `work` and uses rule, which cell 4 makes"
    ):
        hashes("def rule(x): return x")
    with pytest.raises(InputError, match=r"cell 5 .* uses a, which cell 4 makes"):
        hashes("a = 3", "def deep():\n    return a")
    assert hashes("rule = 1", "rule = 2\nrule")  # its own
    assert hashes("x = y = 1", "[y for y in (1, 2)]\ndef f(x): return x")
    assert hashes("x = (")


def test_a_key_of_an_earlier_version_differs_by_its_code_alone(tmp_path):
    now = keys.stage_hashes(book(tmp_path / "02_a.ipynb", *CELLS.values()), SCHEMA, VALUES, {})
    old = {"notebook": "ab12", "code": "cd34", "parameters": VALUES, "inputs": {}}
    found = keys.changes(old, now, SCHEMA)
    assert found
    assert keys.only_code(found)


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
