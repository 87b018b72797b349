"""Stage 11: who learns what, who is held to it, and a real training of the tiny model, end to
end.
"""

import json
from pathlib import Path

import pytest
from PIL import Image

from tests.test_merging import split_of
from tests.work import requests
from vislib import captioner
from vislib.captioner_data import Captions, join, swapped
from vislib.prompts.captions import KINDS, load_prompt
from vislib.runs import InputError, Run, choose, sql, start_run, tables
from vislib.runs.contract import CAPTIONS, IMAGES, PRIORS, SAMPLES
from vislib.training import launch
from vislib.training.generation import Question, model_key, question_key
from vislib.training.models import resolve_model

PAGES, PER_PAGE = 20, 2
HELD_SEED = 3  # with which four of the pages are held out
TINY = {
    "test_fraction": 0.2,
    "held_out": 1000,  # all of their pages, and no file
    "max_answer_tokens": 3,
    "max_steps": 2,
    "batch_size": 2,
    "device": "cpu",
    "device_batch_size": 2,
    "max_length": 1024,
    "loader_workers": 1,
    "seed": HELD_SEED,
    "run_dir": "runs/demo",
}


def write_tables(folder: Path) -> None:
    """20 pages of two samples: one image is on a held-out page and on another, one caption failed,
    one image too.
    """
    root = folder / "runs/demo"
    (root / "03_images/data/files").mkdir(parents=True)
    writers = {
        "samples": tables.TableWriter(root / "02_filtering/data/samples", SAMPLES),
        "images": tables.TableWriter(root / "03_images/data/images", IMAGES),
        "priors": tables.TableWriter(root / "05_experts/data/priors", PRIORS),
        "captions": tables.TableWriter(root / "06_captioning/data/captions", CAPTIONS),
    }
    learnt = next(p for p in range(PAGES) if not is_held(p))
    held = next(p for p in range(PAGES) if is_held(p))
    for number in range(PAGES * PER_PAGE):
        page, url = number // PER_PAGE, f"http://x.org/{number}.png"
        file = f"i{number:015d}" if number != held * PER_PAGE else f"i{learnt * PER_PAGE:015d}"
        Image.effect_noise((60, 40), 60 + number % 7).save(
            root / f"03_images/data/files/{file}.png"
        )
        writers["samples"].write(sample(number, page, url))
        writers["images"].write(
            {
                "image_url": url,
                "image_id": file,
                "status": "failed" if number == 39 else "ok",
                "reason": "",
                "path": None if number == 39 else f"files/{file}.png",
                "width": 60,
                "height": 40,
                "format": "PNG",
                "perceptual_hash": "0",
            }
        )
        # The held-out page's first image is another page's too, and has its priors already.
        if number % 2 == 0 and number != held * PER_PAGE:
            tag = {"label": "quay", "score": 0.9, "expert": "tagger"}
            writers["priors"].write({"image_id": file, "tags": [tag], "boxes": [], "texts": []})
        for kind in KINDS:
            failed = (number, kind) == (learnt * PER_PAGE + 1, "contextual")
            writers["captions"].write(
                dict.fromkeys(CAPTIONS.names)
                | {
                    "sample_id": f"s{number:02d}",
                    "kind": kind,
                    "caption": f"Boat {number} of page {page}, {kind}.",
                    "status": "dropped" if failed else "ok",
                    "reason": "refusal" if failed else "",
                    "tokens_in": 0,
                    "tokens_out": 0,
                }
            )
    for writer in writers.values():
        writer.close()


def sample(number: int, page: int, url: str) -> dict:
    return {
        "sample_id": f"s{number:02d}",
        "doc_id": f"d{page}",
        "image_index": 1,
        "image_url": url,
        "alt_text": f"alt {number}",
        "page_url": f"http://x.org/page{page}",
        "width": 60,
        "height": 40,
        "context": f"Title {page}\n\n<image>\n\nThe harbour of page {page}.",
        "n_context_tokens": 9,
    }


