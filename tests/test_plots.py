"""Figures: sizes, equal bytes, searchable fonts, and what the plots draw of their tables."""

import os
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from matplotlib.axes import Axes
from PIL import Image

from vislib import figures
from vislib.figures import examples, pipeline, plots, statistics, typeset
from vislib.runs.contract import DROPPED, SCHEMAS
from vislib.runs.errors import InputError

WORDS = [("sea", 9), ("cause", 7), ("moon", 7), ("race", 3), ("wave", 1)]


def write(folder: Path, schema: pa.Schema, rows: list[dict[str, Any]]) -> Path:
    folder.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), folder / "part-00000.parquet")
    return folder


def filled(schema: pa.Schema, **values: Any) -> dict[str, Any]:
    return {
        field.name: values.get(field.name, 0 if field.type == pa.int64() else "")
        for field in schema
    }


@pytest.fixture
def run(tmp_path: Path) -> dict[str, Path]:
    """Tables of three samples of three pages: one English, one Japanese, one whose image failed."""
    texts = {
        "a": "The old harbour <image> lies north.",
        "b": "古い港 <image>",
        "c": "A barn <image> stands.",
    }
    said = {"a": "A harbour with red boats, C$ 5 or $6.", "b": "赤い港", "c": "A barn."}
    image = tmp_path / "03_images" / "files" / "a.png"
    image.parent.mkdir(parents=True)
    Image.new("RGB", (60, 30), "navy").save(image)
    of = {stage: {name: SCHEMAS[stage][name] for name in SCHEMAS[stage]} for stage in SCHEMAS}
    tables: dict[str, tuple[str, str, list[dict[str, Any]]]] = {
        "documents": ("01_documents", "documents", [{"doc_id": i} for i in texts]),
        "quarantine": (
            "01_documents",
            "quarantine",
            [{"reason": f"duplicate: repeats {i}"} for i in "ab"],
        ),
        "kept_documents": ("02_filtering", "documents", [{"doc_id": i} for i in texts]),
        "samples": (
            "02_filtering",
            "samples",
            [
                {
                    "sample_id": i,
                    "doc_id": f"d{i}",
                    "image_url": i,
                    "context": t,
                    "page_url": f"https://example.org/{i}",
                }
                for i, t in texts.items()
            ],
        ),
        "images": (
            "03_images",
            "images",
            [
                {"image_url": i, "status": "failed" if i == "c" else "ok", "path": "files/a.png"}
                for i in texts
            ],
        ),
        "captions": (
            "06_captioning",
            "captions",
            [
                {"sample_id": i, "kind": k, "caption": t, "status": "ok", "model": "m"}
                for i, t in said.items()
                for k in examples.KINDS
            ],
        ),
        "questions": (
            "07_qa_generation",
            "questions",
            [
                {"sample_id": i, "question_type": t, "status": "ok"}
                for i in texts
                for t in ("free_form", "free_form")
            ],
        ),
    }
    paths = {}
    for name, (stage, table, rows) in tables.items():
        schema = of[stage][table]
        paths[name] = write(
            tmp_path / stage / table, schema, [filled(schema, **row) for row in rows]
        )
    dropped = [
        filled(DROPPED, reason=reason)
        for reason in ("above_cap", "similar_question", "malformed", "too_small")
    ]
    for name in (name for name in pipeline.TABLES if name.endswith("dropped")):
        paths[name] = write(tmp_path / name, DROPPED, dropped)
    talk = [
        {"from": "human", "value": "<image>\nDescribe."},
        {"from": "gpt", "value": "A harbour."},
        {"from": "human", "value": "How many?"},
        {"from": "gpt", "value": "Two boats."},
    ]
    schema = of["08_merging"]["conversations"]
    rows = [
        filled(
            schema,
            id=i,
            images=[],
            conversations=talk,
            sample_id=i,
            sources=["caption", "free_form"],
        )
        for i in texts
    ]
    paths["conversations"] = tmp_path / "08_merging" / "contextual"
    for name in ("leaky_mix", "captions"):
        write(paths["conversations"] / name, schema, rows)
    return paths


