"""`vislib.runs.children` and `launch`: children that say what they do and never outlive their
stage.
"""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from tests.training_rows import SETTINGS, a_run
from vislib.runs import InputError
from vislib.runs.children import run_child
from vislib.training import launch
from vislib.training.launch import launch_command, train

ROOT = Path(__file__).resolve().parents[1]
CHILD = """
import os, signal, subprocess, sys, time
from vislib.runs.children import child_main, emit
def work():
    {work}
child_main(work)
"""
PARENT = """
import sys
from pathlib import Path
from vislib.runs.children import run_child
folder = Path(sys.argv[1])
for event in run_child([sys.executable, str(folder / "child.py")], log=folder / "log.txt",
                       lock=folder / "lock"):
    print(event, flush=True)
"""


def child(folder: Path, *work: str) -> list[str]:
    (folder / "child.py").write_text(CHILD.format(work="\n    ".join(work)), encoding="utf-8")
    return [sys.executable, str(folder / "child.py")]


def run(folder: Path, *work: str, **options) -> list[dict]:
    options = {"lock": folder / "lock", "environment": {"PYTHONPATH": str(ROOT)}} | options
    announced, *events = run_child(child(folder, *work), log=folder / "log.txt", **options)
    assert announced["event"] == "child"
    return events


def parent(folder: Path, *work: str) -> "subprocess.Popen[str]":
    """A process that has a child of that work, which has begun."""
    child(folder, *work)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=ROOT,
    )
    for line in process.stdout:
        if "begun" in line:
            return process
    raise AssertionError((folder / "log.txt").read_text())


def is_free(lock: Path) -> bool:
    """Whether no process holds the lock any more; waits a minute for that."""
    with lock.open() as handle:
        for _ in range(600):
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            except BlockingIOError:
                time.sleep(0.1)
    return False


def test_events_are_told_and_all_else_is_logged_without_secrets(tmp_path, monkeypatch):
    monkeypatch.setenv("SOME_API_KEY", "a-long-secret-value")
    work = [
        "print(os.environ['SOME_API_KEY'], end='')",
        "emit('step', loss=0.5, said='ü')",
        "print('{\"other\": 1}')",
    ]
    assert run(tmp_path, *work) == [{"event": "step", "loss": 0.5, "said": "ü"}]
    assert (tmp_path / "log.txt").read_text() == '[SOME_API_KEY removed]\n{"other": 1}\n'


@pytest.mark.parametrize(
    ("work", "message"),
    [
        (
            "from vislib.runs import InputError; raise InputError('mend this\\nand that')",
            "mend this\nand that",
        ),
        (
            (
                "from vislib.runs import InputError; raise InputError('Caught InputError in"
                " DataLoader worker process 0.\\nTraceback\\nvislib.runs.errors.InputError: row 1"
                " is gone')"
            ),
            "^row 1 is gone$",
        ),
        (
            "raise RuntimeError('CUDA out of memory. Tried to allocate')",
            r"out of memory \(CUDA .*\); lower batch_size",
        ),
        ("print('one last word'); sys.exit(3)", "ended with 3: one last word"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "ended with 137.*was memory short"),
    ],
)
def test_a_child_that_fails_says_why(tmp_path, work, message):
    with pytest.raises(InputError, match=message):
        run(tmp_path, work)


def test_what_a_child_leaves_running_is_ended(tmp_path):
    begun = time.monotonic()
    run(tmp_path, "subprocess.Popen(['sleep', '600'])")
    assert time.monotonic() - begun < 300
    assert is_free(tmp_path / "lock")


def test_a_child_holds_the_lock_and_ends_with_its_killed_parent(tmp_path):
    process = parent(
        tmp_path,
        "signal.signal(15, signal.SIG_IGN)",
        "subprocess.Popen(['sleep', '600'])",
        "emit('begun')",
        "time.sleep(600)",
    )
    with (tmp_path / "lock").open() as handle, pytest.raises(BlockingIOError):
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    process.kill()
    process.wait()
    assert is_free(tmp_path / "lock")


def test_an_interrupt_is_passed_on_and_waited_for(tmp_path):
    heard = ["stopped = []", "signal.signal(15, lambda *_: stopped.append(1))", "emit('begun')"]
    finishing = [
        *heard,
        "while not stopped: time.sleep(0.05)",
        "time.sleep(0.5)",
        "open(sys.argv[0] + '.done', 'w')",
    ]
    process = parent(tmp_path, *finishing)
    process.send_signal(signal.SIGINT)
    assert process.wait(120) != 0
    assert (tmp_path / "child.py.done").exists()