def is_held(page: int) -> bool:
    row = {"page_url": f"http://x.org/page{page}", "doc_id": ""}
    return split_of(row, seed=HELD_SEED, test_fraction=0.2) == "test"


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    """A folder with the tables of a run."""
    folder = tmp_path_factory.mktemp("ground")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VISLIB_RUNS", str(folder / "runs"))
        write_tables(folder)
        yield folder


def begin(**parameters) -> Run:
    return start_run("11_captioner", TINY | parameters)


@pytest.fixture(scope="module")
def trained(ground) -> Run:
    """A run of the stage; what the model writes before it is trained stands in the journal."""
    run = begin()
    captions, key = Captions.of(run), model_key(resolve_model("tiny-llava", run))
    for found in captions.held_out():
        question = Question(captions.question(found), str(found.path), run.params.max_answer_tokens)
        run.journal("generation").put(
            question_key(key, question), {"text": f"<image> {found.name}", "tokens": 3}
        )
    plan = captioner.Plan.of(run)
    captioner.score(run, plan, launch.train(run, plan.settings), captioner.write(run, plan))
    run.finish()
    return run


def joined(
    ground: Path, kind: str = "contextual", fraction: float = 0.2, held_out: int = 0
) -> Captions:
    """What `Captions.of` makes of a run's parameters."""
    root = ground / "runs/demo"
    stages = {"captions": 6, "samples": 2, "images": 3, "priors": 5}
    found = {name: next(root.glob(f"0{n}_*/data/{name}")) for name, n in stages.items()}
    given = {"seed": HELD_SEED, "test_fraction": fraction, "held_out": held_out}
    text = join(kind, **given, with_priors=True)
    return Captions(
        joined=sql.query(text, ground / f"joined {kind}", found, scratch=ground),
        images=root / "03_images/data",
        kind=kind,
        template=load_prompt(kind, None, f"captioner_{kind}") if kind in KINDS else None,
        seed=HELD_SEED,
    )


def reasons(captions: Captions) -> list[str]:
    """Why captions are neither learnt from nor held out."""
    faults = tables.read_rows(captions.joined, ["fault"])
    return [row["fault"][0] for row in faults if row["fault"]]


def rows_of(run: Run, table: str) -> list[dict]:
    return list(tables.read_rows(run.data / table))


def test_no_page_stands_on_both_sides_and_no_held_out_image_is_learnt_from(ground):
    captions = joined(ground)
    held = captions.held_out()
    learnt = list(captions.examples("train"))
    assert {e.page for e in held}
    assert not {e.page for e in held} & {e.page for e in learnt}
    assert not {e.image_id for e in held} & {e.image_id for e in learnt}
    refused = reasons(captions)
    assert set(refused) == {"caption_failed", "image_failed", "image_in_train"}
    assert len(held) + len(learnt) + len(refused) == PAGES * PER_PAGE
    assert [entry["id"] for entry in captions.entries()] == [e.name for e in learnt]
    few = joined(ground, held_out=3)
    some = few.held_out()
    assert some == choose(held, 3, HELD_SEED, key=lambda example: example.name)
    assert reasons(few).count("not_chosen") == len(held) - 3
    assert list(few.examples("train")) == learnt


def test_another_page_is_another_page_and_the_image_stays(ground):
    held = joined(ground).held_out()
    for before, after in zip(held, swapped(held, 0), strict=True):
        assert (after.name, after.path, after.caption) == (before.name, before.path, before.caption)
        source = next(e for e in held if e.sample["alt_text"] == after.sample["alt_text"])
        assert after.sample["page_url"] == source.page != before.page
        assert source.sample["context"] == after.sample["context"]
    assert swapped(held, 0) == swapped(held, 0) != swapped(held, 1)


@pytest.mark.parametrize(
    "changes", [{"fraction": 0.0}, {"fraction": 1.0}, {"kind": "a kind of none"}]
)
def test_too_few_captions_are_refused(ground, changes):
    with pytest.raises(InputError, match="held-out ones of two pages"):
        joined(ground, **changes).held_out()


