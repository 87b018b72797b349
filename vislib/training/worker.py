"""A training process: `torchrun` starts one per GPU (VisCon-100K, section 5: eight), with a file of
settings.

It opens the model, goes on from the last whole checkpoint, trains, and saves what was trained. What
the stage wants to know it says in events; what it leaves is `done.json` beside the checkpoints.
"""

import json
import math
import os
import shutil
import signal
import sys
from operator import itemgetter
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from vislib.runs.children import child_main
from vislib.runs.errors import InputError
from vislib.runs.keys import ROOT
from vislib.runs.redaction import write_redacted
from vislib.training.labels import Encoder
from vislib.training.models import merge_saved, save_trained
from vislib.training.parts import open_model
from vislib.training.settings import DONE, Settings
from vislib.training.throughput import FlopMeter, peak_flops
from vislib.training.trainer import AnswerTrainer, Rows, last_checkpoint, memory_gib

# How processes share weights, gradients and the optimiser's moments out.
_SHARING: dict[str, dict[str, Any]] = {
    "ddp": {},
    "zero2": {"deepspeed": str(ROOT / "params/recipes/deepspeed-zero2.json")},
    "zero3": {"deepspeed": str(ROOT / "params/recipes/deepspeed-zero3.json")},
    "fsdp": {
        "fsdp": True,
        "fsdp_config": {
            "version": 2,
            "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
            "state_dict_type": "FULL_STATE_DICT",
        },
    },
}
MEND = (
    "lower device_batch_size (batch_size stays), set gradient_checkpointing to true, or share the"
    " weights out with strategy zero3 or fsdp"
)
_LOGGED = ("step", "loss", "learning_rate", "tokens", "supervised_tokens")


def main(file: Path) -> None:
    """Train as the settings in `file` say. Raises InputError."""
    settings = Settings.read(file)
    args, resumed = _arguments(settings), last_checkpoint(Path(settings.checkpoints))
    model, processor = open_model(settings.model, settings=settings)
    rows = Rows(settings.rows, Encoder(processor, max_length=settings.max_length))
    device = torch.cuda.get_device_name() if settings.device == "cuda" else ""
    peak = peak_flops(device, settings.precision)
    trainer = AnswerTrainer(model, args, rows, settings)
    trainer.counter = FlopMeter() if peak else None
    for number in (signal.SIGINT, signal.SIGTERM):
        # a step may take minutes: it is finished, then saved
        signal.signal(number, lambda *_: trainer.stop.set())
    # known only now: it hangs on what the rows hold where tokens are capped
    args.max_steps = trainer.share.steps_to_learn()
    done = int(resumed.name.rpartition("-")[2]) if resumed else 0
    trainer.tell("begin", done=done, steps=args.max_steps)
    trainer.train(resume_from_checkpoint=str(resumed) if resumed else None)
    steps = trainer.state.global_step
    if steps < args.max_steps:
        raise InputError(f"stopped after step {steps}; the same command goes on from there")
    learnt = {"steps": steps, **trainer.share.sums(range(steps))}
    _save(trainer, processor, settings, {**learnt, **settings.facts})
    if trainer.is_world_process_zero():
        _leave(settings, learnt | {"metrics": _metrics(trainer, peak), "log": _log(trainer)})
    trainer.accelerator.wait_for_everyone()


