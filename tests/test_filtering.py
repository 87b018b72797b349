"""The cap, the samples, and contexts that keep what stands nearest to the image."""

import json
import os
import random
from functools import partial
from pathlib import Path

import pytest

from vislib import filtering
from vislib.filtering import IMAGE, OTHER, around, nearest, page_samples, url_fault
from vislib.media.tokenization import count_tokens, load_tokenizer, sentences
from vislib.runs import InputError, Run, short_hash, start_run, tables
from vislib.runs.contract import DOCUMENTS

ENTRY = {
    "document_url": "https://a.org/p",
    "unformatted_src": "b.png",
    "src": "https://a.org/b.png",
    "original_width": 640,
    "original_height": 480,
    "format": "png",
}


def document(*blocks: str, **entry: object) -> dict:
    """A page: blocks that begin with `!` are image addresses, the others texts."""
    images = [block[1:] if block.startswith("!") else None for block in blocks]
    metadata = [None if url is None else {**ENTRY, "src": url, **entry} for url in images]
    return {
        "doc_id": short_hash(*blocks),
        "images": images,
        "texts": [
            None if url is not None else block for url, block in zip(images, blocks, strict=True)
        ],
        "metadata": json.dumps(metadata),
        "general_metadata": json.dumps({"url": "https://a.org/p#1"}),
    }


def words(text: str) -> int:
    """A count that tests can do in their head."""
    return len(text.split())


def test_one_sample_per_image_position():
    row = document(
        "Intro.", "!https://a.org/b.png", "Middle.", "!https://a.org/c.png", alt_text="A bridge"
    )
    found = list(page_samples(row))
    assert [sample["image_index"] for sample in found] == [1, 3]
    assert found[1] == {
        "sample_id": short_hash(row["doc_id"], "3"),
        "doc_id": row["doc_id"],
        "image_index": 3,
        "image_url": "https://a.org/c.png",
        "alt_text": "A bridge",
        "page_url": "https://a.org/p#1",
        "width": 640,
        "height": 480,
    }
    bare = document("!https://a.org/b.png", original_width=None) | {"general_metadata": "{}"}
    assert next(page_samples(bare)) | {
        "alt_text": "",
        "page_url": ENTRY["document_url"],
        "width": 0,
    } == next(page_samples(bare))


def test_the_context_is_the_page_with_its_placeholders():
    texts = ["Intro.", None, None, "End."]
    assert nearest(*around(texts, 1, 9), 0, words) == "Intro.\n\n<image>\n\n<another-image>\n\nEnd."
    assert nearest(*around(texts, 2, 9), 0, words) == "Intro.\n\n<another-image>\n\n<image>\n\nEnd."
    assert nearest(*around([None], 0, 9), 0, words) == "<image>"


def test_the_nearest_placeholders_stay():
    texts = [None, "a", None, None, "b", None, None]
    assert around(texts, 3, 2) == (f"a\n\n{OTHER}\n\n", f"\n\nb\n\n{OTHER}")
    assert around(texts, 0, 2) == ("", f"\n\na\n\n{OTHER}\n\n{OTHER}\n\nb")
    assert around(texts, 6, 2) == (f"a\n\n{OTHER}\n\nb\n\n{OTHER}\n\n", "")
    assert around(texts, 3, 0) == ("a\n\n", "\n\nb")
    for others in (3, 4, 100):
        shown = ["".join(around(texts, i, others)).count(OTHER) for i in (0, 3, 6)]
        assert shown == [min(others, 4)] * 3


