"""Stage 13 as its notebook calls it: by text evidence, and by a model behind a real server."""

import json

import pytest
from PIL import Image

from tests.grounding_claims import COLUMNS, FILE, draw, read_labels, wrong_colour, wrong_count
from tests.openai_server import KEY, MODEL, completion, openai_server
from vislib import grounding
from vislib.engines.openai import OpenAIChat
from vislib.runs import InputError, start_run, tables
from vislib.runs.cells import do_work
from vislib.runs.contract import CAPTIONS, IMAGES, PRIORS, SAMPLES

CONTEXT = (
    "Our harbour.\n\n<image>\n\nThe red lightship was built in 1908 in Hamburg and carried a crew"
    " of nine men for many long years."
)
CAPTIONED = {
    "contextual": "A red ship lies at a quay. The lightship was built in 1908 in Hamburg and"
    " carried a crew of nine men. Four green gulls sit on it.",
    "non_contextual": "A red ship lies at a stone quay under a tall mast.",
}


@pytest.fixture(autouse=True)
def _environment(monkeypatch, tmp_path):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("VISLIB_RUNS", str(tmp_path / "runs"))
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.setattr(OpenAIChat, "backoff_s", 0.01)


def table(folder, name, schema, *rows):
    written = [dict.fromkeys(schema.names) | row for row in rows]
    tables.write_table(folder / name, schema, written)
    return str(folder / name)


@pytest.fixture
def inputs(tmp_path):
    folder = tmp_path / "data"
    (folder / "files").mkdir(parents=True)
    Image.new("RGB", (64, 48), "red").save(folder / "files/a.png")
    image = {"image_url": "u", "image_id": "a", "status": "ok", "path": "files/a.png"}
    captions = [
        {"sample_id": "s", "kind": kind, "caption": text, "status": "ok", "model": "Writer 1"}
        for kind, text in CAPTIONED.items()
    ]
    found = {"image_id": "a", "tags": [], "boxes": [], "texts": []}
    labels = folder / "labels.csv"
    false = "s,contextual,0,A purple ship lies at a quay.,colour,,neither,neither"
    labels.write_text(f"{','.join(COLUMNS)}\nc1,{false}\nc2,gone,contextual,0,No.,,,both,both\n")
    return {
        "captions": table(folder, "captions", CAPTIONS, *captions, {"sample_id": "s"}),
        "samples": table(
            folder,
            "samples",
            SAMPLES,
            {"sample_id": "s", "doc_id": "d0", "image_url": "u", "context": CONTEXT},
        ),
        "images": table(folder, "images", IMAGES, image | {"width": 64, "height": 48}),
        "priors": table(folder, "priors", PRIORS, found),
        "labels": str(labels),
    }


def judged(inputs, **parameters):
    run = start_run("13_grounding", {**inputs, **parameters})
    do_work(run)
    (run.figures / "figure.csv").touch()
    run.finish()
    data = run.stage.folder / "data"
    return [list(tables.read_rows(data / name)) for name in ("claims", "labelled", "dropped")]


def test_sentences_are_judged_by_what_page_and_picture_say(inputs):
    claims, labelled, dropped = judged(inputs)
    assert [(c["kind"], c["sentence"], c["verdict"]) for c in claims] == [
        ("contextual", 0, "image"),
        ("contextual", 1, "context"),
        ("contextual", 2, "neither"),
        # its own caption is no evidence; of a writer without a page another caption is
        ("non_contextual", 0, "image"),
    ]
    assert claims[2]["lacking"] == ["4", "green"]
    assert claims[1]["context_evidence"].startswith("The red lightship was built in 1908")
    assert (claims[1]["ngrams"], claims[1]["copied_ngrams"]) == (8, 7)
    assert {c["judge"] for c in claims} == {"text evidence"}
    # labels of captions that are not here are left out; what is planted is judged like the others
    assert [(c["verdict"], c["planted"], c["label_a"], c["held_out"]) for c in labelled] == [
        ("neither", "colour", "neither", True)
    ]
    assert not dropped


def test_without_priors_or_labels(inputs):
    run = start_run("13_grounding", {**inputs, "priors": "", "labels": ""})
    do_work(run)
    assert not (run.data / "labelled").exists()
    assert len(list(tables.read_rows(run.data / "claims"))) == 4
    run.close()


def test_a_model_judges_with_the_picture_and_what_it_leaves_out_is_dropped(inputs):
    told = [
        {"number": 1, "image": "a red ship", "page": "", "verdict": "image"},
        {"number": 2, "image": "", "page": "built in 1908", "verdict": "context"},
    ]
    text = f"Here it is:\n```json\n{json.dumps({'judgements': told})}\n```"
    with openai_server(script=lambda prompt, times: (200, completion(text), {})) as server:
        parameters = {"engine": "openai", "model": MODEL, "base_url": server.url}
        claims, labelled, dropped = judged(inputs, **parameters)
    assert [c["verdict"] for c in claims] == ["image", "context", "", "image"]
    assert claims[0]["image_evidence"] == "a red ship"
    assert {c["judge"] for c in claims} == {MODEL}
    assert [c["verdict"] for c in labelled] == ["image"]
    assert [(d["id"], d["reason"]) for d in dropped] == [(claims[2]["claim_id"], "not_judged")]


def test_the_prompt_holds_page_and_claims_as_data_and_the_picture_is_sent(inputs):
    run = start_run("13_grounding", {**inputs})
    do_work(run)
    judge = grounding.Judge.of(run)
    request = judge.request(next(iter(tables.read_rows(run.scratch / "joined"))))
    run.close()
    assert "1. A red ship lies at a quay." in request.prompt
    assert "‹image›" in request.prompt
    assert "<image>" not in request.prompt
    assert (request.image_id, request.image_path.name) == ("a", "a.png")


@pytest.mark.parametrize(
    "text", ["No idea.", '{"judgements": 3}', '{"judgements": [{"x": 1}]}', "{"]
)
def test_what_is_no_judgement_is_a_fault(text):
    assert grounding.judgements(text) == {}


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("Claude (Anthropic), 2026-11-30", "claude"),
        ("anthropic/claude-sonnet-4", "claude"),
        ("Qwen/Qwen2.5-VL-7B-Instruct", "qwen"),
        ("openai/o3", "gpt"),
        ("gpt-4o", "gpt"),
    ],
)
def test_families(name, family):
    assert grounding.family(name) == family


def test_a_judge_of_the_writers_family_is_refused(inputs):
    with pytest.raises(InputError, match=r"'org/writer-2b' would judge captions of 'Writer 1'"):
        judged(inputs, engine="openai", model="org/writer-2b", base_url="http://127.0.0.1:9/v1")


def test_planted_swaps():
    assert wrong_count("Two lines of two words.").count("wo ") == 0
    assert "a orange" not in wrong_colour("A red hat and a red cap.")
    assert wrong_colour("No colour.") == wrong_count("No number.") == ""


def test_the_labelled_claims_are_those_that_the_rule_draws(sample_run):
    drawn, _ = draw(sample_run)
    file = read_labels()
    assert FILE.exists()
    assert {c["claim_id"]: c["text"] for c in drawn} == {k: c["text"] for k, c in file.items()}
