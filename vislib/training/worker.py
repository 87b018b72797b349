"""A training process: `accelerate launch` starts one per GPU (VisCon-100K, section 5: eight), with
a file of settings.

It opens the model, goes on from the last whole checkpoint, trains, and saves what was trained. What
the stage wants to know it says in events; what it leaves is `done.json` beside the checkpoints.
"""

import json
import math
import os
import shutil
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainingArguments
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from vislib.runs.children import child_main, emit
from vislib.runs.errors import InputError
from vislib.runs.keys import ROOT
from vislib.runs.provenance import peak_memory_mib
from vislib.training.labels import Encoder
from vislib.training.models import open_model, save_trained
from vislib.training.settings import DONE, FACTS, Settings
from vislib.training.throughput import FlopMeter, peak_flops
from vislib.training.trainer import AnswerTrainer, Rows, last_checkpoint, passes, unpack

_FSDP = {
    "version": 2,
    "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
    "state_dict_type": "FULL_STATE_DICT",
}
MEND = (
    "lower device_batch_size (batch_size stays), set gradient_checkpointing to true, or share the"
    " weights out with strategy zero3 or fsdp"
)
_LOGGED = ("step", "loss", "learning_rate", "tokens", "supervised_tokens")
_EVALUATED = {"eval_loss": "eval_loss", "eval_step": "step"}
_SUMMED = {
    "rounds": "n_rounds",
    "tokens": "n_tokens",
    "image_tokens": "n_image_tokens",
    "supervised_tokens": "n_supervised",
}


def main(file: Path) -> None:
    """Train as the settings in `file` say. Raises InputError."""
    settings, stop = Settings.read(file), threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        # a step may take minutes: it is finished, then saved
        signal.signal(number, lambda *_: stop.set())
    args, folder = _arguments(settings), Path(settings.checkpoints)
    files = [Path(name) for name in (settings.rows, settings.held_out) if name]
    # the first process clears torn checkpoints away before others look for the last one
    with args.main_process_first(local=False):
        resumed = last_checkpoint(folder)
        if args.process_index == 0:
            for rows in files:
                unpack(rows)
    model, processor = open_model(settings.model, settings=settings)
    encoder = Encoder(processor, max_length=settings.max_length)
    learnt, *held_out = [Rows(rows, encoder) for rows in files]
    trainer = AnswerTrainer(model, args, learnt, settings, stop=stop, held_out=[*held_out, None][0])
    meter = Meter(trainer)
    trainer.add_callback(meter)
    # known only now: it hangs on what the rows hold where tokens are capped
    args.max_steps = trainer.share.steps_to_learn()
    trainer.train(resume_from_checkpoint=str(resumed) if resumed else None)
    if trainer.stopped:
        raise InputError(
            f"stopped after step {trainer.state.global_step}; the same command goes on from there"
        )
    facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
    _save(trainer, processor, settings, meter.totals() | facts)
    if trainer.is_world_process_zero():
        meter.end()
    trainer.accelerator.wait_for_everyone()


def _arguments(settings: Settings) -> TrainingArguments:
    cuda, processes = settings.device == "cuda", int(os.environ.get("WORLD_SIZE", "1"))
    # the only way to tell the Trainer's TensorBoard where to write
    os.environ["TENSORBOARD_LOGGING_DIR"] = settings.reports
    # the best of the evaluated weights must have been saved when they were evaluated
    every = settings.eval_steps if settings.load_best else settings.checkpoint_steps
    return TrainingArguments(
        output_dir=settings.checkpoints,
        seed=settings.seed,
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=settings.device_batch_size,
        per_device_eval_batch_size=settings.device_batch_size,
        gradient_accumulation_steps=passes(settings.batch_size, settings, processes),
        learning_rate=settings.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=min(settings.warmup, 1 - 1e-9),  # 1 would be one step
        weight_decay=settings.weight_decay,
        max_grad_norm=1.0,  # as in LLaVA's recipe, like the cosine
        optim="adamw_torch_fused" if cuda else "adamw_torch",
        bf16=settings.precision == "bfloat16",
        use_cpu=not cuda,
        ddp_find_unused_parameters=False,  # all that learn get gradients: `freeze`, `dummy_row`
        dataloader_num_workers=settings.loader_workers,
        dataloader_pin_memory=cuda,
        logging_steps=1,
        logging_nan_inf_filter=False,  # it would hide a training that diverged
        save_strategy="steps",
        save_steps=every,
        eval_strategy="steps" if settings.eval_steps else "no",
        eval_steps=settings.eval_steps or None,
        load_best_model_at_end=settings.load_best,
        metric_for_best_model="loss",
        greater_is_better=False,
        disable_tqdm=True,  # the stage shows progress
        report_to=settings.report_to,
        run_name=settings.run_name or None,
        **_sharing(settings.strategy),
    )


def _sharing(strategy: str) -> dict[str, Any]:
    """What the Trainer is told of how processes share weights, gradients and the optimiser's
    moments out.
    """
    if strategy == "fsdp":
        return {"fsdp": True, "fsdp_config": dict(_FSDP)}
    if strategy == "ddp":
        return {}
    return {"deepspeed": str(ROOT / f"params/recipes/deepspeed-{strategy}.json")}