@pytest.mark.parametrize(
    ("size", "stated"),
    [
        (640, 640),
        (640.0, 640),
        (None, 0),
        (float("nan"), 0),
        (float("inf"), 0),
        (10**20, 0),
        (1e30, 0),
        (-5, 0),
        (True, 0),
        ("100%", 0),
        ("640", 0),
        ([640], 0),
        (2**31, 0),
        (2**31 - 1, 2**31 - 1),
    ],
)
def test_an_odd_size_is_an_unknown_one(size, stated):
    row = document(
        "!https://a.org/b.png", original_width=size, original_height=size, alt_text=float("nan")
    )
    (sample,) = page_samples(row)
    assert (sample["width"], sample["height"], sample["alt_text"]) == (stated, stated, "")
    digits = row | {
        "metadata": json.dumps([{**ENTRY, "alt_text": "\ud83d"}]).replace("640", "9" * 5000)
    }
    (sample,) = page_samples(digits)
    assert (sample["width"], sample["alt_text"]) == (0, "?")


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        (1, "<image>"),
        (3, "C three.\n\n<image>"),
        (5, "C three.\n\n<image>\n\nD four."),
        (7, "Bb two. C three.\n\n<image>\n\nD four."),
        (8, "Bb two. C three.\n\n<image>\n\nD four."),
        (9, "Bb two. C three.\n\n<image>\n\nD four. E five."),
        (10, "Bb two. C three.\n\n<image>\n\nD four. E five. F."),
        (11, "A one.\n\nBb two. C three.\n\n<image>\n\nD four. E five."),
        (12, "A one.\n\nBb two. C three.\n\n<image>\n\nD four. E five. F."),
        (99, "A one.\n\nBb two. C three.\n\n<image>\n\nD four. E five. F."),
    ],
)
def test_a_short_context_grows_on_both_sides_by_nearness(limit, expected):
    before, after = around(["A one.", "Bb two. C three.", None, "D four. E five. F."], 2, 9)
    assert nearest(before, after, limit, words) == expected


def test_a_sentence_that_does_not_fit_closes_its_side_alone():
    before, after = around(["One. Two. " + "far " * 50 + "long.", None, "Near. Then. Last."], 1, 9)
    assert nearest(before, after, 5, words) == "<image>\n\nNear. Then. Last."


def reference(before: str, after: str, limit: int, count) -> str:
    """The plain rule: add the nearest sentence of the open sides; one that is too long closes its
    side.
    """
    left, right, kept = sentences(before)[::-1], sentences(after), [0, 0]
    open_sides = {0, 1}
    while open_sides:
        spans = (left, right)
        open_sides = {side for side in open_sides if kept[side] < len(spans[side])}
        for side in sorted(open_sides, key=lambda s: (sum(map(len, spans[s][: kept[s]])), s))[:1]:
            kept[side] += 1
            if count(cut(left, right, *kept)) > limit:
                kept[side] -= 1
                open_sides.discard(side)
    return cut(left, right, *kept)


def cut(left: list[str], right: list[str], n_left: int, n_right: int) -> str:
    return "".join([*left[:n_left][::-1], IMAGE, *right[:n_right]]).strip()


def test_contexts_are_those_of_the_plain_rule_and_within_the_limit():
    chance = random.Random(5)
    tokenizer = load_tokenizer("mistral-common")
    for _ in range(150):
        texts = [
            (
                " ".join(
                    f"W{'x' * chance.randrange(9)} s{chance.choice('.!?。؟।')}"
                    for _ in range(chance.randrange(1, 9))
                )
                if chance.random() < 0.7
                else None
            )
            for _ in range(chance.randrange(1, 7))
        ]
        before, after = around([*texts, None, *reversed(texts)], len(texts), 99)
        limit = chance.randrange(4, 120)
        count = chance.choice([words, lambda text: count_tokens(tokenizer, [text])[0]])
        found = nearest(before, after, limit, count)
        assert found == reference(before, after, limit, count)
        assert count(found) <= limit
        assert found.count(IMAGE) == 1
        assert found in before + IMAGE + after


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("https://a.org/b.png", ""),
        ("HTTP://A.ORG", ""),
        ("http://[::1]:80/a", ""),
        ("", "empty_url"),
        ("  ", "empty_url"),
        ("data:image/png;base64,AA", "data_url"),
        ("DATA:,", "data_url"),
        ("ftp://a.org/b", "not_http"),
        ("b.png", "not_http"),
        ("https:///b.png", "not_http"),
        ("https:b", "not_http"),
        ("/\t/a.org/b.png", ""),
        (" \n\ufeffhttp://a.org/b.png\n", ""),
        ("ht\ntp:\\\\a.org\tb.png", ""),
        ("\ufeff", "empty_url"),
        ("\tdata:,", "data_url"),
        ("http:\\\\\\b.png", "not_http"),
        ("\xa0http://a.org", "not_http"),
    ],
)
def test_addresses_that_cannot_be_fetched(url, fault):
    assert url_fault(url) == fault


