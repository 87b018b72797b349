"""A training process: `accelerate launch` starts one per GPU (VisCon-100K, section 5: eight), with
a file of settings.

It opens the model, goes on from the last whole checkpoint, trains, and saves what was trained. What
the stage wants to know it says in events; what it leaves is `done.json` beside the checkpoints.
"""

import json
import os
import shutil
import signal
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from vislib.runs.errors import InputError
from vislib.runs.keys import ROOT
from vislib.runs.provenance import peak_memory_mib
from vislib.training.children import child_main, emit
from vislib.training.labels import Encoder
from vislib.training.models import open_model, save_trained
from vislib.training.settings import DONE, FACTS, Settings
from vislib.training.throughput import FlopMeter, peak_flops
from vislib.training.trainer import AnswerTrainer, Rows, Share, last_checkpoint, passes, unpack

_FSDP = {
    "version": 2,
    "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
    "state_dict_type": "FULL_STATE_DICT",
}
MEND = (
    "lower device_batch_size (batch_size stays), set gradient_checkpointing to true, or share the"
    " weights out with strategy zero3 or fsdp"
)


def main(file: Path) -> None:
    """Train as the settings in `file` say. Raises InputError."""
    settings, stop = Settings.read(file), threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    args, folder = _arguments(settings), Path(settings.checkpoints)
    with args.main_process_first(local=False):
        resumed = last_checkpoint(folder)
        if args.process_index == 0:
            unpack(Path(settings.rows))
    model, processor = open_model(settings.model, settings=settings)
    rows = Rows(Path(settings.rows), Encoder(processor, max_length=settings.max_length))
    meter = Meter(rows, settings, args)
    trainer = AnswerTrainer(model, args, rows, settings, on_step=meter.step, stop=stop)
    trainer.counter = meter.counter
    args.max_steps = trainer.share.steps_to_learn()
    meter.begin(trainer.share.steps, args.max_steps, resumed)
    trainer.train(resume_from_checkpoint=str(resumed) if resumed else None)
    if trainer.stopped:
        raise InputError(
            f"stopped after step {trainer.state.global_step}; the same command goes on from there"
        )
    facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
    _save(trainer, processor, settings, meter.totals(trainer.share) | facts)
    if trainer.is_world_process_zero():
        meter.end(trainer.share)
    trainer.accelerator.wait_for_everyone()


def _arguments(settings: Settings) -> TrainingArguments:
    cuda, processes = settings.device == "cuda", int(os.environ.get("WORLD_SIZE", "1"))
    return TrainingArguments(
        output_dir=settings.checkpoints,
        seed=settings.seed,
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=settings.device_batch_size,
        gradient_accumulation_steps=passes(settings.batch_size, settings, processes),
        learning_rate=settings.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=min(settings.warmup, 1 - 1e-9),  # 1 would be one step
        weight_decay=settings.weight_decay,
        max_grad_norm=1.0,
        optim="adamw_torch_fused" if cuda else "adamw_torch",
        bf16=settings.precision == "bfloat16",
        use_cpu=not cuda,
        ddp_find_unused_parameters=False,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=settings.checkpoint_steps,
        disable_tqdm=True,
        report_to="none",
        **_sharing(settings.strategy),
    )


def _sharing(strategy: str) -> dict[str, Any]:
    """What the Trainer is told of how processes share weights, gradients and the optimiser's
    moments out.
    """
    if strategy == "fsdp":
        return {"fsdp": True, "fsdp_config": dict(_FSDP)}
    return (
        {"deepspeed": str(ROOT / f"params/recipes/deepspeed-{strategy}.json")}
        if strategy != "ddp"
        else {}
    )


def _save(
    trainer: AnswerTrainer, processor: Any, settings: Settings, facts: dict[str, Any]
) -> None:
    """Save what was trained, gathered from all processes where each holds a part."""
    sharded = settings.strategy in ("zero3", "fsdp")
    state = trainer.accelerator.get_state_dict(trainer.model_wrapped) if sharded else None
    if trainer.is_world_process_zero():
        shutil.rmtree(settings.output, ignore_errors=True)
        model = trainer.accelerator.unwrap_model(trainer.model)
        if settings.strategy == "zero3":
            unset_hf_deepspeed_config()  # type: ignore[no-untyped-call]  # else opening a base would deal it out
            model._weight_conversions = (
                None  # transformers 5.23 keeps renamings here that loading did not make
            )
        save_trained(
            model,
            processor,
            settings.output,
            facts,
            merge=settings.merge,
            precision=settings.precision,
            state=state,
        )


