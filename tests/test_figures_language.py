"""Statistics of captions: what counts as a word, a sentence, a part of speech, a group, and what
the panels draw.
"""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.figure_layout import assert_readable
from tests.notebook_cells import run_section
from vislib import figures
from vislib.figures import language
from vislib.figures.style import CONTRAST
from vislib.runs.contract import CAPTIONS
from vislib.runs.errors import InputError

ENGLISH = (
    "The image shows a small red boat near 3 old houses. Two people slowly walk to it, and they"
    " don't stop."
)
GERMAN = (
    "Das Bild zeigt ein kleines rotes Boot vor drei alten Häusern am Ufer eines breiten Flusses im"
    " Winter."
)
JAPANESE = "この写真には、古い港と三隻の赤い船が写っています。空は青く、海は静かです。"


def write(table: Path, *rows: tuple[str, str, str], status: str = "ok") -> Path:
    """Captions of (sample, kind, text)."""
    table.mkdir(parents=True, exist_ok=True)
    blank = {field.name: 0 if field.type == pa.int64() else "" for field in CAPTIONS}
    full = [
        blank | {"sample_id": s, "kind": k, "caption": t, "status": status, "model": f"m of {k}"}
        for s, k, t in rows
    ]
    pq.write_table(pa.Table.from_pylist(full, schema=CAPTIONS), table / f"part-{status}.parquet")
    return table


def measured(tables: list[Path], kinds: list[str], limit: int = 0) -> tuple[Any, Any]:
    lengths, _ = language.length_table(tables, kinds)
    return lengths, language.class_table(tables, lengths, limit=limit, seed=0)


def test_lengths_count_letters_and_sentences_not_signs() -> None:
    assert language.caption_lengths(ENGLISH) == (len(ENGLISH), 21, 2)
    assert language.caption_lengths("A sign\n—\nOPEN 24h!") == (18, 4, 2)
    assert language.caption_lengths("") == (0, 0, 0)


def test_parts_of_speech_of_a_plain_sentence() -> None:
    words, classes = ENGLISH.split(". ")[0].split(), language.word_classes(ENGLISH)
    assert dict(zip(words, classes, strict=False)) == {
        "The": "determiners",
        "image": "nouns",
        "shows": "verbs",
        "a": "determiners",
        "small": "adjectives",
        "red": "adjectives",
        "boat": "nouns",
        "near": "adpositions",
        "3": "numerals",
        "old": "adjectives",
        "houses": "nouns",
    }
    rest = classes[len(words) :]
    assert rest[:5] == ["numerals", "nouns", "adverbs", "verbs", "adpositions"]
    assert {"conjunctions", "pronouns"} <= set(rest)


@pytest.mark.parametrize(
    "text",
    ["", "… — !!", "🙂\u200b\u0301", "x" * 5000, "東京 " * 50, "((((`` '' <b> \\ $%", "\n\n"],
)
def test_the_tagger_takes_any_text(text: str) -> None:
    words = language.word_classes(text)
    assert set(words) <= set(language.CLASSES)
    assert bool(words) == any(map(str.isalnum, text))


def test_only_good_english_captions_of_the_kinds_count(tmp_path: Path) -> None:
    table = write(
        tmp_path / "captions",
        ("a", "fused", ENGLISH),
        ("b", "fused", GERMAN),
        ("c", "fused", JAPANESE),
        ("a", "contextual", ENGLISH),
    )
    write(table, ("d", "fused", ENGLISH), status="failed")
    lengths, left_out = language.length_table([table], ["fused"])
    assert lengths[["group", "sample_id"]].to_numpy().tolist() == [["fused", "a"]]
    assert left_out == 2


def test_groups_follow_the_kinds_and_tell_tables_apart(tmp_path: Path) -> None:
    one = write(
        tmp_path / "big/06_captioning/data/captions",
        ("a", "fused", ENGLISH),
        ("a", "contextual", ENGLISH),
    )
    two = write(tmp_path / "small/06_captioning/data/captions", ("a", "fused", "A red boat."))
    lengths, classes = measured([one, two], ["fused", "contextual", "non_contextual"])
    groups = ["fused · big/06_captioning", "fused · small/06_captioning", "contextual"]
    assert lengths["group"].tolist() == groups
    assert classes["group"].unique().tolist() == groups
    assert classes.groupby("group", sort=False)["words"].sum().tolist() == [
        22,
        3,
        22,
    ]  # don't is do and n't
    assert classes.groupby("group")["share"].sum().tolist() == pytest.approx([1, 1, 1])