def load(run: dict[str, Path], **choice: Any) -> list[examples.Example]:
    chosen = {"ids": (), "n": 3, "seed": 0, **choice}
    inputs = {name: run[name] for name in ("samples", "images", "captions")}
    return examples.load_examples(
        **inputs, conversations=run["conversations"] / "leaky_mix", **chosen
    )


def texts_of(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def test_figure_size_follows_the_columns() -> None:
    assert figures.figure_size(columns=1, aspect=0.5) == (3.25, 1.625)
    assert figures.figure_size(columns=2, aspect=1) == (6.75, 6.75)
    with pytest.raises(ValueError, match="1 or 2 columns"):
        figures.figure_size(columns=3)


def test_panels_stand_side_by_side_or_stacked() -> None:
    wide, _ = figures.new_figure(columns=2, aspect=0.5, panels=2)
    tall, axes = figures.new_figure(columns=1, aspect=0.5, panels=2)
    assert tuple(wide.get_size_inches()) == (6.75, 6.75 * 0.25)
    assert tuple(tall.get_size_inches()) == (3.25, 3.25)
    assert len(axes) == 2


def test_long_notes_are_wrapped_inside_the_figure() -> None:
    figure, _ = figures.new_figure(columns=1, note="Captions: a-model-of-that-name. " * 5)
    figure.draw_without_rendering()
    box = figure._supxlabel.get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.x1


def draw_everything(folder: Path) -> list[Path]:
    """One figure with every kind of mark, saved into `folder`."""
    figure, panels = figures.new_figure(columns=2, aspect=0.7, panels=4, note="Captions: m.")
    tokens = [30, 400, 401, 2000, 9000]
    table = statistics.histogram(tokens, statistics.log_edges(tokens, through=2000.5, bins=8))
    plots.plot_document_tokens(panels[0], table, cap=2000, title="(a)")
    ratios = statistics.histogram([0.2, 0.3, 0.3], statistics.even_edges(1, bins=10))
    plots.plot_overlap(
        panels[1], ratios, ratios, run={"contextual": 0.25, "non_contextual": 0.1}, title="(b)"
    )
    pairs = pd.DataFrame({"pairs": [2, 4], "samples": [3, 9]})
    plots.plot_pairs(panels[2], pairs, pairs, paper_mode=4, title="(c)")
    plots.plot_word_cloud(panels[3], WORDS, max_words=10, seed=0, title="(d)")
    return figures.save_figure(figure, folder, "all", table)


def test_saved_figures_are_equal_bytes_in_another_process(tmp_path: Path) -> None:
    files = draw_everything(tmp_path)
    assert [file.suffix for file in files] == [".pdf", ".png", ".csv"]
    again = tmp_path / "again"
    again.mkdir()
    command = (
        f"import pathlib, test_plots; test_plots.draw_everything(pathlib.Path({str(again)!r}))"
    )
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])])
    environment = {
        **os.environ,
        "PYTHONHASHSEED": "7",
        "PYTHONPATH": path,
        "MATPLOTLIBRC": str(again),
    }
    (again / "matplotlibrc").write_text(
        "font.size: 30\n"
    )  # a user's own settings must change nothing
    subprocess.run([sys.executable, "-c", command], check=True, env=environment)
    for file in files:
        assert file.read_bytes() == (again / file.name).read_bytes(), file.name


def test_pdf_has_type_42_fonts_and_no_date(tmp_path: Path) -> None:
    pdf = draw_everything(tmp_path)[0].read_bytes()
    assert b"CIDFontType2" in pdf or b"/TrueType" in pdf
    assert b"/Type3" not in pdf
    assert b"CreationDate" not in pdf


def test_document_tokens_hatch_what_is_above_the_cap() -> None:
    _, (axes,) = figures.new_figure()
    values = [100, 2000, 2001, 9000]
    table = statistics.histogram(values, statistics.log_edges(values, through=2000.5, bins=6))
    plots.plot_document_tokens(axes, table, cap=2000)
    assert {text.get_text() for text in axes.get_legend().get_texts()} == {
        "kept (2)",
        "above the cap (2)",
        "cap 2,000",
    }
    assert [bool(patch.get_hatch()) for patch in axes.patches] == [False, True]


