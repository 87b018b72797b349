"""`vislib.training.batches` and `packing`: batches teach what their rows teach alone, and every row comes once."""

import random
from functools import cache

import pytest
import torch
import transformers

from tests.training_ground import pictures, processor, row
from vislib.runs import InputError
from vislib.training import tiny
from vislib.training.batches import collate, dummy_row, plan_batches
from vislib.training.labels import IGNORED, Encoder
from vislib.training.packing import prove_packing

MODELS = [*tiny.NAMES, "idefics2-split", "idefics3-split", "llava-next"]
SOME = [
    (row("<image>\nWhat is it?", "A lamp.", "Where?", "On the left of the second table.", images=1), [0]),
    (row("What is 2 + 2?", "4, of course."), []),
    (row("<image><image>\nWhich?", "The second, as it is red.", "And <image>?", "No.", images=3), [1, 0, 2]),
    (row("<image>Why?", "Because.", images=1), [3]),
]  # fmt: skip


@cache
def model(kind: str, attention: str):
    torch.manual_seed(1)
    name = f"tiny-{kind.removesuffix('-split')}" if kind.endswith("-split") else kind
    made = tiny.NAMES[name]()[0] if name in tiny.NAMES else llava_next(tiny.NAMES["tiny-llava"]()[0].config)
    with torch.no_grad():  # fresh weights are so small that a leak between rows would hardly show
        for weight in made.parameters():
            weight *= 4 if weight.ndim > 1 else 1
    made.set_attn_implementation(attention)
    made.config.use_cache = made.config.text_config.use_cache = False
    return made.eval()


def llava_next(like):
    parts = {name: getattr(like, name) for name in ("text_config", "vision_config", "image_token_index")}
    parts["image_grid_pinpoints"] = processor("llava-next").image_processor.image_grid_pinpoints
    return transformers.LlavaNextForConditionalGeneration(transformers.LlavaNextConfig(**parts))


def encoded(kind: str, some=SOME):
    encoder = Encoder(processor(kind), max_length=4000)
    return [encoder.encode(given, [pictures(4)[n] for n in shown]) for given, shown in some]


def losses(kind: str, attention: str, rows, **options) -> torch.Tensor:
    """The loss of each supervised token, in order."""
    batch = collate(rows, processor=processor(kind), **{"packing": False, "dummy": None} | options)
    labels = batch.pop("labels")
    logits = model(kind, attention)(**batch).logits[:, :-1]
    each = torch.nn.functional.cross_entropy(logits.transpose(1, 2), labels[:, 1:], reduction="none")
    return each[labels[:, 1:] != IGNORED]


@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", MODELS)
def test_rows_in_one_batch_have_the_losses_that_they_have_alone(kind, attention, packing):
    rows = encoded(kind)
    with torch.no_grad():
        alone = torch.cat([losses(kind, attention, [one]) for one in rows])
        together = losses(kind, attention, rows, packing=packing)
    assert len(alone) == sum(one.n_supervised for one in rows)
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(together.sum(), alone.sum())


@pytest.mark.parametrize("kind", MODELS)
def test_each_image_is_seen_in_its_own_place(kind):
    rows = encoded(kind, [SOME[0], SOME[2]])
    other = encoded(kind, [SOME[0], (SOME[2][0], [1, 3, 2])])  # the second of three is another
    with torch.no_grad():
        before, after = (losses(kind, "sdpa", some, packing=True) for some in (rows, other))
    first = rows[0].n_supervised
    assert torch.equal(before[:first], after[:first])
    assert (before[first:] != after[first:]).all()


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", MODELS)
def test_packing_is_refused_where_packed_rows_see_each_other(kind, attention):
    made = model(kind, attention).train()
    prove_packing(made, processor(kind))
    assert made.training
    made.config.use_cache = made.config.text_config.use_cache = True  # as configurations have it
    try:
        with pytest.raises(InputError, match=f"{attention} attention lets packed rows see each other"):
            prove_packing(made, processor(kind))
    finally:
        made.eval().config.use_cache = made.config.text_config.use_cache = False


