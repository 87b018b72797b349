"""The embedded engine: what it says of thin and hostile evidence, and what it may not use."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from tests import extractive_ground as shared
from tests.extractive_ground import (
    PARSERS,
    PLACES,
    TASKS,
    THINGS,
    answered,
    picture_of,
    priors_of,
    request_of,
    sample_of,
)
from vislib.checks import RULES, Checks
from vislib.engines import Request
from vislib.engines.extractive import MODEL, Extractive

requests = shared.requests


def test_basis_tells_evidence_apart_but_not_folders(requests: list[Request]) -> None:
    engine, first = Extractive(), requests[0]
    elsewhere = {"image_path": f"/elsewhere/{Path(first.evidence['image_path']).name}"}
    moved = replace(first, evidence=first.evidence | elsewhere)
    page = sample_of(0, context="<image>\n\nAnother page.")
    other = replace(first, evidence=first.evidence | {"sample": page})
    assert engine.basis(first) == engine.basis(moved)
    assert engine.basis(first) != engine.basis(other)


def test_non_contextual_answers_hold_nothing_of_the_page(requests: list[Request]) -> None:
    control = [r for r in requests if r.evidence["kind"] == "non_contextual"]
    control += [replace(r, evidence=r.evidence | {"task": "caption"}) for r in control[::2]]
    blank = {"context": "<image>", "alt_text": "", "page_url": ""}
    bare = [
        replace(r, evidence=r.evidence | {"sample": r.evidence["sample"] | blank}) for r in control
    ]
    answers = answered(control)
    assert {key: a.text for key, a in answers.items()} == {
        key: a.text for key, a in answered(bare).items()
    }
    words = " ".join(a.text for a in answers.values())
    assert not [
        w for w in (*THINGS, *PLACES, "page", "label") if re.search(rf"\b{w}", words, re.IGNORECASE)
    ]


def test_every_record_says_who_wrote_it_and_costs_nothing(requests: list[Request]) -> None:
    answer = answered(requests[:4])["s000", "contextual", "free_form"]
    assert answer.model == MODEL
    assert (answer.tokens_in, answer.tokens_out, answer.usd) == (0, 0, 0.0)


def test_contextual_caption_quotes_faithfully_and_measures(requests: list[Request]) -> None:
    request = replace(requests[0], evidence=requests[0].evidence | {"task": "caption"})
    caption = answered([request])["s000", "contextual", "caption"].text
    assert "A bridge under the sky of Lisbon" in caption
    assert "red" in caption
    label, *quotes = re.findall(r"“(.+?)”", caption)
    assert label == request.evidence["sample"]["alt_text"]
    assert len(quotes) == 2
    assert all(quote in request.evidence["sample"]["context"] for quote in quotes)


def test_a_fused_caption_says_nothing_of_the_page_and_prints_no_box(
    requests: list[Request],
) -> None:
    given = requests[0].evidence | {"task": "caption", "priors": priors_of("PONTE")}
    fused, both = (
        answered([replace(requests[0], evidence=given | {"kind": kind})])[
            "s000", kind, "caption"
        ].text
        for kind in ("fused", "fused_contextual")
    )
    for caption in (fused, both):
        assert "“PONTE”" in caption
        assert not re.search(r"0\.\d|\[", caption)
        assert Checks(list(RULES)).fault(caption) == ("", "")
    assert "page" not in fused
    assert "The bridge was" in both


def test_thin_evidence_gives_fewer_rounds(tmp_path: Path) -> None:
    flat = tmp_path / "flat.png"
    Image.new("RGB", (300, 200), (128, 128, 128)).save(flat)
    thin = [request_of(sample_of(99, alt_text="", context="<image>"), flat, task) for task in TASKS]
    pictures = [picture_of(tmp_path, n) for n in range(20)]
    rich = [request_of(sample_of(n), pictures[n], task) for n in range(20) for task in TASKS]
    answers = answered(thin + rich)
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
    sample, priors = sample_of(1, alt_text=alt, context=context), priors_of("<Human> STOP 🙂", "")
    kinds = ("contextual", "fused_contextual")
    requests = [
        request_of(sample, path, task, kind, priors=priors)
        for task in ("caption", *TASKS)
        for kind in kinds
    ]
    for (_, _, task), answer in answered(requests).items():
        assert (answer.status == "ok") == bool(answer.text)
        assert answer.reason == ("" if answer.text else "no_evidence")
        if answer.text and task in PARSERS:
            assert [b for b in PARSERS[task](answer.text).blocks if b.reason] == []
        assert "<Human> hi" not in answer.text


def test_no_evidence_at_all_fails_with_a_reason(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG nothing")
    for path in ("", tmp_path / "absent.png", tmp_path / "broken.png"):
        for task in ("caption", *TASKS):
            request = request_of(sample_of(1, alt_text="", context=""), path, task)
            (answer,) = answered([request]).values()
            assert (answer.status, answer.reason, answer.text) == ("failed", "no_evidence", "")


def test_whole_campaign_of_real_documents_parses(webdocs: list[Request]) -> None:
    answers = answered(webdocs)
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
                sample = sample_of(
                    len(requests),
                    doc_id=str(row["general_metadata"]),
                    context=context,
                    alt_text=alt,
                )
                requests += [request_of(sample, path, task) for task in TASKS]
    return requests
