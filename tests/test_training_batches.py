"""`vislib.training.batches`: batches teach what their rows teach alone, and every row
comes once.
"""

import random
from collections import Counter
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
import transformers

from tests.training_ground import encode, pictures, processor, row
from vislib.training import batches, tiny
from vislib.training.batches import collate, dummy_row, plan_batches, sealed_mask
from vislib.training.labels import IGNORED, Encoder

MODELS = [*tiny.NAMES, "idefics2-split", "idefics3-split", "llava-next"]
SOME = [
    (
        row(
            "<image>\nWhat is it?",
            "A lamp.",
            "Where?",
            "On the left of the second table.",
            images=1,
        ),
        [0],
    ),
    (row("What is 2 + 2?", "4, of course."), []),
    (
        row("<image><image>\nWhich?", "The second, as it is red.", "And <image>?", "No.", images=3),
        [1, 0, 2],
    ),
    (row("<image>Why?", "Because.", images=1), [3]),
]


@cache
def model(kind: str, attention: str):
    torch.manual_seed(1)
    name = f"tiny-{kind.removesuffix('-split')}" if kind.endswith("-split") else kind
    made = (
        tiny.made(name)[0] if name in tiny.NAMES else llava_next(tiny.made("tiny-llava")[0].config)
    )
    with torch.no_grad():  # fresh weights are so small that a leak between rows would hardly show
        for weight in made.parameters():
            weight *= 4 if weight.ndim > 1 else 1
    made.set_attn_implementation(attention)
    return made.eval()


def llava_next(like):
    parts = {
        name: getattr(like, name) for name in ("text_config", "vision_config", "image_token_index")
    }
    parts["image_grid_pinpoints"] = processor("llava-next").image_processor.image_grid_pinpoints
    return transformers.LlavaNextForConditionalGeneration(transformers.LlavaNextConfig(**parts))


def encoded(kind: str, some=SOME):
    encoder = Encoder(processor(kind), max_length=4000)
    return [encode(encoder, given, [pictures(4)[n] for n in shown]) for given, shown in some]


def losses(kind: str, attention: str, rows, **options) -> torch.Tensor:
    """The loss of each supervised token, in order."""
    batch = collate(rows, processor=processor(kind), **options)
    labels = batch.pop("labels")
    logits = model(kind, attention)(**batch).logits[:, :-1]
    each = torch.nn.functional.cross_entropy(
        logits.transpose(1, 2), labels[:, 1:], reduction="none"
    )
    return each[labels[:, 1:] != IGNORED]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", MODELS)
def test_rows_in_one_batch_have_the_losses_that_they_have_alone(kind, attention):
    rows = encoded(kind)
    with torch.no_grad():
        alone = torch.cat([losses(kind, attention, [one]) for one in rows])
        together = losses(kind, attention, rows)
    assert len(alone) == sum(one.counts["supervised_tokens"] for one in rows)
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(together.sum(), alone.sum())


CAPTIONED = row(
    *("<image>\nDescribe it.", "A red lamp, lit.", "Which colour?", "Red.", "Where?", "Here."),
    images=1,
)


def logits(kind: str, attention: str, rows) -> torch.Tensor:
    batch = collate(rows, processor=processor(kind))
    batch.pop("labels")
    if (phases := batch.pop("phases", None)) is not None:
        batch["attention_mask"] = sealed_mask(batch["attention_mask"], phases, torch.float32)
    with torch.no_grad():
        return model(kind, attention)(**batch).logits


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", ["tiny-llava", "tiny-idefics2"])
def test_what_follows_a_sealed_caption_knows_nothing_of_it_and_sees_the_image(kind, attention):
    free, plain, other = encoded(kind, [(CAPTIONED, [0]), SOME[2], (CAPTIONED, [3])])
    shut = replace(free, sealed=True)
    phases = torch.tensor(batches._phases(shut))
    said, after = phases == 1, phases == 2
    learnt = torch.tensor(free.labels) != IGNORED
    end = processor(kind).tokenizer.decode(torch.tensor(free.input_ids)[said])
    assert "A red lamp, lit." in end
    assert 0 < (learnt & after).sum() < after.sum()  # questions and their answers
    ids = torch.tensor(free.input_ids).masked_fill(said, 7).tolist()  # another caption
    size = len(ids)

    def told(row):  # in a batch with a longer row that is not sealed
        return logits(kind, attention, [row, plain])[0, :size]

    near = {"rtol": 1e-4, "atol": 1e-4}
    alone = logits(kind, attention, [free])[0]
    torch.testing.assert_close(told(free), alone, **near)
    torch.testing.assert_close(told(shut)[~after], alone[~after], **near)
    # level 0: another caption changes nothing that follows; level 1: it changes all of that
    assert torch.equal(told(shut)[after], told(replace(shut, input_ids=ids))[after])
    changed = (told(free) - told(replace(free, input_ids=ids))).abs().amax(-1)
    assert (changed[after] > 1e-3).all()
    assert (changed[phases == 0] == 0).all()
    seen = told(shut) - told(replace(shut, pixels=other.pixels))
    assert (seen[after].abs().amax(-1) > 1e-3).all()
    # the neighbour has what it has without a sealed row
    both = logits(kind, attention, [shut, plain])[1]
    torch.testing.assert_close(both, logits(kind, attention, [free, plain])[1], **near)
    assert "phases" not in collate([free, plain], processor=processor(kind))