def test_priors_are_asked_for_where_a_kind_needs_them(ground):
    run = begin(variant="look", kind="fused")
    with pytest.raises(InputError, match="priors is empty"):
        captioner.Plan.of(run)
    run.close()
    found = set(reasons(joined(ground, "fused")))
    assert found == {"no_priors", "image_failed", "image_in_train"}


@pytest.fixture(scope="module")
def asked(ground):
    """What stage 06 asks with our prompts, by kind and sample."""
    ours = {f"{kind}_prompt": f"vislib/prompts/captioner_{kind}.txt" for kind in KINDS}
    run = start_run(
        "06_captioning",
        {"run_dir": "runs/demo", "kinds": list(KINDS), "priors": "05_experts/priors"} | ours,
    )
    found = {(r.evidence["kind"], r.id): r for r in requests(run)}
    run.close()
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_is_taught_to_the_letter_what_stage_06_asks(ground, asked, kind):
    captions = joined(ground, kind)
    examples = [*captions.examples("train"), *captions.examples("test")]
    assert len(examples) > 15
    for example in examples:
        request = asked[kind, example.name]
        assert (
            captions.question(example) == f"{request.prompt}<image>"
        )  # as chat_messages has it: text, then image
        assert (captions.template.sha, example.path) == (request.prompt_sha, request.image_path)
        assert ("[image]" in request.prompt) == (kind in ("contextual", "fused_contextual"))


def test_a_real_training_is_scored_beside_its_baselines(trained):
    predictions, scores = rows_of(trained, "predictions"), rows_of(trained, "scores")
    held = {row["sample_id"] for row in predictions}
    assert list(dict.fromkeys(row["system"] for row in predictions)) == list(captioner.SYSTEMS)
    assert len(predictions) == len(captioner.SYSTEMS) * len(held)
    by_system = {
        s: {r["sample_id"]: r for r in predictions if r["system"] == s} for s in captioner.SYSTEMS
    }
    assert all(
        row["caption"] == f"alt {int(name[1:])}" for name, row in by_system["alt_text"].items()
    )
    assert all(row["caption"] == f"‹image› {name}" for name, row in by_system["before"].items())
    assert all(
        row["reference"].startswith(f"Boat {int(row['sample_id'][1:])} of") for row in predictions
    )
    systems = [*captioner.SYSTEMS, "after - before", "after - after_swapped"]
    assert [row["system"] for row in scores] == systems * 2
    assert {row["n"] for row in scores} == {len(held)}
    assert all(row["low"] <= row["score"] <= row["high"] for row in scores)
    assert trained.metrics["failed_before"] == trained.metrics["failed_after"] == 0
    (arm,) = rows_of(trained, "arms")
    assert (arm["arm"], arm["steps"], len(rows_of(trained, "steps"))) == ("captioner", 2, 2)
    account = trained.counts()["caption"]
    assert (
        account["taken"] == PAGES * PER_PAGE == account["kept"] + sum(account["dropped"].values())
    )


def test_a_handful_shows_every_system_beside_its_picture(ground):
    captions = joined(ground)
    held = captions.held_out()
    plan = captioner.Plan(captions=captions, held_out=held, settings=None, arm={})
    texts = {system: [f"{system} {e.name}" for e in held] for system in captioner.SYSTEMS}
    for card in captioner.examples(plan, texts, 2):
        assert card["picture"].exists()
        assert card["reference"].startswith("Boat")
        assert {s: card[s] for s in texts} == {s: f"{s} {card['sample_id']}" for s in texts}


def test_its_model_is_whole_and_names_its_prompt(trained, ground):
    facts = json.loads((trained.data / "model/training.json").read_text())
    assert (trained.data / "model/model.safetensors").exists()
    assert (facts["base"], facts["prompt_sha"]) == ("tiny-llava", joined(ground).template.sha)
