"""Rules on captions and Q&A: what models write when they fail is found, and what people write is
left alone.
"""

import os
import time
from pathlib import Path

import pytest

from vislib import prompts
from vislib.checks import RULES, Checks
from vislib.runs import InputError, tables

ROOT = Path(__file__).resolve().parents[1]
PROMPT = prompts.load("contextual_caption").text
QA_PROMPT = prompts.load("free_form").text
CHECKS = Checks(list(RULES))
GOOD = (
    "A red lighthouse stands on a rock, and two sailing boats pass in front of it. The sky is"
    " overcast, and the sea shows small waves. The tower was built in 1887 and still guides ships"
    " into the harbour."
)


def fault(text: str, page: str = GOOD, prompt: str = PROMPT) -> str:
    return CHECKS.fault(text, prompt=prompt, page=page)[0]


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't assist with that request.",
        "I’m sorry, I can’t help with identifying people in images.",
        "I am sorry, but I cannot provide a description of this image.",
        "I'm sorry, but I can't.",
        "I apologize, but I'm unable to view the image you mention.",
        "Unfortunately, I am not able to see any picture here.",
        "I cannot identify the people in this photo. It shows three men at a table.",
        "As an AI language model, I don't have eyes, but the picture seems to show a dog.",
        "The picture shows a crowd. As an AI developed by a company, I can't name anyone in it.",
        "I'm just an AI, so I have no opinion about the painting.",
        "**I'm sorry, but I can't help with that.**",
        "I don't see any image attached. Please upload the image.",
        "Could you please provide the image you want me to caption?",
        "It looks like no image was provided.",
        "I can't directly view images, but it may be a boat.",
        "抱歉，我无法识别图片中的人物。",
        "申し訳ありませんが、この画像の説明はできません。",
        "Es tut mir leid, aber ich kann dieses Bild leider nicht beschreiben.",
        "Je suis désolé, mais je ne peux pas décrire cette image.",
        "Lo siento, pero no puedo ayudar con eso.",
    ],
)
def test_refusals_are_found(text: str) -> None:
    assert fault(text) == "refusal"


@pytest.mark.parametrize(
    "text",
    [
        (
            "A wooden sign at the gate reads “I'm sorry, I can't open before nine.” Below it hangs"
            " a small brass bell."
        ),
        (
            "The woman holds a board with the words 'Sorry, we cannot help you today'. Behind her"
            " stands a closed shop."
        ),
        (
            'The chat window shows "As an AI language model, I cannot help with that." in grey on'
            " white."
        ),
        "As an AI researcher, Jane Doe works on robots. She stands in her laboratory in Leeds.",
        "Unfortunately for the rider, the horse stopped before the fence.",
    ],
)
def test_quoted_and_told_refusals_pass(text: str) -> None:
    assert fault(text) == ""


@pytest.mark.parametrize(
    "text",
    [
        "Three",
        "A red boat on a lake",
        "Vitamin A",
        "In St. Ives, near the harbour",
        "1,5 m",
        "C:",
        "Jane Doe, John Smith and J. R. Doe in front of the old town hall",
    ],
)
def test_short_answers_and_labels_pass_all_rules(text: str) -> None:
    assert fault(text) == ""


@pytest.mark.parametrize(
    "text",
    [
        "<|im_end|>",
        "</s>",
        "[INST] Describe it.",
        "<start_of_turn>model",
        "A boat.</think>",
        "{{caption}}",
        "In <image>, a boat lies at the pier.",
        "The [image] shows a boat.",
        "<data-0a1b2c3d> A boat.",
        "A boat.\nUSER: What colour is it?",
        "A boat.\n### Response: It is red.",
        "Sure! Here is the caption you asked for: a boat.",
        "Here is a detailed caption of the image:\n\nA boat.",
        "Caption: A boat lies at the pier.",
        "A boat.\nAnswer with the caption alone.",
        (
            "The picture decides. Where the page contradicts what you see, leave the page's claim"
            " out. A boat."
        ),
        "As described in the caption, the boat is red.",
        "According to the provided context, it was built in 1887.",
        "Based on the description, there are three boats.",
        "The image description does not mention a boat.",
        "It is a harbour, as stated in the alt text.",
        "According to the tags, there is a boat.",
        "The OCR text says KESTREL.",
        "The detections show two boats.",
        "Based on the provided world knowledge, it is Oslo.",
        "A boat, as indicated by the detected objects, lies here.",
    ],
)
def test_leaks_are_found(text: str) -> None:
    assert fault(text) == "leakage"


def test_an_example_of_the_prompt_is_no_answer() -> None:
    answer = "It is a cantilever bridge, and its towers work in pairs of arms."
    assert fault(answer, prompt=QA_PROMPT) == "leakage"
    assert fault(answer) == ""


@pytest.mark.parametrize(
    "text",
    [
        "The code on the slide holds the tags “<image>” and `</s>`.",
        "What does the <option> tag in the screenshot do?",
        "The <s> tag strikes a text through, and the tag <image> stands for a picture.",
        "The caption below the cartoon reads “Home at last”.",
        "The web page on the screen names the colours of the flag.",
        "A diagram, described in the text of the patent, hangs in the hall.",
        "According to the plaque, the bridge was opened in 1890.",
        (
            "According to the tags on the coats, they cost 20 euros. The price tags show the old"
            " price too."
        ),
        (
            "OCR software reads the page on the screen. A poster about world knowledge hangs"
            " beside it."
        ),
        "Here is where the river meets the sea: a wide, flat delta.",
        "User interface of the editor: the menu bar, the toolbars and the canvas.",
    ],
)
def test_words_that_are_no_leak_pass(text: str) -> None:
    assert fault(text) == ""


