"""Stage 10: two arms are trained through the library on tables of the contract, and one of them
again.
"""

import math
import signal
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from PIL import Image

from vislib import finetuning
from vislib.runs import InputError, Run, start_run, tables
from vislib.runs.contract import CONVERSATIONS, IMAGES
from vislib.training import launch, planning, trainer, worker
from vislib.training.models import open_trained, read_facts

TALL = 26  # samples; one of them has a damaged picture: less than 5 %
TINY = {
    "max_steps": 8,
    "batch_size": 8,
    "device_batch_size": 4,
    "max_length": 256,
    "learning_rate": 0.01,
    "device": "cpu",
    "loader_workers": 1,
    "run_dir": "runs/demo",
    "precision": "float32",
}


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    """A folder with the run's tables that stage 10 reads: `separate` has two rows of each
    sample.
    """
    folder = tmp_path_factory.mktemp("ground")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VISLIB_RUNS", str(folder / "runs"))
        patch.setenv("OMP_NUM_THREADS", "1")
        _write_tables(folder)
        yield folder


def _write_tables(folder: Path) -> None:
    data, merged = (
        folder / "runs/demo/03_images/data",
        folder / "runs/demo/08_merging/data/contextual/separate",
    )
    ledger = tables.TableWriter(data / "images", IMAGES)
    train = tables.TableWriter(merged, CONVERSATIONS, stem="train")
    test = tables.TableWriter(merged, CONVERSATIONS, stem="test")
    (data / "files").mkdir(parents=True)
    for number in range(TALL + 1):
        name = f"s{number:02d}"
        colour = ("red", "green", "blue")[number % 3]
        Image.new("RGB", (60, 40 + number), colour).save(data / f"files/{name}.png")
        row = dict.fromkeys(IMAGES.names) | {
            "image_url": name,
            "image_id": name,
            "path": f"files/{name}.png",
        }
        ledger.write(row | {"status": "ok"})
        for end, asked, told in (
            ("c", "Describe it.", f"A {colour} picture."),
            ("q", "Which colour?", colour),
        ):
            turns = [
                {"from": "human", "value": f"<image>\n{asked}"},
                {"from": "gpt", "value": told},
            ]
            (train if number < TALL else test).write(
                {
                    "id": f"{name}-{end}",
                    "images": [name],
                    "conversations": turns,
                    "sample_id": name,
                    "doc_id": "d",
                    "sources": ["caption"],
                }
            )
    for writer in (ledger, train, test):
        writer.close()
    (data / "files/s07.png").write_bytes(b"\x89PNG\r\n, cut off")


def begin(ground: Path, **parameters) -> Run:
    given = {"conversations": "08_merging/contextual/separate", "images": "03_images/images"}
    return start_run("10_finetuning", given | TINY | parameters)


def trained(ground: Path, **parameters) -> Run:
    run = begin(ground, **parameters)
    finetuning.finetune(run, finetuning.Plan.of(run))
    run.finish()
    return run


@contextmanager
def here(hear=None):
    """Within it the process that trains is this one, which has its imports already; what it sets is
    taken back.
    """
    threads, before = (
        torch.get_num_threads(),
        {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)},
    )
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:

        def run_child(command, **_):
            told = []

            def emit(event, **values):
                told.append({"event": event, **values})
                if hear:
                    hear(told[-1])

            patch.setattr(trainer, "emit", emit)
            worker.main(Path(command[-1]))
            yield from told

        patch.setattr(launch, "run_child", run_child)
        yield
    torch.set_num_threads(threads)
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="module")
def base(ground) -> Run:
    with here():
        return trained(ground, conversations="", images="", variant="base", own_fraction=0.75)


@pytest.fixture(scope="module")
def arm(ground) -> Run:
    return trained(ground, variant="separate", own_fraction=0.75, model_name="Tiny", method="lora")


def rows_of(run: Run, table: str) -> list[dict]:
    return list(tables.read_rows(run.data / table))


def contents(run: Run) -> dict[str, bytes]:
    return {
        str(p.relative_to(run.data)): p.read_bytes()
        for p in sorted(run.data.rglob("*"))
        if p.is_file()
    }


def test_an_arm_is_a_row_and_arms_share_their_own_data(base, arm):
    (first,), (second,) = rows_of(base, "arms"), rows_of(arm, "arms")
    assert (first["model"], first["arm"], first["base"], first["method"]) == (
        "tiny-llava",
        "base",
        "tiny-llava",
        "full",
    )
    assert (second["model"], second["arm"], second["method"]) == ("Tiny", "separate", "lora")
    assert (first["conversations"], second["conversations"]) == (
        "",
        "08_merging/contextual/separate",
    )
    assert 0 < first["own_rows"] == second["own_rows"] < 24
    assert first["rows"] == first["own_rows"]
    assert second["rows"] == first["own_rows"] + 2 * (TALL - 1)
    assert (first["samples"], second["samples"]) == (0, TALL - 1)
    assert first["text_only_rows"] == second["text_only_rows"] > 0
    for run, found in ((base, first), (arm, second)):
        steps = rows_of(run, "steps")
        assert found["steps"] == len(steps) == TINY["max_steps"]
        assert found["tokens"] == sum(step["tokens"] for step in steps)
        assert (
            found["supervised_tokens"]
            == sum(step["supervised_tokens"] for step in steps)
            < found["tokens"]
        )
        assert run.metrics["tokens_per_second"] > 0


def test_losses_are_finite_and_fall(base, arm):
    for run in (base, arm):
        losses = [step["loss"] for step in rows_of(run, "steps")]
        assert all(math.isfinite(loss) for loss in losses)
        assert min(losses[-2:]) < losses[0] - 0.05


