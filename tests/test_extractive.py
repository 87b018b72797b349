"""The embedded engine: honest sentences, questions that hold, and the same answers in any order."""

import random
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vislib.checks import RULES, Checks
from vislib.engines import Answer, Request
from vislib.engines.extractive import MODEL, Extractive, nearest_sentences
from vislib.qa_format import Parsed, parse_free_form, parse_multiple_choice

TASKS = ("free_form", "multiple_choice")
PARSERS = {"free_form": parse_free_form, "multiple_choice": parse_multiple_choice}
THINGS = (
    "bridge",
    "tower",
    "castle",
    "harbour",
    "lighthouse",
    "windmill",
    "railway",
    "fountain",
    "theatre",
    "library",
    "market",
    "temple",
)
PLACES = (
    "Lisbon",
    "Oslo",
    "Vienna",
    "Cairo",
    "Quito",
    "Manila",
    "Dakar",
    "Lima",
    "Riga",
    "Sofia",
    "Tunis",
    "Perth",
)
COLOURS = [
    (200, 30, 30),
    (30, 60, 200),
    (40, 150, 60),
    (240, 210, 40),
    (250, 250, 250),
    (20, 20, 20),
]


def _picture(folder: Path, number: int) -> Path:
    """A seeded picture: two bands of colour, a patch and a little noise."""
    rng = np.random.default_rng(number)
    height, width = 120 + 20 * (number % 4), 120 + 30 * (number % 5)
    pixels = np.empty((height, width, 3), dtype=np.int16)
    pixels[:] = COLOURS[number % 6]
    pixels[height * (1 + number % 3) // 4 :] = COLOURS[(number + 2) % 6]
    pixels[10:40, 10:50] = COLOURS[(number + 3) % 6]
    pixels += rng.integers(0, 12, pixels.shape, dtype=np.int16) if number % 2 else 0
    path = folder / f"{number:016x}.png"
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path)
    return path


def _sample(number: int, **changes: Any) -> dict[str, Any]:
    thing, place, year = THINGS[number % 12], PLACES[number % 12], 1801 + 7 * number
    context = (
        f"The {thing} of {place}\n\n<image>\n\nThe {thing} was opened in {year}. The {thing} is"
        f" {20 + 3 * number} metres tall. The {thing} was designed by Anna {place}son. Visitors"
        f" love the {thing} because the view reaches far over the old"
        f" town.\n\n<another-image>\n\nThe market hall of {place} is a large building of glass and"
        f" stone number {number}. About {300 + 11 * number} people work there on a quiet day."
    )
    return {
        "sample_id": f"s{number:03d}",
        "doc_id": f"d{number:03d}",
        "image_index": 1,
        "image_url": f"http://x/{number}.png",
        "alt_text": f"A {thing} under the sky of {place}",
        "page_url": f"http://x/{number}",
        "context": context,
        "n_context_tokens": 100,
        "width": 100,
        "height": 100,
        **changes,
    }


def _priors(*texts: str) -> dict[str, Any]:
    box = {"score": 0.99, "x1": 0.1, "y1": 0.1, "x2": 0.6, "y2": 0.3}
    return {
        "tags": [],
        "boxes": [{"label": "person", **box}],
        "texts": [{"text": text, **box} for text in texts],
    }


def _request(
    sample: dict[str, Any], path: Path | str, task: str, kind: str = "contextual", **evidence: Any
) -> Request:
    given = {
        "task": task,
        "kind": kind,
        "sample": sample,
        "caption": "",
        "priors": None,
        "image_path": str(path),
    }
    return Request(id=sample["sample_id"], prompt="p", prompt_sha="t", evidence=given | evidence)


@pytest.fixture(scope="module")
def requests(tmp_path_factory: pytest.TempPathFactory) -> list[Request]:
    """Both question types of both kinds for 60 samples of as many pages."""
    folder = tmp_path_factory.mktemp("pictures")
    paths = [_picture(folder, n) for n in range(60)]
    kinds = ("contextual", "non_contextual")
    return [
        _request(_sample(n), paths[n], task, kind)
        for n in range(60)
        for kind in kinds
        for task in TASKS
    ]


