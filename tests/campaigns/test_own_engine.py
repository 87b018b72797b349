"""Stage 06 asks a captioner's folder, served by the real `transformers serve`, and stage 11 is
killed as it trains.

The captioner is a tiny model with random weights, so this asks for form: answers, equal bytes,
nothing left running.
"""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.sets import ROOT, result_bytes, variation
from vislib.runs import tables
from vislib.runs.yaml_files import read_parameters, write_parameters
from vislib.training import tiny

pytestmark = pytest.mark.campaign


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """Runs `few` (documents, samples, images and captions of twelve documents) and `made`, with a
    captioner.
    """
    folder = tmp_path_factory.mktemp("own") / "runs"
    few = variation(folder.parent / "few", only="01 02 03 06", **{"01_documents": {"limit": 12}})
    output, code = ended(started(few, folder))
    assert code == 0, output
    captioner = folder / "made/11_captioner/data/model"
    tiny.build("tiny-llava", captioner)
    generation = json.loads((captioner / "generation_config.json").read_text())
    generation["exponential_decay_length_penalty"] = [4, 2.0]  # noise ends after a few words too
    (captioner / "generation_config.json").write_text(json.dumps(generation))
    return folder


def asking(folder: Path) -> Path:
    """A set whose one stage asks that captioner, by the table of the run that it is of."""
    values = read_parameters(ROOT / "params/sample/06_captioning.yaml") | {
        "samples": "../few/02_filtering/samples",
        "images": "../few/03_images/images",
        "engine": "openai",
        "model": "../made/11_captioner/model",
        "base_url": "",
        "kinds": ["contextual"],
        "max_answer_tokens": 64,
        "contextual_prompt": "vislib/prompts/captioner_contextual.txt",
        "max_in_flight": 2,
        "checks": [],
        "run_dir": f"runs/{folder.name}",
    }
    folder.mkdir(exist_ok=True)
    write_parameters(folder / "06_captioning.yaml", values)
    return folder


def training(folder: Path) -> Path:
    """A set whose one stage trains a tiny captioner on the twelve documents' captions."""
    values = read_parameters(ROOT / "params/sample-models/11_captioner.yaml") | {
        "samples": "../few/02_filtering/samples",
        "images": "../few/03_images/images",
        "test_fraction": 0.5,
        "captions": "../few/06_captioning/captions",
        "run_dir": f"runs/{folder.name}",
        "max_answer_tokens": 4,
        "checkpoint_steps": 2,
    }
    folder.mkdir(exist_ok=True)
    write_parameters(folder / "11_captioner.yaml", values)
    return folder


def started(folder: Path, runs: Path, *options: str) -> subprocess.Popen:
    environment = {name: value for name, value in os.environ.items() if name != "OPENAI_API_KEY"}
    return subprocess.Popen(
        [sys.executable, "-m", "vislib.run", str(folder), *options],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment | {"VISLIB_RUNS": str(runs)},
        start_new_session=True,
    )


def ended(process: subprocess.Popen) -> tuple[str, int]:
    output, _ = process.communicate(timeout=600)
    return output, process.returncode


def running(*words: str) -> list[int]:
    """Processes in whose command all words stand."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if all(word in command for word in words):
            found.append(int(entry.parent.name))
    return found


def kernels(process: subprocess.Popen) -> list[int]:
    found = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(process.pid)],
        capture_output=True,
        text=True,
        check=False,
    )
    return [int(pid) for pid in found.stdout.split()]


def waits(seconds: float, process: subprocess.Popen | None = None) -> Iterator[None]:
    deadline = time.monotonic() + seconds
    while True:
        assert process is None or process.poll() is None, ended(process)[0]
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s"
        yield
        time.sleep(0.05)


def answered(runs: Path, journal: str = "openai") -> dict[str, float]:
    """Keys of the journal with their times; nothing before it is made."""
    place = f"file:{runs / 'journal' / journal}.sqlite?mode=ro"
    with suppress(sqlite3.OperationalError):
        return dict(
            sqlite3.connect(place, uri=True).execute("SELECT key, answered_at FROM answers")
        )
    return {}


def test_a_captioners_folder_is_an_engine_and_a_kill_leaves_nothing_running(runs, tmp_path):
    model, folder = str(runs / "made/11_captioner"), asking(tmp_path / "own")
    output, code = ended(started(folder, runs, "--dry-run"))
    assert code == 0, output
    assert "requests" in output
    assert not running(model)

    process = started(folder, runs)
    for _ in waits(300, process):
        if answered(runs):
            break
    assert running("serve", model)
    first = answered(runs)
    for pid in (*kernels(process), process.pid):
        os.kill(pid, signal.SIGKILL)
    ended(process)
    for _ in waits(20):
        if not running(model):
            break

    output, code = ended(started(folder, runs))
    assert code == 0, output
    assert not running(model)
    now = answered(runs)
    assert first.items() <= now.items()  # none was asked twice
    data = runs / "own/06_captioning/data/captions"
    rows = list(tables.read_rows(data))
    assert [row["status"] for row in rows] == ["ok"] * len(rows), rows
    assert len({row["model"] for row in rows}) == 1
    assert rows[0]["model"].startswith("11_captioner/model@")
    assert model not in output

    output, code = ended(started(folder, runs))
    assert "unchanged" in output  # the folder's content is in the key
    (runs / "made/11_captioner/data/model/README.md").write_text("other")
    output, code = ended(started(folder, runs, "--dry-run"))
    assert "would run" in output


def test_a_killed_training_ends_with_the_bytes_of_an_undisturbed_one(runs, tmp_path):
    output, code = ended(started(training(tmp_path / "whole"), runs))
    assert code == 0, output
    folder = training(tmp_path / "killed")
    answers = runs / "journal/generation.sqlite"
    answers.rename(answers.with_name("aside.sqlite"))  # else the second run would ask nothing
    checkpoint = runs / "killed/11_captioner.partial/scratch/checkpoints/checkpoint-4"
    for moment in (checkpoint.exists, lambda: answered(runs, "generation")):
        process = started(folder, runs)
        for _ in waits(300, process):
            if moment():
                break
        for pid in kernels(process):
            os.kill(pid, signal.SIGKILL)
        assert ended(process)[1] != 0
        for _ in waits(20):
            if not running("vislib.training", str(runs / "killed")):
                break
    output, code = ended(started(folder, runs))
    assert code == 0, output
    assert result_bytes(runs / "killed") == result_bytes(runs / "whole")
