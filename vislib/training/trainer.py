"""The Trainer of transformers with our batches, our loss and checkpoints that are whole
(VisCon-100K, section 5).

An optimiser step takes the same rows however many processes there are, and its loss is the sum over
its supervised tokens divided by their number, over all processes. An answer token weighs the same
in every pass of a step, and about the same in every step, because steps are alike (`batches`): by
the step's number alone it would not. Logits are made for supervised tokens alone and turned into
losses in chunks: memory grows with the answers, not with the length. The loss of IDEFICS2 and LLaVA
is the plain next-token one.
"""

import math
import shutil
from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch.nn.functional import cross_entropy, pad
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers import Trainer

from vislib.runs import tables
from vislib.runs.errors import InputError
from vislib.training.batches import collate, dummy_row, plan_batches
from vislib.training.labels import IGNORED, Encoded, Encoder, RowError
from vislib.training.settings import Settings
from vislib.training.throughput import FlopMeter

COLUMNS = ("n_tokens", "n_image_tokens", "n_supervised", "n_pixels")
_CHUNK = 1024  # supervised tokens whose float32 logits are there at a time
_MARK = "complete"  # file that is written last into a checkpoint; names the best one, if any
_PER_BATCH, _UNPACKED = 2000, ".arrow"  # rows


class Rows(Dataset[Encoded]):
    """The planned rows of `file`, encoded one at a time in loader workers; memory-mapped from what
    `unpack` made of it.

    `counts`: their numbers of `COLUMNS`, images and rounds, an array each. Rows that are no longer
    as they were planned raise InputError.
    """

    def __init__(self, file: Path, encoder: Encoder) -> None:
        self.table = pa.ipc.open_file(pa.memory_map(str(file.with_suffix(_UNPACKED)))).read_all()
        self.encoder = encoder
        self.counts = {name: self.table.column(name).to_numpy() for name in COLUMNS}
        turns = pc.list_value_length(self.table.column("conversations")).to_numpy()
        self.counts["n_rounds"] = turns // 2  # of a question and its answer

    def __getitem__(self, number: int) -> Encoded:
        row = self.table.slice(number, 1).to_pylist()[0]
        try:
            encoded = self.encoder.encode(row)
        except RowError as error:
            raise InputError(
                f"row {row['id']} cannot be read any more ({error}); its files have changed"
            ) from error
        # steps were dealt out, and tokens promised to `arms`, by what the plan had counted
        if (len(encoded.input_ids), encoded.n_supervised) != (row["n_tokens"], row["n_supervised"]):
            raise InputError(
                f"row {row['id']} is no longer what it was when it was planned; begin this stage"
                " anew"
            )
        return encoded

    def __len__(self) -> int:
        return int(self.table.num_rows)


def unpack(file: Path) -> None:
    """Write a Parquet file of rows as an Arrow file beside it, which can be read row by row without
    decoding.
    """
    # Parquet must be decoded by the row group; loader workers ask for rows one by one, at random
    with (
        tables.open_part(file) as source,
        pa.ipc.new_file(file.with_suffix(_UNPACKED), source.schema_arrow) as sink,
    ):
        for batch in source.iter_batches(batch_size=_PER_BATCH):
            sink.write_batch(batch)


def passes(rows: int, settings: Settings, processes: int) -> int:
    """Forward passes of each process in a step of that many rows."""
    # rounded up twice: the last pass may be narrower, and the last round lack some processes
    return math.ceil(math.ceil(rows / settings.device_batch_size) / processes)