def _answers(
    requests: Sequence[Request], asked: Iterable[Request] | None = None
) -> dict[tuple[str, str, str], Answer]:
    engine = Extractive()
    answered = engine.answer(requests if asked is None else asked)
    return {(r.id, r.evidence["kind"], r.evidence["task"]): answer for r, answer in answered}


@pytest.fixture(scope="module")
def parsed(requests: list[Request]) -> dict[tuple[str, str, str], Parsed]:
    answers = _answers(requests)
    return {
        key: PARSERS[key[2]](answer.text)
        for key, answer in answers.items()
        if answer.status == "ok"
    }


def test_the_format_parses_without_a_drop(parsed: dict[tuple[str, str, str], Parsed]) -> None:
    assert len(parsed) == 240
    blocks = [block for found in parsed.values() for block in found.blocks]
    assert len(blocks) > 700
    assert [block for block in blocks if block.reason] == []
    assert not any(found.outside.strip() for found in parsed.values())


def test_most_samples_have_three_rounds_or_more(parsed: dict[tuple[str, str, str], Parsed]) -> None:
    for kind, least in (("contextual", 0.95), ("non_contextual", 0.6)):
        for task in TASKS:
            counts = [len(found.rounds) for key, found in parsed.items() if key[1:] == (kind, task)]
            assert sum(count >= 3 for count in counts) >= least * len(counts), (
                kind,
                task,
                Counter(counts),
            )


def test_no_question_twice_in_one_sample(parsed: dict[tuple[str, str, str], Parsed]) -> None:
    for sample_id, kind, _ in parsed:
        questions = [r.question for task in TASKS for r in parsed[sample_id, kind, task].rounds]
        assert len(questions) == len(set(questions))


def test_wrong_options_of_a_gap_are_not_in_its_sentence(
    parsed: dict[tuple[str, str, str], Parsed],
) -> None:
    gaps = [
        r for found in parsed.values() for r in found.rounds if r.options and "____" in r.question
    ]
    assert len(gaps) > 60
    for gap in gaps:
        right = gap.options["ABCD".index(gap.answer)]
        assert len(set(gap.options)) == 4
        assert not [
            option for option in gap.options if option != right and f" {option} " in gap.question
        ], gap


def test_a_gap_is_filled_by_the_page_s_own_word(parsed: dict[tuple[str, str, str], Parsed]) -> None:
    for number in range(60):
        context = _sample(number)["context"]
        for round_ in parsed[f"s{number:03d}", "contextual", "multiple_choice"].rounds:
            if "____" in round_.question:
                whole = round_.question.replace("____", round_.options["ABCD".index(round_.answer)])
                assert re.search(r"“(.+?)”", whole)[1] in context  # type: ignore[index]


def test_sentences_near_the_picture_come_first_and_code_never() -> None:
    context = (
        "The old harbour lies far to the north of it. The mole was built of granite"
        " blocks.\n\n<image>\n\nThe lighthouse was lit in 1871 by two keepers. Run `make all` and"
        " open http://x/ then.\n\n灯台は一八七一年に二人の灯台守によって初めて点灯されました。"
        "今も港の入り口に立っています。とても古い建物なので訪れる人が多い。"
    )
    assert nearest_sentences(context)[:3] == (
        "The lighthouse was lit in 1871 by two keepers.",
        "The mole was built of granite blocks.",
        "灯台は一八七一年に二人の灯台守によって初めて点灯されました。",
    )
    assert not [text for text in nearest_sentences(context) if "make" in text]


def test_the_right_letter_is_spread(parsed: dict[tuple[str, str, str], Parsed]) -> None:
    letters = Counter(
        r.answer
        for key, found in parsed.items()
        if key[2] == "multiple_choice"
        for r in found.rounds
    )
    assert set(letters) == set("ABCD")
    assert min(letters.values()) > 0.6 * letters.total() / 4