def test_lines_of_run_and_paper_have_different_patterns() -> None:
    _, (axes,) = figures.new_figure()
    table = statistics.histogram([500, 900], [0, 1000, 2000])
    plots.plot_context_tokens(
        axes, table, run={"mean": 700, "median": 700.5}, paper=statistics.PAPER_TOKENS
    )
    labels = [line.get_label() for line in axes.lines]
    assert labels == ["mean 700", "median 700.50", "paper's mean 871.58", "paper's median 781"]
    assert len({str(line._dash_pattern) for line in axes.lines}) == 4


def test_overlap_without_a_control_draws_none() -> None:
    _, (axes,) = figures.new_figure()
    table, none = (
        statistics.histogram(values, statistics.even_edges(1, bins=4)) for values in ([0.4], [])
    )
    plots.plot_overlap(axes, table, none, run={"contextual": 0.4})
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "contextual (1)",
        "contextual mean 0.40",
        "paper's mean 0.24",
    ]


def test_a_word_cloud_without_a_word_says_so() -> None:
    _, (axes,) = figures.new_figure(columns=1, aspect=0.62, panels=1)
    assert plots.plot_word_cloud(axes, [], max_words=120, seed=0, title="(a)") == []
    assert "no word to draw" in texts_of(axes)[0]
    assert axes.get_title(loc="left") or axes.get_title() == "(a)"