def test_a_second_interrupt_ends_a_child_that_does_not_stop(tmp_path):
    process = parent(
        tmp_path,
        "signal.signal(15, lambda *_: emit('heard'))",
        "emit('begun')",
        "[time.sleep(0.1) for _ in range(6000)]",
    )
    process.send_signal(signal.SIGINT)
    assert any("heard" in line for line in process.stdout)
    process.send_signal(signal.SIGINT)
    process.wait(120)
    assert is_free(tmp_path / "lock")


def gpus(monkeypatch, visible):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)


def test_one_process_per_gpu_and_every_machine_in_one_group(tmp_path, monkeypatch):
    gpus(monkeypatch, "2,3")
    given = replace(SETTINGS, processes=0, device="auto")
    settings, environment = launch.placed(given)
    assert (settings.processes, settings.device) == (2, "cuda")
    assert environment["CUDA_VISIBLE_DEVICES"] == "2,3"
    worker = ["-m", "vislib.training.worker", str(tmp_path)]
    torchrun = [sys.executable, "-m", "torch.distributed.run"]
    assert launch_command(settings, tmp_path) == [
        *torchrun,
        "--standalone",
        "--nproc-per-node=2",
        *worker,
    ]
    several = replace(settings, machines=2, main_address="node-0:29500")
    group = ["--nnodes=2", "--node-rank=1", "--master-addr=node-0", "--master-port=29500"]
    assert launch_command(several, tmp_path, machine=1) == [
        *torchrun,
        *group,
        "--nproc-per-node=2",
        *worker,
    ]
    alone = replace(settings, processes=1)
    assert launch_command(alone, tmp_path) == [sys.executable, *worker]
    shared = launch_command(replace(alone, strategy="zero3"), tmp_path)
    assert "--nproc-per-node=1" in shared  # its process group has one member


@pytest.mark.parametrize(
    ("visible", "given", "message"),
    [
        ("", {"device": "cuda"}, "lists no GPU"),
        ("0", {"device": "auto", "processes": 2}, "this machine has 1 GPUs"),
        ("0", {"device": "auto", "machines": 2, "main_address": "node"}, "set host:port"),
        ("", {"strategy": "zero3"}, "set ddp"),
        ("0", {"device": "auto", "strategy": "zero2"}, "pip install deepspeed"),
        ("", {"report_to": "wandb"}, "report_to is 'wandb', which needs the package wandb: pip"),
        ("", {"quantization": "4bit"}, "cannot be quantized; set method to lora"),
        (
            "",
            {"quantization": "4bit", "method": "lora"},
            "quantization is '4bit', which needs the package bitsandbytes: pip install",
        ),
        (
            "0",
            {"device": "auto", "attention": "flash_attention_2"},
            "attention is .* precision bfloat16; set sdpa",
        ),
    ],
)
def test_what_a_machine_lacks_is_said_before_anything_starts(
    tmp_path, monkeypatch, visible, given, message
):
    gpus(monkeypatch, visible)
    monkeypatch.setattr(launch, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=message):
        train(
            a_run(tmp_path), replace(SETTINGS, checkpoints=str(tmp_path / "checkpoints"), **given)
        )


def test_what_was_trained_is_not_trained_again(tmp_path):
    settings = replace(SETTINGS, checkpoints=str(tmp_path))
    done = {"steps": 1, "tokens": 9, "log": [{"step": 1}], "metrics": {"tokens_per_second": 3.0}}
    (tmp_path / "done.json").write_text(json.dumps(done))
    ground = a_run(tmp_path / "run")
    assert train(ground, settings) == {"steps": 1, "tokens": 9, "log": [{"step": 1}]}
    assert ground.metrics == {"tokens_per_second": 3.0}


def test_another_machine_joins_every_training_that_begins(tmp_path, monkeypatch):
    folder = tmp_path / "10_finetuning.captions.partial/scratch/checkpoints"
    folder.mkdir(parents=True)
    replace(SETTINGS, machines=2, main_address="node-0:29500").write(folder / "settings.json")
    ran: list[list[str]] = []

    def over(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(
        launch, "subprocess", SimpleNamespace(run=lambda command, **_: ran.append(command))
    )
    monkeypatch.setattr(launch, "time", SimpleNamespace(sleep=over))
    with pytest.raises(KeyboardInterrupt):
        launch.join(tmp_path, 1)
    assert ran[0][-1] == str(folder / "settings.json")
    assert "--node-rank=1" in ran[0]


def test_the_recipes_are_well_formed():
    recipes = ROOT / "params/recipes"
    stages = {
        json.loads((recipes / f"deepspeed-zero{n}.json").read_text())["zero_optimization"]["stage"]
        for n in (2, 3)
    }
    assert stages == {2, 3}
    subprocess.run(["bash", "-n", str(recipes / "slurm.sbatch")], check=True)
    assert {"resources", "setup", "run"} <= yaml.safe_load(
        (recipes / "skypilot.yaml").read_text()
    ).keys()
