"""The embedded engine's rules one by one: measured colours, sentences, labels, clauses, lent answers."""

import numpy as np
import pytest
from PIL import Image

from vislib.engines.extractive import clauses, evidence, pool
from vislib.engines.extractive.captions import write_caption
from vislib.engines.extractive.picture import measure
from vislib.engines.extractive.questions import candidates, noun_phrase


def test_picture_facts_are_what_the_pixels_are() -> None:
    pixels = np.zeros((90, 180, 3), dtype=np.uint8)
    pixels[:45], pixels[45:] = (60, 120, 220), (30, 140, 50)
    pixels[5:20, 5:20] = (220, 30, 20)
    facts = measure(Image.fromarray(pixels))
    assert facts is not None
    assert (facts.width, facts.height, facts.grey) == (180, 90, False)
    assert (facts.areas["upper third"][0].family, facts.areas["lower third"][0].shade) == ("blue", "green")
    assert facts.spots["red"][0] == "in the upper left"
    assert facts.even > 0.95
    assert facts.areas["all"][1].share == pytest.approx(0.5 - 225 / 16200, abs=0.02)
    noise = np.random.default_rng(0).integers(0, 256, (100, 100), dtype=np.uint8)
    grey = measure(Image.fromarray(noise).convert("RGB"))
    assert grey is not None
    assert grey.grey
    assert grey.even < 0.05
    assert measure(Image.new("RGB", (15, 400))) is None


@pytest.mark.parametrize(
    ("rgb", "family"),
    [
        ((255, 255, 255), "white"), ((5, 5, 8), "black"), ((128, 128, 128), "grey"), ((220, 20, 20), "red"),
        ((250, 140, 20), "orange"), ((110, 70, 35), "brown"), ((250, 230, 40), "yellow"), ((30, 160, 50), "green"),
        ((40, 190, 180), "turquoise"), ((30, 60, 220), "blue"), ((130, 60, 200), "purple"), ((250, 130, 190), "pink"),
        ((235, 215, 180), "beige"),
    ],
)  # fmt: skip
def test_colours_have_their_common_names(rgb: tuple[int, int, int], family: str) -> None:
    facts = measure(Image.new("RGB", (32, 32), rgb))
    assert facts is not None
    assert facts.areas["all"][0].family == family


@pytest.mark.parametrize(
    ("sentence", "question", "answer"),
    [
        ("The bridge was opened in 1932.", "In which year was the bridge opened", "1932"),
        ("In 1889 the tower was finished.", "In which year was the tower finished", "1889"),
        ("The tower is 324 metres tall and made of iron.", "How tall is the tower", "324 metres"),
        ("The tripod has three legs, held by a spreader.", "How many legs does the tripod have", "Three legs"),
        ("The photograph was taken by Eileen Collins.", "By whom was the photograph taken", "Eileen Collins"),
        ("The picture was taken in New York.", "Where was the picture taken", "In New York"),
        (
            "Espresso is a strong coffee that is made under pressure.",
            "What is espresso",
            "A strong coffee that is made under pressure",
        ),
        ("The left pane contains the list of libraries.", "What does the left pane contain", "The list of libraries"),
        ("A wall is strong because no joint runs through two rows.", "Why is a wall strong", ""),
        ("The probe can be used to measure the voltage.", "What can the probe be used for", "To measure the voltage"),
    ],
)
def test_plain_sentences_become_questions(sentence: str, question: str, answer: str) -> None:
    found = evidence.Sentence(sentence, 0, 1.0, english=True, alone=True)
    first = next(clauses.facts(found, sentence + " He likes espresso."))
    assert (first.forms[0], first.answer, first.reply) == (f"{question}?", answer, sentence)


@pytest.mark.parametrize(
    "sentence",
    [
        "It was opened in 1932.",
        "The bridge built in 1932 was closed by the town.",
        "Endeavour was built from spare parts and first flew in 1992.",
        "What she had seen was the first of many.",
        "Engineers had said bug for a fault for many years.",
    ],
)
def test_other_sentences_ask_nothing_by_rule(sentence: str) -> None:
    found = evidence.Sentence(sentence, 0, 1.0, english=True, alone=not sentence.startswith("It"))
    assert [f for f in clauses.facts(found, sentence) if f.pool not in ("about", "year", "figure")] == []
    assert not [f for f in clauses.facts(found, sentence) if f.forms[0].startswith("In which year")]


def test_only_whole_sentences_near_the_picture_are_quoted() -> None:
    context = (
        "Home | About | Contact\n\nFar away stands a sentence about the weather of the north.\n\n"
        + "x" * 3000
        + "\n\n<image>\n\nThe old lamp is made of brass, e.g. from Mr. Bell's shop in Dr. Lee's house.\nRead more "
        "about lamps here.\nClick here to subscribe to our weekly newsletter now.\nlamp_model = Lamp(brass=True);\n"
        "A heading"
    )
    found = evidence.gather({"context": context, "alt_text": "brass lamp"}, None, kind="contextual")
    texts = [s.text for s in found.sentences]
    assert texts[0] == "The old lamp is made of brass, e.g. from Mr. Bell's shop in Dr. Lee's house."
    assert texts[1:] == ["Far away stands a sentence about the weather of the north."]


