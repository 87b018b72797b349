"""lmms-eval itself, in an environment of its own: it hears of the local benchmark's questions what
we hear, and writes the logs that we read.

Making that environment takes minutes and gigabytes; LMMS_PYTHON names one that is there.
"""

import json
import os
import subprocess
import sys
from dataclasses import MISSING, fields
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.test_evaluation import begin, contents, evaluate, ground, rows, write_inputs  # noqa: F401
from vislib import evaluation
from vislib.evaluation import item_scores, lmms
from vislib.runs import InputError, Run
from vislib.training.models import save_trained
from vislib.training.parts import open_model
from vislib.training.settings import Settings
from vislib.training.tiny import build

pytestmark = pytest.mark.campaign
ROOT = Path(__file__).resolve().parents[2]
LOGS = ROOT / "tests/lmms_logs"
# On a CPU build of torch, torchvision's wheel lacks its operators and fails on import unless they
# are declared.
DECLARE = """
import sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "torchvision":
            sys.meta_path.remove(self)
            import torch
            Finder.library = torch.library.Library("torchvision", "DEF")
            for name in ("nms", "qnms"):
                Finder.library.define(name + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
sys.meta_path.insert(0, Finder())
"""  # noqa: E501


@pytest.fixture(scope="module")
def python(tmp_path_factory) -> str:
    """The Python of an environment made from the recipe; skips only where the packages cannot be
    had.
    """
    if given := os.environ.get("LMMS_PYTHON"):
        return given
    folder = tmp_path_factory.mktemp("lmms") / "environment"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    install = [folder / "bin/pip", "install", "--quiet", "--no-compile", "-r", ROOT / lmms.RECIPE]
    if (done := subprocess.run(install, capture_output=True, text=True, check=False)).returncode:
        pytest.skip(f"lmms-eval cannot be installed: {done.stderr.strip().splitlines()[-1]}")
    command = [folder / "bin/python", "-P", "-c", "import torchvision"]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        site = next(folder.glob("lib/python*/site-packages"))
        (site / "sitecustomize.py").write_text(DECLARE)
    return str(folder / "bin/python")


def write_models(root: Path) -> list[str]:
    """Two tiny models of whole weights, and one of adapters that say something."""
    import torch

    places = {
        name: root / f"10_finetuning.{name}" / "data/model"
        for name in ("llava", "idefics2", "adapters")
    }
    build("tiny-llava", places["llava"])
    build("tiny-idefics2", places["idefics2"])
    fixed = {
        "method": "lora",
        "parts": ("connector", "language"),
        "lora_rank": 4,
        "lora_alpha": 64,
        "device": "cpu",
    }
    plain = {
        "precision": "float32",
        "attention": "sdpa",
        "strategy": "ddp",
        "main_address": "",
        "image_splitting": False,
        "lora_dropout": 0.0,
    }
    # What has no default concerns training alone, which there is none of here.
    needed = {f.name: 0 for f in fields(Settings) if f.default is MISSING}
    settings = Settings(**{**needed, **fixed, **plain})
    model, processor = open_model(str(places["idefics2"]), settings=settings)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.5)
    facts = {
        "base": "10_finetuning.idefics2/model",
        "model": "tiny-idefics2",
        "arm": "adapters",
        "seed": 0,
    }
    save_trained(model, processor, places["adapters"], facts)
    for name in ("llava", "idefics2"):
        facts = {"model": f"tiny-{name}", "arm": "base", "seed": 0}
        (places[name] / "training.json").write_text(json.dumps(facts))
    return [f"10_finetuning.{name}/model" for name in places]


TASK = """
task: our_questions
dataset_path: parquet
dataset_kwargs: {data_files: {test: FOLDER/questions.parquet}}
test_split: test
output_type: generate_until
doc_to_text: question
doc_to_target: answer
doc_to_visual: !function pictures.visual
generation_kwargs: {max_new_tokens: 6, temperature: 0, do_sample: false}
metric_list: [{metric: exact_match}]
"""


def write_task(run: Run, folder: Path) -> None:
    """The multiple-choice questions of the local benchmark as a task of the harness."""
    asked, _ = evaluation.load_questions(run)
    rows = [
        {"question": one.text, "answer": one.answer, "path": str(one.image)}
        for one in asked
        if one.type == "multiple_choice"
    ]
    folder.mkdir()
    pq.write_table(pa.Table.from_pylist(rows), folder / "questions.parquet")
    (folder / "pictures.py").write_text(
        "import PIL.Image\n"
        "def visual(doc):\n"
        "    return [PIL.Image.open(doc['path']).convert('RGB')]\n"
    )
    (folder / "our_questions.yaml").write_text(TASK.replace("FOLDER", str(folder)))