def test_tagged_captions_are_a_seeded_choice_whatever_their_order(tmp_path: Path) -> None:
    rows = [(f"s{n}", "fused", "boat " * (2**n)) for n in range(8)]
    tables = [write(tmp_path / "a", *rows), write(tmp_path / "b", *rows[::-1])]
    some, again = (measured([table], ["fused"], limit=3)[1] for table in tables)
    assert some.to_dict() == again.to_dict()
    assert some["captions"].unique().tolist() == [3]
    assert some["words"].sum() < 2**8 - 1


@pytest.mark.parametrize(
    "text", [GERMAN, JAPANESE, "مرفأ قديم فيه ثلاثة قوارب حمراء، وعلى التل البعيد منارة بيضاء."]
)
def test_captions_of_other_languages_alone_draw_panels_that_say_so(
    tmp_path: Path, text: str
) -> None:
    table = write(tmp_path / "captions", ("a", "fused", text))
    lengths, classes = measured([table], ["contextual", "fused"])
    assert lengths.empty
    files, panels = draw(tmp_path / "out", lengths, classes)
    assert len(files) == 3
    assert [[t.get_text() for t in panel.texts] for panel in panels] == [["nothing to count"]] * 3


def test_too_many_groups_are_an_error_that_says_so(tmp_path: Path) -> None:
    many = [write(tmp_path / f"{n}/06/data/captions", ("a", "fused", ENGLISH)) for n in range(5)]
    with pytest.raises(InputError, match="5 groups"):
        language.length_table(many, ["fused"])


def draw(folder: Path, lengths: Any, classes: Any, columns: int = 2) -> tuple[list[Path], Any]:
    """Section 3 of the notebook."""
    size = {"columns": columns, "aspect": 1.3, "bins": 24, "left_out": 0, "paper": True}
    held = run_section(
        "32_caption_statistics", "## 3", {}, lengths=lengths, classes=classes, **size
    )
    assert_readable(held["figure"])
    folder.mkdir()
    return figures.save_figure(held["figure"], folder, "all", held["classes"]), held["panels"]


@pytest.mark.parametrize("columns", [1, 2])
def test_panels_show_every_group_and_the_papers_means(tmp_path: Path, columns: int) -> None:
    kinds = ["contextual", "non_contextual", "fused", "fused_contextual"]
    table = write(
        tmp_path / "captions",
        *((f"s{n}", kind, ENGLISH * (n + 1)) for kind in kinds for n in range(3)),
    )
    lengths, classes = measured([table], kinds)
    files, (words, sentences, tagged) = draw(tmp_path / "once", lengths, classes, columns)
    again, _ = draw(tmp_path / "again", lengths, classes, columns)
    assert [a.read_bytes() for a in files] == [b.read_bytes() for b in again]
    shown = [text.get_text() for text in words.get_legend().get_texts()]
    assert shown[1] == "non-contextual: 42.0 / 42 (3)"
    assert shown[-2:] == ["paper's DenseFusion-4V-100K 206", "paper's DenseFusion-1M 191"]
    last = [text.get_text() for text in sentences.get_legend().get_texts()][-1]
    assert last == "paper's DenseFusion-1M 11"
    red = [line for line in words.lines if line.get_color() == CONTRAST]
    assert len({str(line._dash_pattern) for line in red}) == len(red) == 2
    marks = [line for line in tagged.lines if line.get_marker() != "None"]
    assert len({line.get_marker() for line in marks}) == len(marks) == 4
    assert [tick.get_text() for tick in tagged.get_yticklabels()] == list(language.CLASSES)


def test_bins_are_whole_numbers_wide_and_lose_no_caption(tmp_path: Path) -> None:
    table = write(
        tmp_path / "captions", *((f"s{n}", "fused", "A boat. " * n) for n in (0, 1, 12, 150))
    )
    lengths, _ = language.length_table([table], ["fused"])
    for name, width in {"words": 13, "sentences": 7}.items():
        table = language.length_bins(lengths, name, bins=24)
        assert table["count"].sum() == 4
        assert set(table["to"] - table["from"]) == {width}
        assert len(table) <= 26


def test_one_caption_without_a_word_draws(tmp_path: Path) -> None:
    table = write(tmp_path / "captions", ("a", "fused", "…"))
    lengths, classes = measured([table], ["contextual", "fused"])
    assert classes["share"].isna().all()
    assert len(draw(tmp_path / "out", lengths, classes, columns=1)[0]) == 3