class Meter:
    """The log of all steps, and how fast those of this start were, the first one left out: it warms
    up.
    """

    def __init__(self, rows: Rows, settings: Settings, args: TrainingArguments) -> None:
        self.rows, self.settings, self.args = rows, settings, args
        device = torch.cuda.get_device_name() if args.device.type == "cuda" else ""
        self.peak = peak_flops(device, settings.precision)
        self.counter = FlopMeter() if self.peak else None
        self.steps, self.log = 1, list[dict[str, Any]]()
        self.ended: list[float] = []  # s, of the steps of this start

    def begin(self, steps: int, total: int, resumed: Path | None) -> None:
        """Tell what there is to do: `steps` of an epoch, `total` of the training."""
        if resumed:
            state = json.loads((resumed / "trainer_state.json").read_text(encoding="utf-8"))
            self.log = [_row(entry, steps) for entry in state["log_history"]]
        self.steps = steps
        self._tell("begin", done=len(self.log), steps=total)

    def step(self, entry: dict[str, Any]) -> None:
        """Count one optimiser step."""
        self.log.append(_row(entry, self.steps))
        self.ended.append(time.perf_counter())
        tokens = sum(row["tokens"] for row in self.log[len(self.log) - len(self.ended) + 1 :])
        rate = tokens / (self.ended[-1] - self.ended[0]) if len(self.ended) > 1 else 0.0
        self._tell("step", loss=entry["loss"], tokens_per_second=rate, memory_gib=self._memory())

    def _tell(self, event: str, **values: Any) -> None:
        if self.args.process_index == 0:
            emit(event, **values)

    def _memory(self) -> float:
        return (
            torch.cuda.max_memory_reserved() / 2**30
            if self.args.device.type == "cuda"
            else peak_memory_mib() / 1024
        )

    def totals(self, share: Share) -> dict[str, int]:
        """What was learnt from in all steps: rows, rounds, tokens, image_tokens, supervised_tokens;
        and steps.
        """
        sums = Counter(steps=len(self.log))
        for number, row in enumerate(self.log):
            rows = share.of_step(number)
            sums.update(rows=len(rows))
            sums.update({name: row[name] for name in ("tokens", "supervised_tokens")})
            sums.update(
                {
                    name: int(self.rows.counts[f"n_{name}"][rows].sum())
                    for name in ("image_tokens", "rounds")
                }
            )
        return dict(sums)

    def end(self, share: Share) -> None:
        """Leave totals, metrics and log for the stage; the checkpoints are of no more use."""
        folder = Path(self.settings.checkpoints)
        found = {"totals": self.totals(share), "metrics": self._metrics(share), "log": self.log}
        (folder / "done.tmp").write_text(json.dumps(found), encoding="utf-8")
        os.replace(folder / "done.tmp", folder / DONE)
        for checkpoint in folder.glob("checkpoint-*"):
            shutil.rmtree(checkpoint)

    def _metrics(self, share: Share) -> dict[str, float]:
        metrics = {"peak_memory_gib": round(self._memory(), 2)}
        if len(self.ended) < 2:
            return metrics
        first = len(self.log) - len(self.ended) + 1
        rows = [row for number in range(first, len(self.log)) for row in share.of_step(number)]
        seconds = self.ended[-1] - self.ended[0]
        rate = self.rows.counts["n_tokens"][rows].sum() / seconds
        metrics |= {"tokens_per_second": rate, "samples_per_second": len(rows) / seconds}
        if self.peak and self.counter:
            # The counted step is a fair sample of the rest; each process did its share of it.
            tokens = self.rows.counts["n_tokens"][share.of_step(first - 1)].sum()
            metrics["mfu"] = self.counter.flops / tokens * rate / self.peak
        return {name: float(f"{value:.4g}") for name, value in metrics.items()}


def _row(entry: dict[str, Any], steps: int) -> dict[str, Any]:
    """A row of the table `steps` from the Trainer's own; its epoch depends on the number of
    processes.
    """
    kept = {
        name: entry[name]
        for name in ("step", "loss", "learning_rate", "tokens", "supervised_tokens")
    }
    return {**kept, "epoch": entry["step"] / steps, "gradient_norm": entry.get("grad_norm")}


if __name__ == "__main__":
    child_main(lambda: main(Path(sys.argv[1])), on_no_memory=MEND)