def test_the_harness_hears_the_answers_that_we_hear(python, ground, tmp_path, monkeypatch):  # noqa: F811
    models = write_models(ground)
    own = begin(models, max_answer_tokens_choice=6)
    evaluate(own)
    ours = [row for row in rows(own, "results") if row["question_type"] == "multiple_choice"]
    write_task(own, folder := tmp_path / "task")
    own.finish()
    run_program = lmms.Harness._run

    def with_task(harness, *command: str) -> None:
        found = ["--include_path", str(folder)] if "lmms_eval" in command else []
        found += [str(folder)] if item_scores.__file__ in command else []
        run_program(harness, *command, *found)

    monkeypatch.setattr(lmms.Harness, "_run", with_task)
    asked = {
        "evaluator": "lmms_eval",
        "lmms_python": python,
        "tasks": ["our_questions", "vislib_contextual"],
        "max_answer_tokens_choice": 6,
        "reference": "base",
    }
    run = begin(models, **asked)
    evaluate(run)
    theirs = [row for row in rows(run, "results") if row["benchmark"] == "our_questions"]
    assert len({row["prediction"] for row in theirs}) > len(models)
    for name in ("arm", "prediction", "answer", "parsed", "lenient", "words"):
        assert [row[name] for row in theirs] == [row[name] for row in ours], name
    assert len(rows(run, "results")) > 2 * len(theirs)  # and we ask ours beside it
    assert {row["arm"] for row in rows(run, "comparisons")} == {"adapters"}
    before, answers = contents(run), len(run.journal(lmms.JOURNAL))
    run.finish()
    again = begin(models, **asked)
    evaluate(again)
    assert contents(again) == before
    assert len(again.journal(lmms.JOURNAL)) == answers == len(models)
    assert not (again.scratch / "lmms").exists()  # nothing was asked


def test_a_task_that_the_harness_does_not_know_is_said(python, ground):  # noqa: F811
    build("tiny-llava", ground / "10_finetuning.llava/data/model")
    run = begin(
        ["10_finetuning.llava/model"],
        evaluator="lmms_eval",
        lmms_python=python,
        tasks=["no_such_task"],
    )
    with pytest.raises(InputError, match="no_such_task"):
        evaluate(run)


def test_its_logs_are_those_that_the_adapter_is_tested_on(python, tmp_path):
    script = Path(__file__).with_name("lmms_logs.py")
    environment = {
        **os.environ,
        "PYTHONHASHSEED": "0",
        "HF_DATASETS_CACHE": str(tmp_path / "cache"),
    }
    subprocess.run(
        [python, "-P", script, tmp_path],
        check=True,
        env=environment,
        cwd=tmp_path,
        capture_output=True,
    )
    logs = {
        path.stem: [json.loads(line) for line in path.read_text().split("\n") if line]
        for path in sorted(tmp_path.glob("*.jsonl"))
    }
    lmms.write_items(tmp_path / "items.json", logs, limit=0)
    asked = json.loads((tmp_path / "items.json").read_text())
    ours = {f"ours_{task}": body for task, body in asked.items()}
    (tmp_path / "items.json").write_text(json.dumps(ours))
    command = [python, "-P", item_scores.__file__, "items.json", tmp_path]
    environment |= {"OPENAI_API_KEY": "any"}
    subprocess.run(command, check=True, env=environment, cwd=tmp_path, capture_output=True)
    items = json.loads((tmp_path / "items.json").read_text())
    scores = {task.removeprefix("ours_"): found["scores"] for task, found in items.items()}
    (tmp_path / "item_scores.json").write_text(json.dumps(scores, indent=1, sort_keys=True) + "\n")
    names = [path.name for path in sorted(LOGS.iterdir())]
    assert {name: (tmp_path / name).read_text() for name in names} == {
        name: (LOGS / name).read_text() for name in names
    }
    # of the even questions one picture, of the odd ones another
    for task in ("ours_gqa", "ours_seedbench"):
        ids = items[task]["pictures"]
        assert list(ids) == [str(n) for n in range(len(logs[task[5:]]))]
        assert len(set(ids.values())) == 2
        assert ids["0"] == ids.get("2", ids["0"])
