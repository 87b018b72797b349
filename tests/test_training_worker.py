"""`vislib.training.worker`: what is learnt is the same however it is interrupted or shared out, and
it is learnt.
"""

import json
import os
import signal
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import LlavaForConditionalGeneration

from tests.training_rows import a_run, plan, result, settings_of, trained
from vislib.media.pixels import read_image
from vislib.runs import InputError
from vislib.runs.children import run_child
from vislib.training import tiny, trainer, worker
from vislib.training.batches import collate
from vislib.training.chat import model_inputs, prompt_text
from vislib.training.labels import Encoder
from vislib.training.launch import launch_command, train
from vislib.training.models import open_trained
from vislib.training.planning import open_rows
from vislib.training.settings import Settings
from vislib.training.trainer import last_checkpoint

ALL = {"parts": ("vision", "connector", "language"), "loader_workers": 1}
LORA = {"method": "lora", "learning_rate": 0.02, "batch_size": 2, "epochs": 2.0}


@pytest.fixture(scope="module", autouse=True)
def _alone():
    """One thread, as children have it here; what a training sets in this process is taken back."""
    threads, before = (
        torch.get_num_threads(),
        {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)},
    )
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    """A tiny model and twelve rows, half of them without an image."""
    folder = tmp_path_factory.mktemp("worker")
    tiny.build("tiny-llava", folder / "tiny-llava")
    plan(folder, folder / "tiny-llava", pictured=6, texts=6)
    return folder


def same(one, other) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def alone(ground, tmp_path_factory):
    return trained(settings_of(ground, tmp_path_factory.mktemp("alone"), **ALL))


@pytest.mark.parametrize("given", [{"gradient_checkpointing": True}, {"device_batch_size": 3}])
def test_what_makes_training_faster_or_smaller_changes_nothing_that_is_learnt(
    ground, tmp_path, alone, given, monkeypatch
):
    kind = LlavaForConditionalGeneration
    monkeypatch.setattr(
        kind, "accepts_loss_kwargs", False, raising=False
    )  # as newer architectures say
    weights, log = trained(settings_of(ground, tmp_path, **ALL, **given))
    for name, weight in weights.items():
        torch.testing.assert_close(weight, alone[0][name], rtol=1e-3, atol=1e-5)
    assert [row["supervised_tokens"] for row in log] == [
        row["supervised_tokens"] for row in alone[1]
    ]


def test_two_processes_learn_what_one_does_though_one_of_them_sees_no_image(
    ground, tmp_path, alone
):
    (tmp_path / "held_out").mkdir()
    file = plan(tmp_path / "held_out", ground / "tiny-llava", pictured=7)  # no multiple of 2 * 2
    held_out = {"held_out": str(file), "eval_steps": 3}
    together = settings_of(ground, tmp_path / "two", processes=2, **held_out, **ALL)
    run = a_run(tmp_path / "run")
    totals = train(run, together)
    weights, log = result(together)
    assert weights.keys() == alone[0].keys()
    for name, weight in weights.items():
        torch.testing.assert_close(weight, alone[0][name], rtol=1e-3, atol=1e-5)
    assert [row["tokens"] for row in log] == [row["tokens"] for row in alone[1]]
    assert totals["log"] == log
    assert {"steps": 3, "rows": 12}.items() <= totals.items()
    assert {"tokens_per_second", "samples_per_second", "peak_memory_gib"} <= run.metrics.keys()
    assert "mfu" not in run.metrics
    # no row counts twice, though one process has one less
    assert held_out_loss(together) == pytest.approx(run.metrics["eval_loss"], rel=1e-3)


def test_arms_can_end_at_equal_supervised_tokens(ground, tmp_path):
    settings = settings_of(
        ground, tmp_path, max_supervised_tokens=150, batch_size=2, epochs=3.0, **ALL
    )
    _, log = trained(settings)
    learnt = [row["supervised_tokens"] for row in log]
    assert sum(learnt[:-1]) < 150 <= sum(learnt)
    assert (
        log[-1]["learning_rate"] < log[1]["learning_rate"] / 2
    )  # the schedule ends with the training
    totals = json.loads((Path(settings.checkpoints) / "done.json").read_text())
    assert totals["rounds"] == totals["rows"] == 2 * len(log)  # of one round each
    facts = json.loads((Path(settings.output) / "training.json").read_text())
    assert (facts["supervised_tokens"], facts["rounds"]) == (sum(learnt), totals["rounds"])
    with pytest.raises(InputError, match="max_supervised_tokens is 100000, but all 18 steps have"):
        trained(
            replace(
                settings, max_supervised_tokens=100000, checkpoints=str(tmp_path / "checkpoints")
            )
        )


