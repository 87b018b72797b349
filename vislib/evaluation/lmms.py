"""lmms-eval as a program of its own: benchmarks of the paper and of DenseFusion-1M (section 5.2).

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
from typing import Any

from vislib.evaluation import item_scores
from vislib.evaluation.benchmarks import JUDGED, UNLOGGED, items, of_task
from vislib.evaluation.parsing import Reader, read_log
from vislib.media.vision import load_config
from vislib.runs import InputError, Run, short_hash
from vislib.runs.children import child_main, run_child
from vislib.runs.tables import Row
from vislib.training.generation import model_key
from vislib.training.models import is_adapter, open_trained, save_trained

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

    Raises InputError where it cannot be had, or one of `tasks` has no judge.
    """

    def __init__(self, run: Run, tasks: Sequence[str]) -> None:
        self.run = run
        self.params = run.params
        for task in tasks:
            if task in JUDGED and not (self.params.judge and os.environ.get(KEY)):
                raise InputError(
                    f"tasks holds {task}, whose answers a judge scores; name it in judge and set"
                    f" {KEY}"
                )
            # Without a verdict of each item no two arms can be compared.
            if task in UNLOGGED:
                raise InputError(
                    f"tasks holds {task}, whose judge's verdicts lmms-eval does not log; name"
                    f" {UNLOGGED[task]}"
                )
        # Asked first: a set should not train for days to learn that it is not installed.
        self.python = shutil.which(self.params.lmms_python) or ""
        facts = self._probe()
        self.version = run.metrics["lmms_eval"] = facts["version"]
        self.device = self.params.device
        if self.device == "auto":
            self.device = "cuda" if facts["cuda"] else "cpu"

    def _probe(self) -> dict[str, Any]:
        """Version of lmms-eval in the environment of `lmms_python`, and whether that sees a GPU."""
        said = "no program"
        if self.python:
            command = [self.python, "-P", "-c", _PROBE]
            done = subprocess.run(
                command, capture_output=True, text=True, errors="replace", check=False
            )
            if not done.returncode:
                return dict(json.loads(done.stdout.splitlines()[-1]))
            said = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise InputError(
            f"evaluator is lmms_eval, but lmms_python is {self.params.lmms_python!r}, where"
            f" lmms-eval cannot be had ({said}); make its environment as {RECIPE} says, and name"
            " its bin/python in lmms_python"
        )

    def rows(self, place: str, task: str, read: Reader) -> Iterator[Row]:
        """Results of the model at `place`, by `parsing.read_log`."""
        for name, body in self._logged(place, task).items():
            # All of a task at once: its mean must be the harness's before a row is used.
            found = list(
                read_log(name, body["log"], body["scores"], pictures=body["pictures"], read=read)
            )
            check(name, found, body["headline"])
            yield from found

    def _logged(self, place: str, task: str) -> dict[str, Any]:
        """By task (a group has several) its log and scores, from the journal or asked now."""
        journal = self.run.journal(JOURNAL)
        # A task is named by lmms-eval's version.
        key = short_hash(
            "items",
            self.version,
            model_key(place, precision=self.params.precision),
            task,
            str(self.params.limit),
            self.params.judge if task in JUDGED else "",
        )
        if (body := journal.get(key)) is None:
            folder = self.run.scratch / "lmms" / key
            # What an attempt before left there must not be taken for an answer of this one.
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            self._run(self.python, "-P", *self._command(place, task, folder))
            body = self._scored(folder, task)
            journal.put(key, body)
        return body

    def _command(self, place: str, task: str, folder: Path) -> list[str]:
        model, options = self._model(place)
        command = {
            "--model": model,
            "--model_args": options,
            "--tasks": task,
            "--device": self.device,
            # Its answers change with the batch.
            "--batch_size": "1",
            "--output_path": str(folder),
            "--verbosity": "DEBUG",  # else it ends well after an error
            # Its own cache of replies: after a kill it goes on with the next question.
            "--use_cache": str(folder.with_name(f"answers-{short_hash(place)}")),
        }
        if self.params.limit:
            command["--limit"] = str(self.params.limit)
        start = ["-m", "lmms_eval", "--log_samples"]
        if self.params.processes > 1:
            launch = ["-m", "accelerate.commands.launch", "--num_processes"]
            start = [*launch, str(self.params.processes), *start]
        return [*start, *(part for option in command.items() for part in option)]

    def _model(self, place: str) -> tuple[str, str]:
        """The harness's class for the architecture, and how that is told of the model."""
        # lmms-eval loads no adapters.
        place = self._whole_model(place)
        if (kind := load_config(place, parameter="models").model_type) not in _CLASSES:
            raise InputError(
                f"{place} is a {kind}; by lmms-eval {', '.join(_CLASSES)} are evaluated, others by"
                " local"
            )
        # A folder may have an @ in its name; only of a hub id it is a revision.
        name, _, revision = (place, "", "") if Path(place).is_dir() else place.partition("@")
        options = {
            "pretrained": name,
            "revision": revision,
            "dtype": self.params.precision,
            # Without a map, each of several processes takes the GPU of its number.
            "device_map": "" if self.params.processes > 1 else self.device,
            # On a CPU its default attention may not run.
            "attn_implementation": "eager" if self.device == "cpu" else "",
        }
        # It splits its options at these, and would load another model or none.
        if any("," in value or "=" in value for value in options.values()):
            raise InputError(
                f"lmms-eval reads no path with a comma or an equals sign ({place}); move the run's"
                " folder"
            )
        given = ",".join(f"{option}={value}" for option, value in options.items() if value)
        return _CLASSES[kind], given

    def _scored(self, folder: Path, task: str) -> dict[str, Any]:
        """What lmms-eval left in `folder`, with its scores of single items and their pictures."""
        logs = {
            p.stem.partition("_samples_")[2]: _read(p) for p in folder.rglob("*_samples_*.jsonl")
        }
        if not any(logs.values()):
            raise InputError(f"lmms-eval ended without samples of {task}; see log.txt")
        # One file for each run of the harness; a group has several tasks in one.
        headline: dict[str, Any] = {}
        for file in folder.rglob("*_results.json"):
            headline |= json.loads(file.read_text(encoding="utf-8"))["results"]
        asked = folder.with_suffix(".json")
        write_items(asked, logs, limit=self.params.limit)
        self._run(self.python, "-P", item_scores.__file__, str(asked))
        body: dict[str, Any] = json.loads(asked.read_text())
        for name, log in logs.items():
            body[name] |= {"log": log, "headline": headline.get(name, {})}
        return body

    def _whole_model(self, place: str) -> str:
        """Where the whole weights of a model lie; those of adapters are merged into scratch, in a
        process of its own.
        """
        if not is_adapter(place):
            return place
        folder = self.run.scratch / "merged" / short_hash(place)
        if not (folder / "training.json").is_file():  # written last
            precision = self.params.precision
            self._run(sys.executable, "-m", __name__, place, str(folder), precision)
        return str(folder)

    def _run(self, *command: str) -> None:
        """Run a program in a folder of its own: what it leaves there is no result."""
        folder = self.run.scratch / "lmms"
        folder.mkdir(parents=True, exist_ok=True)
        events = run_child(
            [sys.executable, "-c", _IN_FOLDER, str(folder), *command],
            log=self.run.folder / "log.txt",
            lock=self.run.workers_lock,
            # The harness takes the judge's name from this variable alone.
            environment={"MODEL_VERSION": self.params.judge} if self.params.judge else {},
        )
        list(events)  # it tells none; it has ended then


def write_items(file: Path, logs: Mapping[str, Sequence[Any]], *, limit: int) -> None:
    """Write what `item_scores` is asked about the logs of tasks: items that have a verdict."""
    asked = {}
    for task, log in logs.items():
        judged = [item for item in items(task, log) if not item.fault]
        pairs = [(item.benchmark.metric, item.records) for item in judged]
        asked[task] = {"items": pairs, "limit": limit}
    file.write_text(json.dumps(asked))


def check(task: str, rows: Sequence[Row], headline: Mapping[str, Any]) -> None:
    """Same items, same score: raises InputError where the rows of a benchmark do not have the mean
    that the harness reports (`headline`, by metric and filter).
    """
    values = {name.partition(",")[0]: value for name, value in headline.items()}
    for benchmark in of_task(task):
        own = [row for row in rows if row["benchmark"] == benchmark.name]
        # The harness counts what is dropped here as wrong.
        if not own or benchmark.metric not in values or any("reason" in row for row in own):
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


def _merge(place: str, folder: str, precision: str) -> None:
    save_trained(*open_trained(place, precision=precision), folder, {}, precision=precision)


if __name__ == "__main__":
    child_main(lambda: _merge(*sys.argv[1:]))
