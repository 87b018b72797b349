"""What a folder of parameter files asks for: files, tables of variants, one engine for all that
ask.
"""

import pytest

from tests.test_estimate_dry_run import inputs_of_06
from vislib.runs.errors import InputError
from vislib.runs.runner import main
from vislib.runs.sets import SetFile, read_set, refuse_mixture, who_answers
from vislib.runs.yaml_files import read_parameters

SHARED = "conversations: ''  # the base arm\nmodel: tiny-llava\nlearning_rate: 0.02\n"
TABLE = """variant,conversations,parts,learning_rate,gradient_checkpointing,arm
base,,,,,
mix,08_merging/contextual/leaky_mix,"[connector]",1e-5,TRUE,mix
"""


def make(folder, **files):
    """A set of these files; `10_finetuning__csv` is 10_finetuning.csv."""
    folder = folder / "mine"
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text, encoding="utf-8")
    return folder


def arms(folder) -> dict[str, SetFile]:
    return {entry.stage.name: entry for entry in read_set(folder)}


def refused(folder) -> str:
    with pytest.raises(InputError) as caught:
        read_set(folder)
    return str(caught.value)


def test_a_row_is_a_variant_over_the_shared_values(tmp_path):
    made = arms(make(tmp_path, **{"10_finetuning__yaml": SHARED, "10_finetuning__csv": TABLE}))
    assert list(made) == ["10_finetuning.base", "10_finetuning.mix"]  # the shared file is no arm
    base, mix = (entry.stage.values for entry in made.values())
    assert (base["variant"], mix["variant"]) == ("base", "mix")
    assert base["run_dir"] == mix["run_dir"] == "runs/mine"
    assert (base["conversations"], base["learning_rate"]) == ("", 0.02)
    assert mix["conversations"] == "08_merging/contextual/leaky_mix"
    assert (mix["parts"], mix["learning_rate"], mix["arm"]) == (["connector"], 1e-5, "mix")
    assert mix["gradient_checkpointing"] is True
    assert base["parts"] == ["connector", "language"]  # the notebook's default
    assert set(base) == set(mix) == set(made["10_finetuning.base"].stage.schema)


def test_a_table_needs_no_shared_file_and_other_files_stand_beside_it(tmp_path):
    files = {"10_finetuning__csv": "variant,arm\nb,x\na,\n", "10_finetuning__c__yaml": "arm: c\n"}
    made = arms(make(tmp_path, **files, **{"01_documents__yaml": ""}))
    # in order of file name, rows as they stand
    names = [f"10_finetuning.{name}" for name in ("c", "b", "a")]
    assert list(made) == ["01_documents", *names]
    assert [made[name].stage.values["arm"] for name in names] == ["c", "x", ""]


def test_what_a_spreadsheet_writes_is_read(tmp_path):
    text = (
        "\ufeffvariant , seed, weight_decay,arm\r\n\"a\",007, 2E-2 , 1e-5\r\n\r\n,,,\r\nb,,,''\r\n"
    )
    folder = make(tmp_path, **{"10_finetuning__yaml": "arm: shared\n", "10_finetuning__csv": text})
    a, b = (entry.stage.values for entry in read_set(folder))
    assert (a["seed"], a["weight_decay"], a["arm"]) == (7, 0.02, "1e-5")
    assert b["arm"] == ""  # an empty text is quoted, since an empty cell is the shared value


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("variant,learnin_rate\na,1\n", ["first row", "'learnin_rate'", "learning_rate"]),
        ("variant,run_dir\na,runs/x\n", ["'run_dir'"]),
        ("variant,arm,arm\na,1,2\n", ["'arm' is there twice"]),
        ("variant;arm\na;b\n", ["first column must be `variant`", "commas"]),
        ("", ["first column must be `variant`"]),
        ("variant,arm\n", ["no row"]),
        ("variant,arm\na,x\na,y\n", ["row 3 (a)", "'a' already"]),
        ("variant,arm\n,x\n", ["'' cannot name a variant"]),
        ("variant,arm\na b,x\n", ["'a b' cannot name a variant"]),
        ("variant,arm\nx.partial,x\n", ["'x.partial' cannot name a variant"]),
        ("variant,arm,seed\na,x\n", ["row 2 (a): 2 cells for 3 columns"]),
        ("variant,parts\na,[vision, language]\n", ["row 2 (a): 3 cells", "double quotes"]),
        ("variant,parts\na,vision\n", ["row 2 (a): parts is 'vision'", "list"]),
        ('variant,parts\na,"[vision, tail]"\n', ["parts is ['vision', 'tail']", "connector"]),
        ('variant,parts\na,"[on"\n', ["row 2 (a): parts: '[on'", "[a, b]"]),
        ("variant,seed\na,1.5\n", ["row 2 (a): seed is '1.5'", "int within"]),
        ("variant,learning_rate\na,fast\n", ["learning_rate is 'fast'", "[0..1]"]),
        ("variant,learning_rate\na,3\n", ["learning_rate is 3.0", "[0..1]"]),
        ("variant,learning_rate\na,nan\n", ["learning_rate is nan", "[0..1]"]),
        ("variant,gradient_checkpointing\na,on\n", ["gradient_checkpointing is 'on'", "bool"]),
        ("variant,method\na,half\n", ["method is 'half'", "full, lora, dora"]),
        ('variant,arm\na,"x\n', ["no table of comma-separated values"]),
    ],
)
def test_a_faulty_table_names_file_row_column_value_and_what_is_allowed(tmp_path, table, said):
    message = refused(make(tmp_path, **{"10_finetuning__csv": table}))
    assert message.startswith(str(tmp_path / "mine/10_finetuning.csv"))
    assert [piece for piece in said if piece not in message] == [], message