@pytest.mark.parametrize(
    "text",
    [
        "A man [0.123, 0.456, 0.789, 0.901] stands.",
        "man: [0.1, 0.2, 0.3, 0.4]",
        "A dog at (0.12, 0.34, 0.5, 0.6) runs.",
        "dog: [12, 34, 560, 700]",
        "dog: 0.123, 0.456, 0.789, 0.912",
        "The dog lies at (0.123, 0.456).",
        "The box coordinates are [0, 0.5, 1, 1].",
        "x1=0.12, y1=0.3, x2=0.5, y2=0.9",
        "{bbox_2d: [1, 2, 3, 4]}",
        "<loc0123><loc0456> car",
        "The bounding box of the dog covers the left half.",
        "Its bounding boxes overlap.",
        "A man is detected with a score of 0.93.",
        "The dog, with a confidence of 0.93, runs.",
        "The car has a confidence score of 0.87.",
        "A cup stands on a table (confidence: 0.87).",
    ],
)
def test_printed_boxes_are_found(text: str) -> None:
    assert fault(text) == "coordinates"


@pytest.mark.parametrize(
    "text",
    [
        "It costs 3.20, 4.50, 6.00 and 7.10 euros.",
        "The share lies between 0.5 and 0.8.",
        "Python 3.11 (0.12.3)",
        "The curve runs from (0, 0) to (1, 1), and (0.5, 0.5) is its centre.",
        "A matrix [1, 0, 0, 1] stands there.",
        "A green bounding box is drawn around each car.",
        "Scale: 0.25, 0.50, 0.75, 1.00",
        "A score of 21 to 14.",
        "The tick labels 0.0, 0.2, 0.4, 0.6, 0.8, 1.0 stand below the axis.",
        "10:30, 11:45 and 12:00",
        "Bounding boxes for each component can be enabled.",
        "A 95 % confidence interval is grey.",
        "The board reads “cat: [0.1, 0.2, 0.3, 0.4]” in chalk.",
        "rgba(255, 0, 0, 0.5)",
        "x1 = 3 and x2 = 4 are roots.",
    ],
)
def test_numbers_that_are_no_boxes_pass(text: str) -> None:
    assert fault(text) == ""


def test_rules_and_language_are_chosen_by_name() -> None:
    refusal = "I'm sorry, but I can't assist with that."
    assert Checks([]).fault(refusal) == ("", "")
    assert Checks(["truncation", "refusal"]).fault(refusal) == (
        "refusal",
        refusal.removesuffix(" with that."),
    )
    with pytest.raises(InputError, match="checks: 'spelling' is none of refusal"):
        Checks(["spelling"])
    with pytest.raises(InputError, match="language is 'xx'; take page, or one of the codes af,"):
        Checks(["language"], "xx")


@pytest.mark.parametrize(
    "unit",
    [
        GOOD + " ",
        "a",
        "!",
        " ",
        "\n",
        "'a ",
        "“",
        '"',
        "`",
        "sorry ",
        "I'm sorry, ",
        "as an ",
        "<",
        "{{a",
        "\n- ",
        "ab. ",
        "(",
        "字",
        "the ",
        "here is ",
        "based on the ",
        "the provided page's ",
        "[0.1, ",
        "bounding box of ",
        "a: 0.123, ",
        "x1=1 ",
        "detected ",
        "there is a. ",
        "a b c d. ",
    ],
)
def test_time_is_linear(unit: str) -> None:
    text = unit * (100_000 // len(unit))
    began = time.process_time()
    CHECKS.fault(text, prompt=PROMPT, page=text)
    assert time.process_time() - began < 0.5  # each rule under 0.1 s; a quadratic one takes minutes


def test_what_people_write_passes() -> None:
    files = sorted((ROOT / "vislib/sample/pages").glob("*.md"))
    texts = [part for file in files for part in file.read_text(encoding="utf-8").split("\n\n")]
    assert len(texts) > 600
    assert [
        found for text in texts if (found := CHECKS.fault(text, prompt=PROMPT, page=text))[0]
    ] == []


@pytest.mark.skipif(not os.environ.get("VISLIB_WEBDOCS"), reason="VISLIB_WEBDOCS names no folder")
def test_prose_of_real_pages_passes() -> None:
    documents = tables.read_rows(
        Path(os.environ["VISLIB_WEBDOCS"]) / "documents.parquet", ["texts"]
    )
    pages = ["\n\n".join(text for text in row["texts"] if text) for row in documents]
    parts = [(part, page) for page in pages for part in page.split("\n\n")]
    prose = [
        (part, page) for part, page in parts if part.endswith((".", "。")) and "\n" not in part
    ]
    assert len(prose) > 3000
    hits = [
        (part, found)
        for part, page in prose
        if (found := CHECKS.fault(part, prompt=PROMPT, page=page))[0]
    ]
    assert len(hits) <= 0.002 * len(prose), hits
