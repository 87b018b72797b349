"""Examples: which samples are shown, what is marked, and how a page is cut."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.figure_layout import assert_readable
from tests.figure_tables import three_samples
from tests.notebook_cells import run_section
from vislib import figures
from vislib.figures import examples
from vislib.figures.style import CONTRAST
from vislib.figures.text import Column
from vislib.runs.errors import InputError


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, Path]:
    run = three_samples(tmp_path)
    names = ("samples", "images", "captions")
    talks = run["conversations"] / "leaky_mix"
    return {name: run[name] for name in names} | {"conversations": talks}


def load(inputs: dict[str, Path], **choice: Any) -> list[examples.Example]:
    return examples.choose(examples.SAMPLES, inputs, **{"ids": (), "n": 3, "seed": 0, **choice})


def texts_of(sheet: Column) -> list[str]:
    return [text.get_text() for text in sheet.axes.texts]


def test_examples_pass_over_failed_images_and_scripts_that_the_font_lacks(
    inputs: dict[str, Path],
) -> None:
    (only,) = load(inputs)
    assert only["sample_id"] == "a"
    assert Path(only["path"]).is_file()


def test_a_figure_without_a_sample_that_can_be_shown_says_so(tmp_path: Path) -> None:
    """Sections 2 and 3 of the notebook."""
    names = {"chosen": [], "words_around": 2, "rounds": 2, "note": "n"}
    tables = three_samples(tmp_path)
    for section, name in (("## 2", "page"), ("## 3", "talks")):
        held = run_section("25_examples", section, tables, paths=tables, **names)
        assert any("No sample can be shown" in text for text in texts_of(held["sheet"]))
        assert len(figures.save_figure(held[name], tmp_path, name, pd.DataFrame())) == 3


def test_a_release_without_its_pages_has_examples_and_no_page(
    inputs: dict[str, Path], tmp_path: Path
) -> None:
    samples = pd.read_parquet(inputs["samples"]).assign(context="")
    samples.to_parquet(tmp_path / "bare.parquet")
    bare = inputs | {"samples": tmp_path / "bare.parquet"}
    (only,) = load(bare)
    assert not only["rich"]
    names = {"chosen": [only], "words_around": 2, "rounds": 2}
    held = run_section("25_examples", "## 2", bare, paths=bare, **names)
    shown = " ".join(texts_of(held["sheet"]))
    assert "Not drawn: this needs the text of the page" in shown
    assert "its address and alternative text are known" in held["note"]


def test_the_table_of_the_notebook_has_both_captions_with_their_counts(
    inputs: dict[str, Path],
) -> None:
    held = run_section("25_examples", "## 1", inputs, sample_ids=[], count=3, seed=0)
    table = held["overlaps"]
    assert table["kind"].tolist() == ["contextual", "non_contextual"]
    assert table["matched"].tolist() == [1, 1]
    assert [example["sample_id"] for example in held["chosen"]] == ["a"]


def test_named_examples_must_be_showable(inputs: dict[str, Path]) -> None:
    assert [example["sample_id"] for example in load(inputs, ids=["a"])] == ["a"]
    with pytest.raises(InputError, match="'c'"):
        load(inputs, ids=["a", "c"])


def test_page_marks_what_the_page_adds(inputs: dict[str, Path], tmp_path: Path) -> None:
    (example,) = load(inputs)
    control = "A harbour with red boats, C$ 5 or $6."
    captions = {"contextual": "The old harbour: red boats.", "non_contextual": control}
    figure, sheet = figures.new_sheet()
    examples.plot_page(sheet, {**example, **captions}, words_around=2)
    figures.trim_sheet(figure, sheet, note="n")
    assert_readable(figure)
    shown = texts_of(sheet)
    assert "… old harbour" in shown
    assert "lies north." in shown
    assert "1 of 3 words, stop words apart, stand on the page too" in shown
    # the control has a harbour
    assert {t.get_text() for t in sheet.axes.texts if t.get_color() == CONTRAST} == {"old"}
    # two dollar signs in the caption are no formula
    figures.save_figure(figure, tmp_path, "page", pd.DataFrame([example]))
    assert (tmp_path / "page.png").stat().st_size > 1000


def test_the_crop_of_a_page_begins_and_ends_with_sentences() -> None:
    text = "One two three. Four five. Six seven.\nA heading\nEight nine ten. "
    assert examples._around(text, 7, end=True) == "… Six seven.\nA heading\nEight nine ten."
    assert examples._around(text, 6, end=False) == "One two three. Four five. …"
    assert examples._around(text, 99, end=True) == text.strip()
    assert examples._around(text, 2, end=True) == "… nine ten."
    assert examples._around("", 5, end=False) == examples._around(" ", 0, end=True) == ""


def test_samples_show_the_caption_and_count_the_rounds_left_out(
    inputs: dict[str, Path],
) -> None:
    (example,) = load(inputs)
    figure, sheet = figures.new_sheet()
    examples.plot_samples(sheet, [example, example], rounds=1)
    figures.trim_sheet(figure, sheet, note="n")
    assert_readable(figure)
    shown = texts_of(sheet)
    assert shown.count("A harbour.") == 2
    assert "<image>" not in shown
    assert shown.count("Describe.") == shown.count("and 1 more rounds") == 2
    assert "How many?" not in shown
