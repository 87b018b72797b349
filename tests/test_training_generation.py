"""`vislib.training.generation`: an answer depends on its question alone, comes from a child, and is
asked once.
"""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageDraw

from vislib.runs import start_run
from vislib.training import generation, models, tiny
from vislib.training.generation import (
    Question,
    answers_of_models,
    encode,
    generate,
    model_key,
)

SIDES = [(40, 40), (200, 90), (90, 300), (56, 57)]
ASKED = [
    ("What is this?", 0),
    ("Name every colour that you can see in this picture, from left to right.", 1),
    ("How many?", None),
    ("Which of these is it?\nA. a cat\nB. a dog\nAnswer with the letter.", 2),
    ("Where?", 3),
    ("Tell me a story about the sea, the wind, the rain, and all who live with them.", None),
]


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    """A folder with pictures, and tiny models whose answers are long and differ: their heads are
    made sharper.
    """
    folder = tmp_path_factory.mktemp("generation")
    for number, size in enumerate(SIDES):
        image = Image.effect_noise(size, 90 + 40 * number).convert("RGB")
        ImageDraw.Draw(image).ellipse((0, 0, 30, 30), ("red", "green", "blue", "gold")[number])
        image.save(folder / f"{number}.png")
    for name in ("tiny-llava", "tiny-idefics2"):
        tiny.build(name, folder / name)
        model, processor = models.open_trained(folder / name)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter *= 3
            # no answer ends early, and none shows an image that is not there
            silent = [*generation.end_tokens(model, processor), processor.image_token_id]
            model.lm_head.weight[silent] *= 0.1
        models.save_trained(model, processor, folder / name, {})
    return folder


@pytest.fixture(scope="module", params=["tiny-llava", "tiny-idefics2"])
def opened(request, ground):
    return *models.open_trained(ground / request.param), questions(ground)


def questions(folder: Path, most: int = 24) -> list[Question]:
    paths = [None if number is None else str(folder / f"{number}.png") for _, number in ASKED]
    return [Question(text, path, most) for (text, _), path in zip(ASKED, paths, strict=True)]


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("VISLIB_RUNS", str(tmp_path / "runs"))
    run = start_run("01_documents", {"run_dir": "runs/demo"})
    yield run
    run.close()


def told(model, processor, rows, limits, batch):
    return [
        answer
        for start in range(0, len(rows), batch)
        for answer in generate(
            model, processor, rows[start : start + batch], limits[start : start + batch]
        )
    ]


def test_an_answer_is_the_same_alone_and_in_a_batch_of_longer_and_shorter_ones(opened):
    model, processor, asked = opened
    rows, limits = [encode(processor, question) for question in asked], [24, 3, 24, 24, 9, 24]
    alone = told(model, processor, rows, limits, 1)
    assert len({len(row.input_ids) for row in rows}) == len(rows)
    assert len({tuple(answer) for answer in alone}) == len(
        rows
    )  # each reads its own question and image
    assert [len(answer) for answer in alone] == limits
    for batch in (2, 4, 6):
        assert told(model, processor, rows, limits, batch) == alone


def test_positions_begin_at_the_prompt_not_at_its_padding(opened):
    """Each answer is also what the bare model finds most likely, one token after the other, without
    any cache.
    """
    model, processor, asked = opened
    rows = [encode(processor, question) for question in asked]
    for row, answer in zip(rows, told(model, processor, rows, [6] * len(rows), 4), strict=True):
        ids = list(row.input_ids)
        for token in answer:
            with torch.inference_mode():
                logits = model(input_ids=torch.tensor([ids]), **row.pixels).logits[0, -1]
            assert token == int(logits.argmax())
            ids.append(token)


def test_an_answer_ends_before_the_model_s_end_token(opened):
    model, processor, asked = opened
    row = encode(processor, asked[0])
    (answer,) = told(model, processor, [row], [24], 1)
    own = model.generation_config.eos_token_id
    model.generation_config.eos_token_id = [answer[4]]
    try:
        (cut,) = told(model, processor, [row], [24], 1)
    finally:
        model.generation_config.eos_token_id = own
    assert cut == answer[: answer.index(answer[4])]