@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize("kind", MODELS)
def test_a_dummy_image_lets_the_vision_tower_take_part_and_changes_nothing(kind, packing):
    made, dummy = model(kind, "sdpa"), dummy_row(Encoder(processor(kind), max_length=4000))

    def learn(rows, dummy=None):
        made.zero_grad(set_to_none=True)
        each = losses(kind, "sdpa", rows, packing=packing, dummy=dummy)
        each.mean().backward()
        return each.detach(), {name: w.grad for name, w in made.named_parameters() if w.grad is not None}

    text_only = encoded(kind, [SOME[1], (row("Why?", "Because."), [])])
    (plain, without), (joined, gradients) = learn(text_only), learn(text_only, dummy)
    torch.testing.assert_close(joined, plain)
    for name, gradient in without.items():
        torch.testing.assert_close(gradients[name], gradient)
    _, usual = learn(encoded(kind, SOME[:1]))  # what learns from images: LLaVA's tower has a last layer that does not
    assert gradients.keys() == usual.keys() > without.keys()
    assert not any(gradients[name].any() for name in usual.keys() - without.keys())
    assert len([name for name in usual.keys() - without.keys() if "vision" in name and usual[name].any()]) > 30


def test_a_dummy_joins_batches_without_images_only():
    rows, dummy = encoded("tiny-llava"), dummy_row(Encoder(processor("tiny-llava"), max_length=4000))
    options = {"processor": processor("tiny-llava"), "packing": False, "dummy": dummy}
    assert len(collate(rows[:2], **options)["input_ids"]) == 2
    alone = collate(rows[1:2], **options)
    assert (alone["labels"][1] == IGNORED).all()
    assert len(alone["pixel_values"]) == 1
    assert "pixel_values" not in collate(rows[1:2], **options | {"dummy": None})


def test_padding_is_on_the_right_and_carries_neither_attention_nor_loss():
    for kind in MODELS:
        rows, batch = (some := encoded(kind)), collate(some, processor=processor(kind), packing=False, dummy=None)
        for number, one in enumerate(rows):
            size = len(one.input_ids)
            assert batch["input_ids"][number, :size].tolist() == one.input_ids
            assert batch["labels"][number].tolist()[:size] == one.labels
            assert (batch["labels"][number, size:] == IGNORED).all()
            assert (batch["input_ids"][number, size:] == processor(kind).tokenizer.pad_token_id).all()
            assert batch["attention_mask"][number].tolist() == [1] * size + [0] * (batch["labels"].shape[1] - size)
    idefics = collate(encoded("tiny-idefics2"), processor=processor("tiny-idefics2"), packing=False, dummy=None)
    assert idefics["pixel_values"].shape == (3, 3, 3, 56, 56)  # rows with images, most images, channels, height, width
    assert idefics["pixel_attention_mask"].sum(dim=(2, 3)).bool().tolist() == [
        [True, False, False], [True, True, True], [True, False, False],
    ]  # fmt: skip


def rows_of_every_size(count: int) -> tuple[list[int], list[int]]:
    """Lengths and pixels, independent of each other, a third without images."""
    chance = random.Random(3)
    lengths = [chance.randint(20, 2000) for _ in range(count)]
    return lengths, [chance.choice([0, chance.randint(1, 4) * 56 * chance.randint(100, 980)]) for _ in range(count)]


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 1000])
def test_every_row_comes_once_and_the_order_is_the_seeds(count):
    lengths, pixels = rows_of_every_size(count)

    def plan(seed=1, epoch=0):
        return plan_batches(lengths, pixels, batch=8, seed=seed, epoch=epoch)

    batches = plan()
    assert sorted(number for batch in batches for number in batch) == list(range(count))
    assert [len(batch) for batch in batches] == [8] * (count // 8) + [count % 8] * (count % 8 > 0)
    assert plan() == batches
    if count > 8:
        assert len({str(plan()), str(plan(seed=2)), str(plan(epoch=1)), str(plan(epoch=2))}) == 4


def test_batches_hold_rows_of_like_length_and_pixels_and_text_only_rows_apart():
    lengths, pixels = rows_of_every_size(6400)
    batches = plan_batches(lengths, pixels, batch=8, seed=1, epoch=0)
    kinds = [{bool(pixels[number]) for number in batch} for batch in batches]
    assert all(len(kind) == 1 for kind in kinds[:-2])
    shares = [sum(kind == {True} for kind in kinds[start : start + 100]) for start in range(0, 800, 100)]
    assert all(20 < share < 80 for share in shares)  # both kinds all the way

    def waste(sizes, some):
        """Share of what is computed that is padding."""
        return 1 - sum(sizes) / sum(max(sizes[n] for n in batch) * len(batch) for batch in some)

    unsorted = [list(range(start, start + 8)) for start in range(0, 6400, 8)]
    assert waste(lengths, batches) < waste(lengths, unsorted) / 3
    assert waste(pixels, batches) < waste(pixels, unsorted) / 3
    same = [336 * 336] * 6400  # LLaVA: length alone counts
    alike = plan_batches(lengths, same, batch=8, seed=1, epoch=0)
    assert waste(lengths, alike) < 0.02
