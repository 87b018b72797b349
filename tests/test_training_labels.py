"""`vislib.training.labels`: what a row teaches, read back from the tokens that carry loss, is its
answers.
"""

import random
from copy import copy
from functools import cache

import pytest
import torch
from PIL import Image

from tests.training_ground import KINDS, LLAVA_HUB, encode, pictures, processor, row
from vislib.runs import InputError
from vislib.training import tiny, vicuna
from vislib.training.chat import Chat, RowError, model_inputs, prompt_text
from vislib.training.labels import IGNORED, Encoder


@cache
def encoder(kind: str) -> Encoder:
    return Encoder(processor(kind), max_length=4000)


def taught(kind: str, encoded) -> list[str]:
    """The texts of the runs of tokens that carry loss, each read behind the token before it."""
    decode, texts, start = processor(kind).tokenizer.decode, [], None
    for place, label in enumerate([*encoded.labels, IGNORED]):
        if label != IGNORED and start is None:
            start = place
        if label == IGNORED and start is not None:
            lead = decode(encoded.input_ids[start - 1 : start])
            texts.append(decode(encoded.input_ids[start - 1 : place]).removeprefix(lead))
            start = None
    return texts


LEAD = {"chatml": ""}
END = {
    "chatml": "<|im_end|>",
    **dict.fromkeys(["tiny-llava", "llava-hub", "llama", "llava-next"], "</s>"),
}


def as_taught(kind: str, *answers: str) -> list[str]:
    return [
        LEAD.get(kind, " ") + answer + END.get(kind, "<end_of_utterance>") for answer in answers
    ]


FRAMED = {"tiny-idefics2", "idefics2-split", "tiny-idefics3", "idefics3-split"}
ROWS = {
    "one turn": row("<image>\nWhat is it?", "A lamp.", images=1),
    "several turns": row(
        "<image>\nWhat?", "A lamp.", "Where?", "Here.", "Where?", "Here.", images=1
    ),
    "image at the end": row("What is this?\n<image>", "A lamp.", images=1),
    "adjacent images": row(
        "<image>\n<image>\nWhich one?", "The second.", "Why?", "It is red.", images=2
    ),
    "images among words": row("Is <image> or <image>, or<image>word, red?", "The first.", images=3),
    "images in later turns": row(
        "Hello", "Hi.", "<image>What?", "A lamp.", "<image>What?", "A lamp.", images=2
    ),
    "the same image turn again": row(
        "<image>", "1", "<image>", "1", "<image>\n<image>", "1", images=4
    ),
    "text only": row(
        "What is 2 + 2?", "4", "And 12,345.67 * 2?", "24691.34\n\n1. Multiply\n2. Add"
    ),
    "answer as question": row("<image>\nYes", "Yes", "Yes", "Yes", images=1),
    "speakers named in answers": row(
        "Who?", "USER: me. ASSISTANT: no\nUser: me\nAssistant: I", "Assistant:", "User:"
    ),
    "Unicode": row(
        "<image>\né?",
        "Zoë’s naïve café — 東京 🙂🇫🇷 مرحبا e\u0301 ﬁ \u200b x",
        "そう?",
        "はい",
        images=1,
    ),
    "blanks inside": row("Say", "a  b\t\tc\n\n\nd   e", "\n\nSay\n", "x"),
    "blanks around": row(
        "<image>\nSay", "  two before", "Say", "two behind  ", "Say", "line behind\n", images=1
    ),
    "an open end": row("<image>\nWhat?", "A lamp.", "And then?", images=1),
    "no words": row("<image>\n", "?", "...", "-", images=1),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ROWS)
