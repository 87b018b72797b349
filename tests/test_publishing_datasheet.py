"""The datasheet: seven sections, every question answered or open, nothing left blank."""

import re
from pathlib import Path

import pytest

from tests.papers_ground import known
from vislib.publishing.facts import Facts
from vislib.publishing.templates import TEMPLATES, sections
from vislib.runs.code import code_reached

SECTIONS = (
    "1 Motivation",
    "2 Composition",
    "3 Collection",
    "4 Preprocessing, cleaning, labelling",
    "5 Uses",
    "6 Distribution",
    "7 Maintenance",
)


@pytest.fixture(scope="module")
def both(sample_run: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Facts]:
    return known(sample_run, tmp_path_factory.mktemp("scratch"))


def questions(text: str) -> dict[str, str]:
    """Each question of a datasheet with the answer below it."""
    _, *found = re.split(r"^\*\*(.+\?)\*\*$", text.split("## Summary of training")[0], flags=re.M)
    return dict(
        zip(found[::2], (answer.split("\n## ")[0].strip() for answer in found[1::2]), strict=True)
    )


def test_seven_sections_and_no_question_without_an_answer(both: list[Facts]) -> None:
    for facts in both:
        text = (facts.folder / "datasheet.md").read_text()
        headings = re.findall(r"^## (\d .+)$", text, re.M)
        assert tuple(headings) == SECTIONS
        asked = questions(text)
        assert len(asked) >= 36  # some cover two of the fifty that have no "other comments"
        assert all(asked.values())


def test_a_persons_questions_all_stand_somewhere(
    both: list[Facts], sample_run: Path, tmp_path: Path
) -> None:
    nobody = known(sample_run, tmp_path, Path("/dev/null"))[0]
    sheet = nobody.render("datasheet.md")
    said = set(re.findall(r"\*Open \(`(\w+)`\)", sheet))
    listed = set(re.findall(r"`(\w+)`", sheet.split("## Open questions")[1].split("\n\n", 2)[2]))
    assert listed == set(nobody.open)
    elsewhere = {"title", "organization", "homepage", "version", "citation", "license_note"}
    assert listed - said == elsewhere  # which head the card and Croissant


def test_the_form_explains_itself() -> None:
    form = (TEMPLATES / "answers.md").read_text()
    assert set(sections(form).values()) == {""}
    assert form.count("<!--") >= len(sections(form)) - 1


def test_the_summary_of_training_content_is_complete(both: list[Facts]) -> None:
    summary = (both[1].folder / "datasheet.md").read_text().split("## Summary of training")[1]
    rows = re.findall(r"^\| ([^|*]+) \| ([^|]+) \|$", summary, re.M)
    told = dict(rows)
    assert {"Modalities", "Size, images", "Languages", "Public datasets", "Synthetic"} <= set(told)
    assert "Claude" in told["Synthetic"]
    assert "less than 1 million" in told["Size, images"]
    assert "www.example.org" in told  # the sites


def test_an_edit_of_the_words_makes_them_anew() -> None:
    reached = code_reached(["vislib.publishing.facts"], looks=False)
    assert "vislib/publishing/templates/*" in reached