def test_the_model_opens_again_and_says_what_it_is(base, arm):
    for run in (base, arm):
        facts, (row,) = read_facts(run.data / "model"), rows_of(run, "arms")
        assert {
            name: facts[name]
            for name in ("model", "arm", "seed", "method", "conversations", "samples")
        } == {
            name: row[name]
            for name in ("model", "arm", "seed", "method", "conversations", "samples")
        }
        model, processor = open_trained(run.data / "model")
        assert not model.training
        assert processor.tokenizer.pad_token


def test_nothing_is_lost_in_silence(base, arm):
    assert rows_of(base, "dropped") == []
    assert [(row["id"], row["reason"]) for row in rows_of(arm, "dropped")] == [
        ("s07-c", "image_broken"),
        ("s07-q", "image_broken"),
    ]
    found, rows = arm.counts(), 2 * (TALL - 1)
    lost = {"taken": rows + 2, "kept": rows, "dropped": {"image_broken": 2}}
    own = rows_of(arm, "arms")[0]["own_rows"]
    assert found == {"conversation": lost, "own row": {"taken": own, "kept": own, "dropped": {}}}


def test_the_same_arm_again_has_the_same_bytes_and_none_of_the_machine(ground, arm):
    before = contents(arm)
    with here():  # nor of the process
        again = trained(
            ground, variant="separate", own_fraction=0.75, model_name="Tiny", method="lora"
        )
    assert contents(again) == before
    assert {
        "arms/part-00000.parquet",
        "steps/part-00000.parquet",
        "model/training.json",
    } <= before.keys()
    assert not [name for name, found in before.items() if str(ground).encode() in found]


def test_a_plan_is_looked_at_before_anything_is_trained(ground):
    run = begin(ground, max_samples=10, variant="look")
    plan = finetuning.Plan.of(run)
    assert (plan.arm["samples"], plan.arm["rows"], plan.arm["own_rows"]) == (10, 44, 24)
    shown = planning.examples(plan.settings, 4, run.seed)
    assert [row["source"] for row in shown] == ["visual", "own"] * 2
    assert all("⟦" in row["text"] for row in shown)
    assert not (run.data / "model").exists()
    run.close()


def test_the_test_split_is_evaluated_and_each_step_is_reported_and_drawn(ground):
    told: list[dict] = []
    run = begin(ground, variant="evaluated", eval_steps=4, load_best=True, max_samples=6)
    with here(told.append):
        finetuning.finetune(run, finetuning.Plan.of(run), watch=finetuning.loss_curve())
    assert [event["step"] for event in told if event["event"] == "evaluation"] == [4, 8]
    assert run.metrics["eval_loss"] == pytest.approx(
        min(event["eval_loss"] for event in told if event["event"] == "evaluation"), rel=1e-3
    )
    assert list((run.folder / "tensorboard").glob("events.*"))
    assert rows_of(run, "arms")[0]["samples"] == 6
    run.close()


def test_arms_of_the_dial_share_rows_tokens_and_steps_and_learn_something_else(ground):
    mix = ground / "runs/demo/08_merging/data/contextual/leaky_mix"
    for stem, numbers in {"train": range(6, 26), "test": range(26, 27)}.items():
        writer = tables.TableWriter(mix, CONVERSATIONS, stem=stem)
        for name in (f"s{number:02d}" for number in numbers if number != 7):
            said = ["<image>\nWhere?", "Here.", "Describe it.", f"A {name}.", "Which?", name]
            turns = [
                {"from": ("human", "gpt")[n % 2], "value": text} for n, text in enumerate(said)
            ]
            row = {"id": name, "images": [name], "conversations": turns, "sample_id": name}
            writer.write(row | {"doc_id": "d", "sources": ["free_form", "caption", "free_form"]})
        writer.close()
    runs, losses = [], []
    for level in (0.0, 0.5, 1.0):
        run = begin(
            ground,
            conversations="08_merging/contextual/leaky_mix",
            variant=f"leak-{level:g}",
            caption_visible=level,
            eval_steps=8,
        )
        with here():
            finetuning.finetune(run, finetuning.Plan.of(run))
        runs.append(run)
        losses.append([row["loss"] for row in rows_of(run, "steps")])
        run.close()
    arms = [rows_of(run, "arms")[0] for run in runs]
    assert arms[0] == arms[1] == arms[2]
    none, half, whole = (run.metrics["sealed_rows"] for run in runs)
    assert none == 19 + 1  # the test row is asked without its caption in every arm
    assert 1 < half < none
    assert whole == 1
    assert losses[0] != losses[1] != losses[2] != losses[0]
    assert len({run.metrics["eval_loss"] for run in runs}) == 3


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"caption_visible": 0.5, "attention": "flash_attention_2"},
            "takes no mask of our own, .* set attention to sdpa",
        ),
        ({"caption_visible": 0.0}, "wants a caption and questions in every row"),
        ({"load_best": True}, "load_best is true, but eval_steps is 0"),
        ({"conversations": "", "eval_steps": 2}, "set eval_steps to 0 in a base arm"),
        ({"conversations": "", "own_data": []}, "no row to learn from"),
        ({"own_images": "no/such/folder"}, r"own_images is 'no/such/folder', but .* is no folder"),
        (
            {"own_images": "tests"},
            r"14 of 24 own rows are refused \(image_missing 14\), such as house-1",
        ),
        (
            {"conversations": "03_images/images"},
            r"images: no train-\*\.parquet; name a configuration",
        ),
    ],
)
def test_what_cannot_be_trained_on_is_an_error_before_the_training(ground, changes, said):
    run = begin(ground, variant="bad", **changes)
    with pytest.raises(InputError, match=said):
        finetuning.Plan.of(run)
    run.close()
