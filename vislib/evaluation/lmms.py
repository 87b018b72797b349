"""lmms-eval as a program of its own: benchmarks of the paper and of DenseFusion-1M, and the local
one (section 5.2).

It needs packages that the project must not have, so it runs in an environment of its own
(params/recipes/lmms-eval.txt) and is asked task by task. What it logged, and what a judge was paid
for, is kept in the journal by weights, task and its version: a rerun asks nothing. Adapters are
merged into their base first. Batches hold one question, because its answers change with the batch.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from math import isclose
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from vislib.evaluation import item_scores
from vislib.evaluation.benchmarks import CONTEXTUAL, JUDGED, UNLOGGED, items, of_task
from vislib.evaluation.parsing import Reader, read_log
from vislib.runs import InputError, short_hash
from vislib.runs.children import child_main, run_child
from vislib.runs.tables import Row
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
_IN_FOLDER = "import os, sys; os.chdir(sys.argv[1]); os.execv(sys.argv[2], sys.argv[2:])"
# Of a sample: large, or different from run to run.
_UNKEPT = re.compile("doc_hash|input_media|submission|gpt_eval_llava_(conv|detail|complex)")


class Harness:
    """lmms-eval in the environment of a run's `lmms_python`.

    Raises InputError where it cannot be had, or a task of the run has no judge.
    """

    def __init__(self, run: "Run") -> None:
        self.run, self.python = run, shutil.which(run.params.lmms_python or "") or ""
        self.tasks = list(dict.fromkeys(run.params.tasks))
        for task in self.tasks:
            if task in JUDGED and not (run.params.judge and os.environ.get(KEY)):
                raise InputError(
                    f"tasks holds {task}, whose answers a judge scores; name it in judge and set"
                    f" {KEY}"
                )
            if task in UNLOGGED:
                raise InputError(
                    f"tasks holds {task}, whose judge's verdicts lmms-eval does not log; name"
                    f" {UNLOGGED[task]}"
                )
        facts = self._probe()
        self.version = run.metrics["lmms_eval"] = facts["version"]
        best = "cuda" if facts["cuda"] else "cpu"
        self.device = best if run.params.device == "auto" else run.params.device

    def _probe(self) -> dict[str, Any]:
        """Version of lmms-eval, and whether it sees a GPU."""
        mend = f"make its environment as {RECIPE} says, and name its bin/python in lmms_python"
        given = self.run.params.lmms_python
        if not self.python:
            raise InputError(
                f"evaluator is lmms_eval, but lmms_python is {given!r}, no program; {mend}"
            )
        done = subprocess.run(
            [self.python, "-P", "-c", _PROBE],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
        )
        if done.returncode:
            said = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise InputError(
                f"lmms_python is {given!r}, where lmms-eval cannot be had ({said}); {mend}"
            )
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found

    def rows(self, place: str, task: str, read: Reader) -> Iterator[Row]:
        """Results of the model at `place`, by `parsing.read_log`."""
        for name, body in self._logged(place, task).items():
            found = list(
                read_log(name, body["log"], body["scores"], pictures=body["pictures"], read=read)
            )
            check(name, found, body["headline"])
            yield from found

    def _logged(self, place: str, task: str) -> dict[str, Any]:
        """By task (a group has several) its log and scores, from the journal or asked now."""
        journal, params = self.run.journal(JOURNAL), self.run.params
        own = task == CONTEXTUAL
        files = sorted((self.run.data / "task").rglob("*.*")) if own else []
        key = short_hash(
            "items",
            self.version,
            model_key(place, precision=params.precision),
            task,
            "" if own else str(params.limit),
            params.judge if task in JUDGED else "",
            *(file.read_bytes() for file in files),
        )
        if (body := journal.get(key)) is None:
            folder = self.run.scratch / "lmms" / key
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            self._harness(self._command(place, task, folder))
            body = self._scored(folder, task)
            journal.put(key, body)
        found: dict[str, Any] = body
        return found

    def _command(self, place: str, task: str, folder: Path) -> list[str]:
        params, several = self.run.params, self.run.params.processes > 1
        whole = self._whole_model(place)
        model, options = _model_options(whole, self.device, params.precision, several=several)
        command = {
            "--model": model,
            "--model_args": options,
            "--tasks": task,
            "--device": self.device,
            "--batch_size": "1",
            "--output_path": str(folder),
            "--verbosity": "DEBUG",  # else it ends well after an error
            "--include_path": str(self.run.scratch / "task"),
            "--use_cache": str(folder.with_name(f"answers-{short_hash(place)}")),
        }
        if params.limit and task != CONTEXTUAL:
            command["--limit"] = str(params.limit)
        launch = ["accelerate.commands.launch", "--num_processes", str(params.processes), "-m"]
        start = ["-m", *(launch if several else []), "lmms_eval", "--log_samples"]
        return [*start, *(part for option in command.items() for part in option)]

    def _scored(self, folder: Path, task: str) -> dict[str, Any]:
        """What lmms-eval left in `folder`, with its scores of single items and their pictures."""
        logs = {
            file.stem.partition("_samples_")[2]: _read(file)
            for file in folder.rglob("*_samples_*.jsonl")
        }
        if not any(logs.values()):
            raise InputError(f"lmms-eval ended without samples of {task}; see log.txt")
        headline: dict[str, Any] = {}
        for file in folder.rglob("*_results.json"):
            headline |= json.loads(file.read_text(encoding="utf-8"))["results"]
        asked = folder.with_suffix(".json")
        write_items(asked, logs, limit=self.run.params.limit)
        self._harness([item_scores.__file__, str(asked), str(self.run.scratch / "task")])
        scored = json.loads(asked.read_text())
        return {
            name: scored[name] | {"log": log, "headline": headline.get(name, {})}
            for name, log in logs.items()
        }

    def _whole_model(self, place: str) -> str:
        """Where the whole weights of a model lie; those of adapters are merged into scratch, in a
        process of its own.
        """
        if not (Path(place) / "adapter_config.json").is_file():
            return place
        folder = self.run.scratch / "merged" / short_hash(place)
        if not (folder / "training.json").is_file():  # written last
            precision = self.run.params.precision
            self._child([sys.executable, "-m", __name__, place, str(folder), precision], {})
        return str(folder)

    def _harness(self, command: list[str]) -> None:
        """Run Python of lmms-eval's environment in the folder of our own task, whose files lie
        beside it; what it caches of them, or leaves there, is no result.
        """
        task, judge = self.run.scratch / "task", self.run.params.judge
        shutil.copytree(self.run.data / "task", task, dirs_exist_ok=True)
        environment = {"MODEL_VERSION": judge} if judge else {}
        self._child(
            [sys.executable, "-c", _IN_FOLDER, str(task), self.python, "-P", *command], environment
        )

    def _child(self, command: list[str], environment: Mapping[str, str]) -> None:
        run_child(
            command,
            log=self.run.folder / "log.txt",
            lock=self.run.stage.run / ".workers.lock",
            on_event=lambda event: None,
            environment=environment,
        )


def write_items(file: Path, logs: Mapping[str, Sequence[Any]], *, limit: int) -> None:
    """Write what `item_scores` is asked about the logs of tasks: items that have a verdict."""
    asked = {}
    for task, log in logs.items():
        judged = [item for item in items(task, log) if not item.reason]
        pairs = [(item.benchmark.metric, item.records) for item in judged]
        asked[task] = {"items": pairs, "limit": limit}
    file.write_text(json.dumps(asked))


def check(task: str, rows: Sequence[Row], headline: Mapping[str, Any]) -> None:
    """Same items, same score: raises InputError where the rows of a benchmark do not have the mean
    that the harness reports (`headline`, by metric and filter).
    """
    values = {name.partition(",")[0]: value for name, value in headline.items()}
    for benchmark in of_task(task):
        own = [row for row in rows if row["benchmark"] == benchmark.title]
        # The harness counts what is dropped here as wrong.
        if not own or benchmark.metric not in values or any("reason" in row for row in own):
            continue
        if task == CONTEXTUAL:
            continue
        score = values[benchmark.metric] / benchmark.scale
        mean = fmean(row["correct"] if row["points"] is None else row["points"] for row in own)
        if not isclose(mean, score, rel_tol=1e-4, abs_tol=1e-3):  # it rounds LLaVA-Bench to 0.1 %
            raise InputError(
                f"lmms-eval reports {score:.4f} of {task}, but its log gives {mean:.4f} over"
                f" {len(own)} items; the log is of another form than that of the version in"
                f" {RECIPE}"
            )


def _read(file: Path) -> list[dict[str, Any]]:
    lines = filter(None, file.read_text(encoding="utf-8").split("\n"))
    return [
        {key: value for key, value in sample.items() if not _UNKEPT.fullmatch(key)}
        for sample in map(json.loads, lines)
    ]


def _model_options(place: str, device: str, precision: str, *, several: bool) -> tuple[str, str]:
    """The harness's class for the architecture, and how that is told of the model."""
    from vislib.media.vision import load_config

    if (kind := load_config(place, parameter="models").model_type) not in _CLASSES:
        raise InputError(
            f"{place} is a {kind}; by lmms-eval {', '.join(_CLASSES)} are evaluated, others by"
            " local"
        )
    name, _, revision = (place, "", "") if Path(place).is_dir() else place.partition("@")
    options = {"pretrained": name, "revision": revision, "dtype": precision}
    # Without a map, each of several processes takes the GPU of its number.
    options["device_map"] = "" if several else device
    options["attn_implementation"] = "eager" if device == "cpu" else ""
    given = {option: value for option, value in options.items() if value}
    if any("," in value or "=" in value for value in given.values()):
        raise InputError(
            f"lmms-eval reads no path with a comma or an equals sign ({place}); move the run's"
            " folder"
        )
    return _CLASSES[kind], ",".join(f"{option}={value}" for option, value in given.items())


def _merge(place: str, folder: str, precision: str) -> None:
    from vislib.training.models import open_trained, save_trained

    save_trained(
        *open_trained(place, precision=precision, merge=True), folder, {}, precision=precision
    )


if __name__ == "__main__":
    child_main(lambda: _merge(*sys.argv[1:]))