def test_answers_do_not_depend_on_order_or_on_what_is_asked(requests: list[Request]) -> None:
    mixed = random.Random(7).sample(requests, len(requests))
    straight, shuffled = _answers(requests), _answers(mixed)
    assert straight == shuffled
    some = _answers(mixed, mixed[:9])
    assert some == {key: straight[key] for key in some}
    assert len(some) == 9


def test_basis_tells_evidence_apart_but_not_folders(requests: list[Request]) -> None:
    engine, first = Extractive(), requests[0]
    elsewhere = {"image_path": f"/elsewhere/{Path(first.evidence['image_path']).name}"}
    moved = replace(first, evidence=first.evidence | elsewhere)
    other = replace(
        first, evidence=first.evidence | {"sample": _sample(0, context="<image>\n\nAnother page.")}
    )
    assert engine.basis(first) == engine.basis(moved)
    assert engine.basis(first) != engine.basis(other)


def test_non_contextual_answers_hold_nothing_of_the_page(requests: list[Request]) -> None:
    control = [r for r in requests if r.evidence["kind"] == "non_contextual"]
    control += [replace(r, evidence=r.evidence | {"task": "caption"}) for r in control[::2]]
    blank = {"context": "<image>", "alt_text": "", "page_url": ""}
    bare = [
        replace(r, evidence=r.evidence | {"sample": r.evidence["sample"] | blank}) for r in control
    ]
    answers = _answers(control)
    assert {key: a.text for key, a in answers.items()} == {
        key: a.text for key, a in _answers(bare).items()
    }
    words = " ".join(a.text for a in answers.values())
    assert not [
        w for w in (*THINGS, *PLACES, "page", "label") if re.search(rf"\b{w}", words, re.IGNORECASE)
    ]


def test_every_record_says_who_wrote_it_and_costs_nothing(requests: list[Request]) -> None:
    answer = _answers(requests[:4])["s000", "contextual", "free_form"]
    assert answer.model == MODEL
    assert (answer.tokens_in, answer.tokens_out, answer.usd) == (0, 0, 0.0)


def test_contextual_caption_quotes_faithfully_and_measures(requests: list[Request]) -> None:
    request = replace(requests[0], evidence=requests[0].evidence | {"task": "caption"})
    caption = _answers([request])["s000", "contextual", "caption"].text
    assert "A bridge under the sky of Lisbon" in caption
    assert "red" in caption
    label, *quotes = re.findall(r"“(.+?)”", caption)
    assert label == request.evidence["sample"]["alt_text"]
    assert len(quotes) == 2
    assert all(quote in request.evidence["sample"]["context"] for quote in quotes)


def test_a_fused_caption_says_nothing_of_the_page_and_prints_no_box(
    requests: list[Request],
) -> None:
    given = requests[0].evidence | {"task": "caption", "priors": _priors("PONTE")}
    fused, both = (
        _answers([replace(requests[0], evidence=given | {"kind": kind})])[
            "s000", kind, "caption"
        ].text
        for kind in ("fused", "fused_contextual")
    )
    for caption in (fused, both):
        assert "“PONTE”" in caption
        assert "person" in caption
        assert not re.search(r"0\.\d|\[", caption)
        assert Checks(list(RULES)).fault(caption) == ("", "")
    assert "page" not in fused
    assert "The bridge was" in both


def test_thin_evidence_gives_fewer_rounds(tmp_path: Path) -> None:
    flat = tmp_path / "flat.png"
    Image.new("RGB", (300, 200), (128, 128, 128)).save(flat)
    thin = [_request(_sample(99, alt_text="", context="<image>"), flat, task) for task in TASKS]
    rich = [_request(_sample(n), _picture(tmp_path, n), task) for n in range(20) for task in TASKS]
    answers = _answers(thin + rich)
    counts = {key: len(PARSERS[key[2]](a.text).rounds) for key, a in answers.items() if a.text}
    thin_rounds = sum(n for key, n in counts.items() if key[0] == "s099")
    assert (
        0
        < thin_rounds
        < min(sum(counts[f"s{n:03d}", "contextual", task] for task in TASKS) for n in range(20))
    )


