"""`vislib.training.trainer`: the plain loss at less cost, the same steps for any number of
processes.
"""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from tests.training_rows import SETTINGS, plan
from vislib.runs import InputError
from vislib.training import tiny
from vislib.training.batches import collate, dummy_row
from vislib.training.labels import Encoder
from vislib.training.models import open_processor
from vislib.training.parts import open_model
from vislib.training.trainer import AnswerTrainer, Rows, Share, last_checkpoint


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    """Tiny models and twelve rows, half of them without an image."""
    folder = tmp_path_factory.mktemp("trainer")
    for name in ("tiny-llava", "tiny-idefics2"):
        tiny.build(name, folder / name)
    plan(folder, folder / "tiny-llava", pictured=6, texts=6)
    return folder


@pytest.mark.parametrize("name", ["tiny-llava", "tiny-idefics2"])
def test_the_loss_and_its_gradients_are_those_of_the_plain_cross_entropy(ground, name):
    model, processor = open_model(
        ground / name, settings=replace(SETTINGS, parts=("vision", "connector", "language"))
    )
    encoder, rows = Encoder(processor, max_length=512), []
    for images, turns in ((["0.png", "1.png"], 3), ([], 1)):
        asked = [
            {"from": who, "value": f"{who} {n}"} for n in range(turns) for who in ("human", "gpt")
        ]
        asked[0]["value"] += " <image>" * len(images)
        rows.append(
            encoder.encode({"images": [str(ground / i) for i in images], "conversations": asked})
        )
    batch = collate(rows, processor=processor, dummy=None)
    gradients = []
    alone = SimpleNamespace(num_processes=1)
    trainer = SimpleNamespace(accelerator=alone, model=model, held_out=None)
    for ours in (True, False):
        if ours:
            supervised = sum(row.counts["supervised_tokens"] for row in rows)
            loss = AnswerTrainer.compute_loss(
                trainer, model, dict(batch), num_items_in_batch=supervised
            )
        else:
            logits = model(**{k: v for k, v in batch.items() if k != "labels"}).logits.float()
            loss = torch.nn.functional.cross_entropy(
                logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten()
            )
        model.zero_grad()
        loss.backward()
        gradients.append(
            [loss, *(p.grad.clone() for p in model.parameters() if p.grad is not None)]
        )
    assert len(gradients[0]) == len(gradients[1]) > 40
    for ours, plain in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-6)


def test_a_batch_without_any_answer_costs_nothing_and_gives_every_weight_a_gradient_of_zero(ground):
    model, processor = open_model(ground / "tiny-llava", settings=SETTINGS)
    dummy = dummy_row(Encoder(processor, max_length=512))
    batch = collate([], processor=processor, dummy=dummy)
    two = SimpleNamespace(num_processes=2)
    trainer = SimpleNamespace(accelerator=two, model=model, held_out=None)
    loss = AnswerTrainer.compute_loss(trainer, model, batch, num_items_in_batch=torch.tensor(9))
    loss.backward()
    assert loss.item() == 0
    assert all(
        p.grad is not None and not p.grad.any() for p in model.parameters() if p.requires_grad
    )


@pytest.fixture(scope="module")
def rows(ground) -> Rows:
    return Rows(
        ground / "rows.arrow", Encoder(open_processor(ground / "tiny-llava"), max_length=512)
    )


@pytest.mark.parametrize(
    ("batch", "width", "processes"), [(5, 2, 1), (5, 2, 3), (4, 2, 2), (12, 1, 5), (50, 3, 2)]
)
def test_a_step_has_the_same_rows_for_any_number_of_processes(rows, batch, width, processes):
    settings = replace(SETTINGS, batch_size=batch, device_batch_size=width)
    shares = [Share(rows, settings, process=n, processes=processes) for n in range(processes)]
    for share in shares:
        share.set_epoch(1)
    dealt = [list(share) for share in shares]
    assert {len(passes) for passes in dealt} == {len(share) for share in shares} == {len(dealt[0])}
    assert max(len(each) for passes in dealt for each in passes) <= width
    steps = Share(rows, settings).plan(epoch=1)
    in_order = [row for together in zip(*dealt, strict=True) for each in together for row in each]
    assert in_order == [row for step in steps for row in step]
    assert shares[0].of_step(shares[0].steps) == steps[0]
    assert sorted(in_order) == list(range(12))


def test_the_last_whole_checkpoint_counts(tmp_path):
    for step, state in ((5, "{}"), (40, "{}"), (100, '{"global_step": 1'), (120, None)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        if state:
            (tmp_path / f"checkpoint-{step}/trainer_state.json").write_text(state)
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-40"
    assert last_checkpoint(tmp_path / "checkpoint-5") is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": ["gone.png"]}, "row row0 cannot be read any more .image_missing"),
        ({"supervised_tokens": 1}, "row row0 is no longer what it was"),
    ],
)
def test_a_row_that_is_no_longer_as_it_was_planned_ends_the_training(rows, change, message):
    changed = rows.table.slice(0, 1).to_pylist()[0] | change
    table = SimpleNamespace(
        slice=lambda number, count: SimpleNamespace(to_pylist=lambda: [changed])
    )
    with pytest.raises(InputError, match=message):
        Rows.__getitem__(SimpleNamespace(table=table, encoder=rows.encoder), 0)