def test_labels_are_taken_only_from_readers_words() -> None:
    def label(alt: str, url: str = "http://x/a.png", context: str = "<image>") -> str:
        return evidence.gather({"alt_text": alt, "image_url": url, "context": context}, None, kind="contextual").label

    assert label("Grace Hopper in uniform.") == "Grace Hopper in uniform"
    assert label("image") == label("IMG_2041.JPG") == label("Figure 3") == label("logo") == ""
    assert label("ws stats io", "http://x/ws-stats-io.png") == ""
    assert label("", context="Text.\n\n<image>\n\nFigure\xa08.7.\xa0The main window\n\nMore.") == "The main window"
    assert noun_phrase("A red cup on a table") == ("shows", "a red cup on a table")
    assert noun_phrase("Bar chart of rainfall") == ("is", "a bar chart of rainfall")
    assert noun_phrase('The "main" window is open') == ("label", "The ‘main’ window is open")


def test_other_languages_are_quoted_and_asked_by_gaps() -> None:
    tokyo = "東京タワーは港区にある高さ333メートルの電波塔です。"
    tower = "البرج مفتوح للزوار كل يوم من الصباح حتى المساء."
    context = f"<image>\n\n{tokyo}\n\n{tower}"
    found = evidence.gather({"context": context, "alt_text": "東京タワー"}, None, kind="contextual")
    assert [s.english for s in found.sentences] == [False, False]
    caption = write_caption(found, None, 1)
    assert tokyo in caption
    gaps = [f for s in found.sentences for f in clauses.facts(s, found.context)]
    assert [(g.answer, "高さ____メートル" in g.forms[0]) for g in gaps] == [("333", True)]
    topics = {fact.topic for fact in candidates(found, None, 1)}
    assert topics == {"shown", clauses.topic_of(tokyo), clauses.topic_of(tower)}


def test_lent_numbers_keep_unit_and_size() -> None:
    lender, fact = pool.Pool(), clauses.Fact("t", ("How tall?",), "About 30 metres", "r", pool="number")
    for number in (7, 12, 25, 41, 64, 900):
        lender.add([clauses.Fact("t", ("q",), f"{number} kg", "r", pool="number")], f"d{number}")
    page = evidence.Evidence("", (), "", evidence.fold("It weighs 41 kg."), ())
    assert sorted(lender.draw(fact, page, "d64", 3)) == ["About 12 metres", "About 25 metres", "About 7 metres"]
    assert lender.draw(fact, page, "d7", 3) == lender.draw(fact, page, "d7", 3)


def _text(text: str, y1: float, *, height: float = 0.1, score: float = 0.99) -> dict[str, object]:
    return {"text": text, "score": score, "x1": 0.1, "x2": 0.5, "y1": y1, "y2": y1 + height}


def test_only_texts_that_were_surely_read_are_quoted_in_reading_order() -> None:
    texts = [
        _text("closed on\nMondays", 0.9, height=0.03), _text("MUSEUM", 0.1), _text("MUSEUM", 0.3, height=0.05),
        _text("MUSFUM", 0.5, score=0.8), _text("55", 0.6, height=0.2), _text("12.7", 0.85, height=0.11),
        _text("→ x ||", 0.2), _text("a" * 61, 0.4), _text("🙂", 0.4), _text("営業中", 0.7, height=0.04),
    ]  # fmt: skip
    found = evidence.gather({}, {"texts": texts, "boxes": []}, kind="non_contextual")
    assert found.texts == ("MUSEUM", "55", "営業中", "closed on Mondays")
    assert "musfum" in found.page  # no wrong answer may be what the picture shows after all
    assert "“MUSEUM”, “55”, “営業中” and “closed on Mondays”" in write_caption(found, None, 1)


def test_each_kind_uses_its_own_sources_and_no_other() -> None:
    sample = {"context": "<image>\n\nThe old lamp is made of brass by Mr. Bell.", "alt_text": "brass lamp"}
    box = {"label": "lamp", "x1": 0.1, "y1": 0.1, "x2": 0.2, "y2": 0.2}
    boxes = [box | {"score": 0.7}, box | {"label": "table", "score": 0.8}, box | {"score": 0.6}]
    said = set()
    for kind in ("contextual", "non_contextual", "fused", "fused_contextual"):
        paged, fused = kind in ("contextual", "fused_contextual"), kind.startswith("fused")
        found = evidence.gather(sample, {"texts": [_text("BELL & SON", 0.1)], "boxes": boxes}, kind=kind)
        caption, facts = write_caption(found, None, 1), candidates(found, None, 1)
        assert "“BELL & SON”" in caption
        assert ("brass lamp" in caption) == (kind != "non_contextual")
        assert ("made of brass by" in caption) == ("page" in caption.lower()) == paged
        assert ("table and lamp (2)" in caption) == fused == ("objects" in {fact.topic for fact in facts})
        assert ("page" in " ".join(form for fact in facts for form in fact.forms)) == paged
        said.add(caption)
    assert len(said) == 4