@pytest.mark.parametrize("kind", MODELS)
def test_each_image_is_seen_in_its_own_place(kind):
    rows = encoded(kind, [SOME[0], SOME[2]])
    other = encoded(kind, [SOME[0], (SOME[2][0], [1, 3, 2])])  # the second of three is another
    with torch.no_grad():
        before, after = (losses(kind, "sdpa", some) for some in (rows, other))
    first = rows[0].counts["supervised_tokens"]
    # another image may have other tokens, and so the batch another width: equal but for rounding
    torch.testing.assert_close(before[:first], after[:first], rtol=1e-5, atol=1e-5)
    assert (before[first:] != after[first:]).all()


@pytest.mark.parametrize("kind", MODELS)
def test_a_dummy_image_lets_the_vision_tower_take_part_and_changes_nothing(kind):
    made, dummy = model(kind, "sdpa"), dummy_row(Encoder(processor(kind), max_length=4000))

    def learn(rows, dummy=None):
        made.zero_grad(set_to_none=True)
        each = losses(kind, "sdpa", rows, dummy=dummy)
        each.mean().backward()
        return each.detach(), {
            name: w.grad for name, w in made.named_parameters() if w.grad is not None
        }

    text_only = encoded(kind, [SOME[1], (row("Why?", "Because."), [])])
    (plain, without), (joined, gradients) = learn(text_only), learn(text_only, dummy)
    torch.testing.assert_close(joined, plain)
    for name, gradient in without.items():
        torch.testing.assert_close(gradients[name], gradient)
    _, usual = learn(
        encoded(kind, SOME[:1])
    )  # what learns from images: LLaVA's tower has a last layer that does not
    assert gradients.keys() == usual.keys() > without.keys()
    assert not any(gradients[name].any() for name in usual.keys() - without.keys())
    assert (
        len(
            [
                name
                for name in usual.keys() - without.keys()
                if "vision" in name and usual[name].any()
            ]
        )
        > 30
    )


def test_a_dummy_joins_batches_without_images_only():
    rows, dummy = (
        encoded("tiny-llava"),
        dummy_row(Encoder(processor("tiny-llava"), max_length=4000)),
    )
    options = {"processor": processor("tiny-llava"), "dummy": dummy}
    assert len(collate(rows[:2], **options)["input_ids"]) == 2
    alone = collate(rows[1:2], **options)
    assert (alone["labels"][1] == IGNORED).all()
    assert len(alone["pixel_values"]) == 1
    assert "pixel_values" not in collate(rows[1:2], **options | {"dummy": None})


def test_padding_is_on_the_right_and_carries_neither_attention_nor_loss():
    for kind in MODELS:
        rows, batch = (
            (some := encoded(kind)),
            collate(some, processor=processor(kind), dummy=None),
        )
        for number, one in enumerate(rows):
            size = len(one.input_ids)
            assert batch["input_ids"][number, :size].tolist() == one.input_ids
            assert batch["labels"][number].tolist()[:size] == one.labels
            assert (batch["labels"][number, size:] == IGNORED).all()
            assert (
                batch["input_ids"][number, size:] == processor(kind).tokenizer.pad_token_id
            ).all()
            assert batch["attention_mask"][number].tolist() == [1] * size + [0] * (
                batch["labels"].shape[1] - size
            )
    idefics = collate(encoded("tiny-idefics2"), processor=processor("tiny-idefics2"), dummy=None)
    assert idefics["pixel_values"].shape == (
        3,
        3,
        3,
        56,
        56,
    )  # rows with images, most images, channels, height, width
    assert idefics["pixel_attention_mask"].sum(dim=(2, 3)).bool().tolist() == [
        [True, False, False],
        [True, True, True],
        [True, False, False],
    ]


