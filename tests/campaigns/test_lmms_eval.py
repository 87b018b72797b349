"""lmms-eval itself, in an environment of its own: it runs the local benchmark, and writes the logs
that we read.

Making that environment takes minutes and gigabytes; LMMS_PYTHON names one that is there.
"""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_evaluation import begin, contents, ground, rows, write_inputs  # noqa: F401
from vislib import evaluation
from vislib.evaluation import lmms, mmbench, task_images
from vislib.runs import InputError
from vislib.training.models import open_model, save_trained
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


PIECES = (
    *"ABCDEaX",
    "(A)",
    "(B)",
    "C.",
    "D.",
    "B)",
    "A:",
    ":C",
    "(C).",
    "B,",
    "D).",
    "AB",
    "The answer is",
    "answer is",
    "the correct choice is",
    "option is",
    "best option is B",
    "My choice is",
    "i pick",
    "I choose",
    "选",
    "답:",
    "red",
    "a red cat",
    "nan",
    "not",
    "and",
    "or",
    ".",
    ",",
    "!",
    "?",
    "'",
    '"',
    "\n",
)
OPTIONS = ("red", "A red cat", "cat", "", "nan", None, "B", "Option C")
READ = """
import json, sys
import pandas
from lmms_eval.tasks._task_utils.mcq_extract import extract_mcq_answer
from lmms_eval.tasks.mmbench.mmbench_evals import MMBench_Evaluator
harness, found = MMBench_Evaluator(), []
for record in json.load(open(sys.argv[1])):
    row = pandas.Series(record)
    letters = sorted(harness.build_choices(row))
    found.append(harness.prefetch_answer(row) or extract_mcq_answer(record["prediction"], choices=letters))
print(json.dumps(found))
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
    }
    zero = {
        name: 0
        for name in Settings.__dataclass_fields__
        if name not in {"model", "rows", "checkpoints", "output"}
    }
    settings = Settings(**{**zero, **fixed, **plain, "lora_dropout": 0.0, "whole": False})
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


def test_the_harness_hears_the_answers_that_we_hear(python, ground):  # noqa: F811
    models = write_models(ground)
    own = begin(models, max_answer_tokens_choice=6)
    evaluation.evaluate(own)
    ours = [row for row in rows(own, "results") if row["question_type"] == "multiple_choice"]
    own.finish()
    asked = {
        "evaluator": "lmms_eval",
        "lmms_python": python,
        "max_answer_tokens_choice": 6,
        "reference": "base",
    }
    run = begin(models, **asked)
    evaluation.evaluate(run)
    theirs = rows(run, "results")
    assert len({row["prediction"] for row in theirs}) > len(models)
    assert theirs == ours
    assert [row["arm"] for row in rows(run, "comparisons")] == ["adapters"]
    before, answers = contents(run), len(run.journal(lmms.JOURNAL))
    run.finish()
    again = begin(models, **asked)
    evaluation.evaluate(again)
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
        evaluation.evaluate(run)


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
    written = {path.name: path.read_text() for path in sorted(tmp_path.glob("*.json*"))}
    assert written == {path.name: path.read_text() for path in sorted(LOGS.glob("*.json*"))}
    for task in (
        "ours_gqa",
        "ours_seedbench",
    ):  # of the even questions one picture, of the odd ones another
        command = [python, "-P", task_images.__file__, task, "3", tmp_path / "images", tmp_path]
        subprocess.run(command, check=True, env=environment, cwd=tmp_path, capture_output=True)
        (ids,) = json.loads((tmp_path / "images").read_text()).values()
        assert list(ids) == ["0", "1", "2"][: len(ids)]
        assert len(set(ids.values())) == 2
        assert ids["0"] == ids.get("2", ids["0"])


def test_a_letter_is_read_as_the_harness_reads_it(python, tmp_path):
    """MMBench's verdict is in no log: our reading of it against the harness's on answers of odd
    pieces.
    """
    rng = random.Random(0)
    records = []
    for _ in range(20_000):
        said = "".join(
            rng.choice(PIECES) + rng.choice((" ", " ", "", "\n")) for _ in range(rng.randint(0, 7))
        ).strip()
        records.append({letter: rng.choice(OPTIONS) for letter in "ABCDE"} | {"prediction": said})
    (tmp_path / "records.json").write_text(json.dumps(records))
    done = subprocess.run(
        [python, "-P", "-c", READ, tmp_path / "records.json"], check=True, capture_output=True
    )
    assert [mmbench.letter_of(record) for record in records] == json.loads(
        done.stdout.splitlines()[-1]
    )