class Share(Sampler[list[int]]):
    """The row numbers of each forward pass of one process, an epoch long; the same number of passes
    for all processes.

    A step of `batch_size` rows (`plan_batches`) is cut into passes of `device_batch_size` like
    rows, which are dealt out in turn, so that processes have about equal work. Where the last step
    has none left for a process it gets an empty one.
    """

    def __init__(self, rows: Rows, settings: Settings, *, process: int, processes: int) -> None:
        self.rows, self.settings, self.process, self.processes = rows, settings, process, processes
        self.epoch, self._planned = 0, (-1, list[list[int]]())
        self.steps = math.ceil(len(rows) / settings.batch_size)  # of an epoch

    def set_epoch(self, epoch: int) -> None:
        """The Trainer's way to say which epoch comes."""
        self.epoch = epoch

    def plan(self, epoch: int) -> list[list[int]]:
        """The row numbers of each step of an epoch."""
        if self._planned[0] != epoch:  # steps are asked for one by one, epochs come in order
            lengths, pixels = (self.rows.counts[name].tolist() for name in ("n_tokens", "n_pixels"))
            settings = self.settings
            steps = plan_batches(
                lengths, pixels, batch=settings.batch_size, seed=settings.seed, epoch=epoch
            )
            self._planned = epoch, steps
        return self._planned[1]

    def of_step(self, step: int) -> list[int]:
        """The row numbers of step `step` of the whole training, from 0."""
        return self.plan(step // self.steps)[step % self.steps]

    def steps_to_learn(self) -> int:
        """Steps of the whole training: of its epochs or `max_steps`, up to the one that reaches the
        cap.

        Raises InputError if none does: arms that are compared at equal tokens would not be.
        """
        settings, tokens = self.settings, 0
        steps = settings.max_steps or math.ceil(settings.epochs * self.steps)
        # as the schedule must know its end before it begins, steps are counted ahead
        if not settings.max_supervised_tokens:
            return steps
        for step in range(steps):
            tokens += int(self.rows.counts["n_supervised"][self.of_step(step)].sum())
            if tokens >= settings.max_supervised_tokens:
                return step + 1
        raise InputError(
            f"max_supervised_tokens is {settings.max_supervised_tokens}, but all {steps} steps have"
            f" {tokens}; lower it in every arm, or raise epochs or max_steps"
        )

    def __iter__(self) -> Iterator[list[int]]:
        width = self.settings.device_batch_size
        for step in self.plan(self.epoch):
            for number in range(passes(len(step), self.settings, self.processes)):
                # neighbours are alike: dealt out in turn, processes get passes of one length
                start = (number * self.processes + self.process) * width
                yield step[start : start + width]

    def __len__(self) -> int:
        return sum(1 for _ in self)


def summed_loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Cross-entropy summed over tokens: `logits` (tokens, vocabulary), `targets` (tokens,). In
    float32, chunk by chunk.

    What a softmax needs is made again for gradients: only the logits grow, which accelerate's
    autocast makes float32.
    """
    loss = partial(cross_entropy, reduction="sum")
    # one chunk of float32 logits at a time: a vocabulary of 32,000 takes 128 MB a thousand tokens
    sums = [
        checkpoint(
            lambda chunk, wanted: loss(chunk.float(), wanted), chunk, wanted, use_reentrant=False
        )
        for chunk, wanted in zip(
            torch.split(logits, _CHUNK), torch.split(targets, _CHUNK), strict=True
        )
    ]
    return torch.stack(sums).sum()


def last_checkpoint(folder: Path) -> Path | None:
    """The last complete checkpoint in `folder`; it and the best one stay, others are removed."""
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[-1]))
    complete = [path for path in found if (path / _MARK).exists()]
    kept = set[Path]()
    if complete:
        kept = {complete[-1], folder / (complete[-1] / _MARK).read_text(encoding="utf-8")}
    for old in found:
        if old not in kept:
            (old / _MARK).unlink(missing_ok=True)  # first: what is half removed must not count
            shutil.rmtree(old)
    return complete[-1] if complete else None


class AnswerTrainer(Trainer):
    """Trains on answers. `stop` ends it after the step under way, and `stopped` tells whether it
    did.

    `counter` counts the FLOPs of this process in the first step of this start. `held_out`: rows
    that are evaluated as `args` say.
    """

    counter: FlopMeter | None = None

    def __init__(
        self,
        model: Any,
        args: Any,
        rows: Rows,
        settings: Settings,
        *,
        stop: Event,
        held_out: Rows | None = None,
    ) -> None:
        self.join = partial(collate, processor=rows.encoder.processor)
        # held-out rows all have an image: they are conversations of stage 08
        evaluated = partial(self.join, dummy=None)
        super().__init__(model=model, args=args, eval_dataset=held_out, data_collator=evaluated)
        # so that tokens of a step are counted, whatever the model says
        self.model_accepts_loss_kwargs = True
        self.rows, self.settings, self.held_out = rows, settings, held_out
        self.stop, self.stopped = stop, False
        self.share = Share(rows, settings, process=args.process_index, processes=args.world_size)

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
        loss = summed_loss(logits, targets) / num_items_in_batch
        loss *= self.accelerator.num_processes  # gradients are means over processes
        return (loss, None) if return_outputs else loss

    def training_step(self, *given: Any, **named: Any) -> Any:
        """One pass, forward and backward."""
        # every pass of the first step, since passes differ in length
        with self.counter.counting() if self.counter else nullcontext():
            return super().training_step(*given, **named)

    def prediction_step(self, model: Any, inputs: Any, *given: Any, **named: Any) -> Any:
        """The loss of held-out rows, as a share of what so many rows have in supervised tokens: the
        Trainer's mean over rows is then the mean over tokens.
        """
        assert self.held_out is not None
        usual = len(inputs["labels"]) * self.held_out.counts["n_supervised"].mean()
        with torch.no_grad(), self.compute_loss_context_manager():
            loss = self.compute_loss(model, self._prepare_inputs(inputs), num_items_in_batch=usual)
        return loss / self.accelerator.num_processes, None, None

    def floating_point_ops(self, inputs: Any) -> int:
        """Counted elsewhere (`throughput`), as they run."""
        return 0

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """After each optimiser step: its row of the log, the end of a training that diverged, and
        the stop.
        """
        if "loss" not in logs:  # an evaluation, or the Trainer's summary
            super().log(logs)
            return
        done = self.state.global_step
        rows = self.share.of_step(done - 1)
        # the Trainer would go on, and save what is lost
        if not math.isfinite(logs["loss"] + logs.get("grad_norm", 0)):
            names = ", ".join(self.rows.table.column("id").take(rows).to_pylist())
            raise InputError(
                f"step {done}: loss {logs['loss']}, gradient norm {logs.get('grad_norm')}:"
                f" lower learning_rate, or look at its rows {names}"
            )
        logs["tokens"] = int(self.rows.counts["n_tokens"][rows].sum())
        logs["supervised_tokens"] = int(self.rows.counts["n_supervised"][rows].sum())
        super().log(logs)
        self.counter = None  # counting slows the passes down: the first step is not timed
        if done >= self.state.max_steps:  # what is compared with the best is the whole training
            self.control.should_evaluate = self.held_out is not None
        elif self._asked_to_stop():
            self.stopped = self.control.should_save = self.control.should_training_stop = True

    def _asked_to_stop(self) -> bool:
        """Whether any process was: all stop after the same step."""
        asked = torch.tensor(float(self.stop.is_set()), device=self.args.device)
        return bool(self.accelerator.reduce(asked, "sum").item())

    def _save(self, output_dir: Any = None, state_dict: Any = None) -> None:
        """A checkpoint's weights, named as in memory: by LLaVA's own none would be found when
        training goes on.
        """
        model: Any = self.model
        if self.args.should_save:
            model.save_pretrained(output_dir, state_dict=state_dict, save_original_format=False)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """A checkpoint that counts only when all of it is there; the one before it goes. None after
        the last step.
        """
        state = self.state
        if state.global_step >= state.max_steps:
            if state.best_global_step == state.global_step:
                state.best_model_checkpoint = None  # the best is what stands in memory
            return
        super()._save_checkpoint(model, trial)
        # each process writes its own state of chance: whole is what all have written
        self.accelerator.wait_for_everyone()
        if self.is_world_process_zero():
            folder = Path(str(self.args.output_dir))
            best = Path(state.best_model_checkpoint or "").name
            mark = folder / f"checkpoint-{state.global_step}" / _MARK
            mark.write_text(best, encoding="utf-8")
            last_checkpoint(folder)
