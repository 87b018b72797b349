"""The Trainer of transformers with our batches, our loss and checkpoints that are whole
(VisCon-100K, section 5).

An optimiser step takes the same rows however many processes there are, and its loss is the sum over
its supervised tokens divided by their number, over all processes. An answer token weighs the same
in every pass of a step, and about the same in every step, because steps are alike (`batches`): by
the step's number alone it would not. Logits are made for supervised tokens alone: memory grows with
the answers, not with the length. The loss of IDEFICS2 and LLaVA is the plain next-token one.
"""

import json
import math
import time
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from functools import lru_cache, partial
from pathlib import Path
from threading import Event
from typing import Any

import torch
from torch.nn.functional import cross_entropy, pad
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers import Trainer
from transformers.trainer import TRAINER_STATE_NAME

from vislib.runs.children import emit
from vislib.runs.errors import InputError
from vislib.runs.keys import in_order
from vislib.runs.provenance import peak_memory_mib
from vislib.training.batches import collate, dummy_row, plan_batches, sealed_mask
from vislib.training.chat import RowError
from vislib.training.labels import IGNORED, Encoded, Encoder
from vislib.training.launch import COUNTED
from vislib.training.planning import COUNTS, open_rows
from vislib.training.settings import Settings
from vislib.training.throughput import FlopMeter


class Rows(Dataset[Encoded]):
    """The planned rows of `file`, encoded one at a time in loader workers.

    `counts`: their numbers of `COUNTS`, an array each. Rows that are no longer as they were planned
    raise InputError.
    """

    def __init__(self, file: str | Path, encoder: Encoder) -> None:
        self.table, self.encoder = open_rows(file), encoder
        self.counts = {name: self.table.column(name).to_numpy() for name in COUNTS}

    def __getitem__(self, number: int) -> Encoded:
        row = self.table.slice(number, 1).to_pylist()[0]
        try:
            encoded = self.encoder.encode(row)
        except RowError as error:
            raise InputError(
                f"row {row['id']} cannot be read any more ({error}); its files have changed"
            ) from error
        # steps were dealt out, and tokens promised to `arms`, by what the plan had counted
        if not encoded.counts.items() <= row.items():
            raise InputError(
                f"row {row['id']} is no longer what it was when it was planned; begin this stage"
                " anew"
            )
        return encoded

    def __len__(self) -> int:
        return int(self.table.num_rows)