def _arguments(settings: Settings) -> TrainingArguments:
    cuda, processes = settings.device == "cuda", int(os.environ.get("WORLD_SIZE", "1"))
    # the only way to tell the Trainer's TensorBoard where to write
    os.environ["TENSORBOARD_LOGGING_DIR"] = settings.reports
    rows_at_once = settings.device_batch_size * processes
    return TrainingArguments(
        output_dir=settings.checkpoints,
        seed=settings.seed,
        per_device_train_batch_size=settings.device_batch_size,
        # one: what accelerate fills the last pass up with is left out of the mean
        per_device_eval_batch_size=1,
        # rounded up: the last pass of a step may be narrower
        gradient_accumulation_steps=math.ceil(settings.batch_size / rows_at_once),
        learning_rate=settings.learning_rate,
        lr_scheduler_type="cosine",  # as in LLaVA's recipe, like clipping at the usual norm of 1
        warmup_steps=min(settings.warmup, 1 - 1e-9),  # 1 would be one step
        weight_decay=settings.weight_decay,
        optim="adamw_torch_fused" if cuda else "adamw_torch",
        bf16=settings.precision == "bfloat16",
        use_cpu=not cuda,
        ddp_find_unused_parameters=False,  # all that learn get gradients: `freeze`, `dummy_row`
        dataloader_num_workers=settings.loader_workers,
        dataloader_pin_memory=cuda,
        logging_steps=1,
        logging_nan_inf_filter=False,  # it would hide a training that diverged
        # the best of the evaluated weights must have been saved when they were evaluated
        save_steps=settings.eval_steps if settings.load_best else settings.checkpoint_steps,
        save_total_limit=1,  # the last one; the best one stays too where it will be loaded
        eval_strategy="steps" if settings.eval_steps else "no",
        eval_steps=settings.eval_steps or None,
        load_best_model_at_end=settings.load_best,
        disable_tqdm=True,  # the stage shows progress
        report_to=settings.report_to,
        run_name=settings.run_name or None,
        **_SHARING[settings.strategy],
    )


def _save(
    trainer: AnswerTrainer, processor: Any, settings: Settings, facts: dict[str, Any]
) -> None:
    """Save what was trained, gathered from all processes where each holds a part."""
    # all processes take part in gathering, one writes
    state = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    if not trainer.is_world_process_zero():
        return
    shutil.rmtree(settings.output, ignore_errors=True)  # of a save that was stopped
    model = trainer.accelerator.unwrap_model(trainer.model)
    if settings.strategy == "zero3":
        # else opening a base would deal it out
        unset_hf_deepspeed_config()  # type: ignore[no-untyped-call]
        # transformers 5.23 keeps renamings here that loading did not make
        model._weight_conversions = None
    save_trained(
        model, processor, settings.output, facts, precision=settings.precision, state=state
    )
    if settings.merge and settings.method != "full":
        merge_saved(Path(settings.output), facts, precision=settings.precision)


def _leave(settings: Settings, found: dict[str, Any]) -> None:
    """Leave what the stage reads; the checkpoints are of no more use."""
    done = Path(settings.checkpoints) / DONE
    # whole or not at all: a training that has this file is never begun again
    write_redacted(done, json.dumps(found))
    for checkpoint in done.parent.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)


def _log(trainer: AnswerTrainer) -> list[dict[str, Any]]:
    """A row of the table `steps` for each step, of earlier starts too."""
    return [
        {name: row[name] for name in _LOGGED}
        # the Trainer's own epoch depends on the number of processes
        | {"epoch": row["step"] / trainer.share.steps, "gradient_norm": row.get("grad_norm")}
        for row in trainer.state.log_history
        if "loss" in row
    ]


def _metrics(trainer: AnswerTrainer, peak: float | None) -> dict[str, float]:
    """Memory, speed and MFU of this start, and the evaluation of the weights that were kept."""
    found, ended = {"peak_memory_gib": memory_gib()}, trainer.ended
    if len(ended) > 1:
        last = trainer.state.global_step
        first = last - len(ended) + 1
        sums, seconds = trainer.share.sums(range(first, last)), ended[-1] - ended[0]
        rate = sums["tokens"] / seconds
        found |= {"tokens_per_second": rate, "samples_per_second": sums["rows"] / seconds}
        if peak and (flops := trainer.state.log_history[0].get("flops")):
            # the counted step is a fair sample of the rest; each process did its share of it
            found["mfu"] = flops / trainer.share.sums(range(1))["tokens"] * rate / peak
    # speeds have no more digits than that; losses of arms may differ in the next ones
    found = {name: float(f"{value:.4g}") for name, value in found.items()}
    if evaluated := [entry for entry in trainer.state.log_history if "eval_loss" in entry]:
        best = trainer.settings.load_best
        kept = min(evaluated, key=itemgetter("eval_loss")) if best else evaluated[-1]
        found |= {"eval_loss": kept["eval_loss"], "eval_step": kept["step"]}
    return found


if __name__ == "__main__":
    child_main(lambda: main(Path(sys.argv[1])), on_no_memory=MEND)