def test_a_fault_of_the_shared_values_names_their_file(tmp_path):
    files = {"10_finetuning__yaml": "learning_rate: 7.0\n", "10_finetuning__csv": TABLE}
    assert refused(make(tmp_path, **files)).startswith(str(tmp_path / "mine/10_finetuning.yaml"))


def test_a_variant_stands_in_one_place(tmp_path):
    files = {"10_finetuning__csv": "variant,arm\na,x\n", "10_finetuning__a__yaml": "arm: y\n"}
    message = refused(make(tmp_path, **files))
    assert "10_finetuning.csv: row a" in message
    assert "10_finetuning.a.yaml is this variant already" in message


def test_a_table_that_would_not_be_read_is_refused(tmp_path):
    assert "rename it" in refused(make(tmp_path, **{"10_finetuning__a__csv": TABLE}))


ASKS = "engine: openai\nmodel: some-model\nbase_url: http://127.0.0.1:9/v1\nimage_side: 512\n"


def test_what_makes_an_input_comes_first_whatever_its_number(tmp_path):
    files = {"08_merging__yaml": "captions: 17_moderation/captions\n", "20_pipeline__yaml": ""}
    files |= {"07_qa_generation__yaml": "", "17_moderation__yaml": ""}
    made = arms(make(tmp_path, **files))
    assert list(made) == ["07_qa_generation", "17_moderation", "08_merging", "20_pipeline"]
    # of two that wait for each other the later file's input is missing, which is said at the check
    files["17_moderation__yaml"] = "samples: 08_merging/dropped\n"
    made = arms(make(tmp_path, **files))
    assert sorted(made) == sorted(name.removesuffix("__yaml") for name in files)


def test_all_who_ask_take_what_they_know_of_the_engine_and_their_own_file_wins(tmp_path):
    files = {"engine__yaml": ASKS, "06_captioning__yaml": "", "10_finetuning__yaml": ""}
    files |= {"07_qa_generation__yaml": "model: other\n", "06_captioning__csv": "variant\na\n"}
    made = arms(make(tmp_path, **files))
    six, seven = made["06_captioning.a"].stage.values, made["07_qa_generation"].stage.values
    assert (six["engine"], six["model"], six["image_side"]) == ("openai", "some-model", 512)
    assert (seven["engine"], seven["model"]) == ("openai", "other")
    assert seven["base_url"] == "http://127.0.0.1:9/v1"
    assert "image_side" not in seven  # only 06 knows it
    assert made["10_finetuning"].stage.values["model"] == "tiny-llava"  # trains, and asks nobody
    told = who_answers(list(made.values()))
    assert told == "06_captioning.a openai some-model · 07_qa_generation openai other"