class Share(Sampler[list[int]]):
    """The row numbers of each forward pass of one process, an epoch long; the same number of passes
    for all processes.

    A step of `batch_size` rows (`plan_batches`) is cut into passes of `device_batch_size` like
    rows, which are dealt out in turn, so that processes have about equal work. Where the last step
    has none left for a process it gets an empty one.
    """

    epoch = 0

    def __init__(
        self, rows: Rows, settings: Settings, *, process: int = 0, processes: int = 1
    ) -> None:
        self.rows, self.settings, self.process, self.processes = rows, settings, process, processes
        self.steps = math.ceil(len(rows) / settings.batch_size)  # of an epoch
        counts = rows.counts["tokens"], rows.counts["pixels"]
        plan = partial(plan_batches, *counts, batch=settings.batch_size, seed=settings.seed)
        # the rows of each step of an epoch; steps are asked for one by one, epochs come in order
        self.plan = lru_cache(maxsize=1)(plan)

    def set_epoch(self, epoch: int) -> None:
        """The Trainer's way to say which epoch comes."""
        self.epoch = epoch

    def of_step(self, step: int) -> list[int]:
        """The row numbers of step `step` of the whole training, from 0."""
        return self.plan(epoch=step // self.steps)[step % self.steps]

    def sums(self, steps: range) -> dict[str, int]:
        """What the rows of `steps`, counted from 0, hold: rows, rounds, tokens, image_tokens and
        supervised_tokens.
        """
        rows = [row for step in steps for row in self.of_step(step)]
        found = {name: int(self.rows.counts[name][rows].sum()) for name in COUNTED}
        return {"rows": len(rows), **found}

    def steps_to_learn(self) -> int:
        """Steps of the whole training: of its epochs or `max_steps`, up to the one that reaches the
        cap.

        Raises InputError if none does: arms that are compared at equal tokens would not be.
        """
        most, tokens = self.settings.max_supervised_tokens, 0
        steps = self.settings.max_steps or math.ceil(self.settings.epochs * self.steps)
        # as the schedule must know its end before it begins, steps are counted ahead
        if not most:
            return steps
        for step in range(steps):
            tokens += self.sums(range(step, step + 1))["supervised_tokens"]
            if tokens >= most:
                return step + 1
        raise InputError(
            f"max_supervised_tokens is {most}, but all {steps} steps have {tokens}; lower it in"
            " every arm, or raise epochs or max_steps"
        )

    def __iter__(self) -> Iterator[list[int]]:
        width = self.settings.device_batch_size
        for step in self.plan(epoch=self.epoch):
            # neighbours are alike: dealt out in turn, processes get passes of one length
            for start in range(0, len(step), width * self.processes):
                begin = start + width * self.process
                yield step[begin : begin + width]

    def __len__(self) -> int:
        return sum(1 for _ in self)


def last_checkpoint(folder: Path) -> Path | None:
    """The last complete checkpoint in `folder`."""
    for path in sorted(folder.glob("checkpoint-*"), key=in_order, reverse=True):
        # the Trainer writes its state last, and removes older checkpoints only then
        with suppress(OSError, ValueError):
            json.loads((path / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
            return path
    return None


class AnswerTrainer(Trainer):
    """Trains on answers; `tell` hears of each step and evaluation. `stop` ends it after the step
    under way.

    `counter` counts the FLOPs of this process in the first step of all: a start that goes on counts
    none, since counting may change the last bits. `ended`: the times (s) at which steps of this
    start did.
    """

    counter: FlopMeter | None = None

    def __init__(
        self,
        model: Any,
        args: Any,
        rows: Rows,
        settings: Settings,
    ) -> None:
        self.join = partial(collate, processor=rows.encoder.processor)
        # these all have an image: they are conversations of stage 08
        held_out = Rows(settings.held_out, rows.encoder) if settings.held_out else None
        super().__init__(model=model, args=args, eval_dataset=held_out, data_collator=self.join)
        # so that tokens of a step are counted, whatever the model says
        self.model_accepts_loss_kwargs = True
        self.rows, self.settings, self.held_out = rows, settings, held_out
        self.stop, self.ended = Event(), list[float]()
        self.share = Share(rows, settings, process=args.process_index, processes=args.world_size)

    def tell(self, event: str, **values: Any) -> None:
        """Say to the stage what happened, once for all processes."""
        if self.is_world_process_zero():
            emit(event, **values)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Our passes: each process has its own share already, so that accelerate must not deal them
        out again.
        """
        loader: DataLoader[Any] = DataLoader(
            self.rows,
            batch_sampler=self.share,
            collate_fn=partial(self.join, dummy=dummy_row(self.rows.encoder)),
            num_workers=self.settings.loader_workers,
            # of its own, so that workers take nothing from the chance that dropout draws from
            pin_memory=self.args.dataloader_pin_memory,
            generator=torch.Generator().manual_seed(self.settings.seed),
        )
        loader.set_epoch = self.share.set_epoch  # the Trainer calls it
        return loader

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The summed loss of one pass, as a share of the whole step's supervised tokens."""
        if self.held_out and not model.training:
            # what a row has: the Trainer's mean over rows is one over tokens then
            usual = self.held_out.counts["supervised_tokens"].mean()
            num_items_in_batch = usual * self.accelerator.num_processes
        if (phases := inputs.pop("phases", None)) is not None:
            # made here: sent by a loader, it would be the square of what a row is
            seen, dtype = inputs["attention_mask"], next(model.parameters()).dtype
            inputs["attention_mask"] = sealed_mask(seen, phases, dtype)
        # each token is told by the one before it
        targets = pad(inputs.pop("labels"), (0, 1), value=IGNORED)[:, 1:]
        supervised = targets != IGNORED
        # keys and values are for generation: kept here, they would only take memory
        logits = model(**inputs, logits_to_keep=supervised, use_cache=False).logits
        targets = targets[supervised]
        if logits.shape[:-1] != targets.shape:
            raise InputError(
                f"{type(self.model).__name__} makes all logits whatever is asked: it cannot be"
                " trained"
            )
        loss = cross_entropy(logits.float(), targets, reduction="sum") / num_items_in_batch
        loss *= self.accelerator.num_processes  # gradients are means over processes
        return (loss, {}) if return_outputs else loss

    def training_step(self, *given: Any, **named: Any) -> Any:
        """One pass, forward and backward."""
        # every pass of the first step, since passes differ in length; counting slows it down
        counter = None if self.state.global_step else self.counter
        with counter.counting() if counter else nullcontext():
            return super().training_step(*given, **named)

    def floating_point_ops(self, inputs: Any) -> int:
        """Counted elsewhere (`throughput`), as they run."""
        return 0

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """After each optimiser step: its row of the log, the end of a training that diverged, and
        the stop.
        """
        done, step_ended = self.state.global_step, "loss" in logs
        if step_ended:
            # the Trainer would go on, and save what is lost
            if not math.isfinite(logs["loss"] + logs.get("grad_norm", 0)):
                rows = self.rows.table.take(self.share.of_step(done - 1))
                names = ", ".join(rows.column("id").to_pylist())
                raise InputError(
                    f"step {done}: loss {logs['loss']}, gradient norm {logs.get('grad_norm')}:"
                    f" lower learning_rate, or look at its rows {names}"
                )
            sums = self.share.sums(range(done - 1, done))
            logs |= {name: sums[name] for name in ("tokens", "supervised_tokens")}
            if done == 1 and self.counter:
                logs["flops"] = self.counter.flops
        super().log(logs)
        if "eval_loss" in logs:
            self.tell("evaluation", step=done, eval_loss=logs["eval_loss"])
        if step_ended:
            self._step_ended(done, logs)

    def _step_ended(self, done: int, logs: dict[str, float]) -> None:
        self.ended.append(time.perf_counter())
        # the first step of a start is not timed: it warms up
        seconds = self.ended[-1] - self.ended[-2] if len(self.ended) > 1 else math.inf
        told = {"loss": logs["loss"], "memory_gib": memory_gib()}
        self.tell("step", step=done, **told, tokens_per_second=logs["tokens"] / seconds)
        # all stop after the same step, whichever was asked
        asked = torch.tensor(float(self.stop.is_set()), device=self.args.device)
        if self.accelerator.reduce(asked, "sum").item():
            self.control.should_save = self.control.should_training_stop = True

    def _save(self, output_dir: Any = None, state_dict: Any = None) -> None:
        """A checkpoint's weights, named as in memory: by LLaVA's own none would be found when
        training goes on.
        """
        model: Any = self.model
        if self.args.should_save:
            model.save_pretrained(output_dir, state_dict=state_dict, save_original_format=False)

    def _save_rng_state(self, output_dir: Any) -> None:
        """Each process writes its own state of chance; the Trainer's, which makes a checkpoint
        whole, must come after all of them.
        """
        super()._save_rng_state(output_dir)
        self.accelerator.wait_for_everyone()

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """A checkpoint, but none after the last step: the model itself is saved then."""
        state = self.state
        if state.global_step < state.max_steps:
            super()._save_checkpoint(model, trial)
        elif state.best_global_step == state.global_step:
            state.best_model_checkpoint = None  # the best is what stands in memory


def memory_gib() -> float:
    """The most memory that this process has taken, of its GPU if it has one."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_reserved() / 2**30
    return peak_memory_mib() / 1024
