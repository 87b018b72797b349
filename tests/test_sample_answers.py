"""The sample's recorded answers: for these prompts and captions, and readable."""

import json
from collections import Counter
from functools import cache
from pathlib import Path

import yaml

from tests.golden import read_golden
from vislib import prompts, sample
from vislib.checks import Checks
from vislib.engines.recorded import REASONS, Entry, Place, caption_hash, read_answers
from vislib.prompts.captions import FUSED, KINDS, load_prompt
from vislib.qa_generation import PARSERS

FOLDER = Path(sample.__file__).parent / "answers"
ASKED_ABOUT = [kind for kind in KINDS if kind not in FUSED]  # whose captions have questions
# Marked `# planted` in the files: as models answer now and then.
REFUSED = "I'm sorry"


@cache
def answers() -> dict[Place, Entry]:
    return read_answers(FOLDER)


@cache
def pictures() -> dict[str, list[int]]:
    """Positions of the pictures that can be had, by page."""
    found = {}
    for path in sample.paths():
        row = sample.read_page(path)
        found[json.loads(row["general_metadata"])["url"]] = [
            place
            for place, url in enumerate(row["images"])
            if url and not (sample.image_bytes(url) or b"<!").startswith(b"<!")
        ]
    return found


def planted() -> int:
    return sum(file.read_text("utf-8").count("# planted") for file in FOLDER.glob("*.yaml"))


def test_every_picture_of_an_answered_page_has_all_its_answers() -> None:
    for page in {page for page, *_ in answers()}:
        for place in pictures()[page]:
            for kind in ASKED_ABOUT:
                tasks = {task for p, i, k, task in answers() if (p, i, k) == (page, place, kind)}
                refused = answers()[page, place, kind, "caption"].text.startswith(REFUSED)
                wanted = {"caption"} if refused else {"caption", *PARSERS}
                assert tasks == wanted, (page, place, kind)
        known = {place for p, place, *_ in answers() if p == page}
        assert known == set(pictures()[page]), page


def test_every_sample_is_answered_in_every_kind() -> None:
    """Also the fused ones, since a `limit` selects other pictures than the whole sample."""
    golden = read_golden()
    usable = [row for row in golden["06_captioning.captions"][1:] if row[1] == "contextual"]
    captions = Counter(place[2] for place in answers() if place[3] == "caption")
    assert captions == dict.fromkeys(KINDS, len(usable))
    asked = [place for place in answers() if place[3] != "caption"]
    assert len(asked) == len(golden["07_qa_generation.requests"]) - 1
    rows = [row for name, (_, *rows) in golden.items() if name.endswith("dropped") for row in rows]
    assert not REASONS.keys() & {value for row in rows for value in row if isinstance(value, str)}


def test_answers_are_for_the_prompts_and_captions_of_today() -> None:
    shas = {task: prompts.load(task).sha for task in PARSERS}
    for (page, place, kind, task), entry in answers().items():
        if task == "caption":
            assert entry.prompt == load_prompt(kind, None, f"{kind}_caption").sha
        else:
            assert entry.prompt == shas[task]
            caption = answers()[page, place, kind, "caption"].text
            assert entry.caption == caption_hash(caption), (page, place, kind)


def test_only_planted_faults_fail_a_check() -> None:
    checks = Checks(["refusal", "repetition", "truncation", "leakage", "coordinates"], "en")
    faults = []
    for place, entry in answers().items():
        task = place[3]
        if task == "caption":
            if found := checks.fault(entry.text)[0]:
                faults.append((place, found))
            continue
        blocks = PARSERS[task](entry.text).blocks
        assert 3 <= len(blocks) <= 5, place
        for block in blocks:
            texts = [block.round.question]
            texts += [] if block.round.options else [block.round.answer]
            said = [block.reason, *(checks.fault(text)[0] for text in texts)]
            faults += [(place, reason) for reason in said if reason][:1]
    assert len(faults) == planted() > 0, faults


def test_no_letter_gives_the_answer_away() -> None:
    letters = Counter(
        block.round.answer
        for (*_, task), entry in answers().items()
        if task == "multiple_choice"
        for block in PARSERS[task](entry.text).blocks
        if not block.reason
    )
    assert letters.keys() == set("ABCD")
    for letter, n in letters.items():
        assert 0.2 < n / letters.total() < 0.3, letter


def test_a_page_asks_nothing_twice() -> None:
    for file in FOLDER.glob("*.yaml"):
        for image in yaml.safe_load(file.read_text("utf-8"))["images"]:
            for kind in ASKED_ABOUT:
                rounds = [image[kind].get(task, []) for task in PARSERS]
                asked = [one["ask"].casefold() for r in rounds if isinstance(r, list) for one in r]
                assert len(asked) == len(set(asked)), file