def test_an_answer_also_ends_where_training_taught_it_to(opened):
    model, processor, _ = opened
    last = {"LlavaProcessor": "</s>", "Idefics2Processor": "<end_of_utterance>"}[
        type(processor).__name__
    ]
    own, model.generation_config.eos_token_id = model.generation_config.eos_token_id, None
    ends = generation.end_tokens(model, processor)
    model.generation_config.eos_token_id = own
    assert processor.tokenizer.convert_tokens_to_ids(last) in ends


def test_what_a_checkpoint_says_of_sampling_and_repetition_is_not_heeded(opened):
    model, processor, asked = opened
    row = encode(processor, asked[1])
    before = told(model, processor, [row], [12], 1)
    model.generation_config.update(
        do_sample=True, temperature=9.0, repetition_penalty=5.0, num_beams=3
    )
    assert told(model, processor, [row], [12], 1) == before


def test_answers_come_from_a_child_once_and_a_failed_image_costs_its_own_answer_alone(
    ground, run, monkeypatch
):
    place, asked = str(ground / "tiny-llava"), questions(ground, 8)
    (ground / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing more")
    (ground / "whole.png").write_bytes((ground / "0.png").read_bytes())
    bad = [
        Question("What?", str(ground / "broken.png"), 8),
        Question("What?", "/no/such.png", 8),
        Question("<image> and <image>?", str(ground / "0.png"), 8),
        Question("word " * 9000, None, 8),
    ]
    twin = replace(asked[0], image_path=str(ground / "whole.png"))
    (said,) = answers_of_models(run, [place], [*asked, *bad, twin], batch_size=4, device="cpu")
    assert len(run.journal(generation.JOURNAL)) == len(asked)
    model, processor = models.open_trained(place)
    good, failed = said[: len(asked)], said[len(asked) : -1]
    for question, reply in zip(asked, good, strict=True):
        (ids,) = generate(model, processor, [encode(processor, question)], [8])
        # A token such as <unk> is no text of an answer.
        text = processor.tokenizer.decode(ids, skip_special_tokens=True)
        assert reply.text == text.strip()
    assert said[-1] == said[0]
    assert {reply.text for reply in failed} == {None}
    reasons = [reply.reason for reply in failed]
    assert reasons == ["image_broken", "image_missing", "image_count", "too_long"]
    monkeypatch.setattr(
        generation, "run_child", lambda *args, **options: pytest.fail("asked again")
    )
    assert answers_of_models(run, [place], asked) == [good]
    with pytest.raises(pytest.fail.Exception):
        answers_of_models(run, [place], [replace(asked[0], max_tokens=9)])


def test_a_model_s_weights_image_question_and_precision_name_an_answer(ground, tmp_path):
    (tmp_path / "copy").symlink_to(ground / "tiny-llava")
    assert model_key(str(tmp_path / "copy")) == model_key(str(ground / "tiny-llava"))
    names = {
        model_key(str(ground / name), precision=p)
        for name in tiny.NAMES
        if (ground / name).exists()
        for p in ("float32", "bfloat16")
    }
    assert len(names) == 4
    first = questions(ground)[0]
    others = [
        replace(first, text="Why?"),
        replace(first, image_path=None),
        replace(first, max_tokens=5),
        replace(first, image_path=str(ground / "1.png")),
    ]
    assert len({generation.question_key("m", question) for question in [first, *others]}) == 5
    (tmp_path / "same.png").write_bytes(Path(first.image_path).read_bytes())
    same = replace(first, image_path=str(tmp_path / "same.png"))
    assert generation.question_key("m", first) == generation.question_key("m", same)


def test_the_stage_s_side_imports_no_torch():
    code = (
        "import sys, vislib.training.generation, vislib.training.models; assert 'torch' not in"
        " sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