@pytest.mark.parametrize(
    ("alt", "context"),
    [
        ("", ""),
        (None, None),
        ("🙂🙂", "🙂 <image> 🙂\u200b\x00"),
        (
            "<Human> hi <Assistant>",
            '<image>\n\nThe <Human> was here in 1999. <Options> A. "B. x" used </s> by us.',
        ),
        ('A "quoted** label <|im_end|>', "No placeholder here, only text without any end"),
        ("a" * 5000, "The " + "very " * 9000 + "long. <image>" + "\n" * 500),
        (
            "D. Option",
            "<image> A. B. C. D. E. 1. 2. 3. ... ?! The A. B. was opened in 1901 by B. C. in 1902.",
        ),
    ],
)
@pytest.mark.parametrize("size", [(1, 1), (16, 16), (900, 17)])
def test_hostile_input_is_survived(
    tmp_path: Path, alt: str | None, context: str | None, size: tuple[int, int]
) -> None:
    path = tmp_path / "x.png"
    Image.new("RGB", size, (200, 10, 10)).save(path)
    sample, priors = _sample(1, alt_text=alt, context=context), _priors("<Human> STOP 🙂", "")
    kinds = ("contextual", "fused_contextual")
    requests = [
        _request(sample, path, task, kind, priors=priors)
        for task in ("caption", *TASKS)
        for kind in kinds
    ]
    for (_, _, task), answer in _answers(requests).items():
        assert (answer.status == "ok") == bool(answer.text)
        assert answer.reason == ("" if answer.text else "no_evidence")
        if answer.text and task in PARSERS:
            assert [b for b in PARSERS[task](answer.text).blocks if b.reason] == []
        assert "<Human> hi" not in answer.text


def test_no_evidence_at_all_fails_with_a_reason(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG nothing")
    for path in ("", tmp_path / "absent.png", tmp_path / "broken.png"):
        for task in ("caption", *TASKS):
            request = _request(_sample(1, alt_text="", context=""), path, task)
            (answer,) = _answers([request]).values()
            assert (answer.status, answer.reason, answer.text) == ("failed", "no_evidence", "")


def test_whole_campaign_of_real_documents_parses(webdocs: list[Request]) -> None:
    answers = _answers(webdocs)
    found = [PARSERS[key[2]](a.text) for key, a in answers.items() if key[2] in PARSERS]
    assert [b for p in found for b in p.blocks if b.reason] == []
    assert sum(len(p.rounds) >= 3 for p in found) >= 0.9 * len(found)


@pytest.fixture
def webdocs() -> list[Request]:
    """Requests for 60 real images; skipped where VISLIB_WEBDOCS names no folder."""
    import json
    import os

    import pyarrow.parquet as pq

    folder = os.environ.get("VISLIB_WEBDOCS", "")
    if not folder:
        pytest.skip("VISLIB_WEBDOCS is not set")
    requests: list[Request] = []
    for row in pq.read_table(Path(folder) / "documents.parquet").to_pylist():
        marks = [text or "<another-image>" for text in row["texts"]]
        for i, url in enumerate(row["images"]):
            path = Path(folder) / "images" / str(url).partition("8765/")[2]
            if url and path.is_file() and len(requests) < 120:
                context = "\n\n".join([*marks[:i], "<image>", *marks[i + 1 :]])
                alt = json.loads(row["metadata"])[i].get("alt_text", "")
                sample = _sample(
                    len(requests),
                    doc_id=str(row["general_metadata"]),
                    context=context,
                    alt_text=alt,
                )
                requests += [_request(sample, path, task) for task in TASKS]
    return requests