@pytest.fixture
def begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Run the stage over documents, in parts of two rows."""
    monkeypatch.setenv("VISLIB_RUNS", str(tmp_path / "runs"))

    def stage(*rows: dict, **parameters: object) -> Run:
        with tables.Output(tmp_path / "in", {"documents": DOCUMENTS}, rows_per_part=2) as output:
            for row in rows:
                output.write("documents", row)
        given = {"documents": str(tmp_path / "in/documents"), "run_dir": "runs/demo", **parameters}
        run = start_run("02_filtering", given)
        try:
            names = ("tokenizer", "max_tokens", "context_tokens", "images_per_page", "min_side")
            rule = partial(filtering.filter_pages, **{n: getattr(run.params, n) for n in names})
            workers = run.params.workers
            run.map(
                rule,
                run.table("documents"),
                unit="document",
                id="doc_id",
                batch=500,
                workers=workers,
            )
            run.account("image", taken=filtering.IMAGES, kept="SELECT sample_id FROM samples")
            filtering.check_left(run)
            run.finish()
        finally:
            run.close()
        return run

    return stage


def table(run: Run, name: str) -> list[dict]:
    return list(tables.read_rows(run.stage.folder / "data" / name))


SHORT = document(
    "A red bridge.", "!https://a.org/b.png", "Say <image> or </s>.", "!data:image/png;base64,AA"
)
LONG = document("A very long page. " * 40, "!https://a.org/c.png")
PLAIN = document("No image here.")


def test_pages_within_the_cap_become_samples(begin):
    run = begin(SHORT, LONG, PLAIN, max_tokens=60)
    count = load_tokenizer("mistral-common")
    expected = count_tokens(count, ["A red bridge.\n\nSay <image> or </s>.", "No image here."])
    assert [(row["doc_id"], row["n_tokens"]) for row in table(run, "documents")] == [
        (SHORT["doc_id"], expected[0]),
        (PLAIN["doc_id"], expected[1]),
    ]
    (sample,) = table(run, "samples")
    assert (
        sample["context"] == "A red bridge.\n\n<image>\n\nSay ‹image› or </s>.\n\n<another-image>"
    )
    assert sample["n_context_tokens"] == count_tokens(count, [sample["context"]])[0]
    long = count_tokens(count, ["A very long page. " * 40])[0]
    assert [(row["id"], row["reason"], row["detail"]) for row in table(run, "dropped")] == [
        (short_hash(SHORT["doc_id"], "3"), "data_url", "data:image/png;base64,AA"),
        (LONG["doc_id"], "above_cap", str(long)),
    ]
    assert run.counts() == {
        "document": {"taken": 3, "kept": 2, "dropped": {"above_cap": 1}},
        "image": {"taken": 2, "kept": 1, "dropped": {"data_url": 1}},
    }
    assert run.metrics == {"reserved_words_rewritten": 1}


def test_the_cap_is_the_largest_count_that_stays(begin):
    exact = count_tokens(
        load_tokenizer("mistral-common"), ["A red bridge.\n\nSay <image> or </s>."]
    )[0]
    assert len(table(begin(SHORT, max_tokens=exact), "documents")) == 1
    with pytest.raises(InputError, match=f"raise max_tokens, now {exact - 1}"):
        begin(SHORT, max_tokens=exact - 1)


def gallery(count: int) -> dict:
    return document("Boats.", *(f"!https://a.org/{number}.png" for number in range(count)))


def test_the_placeholders_of_a_gallery_stay_within_the_cap(begin):
    """And the page with odd sizes or foreign metadata costs itself alone."""
    broken = PLAIN | {"doc_id": "b" * 16, "metadata": "[null, null]"}
    huge = document("Boats.", "!https://a.org/huge.png", original_width=10**20)
    run = begin(broken, gallery(400), huge, max_tokens=200, images_per_page=0)
    lengths = [row["n_context_tokens"] for row in table(run, "samples")]
    assert len(lengths) == 401
    assert 150 < max(lengths) <= 200
    dropped = [(row["id"], row["reason"]) for row in table(run, "dropped")]
    assert dropped == [(broken["doc_id"], "unexpected")]


def test_images_per_page_bounds_what_a_gallery_can_cost(begin):
    run = begin(gallery(9), images_per_page=4)
    assert [row["image_index"] for row in table(run, "samples")] == [1, 2, 3, 4]
    assert {row["reason"] for row in table(run, "dropped")} == {"above_images_per_page"}
    assert run.counts()["image"] == {"taken": 9, "kept": 4, "dropped": {"above_images_per_page": 5}}


def test_a_very_long_page_is_dropped_without_counting_it(begin, monkeypatch):
    counted = []

    def count(tokenizer: object, texts: list[str]) -> list[int]:
        counted.extend(map(len, texts := list(texts)))
        return count_tokens(tokenizer, texts)

    monkeypatch.setattr("vislib.media.tokenization.count_tokens", count)
    monkeypatch.setattr(filtering, "count_tokens", count)
    run = begin(document("A very long page. " * 100_000), SHORT)
    (row,) = table(run, "dropped")[:1]
    assert row["reason"] == "above_cap"
    assert int(row["detail"].removeprefix("over ")) > 2000
    assert sum(counted) < 200_000


def test_workers_change_no_byte(begin):
    rows = [
        document(f"Bridge {n}. " * n, f"!https://a.org/{n}.png", "It is red.") for n in range(1, 12)
    ]
    results = []
    for workers in (1, 2):
        run = begin(*rows, workers=workers, max_tokens=40, context_tokens=20)
        files = sorted((run.stage.folder / "data").rglob("*.parquet"))
        results.append([(file.relative_to(run.stage.folder), file.read_bytes()) for file in files])
        assert all(row["n_context_tokens"] <= 20 for row in table(run, "samples"))
    assert results[0] == results[1]
    assert len(results[0]) == 3 * 6


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([LONG], r"no document is left of 1 \(above_cap 1\); raise max_tokens, now 50"),
        ([PLAIN], r"no image is left of 0 \(none came\); raise max_tokens or choose other pages"),
        (
            [PLAIN, document("!photo 1.jpg"), document("!ftp://a.org/b.png")],
            r"no image is left of 2 \(not_http 2\); .*; the column images must hold addresses",
        ),
    ],
)
def test_no_sample_left_says_which_parameter_to_change(begin, rows, message):
    with pytest.raises(InputError, match=message):
        begin(*rows, max_tokens=50)


def test_a_context_shorter_than_its_placeholder_is_refused(begin):
    with pytest.raises(
        InputError, match=r"context_tokens = 1: <image> alone takes \d; 0 keeps the page"
    ):
        begin(SHORT, context_tokens=1)


@pytest.mark.skipif("VISLIB_WEBDOCS" not in os.environ, reason="VISLIB_WEBDOCS is unset")
def test_real_pages_give_all_their_positions(tmp_path, monkeypatch):
    rows = tables.read_rows(Path(os.environ["VISLIB_WEBDOCS"]) / "documents.parquet")
    count = 0
    for number, row in enumerate(rows):
        found = list(page_samples(row | {"doc_id": str(number)}))
        assert not any(url_fault(sample["image_url"]) for sample in found)
        assert all(sample["width"] and sample["height"] for sample in found)
        count += len(found)
    assert count == 587