def test_a_judge_is_no_rule_that_writes_and_takes_the_model_that_is_named_for_all(tmp_path):
    files = {"06_captioning__yaml": "", "13_grounding__yaml": ""}
    made = arms(make(tmp_path, **files, engine__yaml="engine: extractive\n"))
    assert made["06_captioning"].stage.values["engine"] == "extractive"
    assert made["13_grounding"].stage.values["engine"] == "text evidence"
    assert who_answers(list(made.values())).endswith("13_grounding text evidence (no model)")
    made = arms(make(tmp_path, **files, engine__yaml=ASKS))
    assert made["13_grounding"].stage.values["engine"] == "openai"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("engin: openai\n", "unknown parameter 'engin'"),
        ("variant: a\n", "unknown parameter 'variant'"),
        ("learning_rate: 0.1\n", "unknown parameter 'learning_rate'"),  # no asking stage's
        ("timeout_s: soon\n", "timeout_s is 'soon'"),
        ("engine: on\n", "truth value"),
    ],
)
def test_a_faulty_engine_names_its_file(tmp_path, text, said):
    files = {"06_captioning__yaml": "", "10_finetuning__yaml": "", "engine__yaml": text}
    message = refused(make(tmp_path, **files))
    assert message.startswith(str(tmp_path / "mine/engine.yaml"))
    assert said in message


def test_a_stand_in_beside_a_model_is_named_in_its_own_file(tmp_path):
    files = {"05_experts__yaml": "", "06_captioning__yaml": "", "07_qa_generation__yaml": ""}
    folder = make(tmp_path, **files, **{"engine__yaml": ASKS})
    with pytest.raises(InputError, match=r"05_experts\.yaml: `tagger: efficientnet-lite0`"):
        refuse_mixture(read_set(folder))
    # a tagger of the hub does not choose the boxes of a stand-in
    make(tmp_path, **{"05_experts__yaml": "tagger: google/siglip2-base-patch16-224\n"})
    with pytest.raises(InputError, match=r"05_experts\.yaml: `detector: efficientnet-lite0`"):
        refuse_mixture(read_set(folder))
    make(tmp_path, **{"05_experts__yaml": "tagger: efficientnet-lite0\n"})
    refuse_mixture(read_set(folder))
    # what engine.yaml names is not named by the stage that takes it
    make(tmp_path, **{"engine__yaml": "engine: extractive\n", "06_captioning__yaml": ASKS})
    with pytest.raises(InputError, match=r"07_qa_generation\.yaml.*`engine: extractive`"):
        refuse_mixture(read_set(folder))
    make(tmp_path, **{"07_qa_generation__yaml": "engine: extractive\n"})
    refuse_mixture(read_set(folder))


def test_a_server_that_is_down_names_the_engine_file_too(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("VISLIB_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("OPENAI_API_KEY", "a-key-of-the-test")
    inputs_of_06(tmp_path / "runs/mine")
    folder = make(tmp_path, **{"06_captioning__yaml": "", "engine__yaml": ASKS})
    assert main([str(folder), "--only", "06", "--dry-run"]) == 2
    said = capsys.readouterr()
    assert "06_captioning.yaml with engine.yaml: base_url http://127.0.0.1:9/v1" in said.err
    assert "answers: 06_captioning openai some-model" in said.out


def test_rows_run_alone_from_one_on_and_leave_complete_parameters(project):
    lines = "n: int = 3  # a number [1..9]\nm: int = 5  # another"
    project.notebook("80_first", lines, '(run.data / "x").touch()', "run.finish()")
    project.parameters("80_first.yaml", "m: 6\n")
    project.parameters("80_first.csv", "variant,n\nsmall,1\nlarge,9\n")
    plan = project.run("--dry-run")
    assert plan.returncode == 0, plan.stderr
    assert [line.split()[0] for line in plan.stdout.splitlines()] == [
        "80_first.small",
        "80_first.large",
    ]
    assert "80_first.small" not in project.run("--from", "80_first.large", "--dry-run").stdout
    done = project.run("--only", "80_first.large")
    assert done.returncode == 0, done.stdout + done.stderr
    made = project.root / "runs/demo/80_first.large"
    assert read_parameters(made / "params.yaml") == {
        "n": 9,
        "m": 6,
        "run_dir": "runs/demo",
        "variant": "large",
    }
    status = project.run("--status").stdout
    assert "80_first.small         not made" in status
    assert "80_first.large         ok" in status