def test_held_out_rows_are_evaluated_the_best_weights_kept_and_all_of_it_reported(ground, tmp_path):
    plan(tmp_path, ground / "tiny-llava", pictured=5)
    given = {"held_out": str(tmp_path / "rows.arrow"), "eval_steps": 2, "batch_size": 2}
    given |= {"report_to": "tensorboard", "reports": str(tmp_path / "tensorboard")}
    kept = {}
    for best in (False, True):
        # faster and faster, so that the last weights are hardly ever the best
        given |= {"learning_rate": 0.5, "warmup": 1.0, "load_best": best}
        settings = settings_of(ground, tmp_path / str(best), **LORA | given)
        weights, log = trained(settings)
        metrics = json.loads((Path(settings.checkpoints) / "done.json").read_text())["metrics"]
        kept[best] = weights, metrics
        assert len(log) == 12
    assert kept[False][1]["eval_step"] == 12
    assert held_out_loss(settings) == pytest.approx(kept[True][1]["eval_loss"], rel=1e-3)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert {"train/loss", "eval/loss"} <= set(events.Tags()["scalars"])
    # both trainings wrote it; the last six evaluations are those whose best was kept
    told = {event.step: event.value for event in events.Scalars("eval/loss")[-6:]}
    best_step = min(told, key=told.__getitem__)
    assert kept[True][1]["eval_step"] == best_step
    assert kept[True][1]["eval_loss"] == pytest.approx(told[best_step], rel=1e-6)
    assert same(kept[True][0], kept[False][0]) == (best_step == 12)


def held_out_loss(settings: Settings) -> float:
    """The mean over all supervised tokens, of the saved model itself, a row at a time."""
    model, processor = open_trained(settings.output)
    encoder, loss, tokens = Encoder(processor, max_length=512), 0.0, 0
    for row in open_rows(settings.held_out).to_pylist():
        batch = collate([encoder.encode(row)], processor=processor, dummy=None)
        learnt = int((batch["labels"] != -100).sum())
        with torch.inference_mode():
            loss += model(**batch).loss.item() * learnt
        tokens += learnt
    return loss / tokens


# ---- stopping and going on
# ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def undisturbed(ground, tmp_path_factory):
    return trained(settings_of(ground, tmp_path_factory.mktemp("undisturbed"), **LORA))


def test_after_a_kill_training_reaches_the_same_weights_bit_for_bit(ground, tmp_path, undisturbed):
    settings = settings_of(ground, tmp_path, **LORA)
    settings.write(tmp_path / "checkpoints/settings.json")
    events = run_child(
        launch_command(settings, tmp_path / "checkpoints/settings.json"),
        log=tmp_path / "log.txt",
        lock=tmp_path / "lock",
        environment={"OMP_NUM_THREADS": "1"},
    )
    pid = next(events)["pid"]
    steps = (event for event in events if event["event"] == "step")
    list(islice(steps, 5))
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(InputError, match="killed"):
        list(steps)
    kept = sorted(path.name for path in (tmp_path / "checkpoints").glob("checkpoint-*"))
    assert "checkpoint-4" in kept or "checkpoint-6" in kept
    torn = tmp_path / "checkpoints/checkpoint-11"
    torn.mkdir()
    weights, log = trained(settings)
    assert same(weights, undisturbed[0])
    assert log == undisturbed[1]
    assert [row["step"] for row in log] == list(range(1, 13))
    assert not torn.exists()


@pytest.mark.parametrize("peak", [None, 1e12])
def test_a_stop_ends_the_step_under_way_and_training_goes_on_from_there(
    ground, tmp_path, alone, monkeypatch, peak
):
    monkeypatch.setattr(worker, "peak_flops", lambda *device: peak)
    # counting FLOPs may change the last bits: of the first step, in both
    whole = trained(settings_of(ground, tmp_path / "whole", **ALL)) if peak else alone
    settings = settings_of(ground, tmp_path, checkpoint_steps=100, **ALL)

    def stop_at_two(event: str, **values) -> None:
        if event == "step" and len(seen) == 1:
            signal.raise_signal(signal.SIGTERM)
        seen.append(event) if event == "step" else None

    seen: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "emit", stop_at_two)
        with pytest.raises(InputError, match="stopped after step 2"):
            trained(settings)
    assert last_checkpoint(Path(settings.checkpoints)).name == "checkpoint-2"
    weights, log = trained(settings)
    assert same(weights, whole[0])
    assert log == whole[1]


# ---- what goes wrong
# ----------------------------------------------------------------------------------------


def test_a_loss_that_is_no_number_ends_the_training_with_the_step_and_its_rows(ground, tmp_path):
    settings = settings_of(
        ground, tmp_path, learning_rate=1e30, warmup=0.0, batch_size=2, device_batch_size=2
    )
    with pytest.raises(
        InputError, match=r"step 2: loss .*lower learning_rate, or look at its rows row\d+, row\d+"
    ):
        trained(settings)


# ---- what is learnt
# -----------------------------------------------------------------------------------------


def test_a_tiny_model_overfits_eight_samples_and_then_says_their_answers_word_for_word(
    ground, tmp_path
):
    plan(tmp_path, ground / "tiny-llava", pictured=8)
    given = {
        "rows": str(tmp_path / "rows.arrow"),
        "parts": ("vision", "connector", "language"),
        "batch_size": 8,
    }
    given |= {
        "device_batch_size": 8,
        "epochs": 180.0,
        "learning_rate": 1e-2,
        "checkpoint_steps": 1000,
    }
    settings = settings_of(ground, tmp_path, **given)
    _, log = trained(settings)
    assert log[0]["loss"] > 5
    assert log[-1]["loss"] < 0.01
    model, processor = open_trained(settings.output)
    for row in open_rows(settings.rows).to_pylist():
        *asked, told = row["conversations"]
        inputs = model_inputs(
            processor, prompt_text(processor, asked), [read_image(row["images"][0])]
        )
        with torch.inference_mode():
            out = model.generate(**inputs, max_new_tokens=60, do_sample=False)[
                0, inputs["input_ids"].shape[1] :
            ]
        assert processor.tokenizer.decode(out, skip_special_tokens=True).strip() == told["value"]
