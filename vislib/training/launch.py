"""One training as processes of `accelerate launch`: one per GPU, on one machine or several
(VisCon-100K, section 5).

The paper trains on eight GPUs with DeepSpeed ZeRO-3. The notebook's kernel starts the processes,
shows what they say and never initialises CUDA. On a further machine, `python -m
vislib.training.launch RUN_FOLDER MACHINE_RANK` takes part.
"""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from vislib.runs.children import Event, run_child
from vislib.runs.errors import InputError
from vislib.runs.keys import ROOT
from vislib.runs.progress import Progress
from vislib.runs.provenance import hardware
from vislib.runs.record import Run
from vislib.training.settings import DONE, FACTS, SETTINGS, Settings

Watch = Callable[[Event], None]  # gets every event of the training, as the worker tells it


def train(
    run: Run,
    settings: Settings,
    facts: Mapping[str, Any] | None = None,
    *,
    watch: Watch = lambda event: None,
) -> dict[str, Any]:
    """Train as `settings` say, in one process per GPU, going on from the last whole checkpoint;
    shows loss and rate, and gives every event to `watch`.

    Returns steps, and the rows, rounds, tokens, image_tokens and supervised_tokens that were learnt
    from in them; and `log`: a row of the table `steps` for each. Rates, memory and MFU go into the
    run's metrics. `facts`: what `training.json` says of the model (None: its base alone), beside
    these numbers. What was trained before under the same `checkpoints` is not trained again. Raises
    InputError.
    """
    folder = Path(settings.checkpoints)
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / DONE).exists():
        settings, environment = placed(settings)
        facts = {"base": run.params.model, "method": settings.method} if facts is None else facts
        # files, not arguments: other machines read them too
        (folder / FACTS).write_text(json.dumps(dict(facts)), encoding="utf-8")
        settings.write(folder / SETTINGS)
        with _Live(run, watch) as live:
            run_child(
                launch_command(settings, folder),
                log=run.folder / "log.txt",
                lock=run.stage.run / ".workers.lock",
                on_event=live.event,
                environment=environment,
            )
        (folder / SETTINGS).unlink()  # other machines no longer join
    done = json.loads((folder / DONE).read_text(encoding="utf-8"))
    run.metrics |= done["metrics"]
    return {**done["totals"], "log": done["log"]}


def placed(settings: Settings) -> tuple[Settings, dict[str, str]]:
    """The settings with device and number of processes decided, and the environment that keeps
    processes to them.

    Raises InputError for what this machine lacks. Does not wake CUDA.
    """
    gpus = _gpus(settings.device)
    processes = settings.processes or max(1, len(gpus))  # one on a machine without GPUs
    _check_machines(settings, gpus, processes)
    _check_packages(settings)
    environment = {
        "TOKENIZERS_PARALLELISM": "false",  # loader workers are forked after tokenizers have begun
        "CUDA_VISIBLE_DEVICES": ",".join(gpus[:processes]),
    }
    if not gpus:
        environment["ACCELERATE_USE_CPU"] = "true"
    if settings.strategy == "fsdp":  # so that accelerate can gather weights in main memory
        environment |= {"ACCELERATE_USE_FSDP": "true", "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT"}
    return replace(settings, device="cuda" if gpus else "cpu", processes=processes), environment


def _gpus(device: str) -> list[str]:
    """The names by which CUDA knows the GPUs that may be used."""
    if device == "cpu":
        return []
    # nvidia-smi counts them in place of torch, which would wake CUDA in this process
    every = ",".join(str(number) for number in range(len(hardware()["gpus"])))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", every)
    return [name for name in visible.split(",") if name.strip() not in ("", "-1")]


def _check_machines(settings: Settings, gpus: list[str], processes: int) -> None:
    if settings.device == "cuda" and not gpus:
        raise InputError(
            "device is 'cuda', but nvidia-smi lists no GPU here; set device to auto or cpu"
        )
    if gpus and processes > len(gpus):
        raise InputError(
            f"processes is {processes}, but this machine has {len(gpus)} GPUs; set 0: one for each"
        )
    if settings.machines > 1 and not re.fullmatch(r"\S+:\d+", settings.main_address):
        raise InputError(
            f"main_address is {settings.main_address!r}; machines is {settings.machines}: set"
            " host:port"
        )
    # sharing out saves memory of GPUs, and is tried on them alone
    if settings.strategy != "ddp" and not gpus:
        raise InputError(
            f"strategy is {settings.strategy!r}, which shares weights out among GPUs; set ddp"
            " without any"
        )
    if settings.attention == "flash_attention_2" and not (
        gpus and settings.precision == "bfloat16"
    ):
        raise InputError(
            "attention is 'flash_attention_2', which needs a GPU and precision bfloat16; set sdpa"
        )


