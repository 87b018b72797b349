"""Paragraphs: what the font can set, lines that keep the text whole, and marked words."""

from tests.figure_layout import assert_readable
from vislib import figures
from vislib.figures import text
from vislib.figures.style import CONTRAST
from vislib.media import stems

SOURCE = stems.source_stems({"page_url": "", "alt_text": None, "context": "boats at sea"})


def test_drawable_knows_the_font_and_the_direction() -> None:
    assert text.drawable("Straße, Αθήνα, Київ\n→ “quoted”")
    assert not text.drawable("古い港")
    assert not text.drawable("مرحبا")


def test_marked_words_and_lines_keep_the_text_whole() -> None:
    said = "The (boats), sea-sick; C. and   nothing"
    lines = text.wrap(said, width=60)
    assert " ".join(lines) == " ".join(said.split())
    assert all(text.text_width(line, text.SIZE) <= 60 for line in lines)
    pieces = [piece for line in lines for piece in stems.marked(line, SOURCE)]
    assert [piece for piece, is_marked in pieces if is_marked] == ["boats", "sea"]
    assert "".join(piece for piece, _ in pieces) == "".join(lines)


def test_long_texts_and_words_end_in_an_ellipsis() -> None:
    cut = text.wrap("one two three four five six seven", width=40, max_lines=2)
    assert len(cut) == 2
    assert cut[-1].endswith("…")
    assert text.wrap("x" * 200, width=50)[0].endswith("x…")


def test_marked_words_stand_where_the_line_has_them_red_and_underlined() -> None:
    _, sheet = figures.new_sheet()
    sheet.write("Many boats at sea, two boats", source=SOURCE)
    whole = text.text_width("Many boats at sea, two boats", text.SIZE)
    texts = sheet.axes.texts
    assert "".join(t.get_text() for t in texts) == "Many boats at sea, two boats"
    assert [t.get_text() for t in texts if t.get_color() == CONTRAST] == ["boats", "sea", "boats"]
    assert [line.get_color() for line in sheet.axes.lines] == [CONTRAST] * 3
    ends = [t.get_position()[0] for t in texts]
    assert ends == sorted(ends)
    assert abs(sheet.axes.lines[-1].get_xdata()[1] - sheet.x - whole) < 2


def test_a_column_ends_below_what_was_written_in_it() -> None:
    figure, sheet = figures.new_sheet()
    left = sheet.column(10, 100)
    left.write("two words\nand a line")
    assert left.y == sheet.y + 2 * text.SIZE * text.LEADING
    sheet.y = left.y
    figures.trim_sheet(figure, sheet, note="n " * 100)  # two lines
    assert figure.get_figheight() * 72 > sheet.y + 2 * 5.5
    assert_readable(figure)
