"""One training as processes of `torchrun`: one per GPU, on one machine or several (VisCon-100K,
section 5).

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
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from vislib.runs.children import Event, run_child
from vislib.runs.errors import InputError
from vislib.runs.keys import ROOT
from vislib.runs.provenance import hardware
from vislib.runs.record import Run
from vislib.training.settings import DONE, SETTINGS, Settings

Watch = Callable[[Event], None]  # gets every event of the training, as the worker tells it
COUNTED = ("rounds", "tokens", "image_tokens", "supervised_tokens")  # of rows
LEARNT = (*COUNTED, "steps")  # in all steps


def train(run: Run, settings: Settings, *, watch: Watch = lambda event: None) -> dict[str, Any]:
    """Train as `settings` say, in one process per GPU, going on from the last whole checkpoint;
    shows loss and rate, and gives every event to `watch`.

    Returns steps, and the rows, rounds, tokens, image_tokens and supervised_tokens that were learnt
    from in them; and `log`: a row of the table `steps` for each. Rates, memory and MFU go into the
    run's metrics. What was trained before under the same `checkpoints` is not trained again. Raises
    InputError.
    """
    folder = Path(settings.checkpoints)
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / DONE).exists():
        settings, environment = placed(settings)
        # a file, not arguments: other machines read it too
        settings.write(folder / SETTINGS)
        events = run_child(
            launch_command(settings, folder / SETTINGS),
            log=run.folder / "log.txt",
            lock=run.workers_lock,
            environment=environment,
        )
        with ExitStack() as shown:
            shown.enter_context(closing(events))  # however this ends, the child does
            for event in events:
                watch(event)
                if event["event"] == "begin":
                    unit = "steps left" if event["done"] else "steps"
                    left = event["steps"] - event["done"]
                    bar = shown.enter_context(run.progress(left, unit))
                elif event["event"] == "step":
                    loss, memory = f"{event['loss']:.3f}", f"{event['memory_gib']:.1f} GiB"
                    rate = {"tokens/s": round(event["tokens_per_second"])}
                    bar.update(loss=loss, memory=memory, **rate)
        (folder / SETTINGS).unlink()  # other machines no longer join
    done: dict[str, Any] = json.loads((folder / DONE).read_text(encoding="utf-8"))
    run.metrics |= done.pop("metrics")
    return done


def placed(settings: Settings) -> tuple[Settings, dict[str, str]]:
    """The settings with device and number of processes decided, and the environment that keeps
    processes to them.

    Raises InputError for what this machine lacks. Does not wake CUDA.
    """
    gpus = _gpus(settings.device)
    processes = settings.processes or max(1, len(gpus))  # one on a machine without GPUs
    _require_devices(settings, gpus, processes)
    _require_packages(settings)
    environment = {
        "TOKENIZERS_PARALLELISM": "false",  # loader workers are forked after tokenizers have begun
        "CUDA_VISIBLE_DEVICES": ",".join(gpus[:processes]),
    }
    if settings.strategy == "fsdp":  # so that accelerate can gather weights in main memory
        environment |= {"ACCELERATE_USE_FSDP": "true", "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT"}
    return replace(settings, device="cuda" if gpus else "cpu", processes=processes), environment


def _gpus(device: str) -> list[str]:
    """The names by which CUDA knows the GPUs that may be used."""
    if device == "cpu":
        return []
    # nvidia-smi counts them in place of torch, which would wake CUDA in this process
    every = ",".join(map(str, range(len(hardware()["gpus"]))))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", every)
    return [name for name in visible.split(",") if name.strip() not in ("", "-1")]


def _require_devices(settings: Settings, gpus: list[str], processes: int) -> None:
    """Raise InputError, with the mend, for what the settings ask of this machine in vain."""
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
    flash = settings.attention == "flash_attention_2"
    if flash and (not gpus or settings.precision != "bfloat16"):
        raise InputError(
            "attention is 'flash_attention_2', which needs a GPU and precision bfloat16; set sdpa"
        )


def _require_packages(settings: Settings) -> None:
    """The same for packages that only some options need, and for what these cannot do."""
    quantized = settings.quantization != "none"
    if quantized and (settings.method == "full" or settings.strategy != "ddp"):
        raise InputError(
            f"quantization is {settings.quantization!r}, but weights that learn, or that processes"
            " share out, cannot be quantized; set method to lora and strategy to ddp, or"
            " quantization to none"
        )
    needed = {
        "report_to": settings.report_to.replace("none", ""),
        "strategy": "deepspeed" if settings.strategy.startswith("zero") else "",
        "quantization": "bitsandbytes" if quantized else "",
    }
    for name, package in needed.items():
        if package and find_spec(package) is None:
            raise InputError(
                f"{name} is {getattr(settings, name)!r}, which needs the package {package}:"
                f" pip install {package}"
            )


def launch_command(settings: Settings, file: Path, *, machine: int = 0) -> list[str]:
    """What trains as `file` says on machine number `machine`, for settings that `placed` decided:
    `torchrun`, or one process by itself.
    """
    worker = ["-m", "vislib.training.worker", str(file)]
    # FSDP and DeepSpeed want their process group also where it has one member
    if settings.machines * settings.processes == 1 and settings.strategy == "ddp":
        return [sys.executable, *worker]
    # on one machine torchrun finds a free port by itself
    group = ["--standalone"]
    if settings.machines > 1:
        host, _, port = settings.main_address.rpartition(":")
        group = [f"--nnodes={settings.machines}", f"--node-rank={machine}"]
        group += [f"--master-addr={host}", f"--master-port={port}"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", *group]
    return [*torchrun, f"--nproc-per-node={settings.processes}", *worker]


def join(run: Path, machine: int) -> None:
    """On a further machine: take part, as number `machine`, in every training of several that
    begins under `run`.

    `run` is the run's folder on a file system that all machines share. Ends when it is stopped.
    """
    joined = set[tuple[Path, int]]()
    while True:
        for file in sorted(run.resolve().glob(f"*.partial/scratch/*/{SETTINGS}")):
            with suppress(FileNotFoundError):
                # a training that begins again writes the file again
                begun = file, file.stat().st_mtime_ns
                if begun in joined:
                    continue
                joined.add(begun)
                settings, environment = placed(Settings.read(file))
                print(f"joining {file.parent.parent.parent.name}", flush=True)
                command = launch_command(settings, file, machine=machine)
                # a training that fails is the first machine's to report
                subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, check=False)
        time.sleep(2)  # a shared file system tells of nothing by itself


if __name__ == "__main__":
    join(Path(sys.argv[1]), int(sys.argv[2]))