def rows_of_every_size(count: int) -> tuple[list[int], list[int]]:
    """Lengths and pixels, independent of each other, a third without images."""
    chance = random.Random(3)
    lengths = [chance.randint(20, 2000) for _ in range(count)]
    return lengths, [
        chance.choice([0, chance.randint(1, 4) * 56 * chance.randint(100, 980)])
        for _ in range(count)
    ]


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 1000])
def test_every_row_comes_once_and_the_order_is_the_seeds(count):
    lengths, pixels = rows_of_every_size(count)

    def plan(seed=1, epoch=0):
        return plan_batches(lengths, pixels, batch=8, seed=seed, epoch=epoch)

    batches = plan()
    assert sorted(number for batch in batches for number in batch) == list(range(count))
    assert [len(batch) for batch in batches] == [8] * (count // 8) + [count % 8] * (count % 8 > 0)
    assert plan() == batches
    if count > 64:
        assert len({str(plan()), str(plan(seed=2)), str(plan(epoch=1)), str(plan(epoch=2))}) == 4


def a_mix(
    count: int, *, answer: int, sizes: list[int]
) -> tuple[list[str], list[int], list[int], list[int]]:
    """Kinds, lengths, supervised tokens and pixels of a mix: short answers, captions, text-only
    rows.
    """
    chance, rows = random.Random(5), []
    for _ in range(count):
        kind = chance.choices(["short", "caption", "text"], [69, 25, 6])[0]
        told = (
            chance.randint(2, answer)
            if kind == "short"
            else int(chance.lognormvariate(5.2, 0.6)) + 1
        )
        seen = kind != "text"
        rows.append(
            (kind, told + chance.randint(50, 120) + 576 * seen, told, chance.choice(sizes) * seen)
        )
    kinds, lengths, supervised, pixels = zip(*rows, strict=True)
    return list(kinds), list(lengths), list(supervised), list(pixels)


@pytest.mark.parametrize("batch", [16, 128])
@pytest.mark.parametrize("answer", [4, 40])
@pytest.mark.parametrize("sizes", [[336 * 336], [640 * 480, 980 * 735, 980 * 980, 500 * 375]])
def test_a_token_weighs_the_same_in_a_short_answer_in_a_caption_and_in_a_row_without_image(
    batch, answer, sizes
):
    """Its weight is one over the supervised tokens of its step; in steps of like rows it was ten
    times as large.
    """
    kinds, lengths, supervised, pixels = a_mix(16384, answer=answer, sizes=sizes)
    weight, tokens = Counter[str](), Counter[str]()
    for step in plan_batches(lengths, pixels, batch=batch, seed=1, epoch=0):
        for number in step:
            weight[kinds[number]] += supervised[number] / sum(supervised[n] for n in step)
            tokens[kinds[number]] += supervised[number]
    each = {kind: weight[kind] / tokens[kind] for kind in tokens}
    assert each["short"] / each["caption"] == pytest.approx(1, abs=0.1)
    assert each["text"] / each["caption"] == pytest.approx(1, abs=0.1)


def test_what_stands_in_a_step_says_nothing_of_a_row_s_length():
    """The lengths of two rows of a step are correlated no more than those of any two rows."""
    _, lengths, _, pixels = a_mix(12800, answer=40, sizes=[336 * 336])
    steps = plan_batches(lengths, pixels, batch=128, seed=1, epoch=0)
    table = np.array([[lengths[number] for number in step] for step in steps])
    between, within = table.mean(axis=1).var(), table.var(axis=1).mean()
    assert between < within / 128  # what chance alone would give


def test_passes_hold_rows_of_like_length_and_pixels():
    def waste(sizes, width, steps):
        """Share of what is computed that is padding."""
        passes = [
            step[start : start + width] for step in steps for start in range(0, len(step), width)
        ]
        return 1 - sum(sizes) / sum(max(sizes[n] for n in some) * len(some) for some in passes)

    _, lengths, _, same = a_mix(16384, answer=40, sizes=[336 * 336])
    alike = plan_batches(lengths, same, batch=128, seed=1, epoch=0)
    chance = [list(range(start, start + 128)) for start in range(0, 16384, 128)]
    assert waste(lengths, 4, alike) < 0.01 < 0.15 < waste(lengths, 4, chance)
    assert waste(lengths, 8, alike) < 0.05
    assert waste(same, 4, alike) < 0.01
    _, lengths, _, pixels = a_mix(
        16384, answer=40, sizes=[640 * 480, 980 * 735, 980 * 980, 500 * 375]
    )
    steps = plan_batches(lengths, pixels, batch=128, seed=1, epoch=0)
    assert waste(lengths, 2, steps) < 0.01
    assert waste(pixels, 2, steps) < 0.01 < 0.2 < waste(pixels, 2, chance)
