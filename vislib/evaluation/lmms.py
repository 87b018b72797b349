"""lmms-eval as a program of its own: benchmarks of the paper and of DenseFusion-1M, and the local
one (section 5.2).

It needs packages that the project must not have, so it runs in an environment of its own
(params/recipes/lmms-eval.txt) and is asked task by task. What it logged is kept in the journal by
weights, task and its version: a rerun asks nothing. Adapters are merged into their base first.
Batches hold one question, because its answers change with the batch.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from math import isclose
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from vislib.evaluation import task_images
from vislib.evaluation.answers import Arm
from vislib.evaluation.logs import JUDGED, UNLOGGED, read_log, reported
from vislib.evaluation.questions import LOCAL, write_task_file
from vislib.runs import InputError, short_hash
from vislib.runs.children import child_main, run_child
from vislib.runs.tables import Output, Row
from vislib.training.generation import model_key

if TYPE_CHECKING:
    from vislib.runs import Run

JOURNAL, KEY = "lmms_eval", "OPENAI_API_KEY"
RECIPE = "params/recipes/lmms-eval.txt"
_CLASSES = {
    "llava": "llava_hf",
    "llava_next": "llava_hf",
    "llava_onevision": "llava_hf",
    "idefics2": "idefics2",
}
_PROBE = (
    "import importlib.metadata as m, json, torch, torchvision; "
    "print(json.dumps({'version': m.version('lmms-eval'), 'cuda': torch.cuda.is_available()}))"
)
_UNKEPT = re.compile(
    "doc_hash|input_media|submission|gpt_eval_llava_(conv|detail|complex)"
)  # of a sample


def lmms_rows(run: "Run", arms: list[Arm], output: Output) -> Iterator[Row]:
    """Results of all arms on all tasks of the parameters; samples without a verdict are dropped in
    `output`.

    Raises InputError where lmms-eval cannot be run, a judged task has no judge, or a log does not
    give the score that lmms-eval reports.
    """
    tasks = list(dict.fromkeys(run.params.tasks))
    if (judged := sorted(set(tasks) & set(JUDGED))) and not (
        run.params.judge and os.environ.get(KEY)
    ):
        raise InputError(
            f"tasks holds {judged[0]}, whose answers a judge scores; name it in judge and set {KEY}"
        )
    if unlogged := sorted(set(tasks) & set(UNLOGGED)):
        other = UNLOGGED[unlogged[0]]
        raise InputError(
            f"tasks holds {unlogged[0]}, whose judge's verdicts lmms-eval does not log; name"
            f" {other}"
        )
    program = _probe(run.params.lmms_python)
    run.metrics["lmms_eval"] = program["version"]
    with run.progress(len(arms) * len(tasks), "tasks of models") as progress:
        for arm in arms:
            for task in tasks:
                body, images = _logs(run, arm, task, program), _images(run, task, program)
                for name, log in body["logs"].items():
                    for sample in log:
                        sample["image_id"] = images.get(name, {}).get(str(sample["doc_id"]), "")
                    rows = list(read_log(name, log))
                    _check(name, rows, reported(name, body.get("scores", {}).get(name, {})))
                    for row in rows:
                        output.take("answer")
                        if "reason" in row:
                            output.drop(
                                "answer",
                                f"{arm.name}/{row['sample_id']}",
                                row["reason"],
                                row["detail"],
                            )
                        else:
                            output.keep("answer")
                            yield {"model": arm.model, "arm": arm.arm, "seed": arm.seed, **row}
                progress.update(task=task)


def _check(task: str, rows: list[Row], reported: Mapping[str, float]) -> None:
    """Same items, same score: raises InputError where the rows of a benchmark do not have the
    harness's own mean.
    """
    for benchmark, score in reported.items():
        own = [row for row in rows if row["benchmark"] == benchmark]
        if not own or any("reason" in row for row in own):
            continue  # the harness counts what is dropped here as wrong
        mean = fmean(row["points"] if row["points"] is not None else row["correct"] for row in own)
        if not isclose(mean, score, rel_tol=1e-4, abs_tol=1e-3):  # it rounds LLaVA-Bench to 0.1 %
            raise InputError(
                f"lmms-eval reports {score:.4f} of {task}, but its log gives {mean:.4f} over"
                f" {len(own)} items; the log is of another form than that of the version in"
                f" {RECIPE}"
            )


def _probe(python: str) -> dict[str, Any]:
    """Version of lmms-eval in the environment of `python`, and whether that sees a GPU."""
    mend = f"make its environment as {RECIPE} says, and name its bin/python in lmms_python"
    if not python or shutil.which(python) is None:
        raise InputError(
            f"evaluator is lmms_eval, but lmms_python is {python!r}, no program; {mend}"
        )
    probe = [python, "-P", "-c", _PROBE]
    done = subprocess.run(
        probe, capture_output=True, encoding="utf-8", errors="replace", check=False
    )
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise InputError(
            f"lmms_python is {python!r}, where lmms-eval cannot be had ({said}); {mend}"
        )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _images(run: "Run", task: str, program: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """By task (a group has several) and number of a question: the id of its picture. Questions of
    one picture are no independent ones, and no log says which these are. Read once, then kept in
    the journal.
    """
    if task == LOCAL:
        return {}  # the page is known
    journal, key = (
        run.journal(JOURNAL),
        short_hash("images", program["version"], task, str(run.params.limit)),
    )
    if (body := journal.get(key)) is None:
        file = run.scratch / "lmms" / f"{key}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        python = shutil.which(run.params.lmms_python) or ""
        _run_child(
            run, [python, "-P", task_images.__file__, task, str(run.params.limit), str(file)], {}
        )
        journal.put(key, body := json.loads(file.read_text()))
    found: dict[str, dict[str, str]] = body
    return found


def _logs(run: "Run", arm: Arm, task: str, program: Mapping[str, Any]) -> dict[str, Any]:
    """For one model, from the journal or asked now: `logs` and `scores` by task (a group has
    several).
    """
    journal, judge = run.journal(JOURNAL), run.params.judge if task in JUDGED else ""
    own = (
        [p.read_bytes() for p in sorted((run.data / "task").rglob("*.*"))] if task == LOCAL else []
    )
    limit = "" if task == LOCAL else str(run.params.limit)
    key = short_hash(
        program["version"],
        model_key(arm.place, precision=run.params.precision),
        task,
        limit,
        judge,
        *own,
    )
    if (body := journal.get(key)) is None:
        folder = run.scratch / "lmms" / key
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        _run_child(
            run,
            _command(run, arm, task, program, folder),
            {"MODEL_VERSION": judge} if judge else {},
        )
        body = {
            "logs": {
                p.stem.partition("_samples_")[2]: _read(p)
                for p in folder.rglob("*_samples_*.jsonl")
            }
        }
        if not any(body["logs"].values()):
            raise InputError(f"lmms-eval ended without samples of {task}; see log.txt")
        body["scores"] = {}
        for file in folder.rglob("*_results.json"):
            body["scores"] |= json.loads(file.read_text(encoding="utf-8"))["results"]
        journal.put(key, body)
    return body


def _read(file: Path) -> list[dict[str, Any]]:
    samples = (json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line)
    return [
        {key: value for key, value in sample.items() if not _UNKEPT.fullmatch(key)}
        for sample in samples
    ]


def _command(
    run: "Run", arm: Arm, task: str, program: Mapping[str, Any], folder: Path
) -> list[str]:
    place, tasks = _whole_model(run, arm), run.scratch / "task"
    shutil.rmtree(tasks, ignore_errors=True)
    shutil.copytree(run.data / "task", tasks)
    questions = tasks / "questions" / "part-00000.parquet"
    write_task_file(
        tasks,
        questions=questions,
        max_tokens=run.params.max_answer_tokens_choice,
        cache=tasks / "cache",
    )
    device = {"auto": "cuda" if program["cuda"] else "cpu"}.get(
        run.params.device, run.params.device
    )
    kind, options = _model_options(place, device, run.params.precision)
    command = [
        shutil.which(run.params.lmms_python) or "",
        "-P",
        "-m",
        "lmms_eval",
        "--model",
        kind,
        "--model_args",
        options,
        "--tasks",
        task,
        "--device",
        device,
        "--batch_size",
        "1",
        "--log_samples",
        "--output_path",
        str(folder),
        "--verbosity",
        "DEBUG",  # else it ends well after an error
        "--include_path",
        str(tasks),
        "--use_cache",
        str(run.scratch / "lmms" / f"answers-{short_hash(arm.place)}"),
    ]
    return command + (
        ["--limit", str(run.params.limit)] if run.params.limit and task != LOCAL else []
    )


def _model_options(place: str, device: str, precision: str) -> tuple[str, str]:
    """The harness's class for the architecture, and how that is told of the model."""
    from vislib.media.vision import load_config

    if (kind := load_config(place, parameter="models").model_type) not in _CLASSES:
        raise InputError(
            f"{place} is a {kind}; by lmms-eval {', '.join(_CLASSES)} are evaluated, others by"
            " local"
        )
    name, _, revision = (place, "", "") if Path(place).is_dir() else place.partition("@")
    options = {"pretrained": name, "device_map": device, "dtype": precision}
    options |= {"revision": revision} if revision else {}
    options |= {"attn_implementation": "eager"} if device == "cpu" else {}
    if any("," in value or "=" in value for value in options.values()):
        raise InputError(
            f"lmms-eval reads no path with a comma or an equals sign ({place}); move the run's"
            " folder"
        )
    return _CLASSES[kind], ",".join(f"{option}={value}" for option, value in options.items())


def _whole_model(run: "Run", arm: Arm) -> str:
    """Where the whole weights of a model lie; those of adapters are merged into scratch, in a
    process of its own.
    """
    if not (Path(arm.place) / "adapter_config.json").is_file():
        return arm.place
    folder = run.scratch / "merged" / short_hash(arm.place)
    if not (folder / "training.json").is_file():  # written last
        _run_child(
            run, [sys.executable, "-m", __name__, arm.place, str(folder), run.params.precision], {}
        )
    return str(folder)


def _run_child(run: "Run", command: list[str], environment: Mapping[str, str]) -> None:
    lock, log = run.stage.run / ".workers.lock", run.folder / "log.txt"
    run_child(command, log=log, lock=lock, on_event=lambda event: None, environment=environment)


def _merge(place: str, folder: str, precision: str) -> None:
    from vislib.training.models import open_trained, save_trained

    save_trained(
        *open_trained(place, precision=precision, merge=True), folder, {}, precision=precision
    )


if __name__ == "__main__":
    child_main(lambda: _merge(*sys.argv[1:]))