def test_a_word_cloud_has_room_for_as_many_words_as_its_notebook_asks() -> None:
    _, panels = figures.new_figure(columns=2, aspect=0.62, panels=2)
    counts = [
        (f"word{chr(97 + n // 26)}{chr(97 + n % 26)}", 300 // (n + 1) + 1) for n in range(200)
    ]
    assert len(plots.plot_word_cloud(panels[0], counts, max_words=120, seed=0)) >= 108


def test_word_cloud_draws_frequent_words_larger_and_inside() -> None:
    _, (axes,) = figures.new_figure()
    assert plots.plot_word_cloud(axes, WORDS, max_words=4, seed=3) == WORDS[:4]
    heights = [patch.get_path().get_extents().height for patch in axes.patches]
    assert heights[0] == max(heights) > heights[-1]
    ink = [patch.get_path().get_extents() for patch in axes.patches]
    assert all(
        box.x0 >= 0 and box.y0 >= 0 and box.x1 <= 900 and box.y1 <= axes.get_ylim()[0]
        for box in ink
    )
    assert not any(one.overlaps(other) for one in ink for other in ink if one is not other)


def test_drawable_knows_the_font_and_the_direction() -> None:
    assert typeset.drawable("Straße, Αθήνα, Київ\n→ “quoted”")
    assert not typeset.drawable("古い港")
    assert not typeset.drawable("مرحبا")


def test_grounded_words_and_lines_keep_the_text_whole() -> None:
    source = statistics.source_stems({"page_url": "", "alt_text": None, "context": "boats at sea"})
    text = "The (boats), sea-sick; C. and   nothing"
    lines = typeset.wrap(text, source, width=60)
    assert " ".join("".join(piece for piece, _ in line).strip() for line in lines) == " ".join(
        text.split()
    )
    assert [piece for line in lines for piece, marked in line if marked] == ["boats", "sea"]
    assert all(
        typeset._width("".join(piece for piece, _ in line), typeset.SIZE) <= 60 for line in lines
    )


def test_long_texts_and_words_end_in_an_ellipsis() -> None:
    cut = typeset.wrap("one two three four five six seven", typeset.NOTHING, width=40, max_lines=2)
    assert len(cut) == 2
    assert cut[-1][-1][0].endswith("…")
    assert "".join(
        piece for piece, _ in typeset.wrap("x" * 200, typeset.NOTHING, width=50)[0]
    ).endswith("x…")


def test_examples_pass_over_failed_images_and_scripts_that_the_font_lacks(
    run: dict[str, Path],
) -> None:
    (only,) = load(run)
    assert only.sample["sample_id"] == "a"
    assert only.rounds == [
        ("caption", "Describe.", "A harbour."),
        ("free_form", "How many?", "Two boats."),
    ]
    assert only.image.is_file()


def test_a_figure_without_a_sample_that_can_be_shown_says_so(
    run: dict[str, Path], tmp_path: Path
) -> None:
    nobody: list[examples.Example] = []
    for plot in (
        partial(examples.plot_page, words_around=2),
        partial(examples.plot_samples, rounds=2),
    ):
        sheet, axes, width = figures.new_sheet()
        figures.trim_sheet(sheet, axes, plot(axes, nobody, width=width), note="n")
        assert any("No sample can be shown" in text for text in texts_of(axes))
    assert len(figures.save_figure(sheet, tmp_path, "page", examples.example_table(nobody))) == 3


def test_named_examples_must_be_showable(run: dict[str, Path]) -> None:
    assert [example.sample["sample_id"] for example in load(run, ids=["a"])] == ["a"]
    with pytest.raises(InputError, match="'c'"):
        load(run, ids=["a", "c"])


def test_page_marks_what_the_page_adds(run: dict[str, Path], tmp_path: Path) -> None:
    (example,) = load(run)
    control = {**example.captions, "contextual": "The old harbour: red boats."}
    example = replace(
        example, captions={**control, "non_contextual": "A harbour with red boats, C$ 5 or $6."}
    )
    sheet, axes, width = figures.new_sheet()
    height = examples.plot_page(axes, [example], width=width, words_around=2)
    figures.trim_sheet(sheet, axes, height, note="n")
    shown = texts_of(axes)
    assert "… old harbour" in shown
    assert "lies north." in shown
    assert "1 of 3 words, stop words apart, stand on the page too" in shown
    assert {t.get_text() for t in axes.texts if t.get_color() == plots.CONTRAST} == {
        "old"
    }  # the control has a harbour
    assert sheet.get_figheight() * 72 == pytest.approx(height + 11)
    figures.save_figure(sheet, tmp_path, "page")  # two dollar signs in the caption are no formula
    assert (tmp_path / "page.png").stat().st_size > 1000


def test_the_crop_of_a_page_begins_and_ends_with_sentences() -> None:
    text = "One two three. Four five. Six seven.\nA heading\nEight nine ten. "
    assert examples._around(text, 7, end=True) == "… Six seven.\nA heading\nEight nine ten."
    assert examples._around(text, 6, end=False) == "One two three. Four five. …"
    assert examples._around(text, 99, end=True) == text.strip()
    assert examples._around(text, 2, end=True) == "… nine ten."
    assert examples._around("", 5, end=False) == examples._around(" ", 0, end=True) == ""


def test_samples_show_the_caption_and_count_the_rounds_left_out(run: dict[str, Path]) -> None:
    (example,) = load(run)
    _, axes, width = figures.new_sheet()
    assert examples.plot_samples(axes, [example, example], width=width, rounds=1) > 60
    shown = texts_of(axes)
    assert shown.count("Describe.") == shown.count("and 1 more rounds") == 2
    assert "How many?" not in shown


def test_pipeline_counts_what_went_on_and_what_did_not(run: dict[str, Path]) -> None:
    table = pipeline.pipeline_table(run, [run["conversations"], run["conversations"]])
    number = table.set_index(["step", "role", "item"])["count"].sort_index()
    assert number["Web documents", "kept", "rows"] == 5
    assert number["Web documents", "dropped", "duplicate"] == 2
    assert number["Images", "kept", "addresses"] == 2
    assert number["Token cap", "dropped"].to_dict() == {"above_cap": 1}
    assert "above_cap" not in number["Image contexts", "dropped"]
    assert number["De-duplication", "dropped"].to_dict() == {"similar_question": 1}
    assert (
        "malformed" not in number["Conversations per kind", "dropped"]
    )  # counted with the generated questions
    assert number["Captioning", "kept", "non_contextual"] == 3
    assert number["Q&A generation", "kept", "free_form"] == 6
    assert number["De-duplication", "kept", "free_form"] == 6  # one each, of two kinds
    assert number["Conversations per kind", "kept", "leaky_mix"] == 3
    _, axes, width = figures.new_sheet()
    assert pipeline.plot_pipeline(axes, table, width=width) > 100
    shown = texts_of(axes)
    assert {"1 Web documents", "8 Conversations per kind", "too small", "−1", "leaky mix"} <= set(
        shown
    )
