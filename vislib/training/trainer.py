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
from collections.abc import Callable, Iterator
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
_MARK = "complete"  # file that is written last into a checkpoint
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
        self.counts["n_images"] = pc.list_value_length(self.table.column("images")).to_numpy()

    def __getitem__(self, number: int) -> Encoded:
        row = self.table.slice(number, 1).to_pylist()[0]
        try:
            encoded = self.encoder.encode(row)
        except RowError as error:
            raise InputError(
                f"row {row['id']} cannot be read any more ({error}); its files have changed"
            ) from error
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
    with (
        tables.open_part(file) as source,
        pa.ipc.new_file(file.with_suffix(_UNPACKED), source.schema_arrow) as sink,
    ):
        for batch in source.iter_batches(batch_size=_PER_BATCH):
            sink.write_batch(batch)


def passes(rows: int, settings: Settings, processes: int) -> int:
    """Forward passes of each process in a step of that many rows."""
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
        if self._planned[0] != epoch:
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
                start = (number * self.processes + self.process) * width
                yield step[start : start + width]

    def __len__(self) -> int:
        rows, whole = len(self.rows), self.settings.batch_size
        return sum(
            passes(min(whole, rows - start), self.settings, self.processes)
            for start in range(0, rows, whole)
        )


def summed_loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Cross-entropy summed over tokens: `logits` (tokens, vocabulary), `targets` (tokens,). In
    float32, chunk by chunk.

    What a softmax needs is made again for gradients: only the logits grow, which accelerate's
    autocast makes float32.
    """
    loss = partial(cross_entropy, reduction="sum")
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
    """The last complete checkpoint in `folder`; all others are removed."""
    complete: list[Path] = []
    for found in sorted(
        folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2])
    ):
        complete += [found] if (found / _MARK).exists() else []
        if found not in complete:
            shutil.rmtree(found)
    for old in complete[:-1]:
        (old / _MARK).unlink()  # first: what is half removed must not count
        shutil.rmtree(old)
    return complete[-1] if complete else None


class AnswerTrainer(Trainer):
    """Trains on answers. `on_step` gets the log row of each optimiser step; `stop` ends it after
    the one under way.

    `stopped` tells whether it did. `counter` counts the FLOPs of this process in the first step of
    this start.
    """

    counter: FlopMeter | None = None

    def __init__(
        self,
        model: Any,
        args: Any,
        rows: Rows,
        settings: Settings,
        *,
        on_step: Callable[[dict[str, Any]], None],
        stop: Event,
    ) -> None:
        super().__init__(model=model, args=args)
        self.model_accepts_loss_kwargs = (
            True  # so that tokens of a step are counted, whatever the model says
        )
        self.rows, self.settings, self.on_step, self.stop, self.stopped = (
            rows,
            settings,
            on_step,
            stop,
            False,
        )
        self.share = Share(rows, settings, process=args.process_index, processes=args.world_size)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Our passes: each process has its own share already, so that accelerate must not deal them
        out again.
        """
        encoder = self.rows.encoder
        join = partial(
            collate,
            processor=encoder.processor,
            dummy=dummy_row(encoder),
        )
        loader: DataLoader[Any] = DataLoader(
            self.rows,
            batch_sampler=self.share,
            collate_fn=join,
            num_workers=self.settings.loader_workers,
            pin_memory=self.args.device.type == "cuda",
            generator=torch.Generator().manual_seed(self.settings.seed),
        )
        loader.set_epoch = self.share.set_epoch  # the Trainer calls it
        return loader

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The summed loss of one pass, as a share of the whole step's supervised tokens."""
        targets = pad(inputs.pop("labels"), (0, 1), value=IGNORED)[
            :, 1:
        ]  # each token is told by the one before it
        supervised = targets != IGNORED
        # keys and values are for generation: kept here, they would only take memory
        logits = model(**inputs, logits_to_keep=supervised, use_cache=False).logits
        targets = targets[supervised]
        if logits.shape[:-1] != targets.shape:
            raise InputError(
                f"{type(self.model).__name__} makes all logits whatever is asked: it cannot be"
                " trained"
            )
        loss = (
            summed_loss(logits, targets) / num_items_in_batch * self.accelerator.num_processes
        )  # gradients are means
        return (loss, None) if return_outputs else loss

    def training_step(self, *given: Any, **named: Any) -> Any:
        """One pass, forward and backward."""
        with self.counter.counting() if self.counter else nullcontext():
            return super().training_step(*given, **named)

    def floating_point_ops(self, inputs: Any) -> int:
        """Counted elsewhere (`throughput`), as they run."""
        return 0

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """After each optimiser step: its row of the log, the end of a training that diverged, and
        the stop.
        """
        if "loss" not in logs:  # the Trainer's summary
            return
        step = self.state.global_step - 1
        rows = self.share.of_step(step)
        if not math.isfinite(logs["loss"] + logs.get("grad_norm", 0)):
            raise InputError(
                f"step {step + 1}: loss {logs['loss']}, gradient norm {logs.get('grad_norm')}:"
                " lower learning_rate, or look at its rows"
                f" {', '.join(self.rows.table.column('id').take(rows).to_pylist())}"
            )
        sums = {
            name: int(self.rows.counts[f"n_{name}"][rows].sum())
            for name in ("tokens", "supervised")
        }
        logs |= {"tokens": sums["tokens"], "supervised_tokens": sums["supervised"]}
        super().log(logs)
        self.counter = None  # counting slows the passes down: the first step is not timed
        self.on_step(self.state.log_history[-1])
        if self._asked_to_stop() and self.state.global_step < self.state.max_steps:
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
        if self.state.global_step >= self.state.max_steps:
            return
        super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()
        if self.is_world_process_zero():
            folder = Path(str(self.args.output_dir))
            (folder / f"checkpoint-{self.state.global_step}" / _MARK).touch()
            last_checkpoint(folder)