def _save(
    trainer: AnswerTrainer, processor: Any, settings: Settings, facts: dict[str, Any]
) -> None:
    """Save what was trained, gathered from all processes where each holds a part."""
    # all processes take part in gathering, one writes
    sharded = settings.strategy in ("zero3", "fsdp")
    state = trainer.accelerator.get_state_dict(trainer.model_wrapped) if sharded else None
    if not trainer.is_world_process_zero():
        return
    shutil.rmtree(settings.output, ignore_errors=True)  # of a save that was stopped
    model = trainer.accelerator.unwrap_model(trainer.model)
    if settings.strategy == "zero3":
        # else opening a base would deal it out
        unset_hf_deepspeed_config()  # type: ignore[no-untyped-call]
        # transformers 5.23 keeps renamings here that loading did not make
        model._weight_conversions = None
    merge, precision = settings.merge, settings.precision
    save_trained(
        model, processor, settings.output, facts, merge=merge, precision=precision, state=state
    )


class Meter(TrainerCallback):
    """Tells of each step; at the end, what was learnt from, and how fast. The first step of a start
    is not timed: it warms up.
    """

    def __init__(self, trainer: AnswerTrainer) -> None:
        self.trainer, self.share, self.counts = trainer, trainer.share, trainer.rows.counts
        self.cuda = trainer.args.device.type == "cuda"
        device = torch.cuda.get_device_name() if self.cuda else ""
        self.peak = peak_flops(device, trainer.settings.precision)
        trainer.counter = self.counter = FlopMeter() if self.peak else None
        self.ended: list[float] = []  # s, of the steps of this start

    def on_train_begin(self, args: Any, state: Any, *_: Any, **given: Any) -> None:
        """What there is to do; of a training that goes on, the Trainer has read the log by now."""
        self._tell("begin", done=len(self.log()), steps=state.max_steps)

    def on_log(self, args: Any, state: Any, *_: Any, **given: Any) -> None:
        """The row that the Trainer has just added to its log."""
        entry = state.log_history[-1]
        if "eval_loss" in entry:
            self._tell("evaluation", step=entry["step"], eval_loss=entry["eval_loss"])
        if "loss" in entry:
            self.ended.append(time.perf_counter())
            seconds = self.ended[-1] - self.ended[-2] if len(self.ended) > 1 else math.inf
            told = {"step": entry["step"], "loss": entry["loss"], "memory_gib": self._memory()}
            self._tell("step", **told, tokens_per_second=entry["tokens"] / seconds)

    def _tell(self, event: str, **values: Any) -> None:
        if self.trainer.is_world_process_zero():
            emit(event, **values)

    def _memory(self) -> float:  # GiB
        if self.cuda:
            return torch.cuda.max_memory_reserved() / 2**30
        return peak_memory_mib() / 1024

    def log(self) -> list[dict[str, Any]]:
        """A row of the table `steps` for each step, of earlier starts too."""
        rows = []
        for entry in self.trainer.state.log_history:
            if "loss" in entry:
                row: dict[str, Any] = {name: entry[name] for name in _LOGGED}
                # the Trainer's own epoch depends on the number of processes
                row["epoch"] = entry["step"] / self.share.steps
                rows.append(row | {"gradient_norm": entry.get("grad_norm")})
        return rows

    def _sums(self, steps: range) -> dict[str, int]:
        """What the rows of `steps`, counted from 0, hold."""
        rows = [row for step in steps for row in self.share.of_step(step)]
        sums = {name: int(self.counts[column][rows].sum()) for name, column in _SUMMED.items()}
        return {"rows": len(rows), **sums}

    def totals(self) -> dict[str, int]:
        """What was learnt from in all steps: rows, rounds, tokens, image_tokens, supervised_tokens;
        and steps.
        """
        steps = self.trainer.state.global_step
        return {"steps": steps, **self._sums(range(steps))}

    def end(self) -> None:
        """Leave totals, metrics and log for the stage; the checkpoints are of no more use."""
        folder = Path(self.trainer.settings.checkpoints)
        found = {"totals": self.totals(), "metrics": self._metrics(), "log": self.log()}
        # whole or not at all: a training that has this file is never begun again
        (folder / "done.tmp").write_text(json.dumps(found), encoding="utf-8")
        os.replace(folder / "done.tmp", folder / DONE)
        for checkpoint in folder.glob("checkpoint-*"):
            shutil.rmtree(checkpoint)

    def _metrics(self) -> dict[str, float]:
        metrics = {"peak_memory_gib": round(self._memory(), 2)}
        history = self.trainer.state.log_history
        if evaluated := [entry for entry in history if "eval_loss" in entry]:
            # what is said must be of the weights that were saved
            best = min(evaluated, key=lambda entry: float(entry["eval_loss"]))
            kept = best if self.trainer.settings.load_best else evaluated[-1]
            metrics |= {name: float(kept[key]) for name, key in _EVALUATED.items()}
        if len(self.ended) > 1:
            last = self.trainer.state.global_step
            first = last - len(self.ended) + 1
            sums, seconds = self._sums(range(first, last)), self.ended[-1] - self.ended[0]
            rate = sums["tokens"] / seconds
            metrics |= {"tokens_per_second": rate, "samples_per_second": sums["rows"] / seconds}
            if self.peak and self.counter:
                # The counted step is a fair sample of the rest; each process did its share of it.
                tokens = self._sums(range(first - 1, first))["tokens"]
                metrics["mfu"] = self.counter.flops / tokens * rate / self.peak
        return {name: float(f"{value:.4g}") for name, value in metrics.items()}


if __name__ == "__main__":
    child_main(lambda: main(Path(sys.argv[1])), on_no_memory=MEND)