def test_what_carries_loss_is_the_answers_and_their_ends(kind, name):
    given = ROWS[name]
    turns = given["conversations"]
    encoded = encode(encoder(kind), given, pictures(len(given["images"])))
    assert taught(kind, encoded) == as_taught(kind, *(turn["value"] for turn in turns[1::2]))
    assert all(
        label in (IGNORED, token)
        for label, token in zip(encoded.labels, encoded.input_ids, strict=True)
    )
    tokenizer = processor(kind).tokenizer
    assert not {
        processor(kind).image_token_id,
        tokenizer.pad_token_id,
        tokenizer.bos_token_id,
    } & set(encoded.labels)
    assert encoded.n_image_tokens == encoded.input_ids.count(processor(kind).image_token_id)
    for count in range(
        1, len(turns), 2
    ):  # in generation the model stands exactly where its answer began in training
        prompt = prompt_text(processor(kind), turns[:count])
        marks = sum(turn["value"].count("<image>") for turn in turns[:count])
        seen = model_inputs(processor(kind), prompt, pictures(marks))["input_ids"][0].tolist()
        assert encoded.input_ids[: len(seen)] == seen
        assert encoded.labels[len(seen) - 1] == IGNORED != encoded.labels[len(seen)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_is_cut_from_the_right_but_never_in_an_image(kind):
    given = row(
        "<image>Who?",
        "A b c d e f.",
        "<image>What?",
        "G h i j.",
        "Why?",
        "K l m n o p q.",
        images=2,
    )
    whole = encode(encoder(kind), given, pictures(2))
    full, kinds = as_taught(kind, "A b c d e f.", "G h i j.", "K l m n o p q."), set()
    second = len(whole.input_ids) - whole.input_ids[::-1].index(processor(kind).image_token_id)
    second += kind in FRAMED  # the mark that closes an image belongs to it
    uncut = encoder(kind)._labelled(given["conversations"], pictures(2))
    for length in range(1, len(whole.input_ids) + 1):
        short = Encoder.__new__(Encoder)
        short.__dict__ |= encoder(kind).__dict__ | {"max_length": length}
        if length not in (second - 1, second, len(whole.input_ids) - 1):
            short._labelled = lambda *_: uncut  # what is cut is the same at every length
        if (
            length < second
        ):  # an image's pixels without its tokens, or the reverse, is an error in the model
            with pytest.raises(RowError, match="image_cut"):
                encode(short, given, pictures(2))
            continue
        cut = encode(short, given, pictures(2))
        assert (cut.input_ids, cut.labels) == (whole.input_ids[:length], whole.labels[:length])
        assert cut.truncated is (length < len(whole.input_ids))
        assert cut.n_image_tokens == whole.n_image_tokens
        texts = taught(kind, cut)
        assert texts[:-1] == full[: len(texts) - 1]
        assert full[len(texts) - 1].startswith(texts[-1])
        kinds.add(len(texts))
    assert kinds == {1, 2, 3}


def test_a_row_that_cannot_be_learnt_from_says_why(tmp_path):
    pictures(1)[0].save(tmp_path / "ok.png")
    (tmp_path / "page.png").write_text("<!doctype html>")
    (tmp_path / "half.png").write_bytes((tmp_path / "ok.png").read_bytes()[:4000])
    files = {name: str(tmp_path / f"{name}.png") for name in ("ok", "page", "half", "none")}
    cases = [
        ("bad_turns", {"conversations": []}),
        ("no_answer", row("Only a question")),
        ("bad_turns", {"conversations": row("a", "b")["conversations"][::-1]}),
        (
            "bad_turns",
            {
                "conversations": (
                    row("a", "b")["conversations"] * 2 + row("a", "b")["conversations"][1:]
                )
            },
        ),
        ("no_answer", row("What?", "")),
        ("no_answer", row("What?", "A lamp.", "And?", " \n")),
        ("image_count", row("<image> What?", "A lamp.")),
        ("image_count", row("What?", "A lamp.", images=1)),
        ("image_missing", row("<image>", "A") | {"images": [files["none"]]}),
        ("image_not_an_image", row("<image>", "A") | {"images": [files["page"]]}),
        ("image_truncated", row("<image>", "A") | {"images": [files["half"]]}),
        ("image_unreadable", row("<image>", "A") | {"images": [str(tmp_path)]}),
        ("image_unreadable", row("<image>", "A") | {"images": ["a\0.png"]}),
        ("image_unreadable", row("<image>", "A") | {"images": ["a" * 5000]}),
        ("no_answer_left", row("What? " * 2000, "A")),
        ("image_cut", row("What? " * 2000, "A", "<image>", "B") | {"images": [files["ok"]]}),
    ]
    for reason, given in cases:
        with pytest.raises(RowError) as caught:
            encoder("tiny-llava").encode({"images": []} | given)
        assert (caught.value.reason, str(tmp_path) in caught.value.detail) == (reason, False), given
    seen = encoder("tiny-llava").encode(row("<image>", "A") | {"images": [files["ok"]]})
    assert seen.counts["pixels"] == 56 * 56


@pytest.mark.parametrize("kind", KINDS)
def test_words_of_the_data_never_become_special_tokens(kind):
    end, image = END.get(kind, "<end_of_utterance>"), processor(kind).image_token_id
    encoded = encoder(kind).encode(
        row(f"Is <s>{end} html?", f"<image> and {end} are marks.", "</s>", "ok<pad>")
    )
    shown = end.replace("<", "‹").replace(">", "›")
    assert taught(kind, encoded)[0] == as_taught(kind, f"‹image› and {shown} are marks.")[0]
    ends = processor(kind).tokenizer.convert_tokens_to_ids(end)
    assert sum(label == ends for label in encoded.labels) == 2
    assert image not in encoded.input_ids


def test_a_row_has_one_beginning_token_whoever_writes_it():
    both = copy(processor("llama"))
    both.chat_template = "{{ bos_token }}" + LLAVA_HUB
    for made in (
        processor("tiny-llava"),
        processor("llama"),
        both,
    ):  # by the template, the tokenizer, either
        for given in (ROWS["text only"], ROWS["one turn"]):
            shown = pictures(len(given["images"]))
            ids = encode(Encoder(made, max_length=4000), given, shown).input_ids
            assert (ids[0], ids.count(made.tokenizer.bos_token_id)) == (
                made.tokenizer.bos_token_id,
                1,
            )


def test_turns_are_written_as_the_models_were_trained():
    turns = row("<image>\nWhat?", "A lamp.", "On <image> or\n<image>", "Both.\n")["conversations"]
    assert {
        kind: Chat(processor(kind)).render(turns)[0]
        for kind in ("llava-hub", "tiny-llava", "tiny-idefics2")
    } == {
        "llava-hub": (
            "USER: <image>\nWhat? ASSISTANT: A lamp.</s>USER: <image>\n<image>\nOn   or "
            "ASSISTANT: Both.\n</s>"
        ),
        "tiny-llava": (
            f"<s>{vicuna.SYSTEM} USER: <image>\nWhat? ASSISTANT: A lamp.</s>"
            "USER: <image>\n<image>\nOn  or ASSISTANT: Both.\n</s>"
        ),
        "tiny-idefics2": (
            "User:<image>What?<end_of_utterance>\nAssistant: A lamp.<end_of_utterance>\n"
            "User:On <image> or<image><end_of_utterance>\nAssistant: Both.\n<end_of_utterance>\n"
        ),
    }


@pytest.mark.parametrize("kind", ["tiny-idefics2", "idefics3-split"])
def test_an_image_of_zeros_is_not_taken_for_padding(kind):
    images, usual = processor(kind).image_processor, processor(kind).image_processor.do_normalize
    images.do_normalize = False  # black is zero
    try:
        night = row("<image>", "Night.", images=1)
        values = encode(encoder(kind), night, [Image.new("RGB", (200, 90))]).pixels["pixel_values"]
    finally:
        images.do_normalize = usual
    frames = values.flatten(0, 1).flatten(1)
    assert ((frames != 0).sum(dim=1) == 1).all()
    assert frames.max() < 1 / 255


BROKEN = {
    "no end token": LLAVA_HUB.replace("+ ' '", "+ ' END '"),
    "earlier turns are written anew": "{{ messages | length }}" + LLAVA_HUB,
    "answers are left out": LLAVA_HUB.replace("content['text']", "content['text'][:3]"),
    "thoughts are put before answers": LLAVA_HUB.replace(
        "message['role'].upper() + ': '", "'USER: <think></think> '"
    ),
    "texts only": "{% for message in messages %}{{ 'X: ' + message['content'] }}{% endfor %}",
    "no images": LLAVA_HUB.replace("'<image>\n'", "''"),
    "none": None,
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_model_whose_answers_cannot_be_told_from_the_rest_is_refused_at_once(name):
    made = tiny.made("tiny-llava")[1]
    made.chat_template = BROKEN[name]
    with pytest.raises(InputError, match="answers cannot be told from the rest"):
        Encoder(made, max_length=100)
    del made.image_token
    with pytest.raises(InputError, match="no image token"):
        Encoder(made, max_length=100)


@pytest.mark.parametrize("change", [{"input_ids": [[1]]}, {"mm_token_type_ids": [[0]]}])
def test_a_processor_that_makes_something_unknown_is_refused(change):
    made = copy(processor("tiny-llava"))

    class Unusual(type(made)):
        def __call__(self, **given):
            return super().__call__(**given) | {
                name: torch.tensor(ids) for name, ids in change.items()
            }

    made.__class__ = Unusual
    with pytest.raises(InputError, match="in a way that is not known here"):
        Encoder(made, max_length=100)


def test_a_row_whose_answer_melts_into_the_prompt_is_refused_rather_than_taught_in_part():
    tight = copy(processor("llama"))
    tight.chat_template = LLAVA_HUB.replace("': '", "':'")
    teacher = Encoder(tight, max_length=4000)
    assert teacher.encode(row("Smile", "I do.")).counts["supervised_tokens"] == 4
    with pytest.raises(RowError, match="not_word_for_word"):
        # a token of its own begins with the colon behind the speaker
        teacher.encode(row("Smile", ":::"))


@pytest.mark.parametrize("kind", KINDS)
def test_any_text_is_taught_word_for_word(kind):
    chance = random.Random(7)
    signs = [
        "</s>",
        "<",
        ">",
        " ",
        "  ",
        "\n",
        "\t",
        ":",
        "USER:",
        "Assistant: ",
        "a",
        "1",
        "é",
        "e\u0301",
        "ﬁ",
        "東",
        "🙂",
        "\u200b",
        "\ufeff",
        "\0",
        "\xa0",
        "<0x0A>",
        "\ufffd",
        "‹",
        "\u202e",
    ]
    for _ in range(60):
        words = ["".join(chance.choices(signs, k=chance.randint(1, 9))) + "." for _ in range(4)]
        marks = chance.randint(0, 2)
        given = row("<image>" * marks + words[0], *words[1:], images=marks)
        encoded = encode(encoder(kind), given, pictures(marks))
        assert taught(kind, encoded) == as_taught(
            kind, *(text.replace("</s>", "‹/s›") for text in words[1::2])
        )


def test_an_answer_that_its_tokenizer_cannot_write_is_refused():
    assert encoder("tiny-llava").encode(row("Chart?", "▁▂▃")).counts["supervised_tokens"]
    with pytest.raises(RowError, match="not_word_for_word"):
        encoder("llama").encode(row("Chart?", "▁▂▃"))  # SentencePiece writes a space as ▁
