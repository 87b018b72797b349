"""Steps and passes: which rows are learnt from together, and how they become tensors (VisCon-100K,
section 5).

A step's loss is a mean over its answer tokens. So a step must be a fair sample of the mix: in steps
of like rows an answer of two words weighs ten times a caption's token, since there are few others
in its step. A *pass* (what a device computes at once) should hold like rows, so that little of it
is padding, also of the images, where a vision tower takes any size. Hence steps are drawn in
strata. In a made mix of 665 K rows' kind (69 % short answers, 25 % captions, 6 % text-only; steps
of 128) a token of a short answer weighs 1.00 times one of a caption (9.6 in steps of like rows),
and padding is 0.1 % in passes of 4 rows and 3 % in passes of 8; where images differ in size, 1.02
times and 1 % in passes of 4. LLaVA's grouping keeps text-only rows in steps of their own, where a
token weighs 0.27 times as much.
"""

import random
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from PIL import Image
from torch.nn.utils.rnn import pad_sequence

from vislib.runs.seeding import seeded
from vislib.training.chat import model_inputs
from vislib.training.labels import IGNORED, PIXELS, Encoded, Encoder, unlabelled

_MEGABATCH = 64  # steps that are drawn together: more pad less, fewer leave more to chance
_STRATA = 32  # of a step: fewer pad less, more make steps alike
_PER_STRIP = 4  # strata of rows with about the same pixels, within which length decides


def plan_batches(
    lengths: ArrayLike, pixels: ArrayLike, *, batch: int, seed: int, epoch: int
) -> list[list[int]]:
    """Numbers of the rows of each step: every row once, the same for the same `seed` and `epoch`.

    `lengths` in tokens; `pixels` of a row's images as the processor makes them, 0 for a text-only
    row. All steps but the last have `batch` rows, like ones next to each other. Neither passes nor
    processes change what a step holds.

    Rows are shuffled, then ordered by likeness within each megabatch and cut into strata; every
    step gets a unit of like rows from each of them, by chance.
    """
    chance = random.Random(seeded(seed, "batches", str(epoch)))
    lengths, pixels = np.asarray(lengths, int), np.asarray(pixels, int)
    rows = list(range(len(lengths)))
    chance.shuffle(rows)
    unit = max(size for size in range(1, max(1, batch // _STRATA) + 1) if batch % size == 0)
    strips = max(1, batch // unit // _PER_STRIP)

    def alike(some: list[int]) -> list[int]:
        """In an order in which neighbours are alike: text-only ones, then by strip of pixels and
        length.
        """
        seen, long = pixels[some], lengths[some]
        # rows of fewer pixels are counted, so that equal pixels share a strip
        strip = (seen > 0) * (1 + np.searchsorted(np.sort(seen), seen) * strips // len(some))
        turned = np.where(strip % 2, long, -long)  # long ones meet where strips do
        return [some[at] for at in np.lexsort((turned, strip))]

    steps: list[list[int]] = []
    whole = len(rows) // batch * batch
    for mega in _cut(rows[:whole], batch * _MEGABATCH):
        strata = _cut(_cut(alike(mega), unit), len(mega) // batch)
        for stratum in strata:
            chance.shuffle(stratum)
        steps += [list(chain(*units)) for units in zip(*strata, strict=True)]
    # what is left over is less than a step: like rows side by side, as in any other
    return steps + ([alike(rows[whole:])] if rows[whole:] else [])


def _cut(rows: list[Any], size: int) -> list[list[Any]]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def collate(
    encoded: Sequence[Encoded], *, processor: Any, dummy: Encoded | None = None, side: str = "right"
) -> dict[str, torch.Tensor]:
    """The tensors of one forward pass: input_ids, labels and attention_mask, (rows, tokens), padded
    on that `side`; and the pixels of all images in the order of their tokens.

    Pixels of several sizes are padded with zeros to the largest: no image there. `dummy`
    (`dummy_row`) joins a batch that has no image, as its last row. With a sealed row there are
    `phases` too, (rows, tokens), of which `sealed_mask` makes the mask.
    """
    rows = list(encoded)
    if dummy and not any(row.pixels for row in encoded):
        rows.append(dummy)

    def padded(lists: Sequence[Sequence[int]], filler: int) -> torch.Tensor:
        texts = [torch.tensor(one) for one in lists]
        return pad_sequence(texts, batch_first=True, padding_value=filler, padding_side=side)

    batch = {
        # the filler is masked: any token will do
        "input_ids": padded([row.input_ids for row in rows], processor.tokenizer.pad_token_id or 0),
        "labels": padded([row.labels for row in rows], IGNORED),
        "attention_mask": padded([[1] * len(row.input_ids) for row in rows], 0),
    }
    if any(row.sealed for row in rows):
        batch["phases"] = padded([_phases(row) for row in rows], 0)
    for name in PIXELS:
        if tensors := [row.pixels[name] for row in rows if name in row.pixels]:
            largest = np.max([tensor.shape[1:] for tensor in tensors], axis=0).tolist()
            batch[name] = torch.cat([_grown(tensor, largest) for tensor in tensors])
    return batch


def _phases(row: Encoded) -> list[int]:
    """Of each token of a sealed row: 0 before the first answer, 1 in it, 2 behind; else 0."""
    learnt = np.array(row.labels) != IGNORED
    edges = np.cumsum(np.diff(learnt, prepend=False))  # an answer begins, or one ends
    return [min(int(edge), 2) * row.sealed for edge in edges]


def sealed_mask(seen: torch.Tensor, phases: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """What each token may attend to: itself and those before it that are no padding (`seen`, (rows,
    tokens)), but from phase 2 none of phase 1.

    0 or -inf, to be added to the scores of attention: (rows, 1, tokens, tokens). Nothing of the
    first answer reaches what follows: between them lies no token that has attended to it.
    """
    earlier = torch.ones_like(phases[0]).expand(phases.shape[1], -1).tril().bool()
    hidden = (phases[:, :, None] == 2) & (phases[:, None, :] == 1)
    allowed = earlier & seen[:, None, :].bool() & ~hidden
    mask = torch.zeros(allowed.shape, dtype=dtype, device=seen.device)
    return mask.masked_fill(~allowed, -torch.inf)[:, None]


def _grown(tensor: torch.Tensor, largest: Sequence[int]) -> torch.Tensor:
    whole = tensor.new_zeros([len(tensor), *largest])
    whole[tuple(map(slice, tensor.shape))] = tensor
    return whole


def dummy_row(encoder: Encoder) -> Encoded:
    """One image without text or loss, for batches without images: the vision tower takes part, its
    gradient is zero.

    Else data parallel training waits for gradients that never come, and ZeRO-3 for weights that
    nobody gathers.
    """
    image, token = Image.new("RGB", (28, 28), "white"), encoder.processor.image_token
    return unlabelled(encoder.processor, model_inputs(encoder.processor, token, [image]))
