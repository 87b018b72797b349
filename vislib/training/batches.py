"""Batches: which rows go together, and how they become tensors (VisCon-100K, section 5).

LLaVA's recipe groups rows by modality and length, so that little of a batch is padding. A vision tower that takes
images of any size pads them to the largest of the batch as well, so rows are grouped by text length and by pixels.
"""

import random
from collections.abc import Iterable, Sequence
from math import ceil
from typing import Any

import torch
from PIL import Image
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

from vislib.runs.seeding import seeded
from vislib.training.chat import model_inputs
from vislib.training.labels import IGNORED, PIXELS, Encoded, Encoder

_MEGABATCH = 64  # batches among which rows are sorted: more pad less, fewer leave more to chance
_STRIP = 8  # of these, batches of about the same pixels, sorted by length


def plan_batches(
    lengths: Sequence[int], pixels: Sequence[int], *, batch: int, seed: int, epoch: int
) -> list[list[int]]:
    """Numbers of the rows of each batch: every row once, the same for the same `seed` and `epoch`.

    `lengths` in tokens; `pixels` of a row's images as the processor makes them, 0 for a text-only row. Rows with and
    without images stay apart but in the last batches, which hold what was left over; all batches but the very last
    have `batch` rows.
    """
    chance = random.Random(seeded(seed, "batches", str(epoch)))
    batches: list[list[int]] = []
    left: list[int] = []
    for seen in (True, False):
        rows = [row for row, count in enumerate(pixels) if bool(count) is seen]
        chance.shuffle(rows)
        whole = len(rows) // batch * batch
        left += rows[whole:]
        for mega in _cut(rows[:whole], batch * _MEGABATCH):
            mega.sort(key=lambda row: (pixels[row], lengths[row]))
            for strip in _cut(mega, batch * _STRIP):
                batches += _cut(sorted(strip, key=lambda row: lengths[row]), batch)
    chance.shuffle(batches)
    return batches + _cut(left, batch)


def _cut(rows: list[int], size: int) -> list[list[int]]:
    return [rows[start : start + size] for start in range(0, ceil(len(rows) / size) * size, size)]


def collate(
    encoded: Sequence[Encoded], *, processor: Any, packing: bool, dummy: Encoded | None
) -> dict[str, torch.Tensor]:
    """The tensors of one forward pass: input_ids, labels, and the pixels of all images in the order of their tokens.

    Padded on the right with an attention_mask, (rows, tokens); or, `packing`, all rows behind one another, (1, tokens),
    with position_ids that begin anew with each and without a mask: the model must keep them apart
    (`packing.prove_packing`). `dummy` (`dummy_row`) joins a batch that has no image, as its last row.
    """
    rows = [*encoded, dummy] if dummy and not any(row.pixels for row in encoded) else list(encoded)
    if packing:
        batch = {
            "input_ids": _joined(row.input_ids for row in rows), "labels": _joined(row.labels for row in rows),
            "position_ids": _joined(range(len(row.input_ids)) for row in rows),
        }  # fmt: skip
    else:
        filler = processor.tokenizer.pad_token_id or 0  # masked
        batch = {
            "input_ids": _padded((row.input_ids for row in rows), filler),
            "labels": _padded((row.labels for row in rows), IGNORED),
            "attention_mask": _padded(([1] * len(row.input_ids) for row in rows), 0),
        }
    for name in PIXELS:
        if tensors := [row.pixels[name] for row in rows if name in row.pixels]:
            batch[name] = _stacked(tensors)
    return batch


def dummy_row(encoder: Encoder) -> Encoded:
    """One image without text or loss, for batches without images: the vision tower takes part, its gradient is zero.

    Else data parallel training waits for gradients that never come, and ZeRO-3 for weights that nobody gathers.
    """
    batch = model_inputs(encoder.processor, encoder.processor.image_token, [Image.new("RGB", (28, 28), "white")])
    ids, pixels = batch["input_ids"][0].tolist(), {name: batch[name] for name in PIXELS if name in batch}
    return Encoded(ids, [IGNORED] * len(ids), pixels, ids.count(encoder.processor.image_token_id))


def _joined(rows: Iterable[Sequence[int]]) -> torch.Tensor:
    return torch.tensor([[value for row in rows for value in row]])


def _padded(rows: Iterable[Sequence[int]], filler: int) -> torch.Tensor:
    return pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=filler)


def _stacked(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """One behind the other along the first dimension, the others padded with zeros to the largest: no image there."""
    largest = [max(sizes) for sizes in zip(*(tensor.shape[1:] for tensor in tensors), strict=True)]
    return torch.cat([
        pad(t, [side for size, most in zip(t.shape[:0:-1], largest[::-1], strict=True) for side in (0, most - size)])
        for t in tensors
    ])  # fmt: skip