def _check_packages(settings: Settings) -> None:
    """What options need that are packages of their own."""
    quantized = settings.quantization != "none"
    if quantized and (settings.method == "full" or settings.strategy != "ddp"):
        raise InputError(
            f"quantization is {settings.quantization!r}, but weights that learn, or that processes"
            " share out, cannot be quantized; set method to lora and strategy to ddp, or"
            " quantization to none"
        )
    needed = {"report_to": settings.report_to if settings.report_to != "none" else ""}
    needed["strategy"] = "deepspeed" if settings.strategy.startswith("zero") else ""
    needed["quantization"] = "bitsandbytes" if quantized else ""
    for name, package in needed.items():
        if package and find_spec(package) is None:
            raise InputError(
                f"{name} is {getattr(settings, name)!r}, which needs the package {package}:"
                f" pip install {package}"
            )


def launch_command(settings: Settings, folder: Path) -> list[str]:
    """The `accelerate launch` of settings that `placed` decided; its own configuration goes to
    `folder`.
    """
    # FSDP and DeepSpeed want their process group also where it has one member
    several = settings.machines * settings.processes > 1 or settings.strategy != "ddp"
    host, _, port = settings.main_address.rpartition(":")
    config = {
        # in a file, since a user's own `accelerate config` would fill in what is not said
        "compute_environment": "LOCAL_MACHINE",
        "distributed_type": "MULTI_GPU" if several else "NO",
        "debug": False,
        "use_cpu": settings.device == "cpu",
        "mixed_precision": "bf16" if settings.precision == "bfloat16" else "no",
        "num_processes": settings.machines * settings.processes,
        "num_machines": settings.machines,
        "machine_rank": settings.machine_rank,
        "main_process_ip": host or None,
        "main_process_port": int(port or 0),
        "same_network": True,
        "rdzv_backend": "static",
    }
    written = folder / f"accelerate-{settings.machine_rank}.json"
    written.write_text(json.dumps(config, indent=1), encoding="utf-8")
    accelerate = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(written)]
    return [*accelerate, "--module", "vislib.training.worker", str(folder / SETTINGS)]


class _Live:
    """What a notebook shows while processes train."""

    def __init__(self, run: Run, watch: Watch) -> None:
        self.run, self.watch, self.shown = run, watch, ExitStack()
        self.progress: Progress | None = None

    def event(self, event: Event) -> None:
        self.watch(event)
        if event["event"] == "begin":
            unit = "steps left" if event["done"] else "steps"
            progress = self.run.progress(event["steps"] - event["done"], unit)
            self.progress = self.shown.enter_context(progress)
        elif event["event"] == "step" and self.progress is not None:
            shown = {"loss": f"{event['loss']:.3f}", "memory": f"{event['memory_gib']:.1f} GiB"}
            self.progress.update(1, **shown, **{"tokens/s": round(event["tokens_per_second"])})

    def __enter__(self) -> "_Live":
        return self

    def __exit__(self, *_: object) -> None:
        self.shown.close()


def join(run: Path, rank: int) -> None:
    """On a further machine: take part, as machine `rank`, in every training of several that begins
    under `run`.

    `run` is the run's folder on a file system that all machines share. Ends when it is stopped.
    """
    run, joined = run.resolve(), dict[Path, int]()
    while True:
        for file in sorted(run.glob(f"*.partial/scratch/*/{SETTINGS}")):
            with suppress(FileNotFoundError):
                begun = file.stat().st_mtime_ns  # a training that begins again writes it again
                if joined.get(file) == begun:
                    continue
                joined[file] = begun
                settings, environment = placed(replace(Settings.read(file), machine_rank=rank))
                print(f"joining {file.parent.parent.parent.name}", flush=True)
                command = launch_command(settings, file.parent)
                # a training that fails is the first machine's to report
                subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, check=False)
        time.sleep(2)  # a shared file system tells of nothing by itself


if __name__ == "__main__":
    join(Path(sys.argv[1]), int(sys.argv[2]))
