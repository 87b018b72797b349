"""`vislib.experts.ocr`: drawn text is found where it was drawn, and no shape of picture is too
odd.
"""

import unicodedata
from itertools import pairwise
from pathlib import Path

import pytest
import rapidocr
from matplotlib import get_data_path
from PIL import Image, ImageDraw, ImageFont

from vislib.experts.findings import Box
from vislib.experts.ocr import (
    BELOW_HALF,
    Reader,
    cleaned,
    each_once,
    framed,
    in_reading_order,
    legible_scale,
    tile_boxes,
)
from vislib.media.pixels import read_image

FONT = Path(get_data_path()) / "fonts/ttf/DejaVuSans.ttf"  # comes with a pinned package


@pytest.fixture(scope="module")
def reader():
    # one thread: several wait for each other by spinning, half as much again of what reading takes
    return Reader(threshold=0.5, side=800, threads=1)


def drawn(
    *lines: tuple[str, int], size: tuple[int, int] = (640, 480), ground: str = "white"
) -> Image.Image:
    """Lines of a text and its size in px, one below the other from 20 px of the left."""
    image, y = Image.new("RGB", size, ground), 10
    for text, height in lines:
        ink = "black" if ground == "white" else "white"
        ImageDraw.Draw(image).text((20, y), text, ink, ImageFont.truetype(FONT, height))
        y += int(height * 1.7)
    return image


def read(reader: Reader, image: Image.Image) -> list[Box]:
    found = reader(image)
    assert not found.tags + found.boxes
    return list(found.texts)


def test_text_of_every_size_and_script_is_found_in_its_place(reader):
    lines = [
        ("Opening hours and prices", 13),
        ("Crème brûlée, Straße, señor", 18),
        ("Łódź, Čapek, Győr, Ångström", 24),
        ("Total 1,234.56 EUR", 36),
        ("Harbour 24", 90),
        ("x² + y² = 25", 30),
    ]
    image = drawn(*lines, size=(640, 480))
    found = read(reader, image)
    assert [unicodedata.normalize("NFC", text.label) for text in found] == [
        text for text, _ in lines
    ]
    y = 10
    for text, (words, height) in zip(found, lines, strict=True):
        left, top, right, bottom = ImageDraw.Draw(image).textbbox(
            (20, y), words, ImageFont.truetype(FONT, height)
        )
        assert (text.x1 * 640, text.x2 * 640) == pytest.approx((left, right), abs=5 + height / 4)
        assert (text.y1 * 480, text.y2 * 480) == pytest.approx((top, bottom), abs=5 + height / 4)
        assert 0.7 < text.score <= 1
        y += int(height * 1.7)


@pytest.mark.parametrize("angle", [90, 180, 270])
def test_turned_text_is_read(reader, angle):
    assert [
        text.label for text in read(reader, drawn(("Turned text", 50)).rotate(angle, expand=True))
    ] == ["Turned text"]


def test_light_on_dark_and_small_pictures_are_read(reader):
    assert [
        t.label for t in read(reader, drawn(("Submit", 16), size=(110, 80), ground="navy"))
    ] == ["Submit"]
    assert [t.label for t in read(reader, drawn(("A banner of one line", 30), size=(728, 60)))] == [
        "A banner of one line"
    ]
    (tower,) = read(reader, drawn(("Skyscraper", 16), size=(130, 900)))
    assert tower.label == "Skyscraper"
    assert tower.y2 < 0.06
    assert 0.1 < tower.x1 < 0.2


def test_a_long_page_is_read_line_by_line(reader):
    """Scaled by its longest side to 800 px, as it once was, it shows no letter."""
    page = Image.new("RGB", (400, 1300), "white")
    lines = [f"{number} harbour lantern bridge" for number in range(1, 14)]
    for number, words in enumerate(lines):
        ImageDraw.Draw(page).text(
            (20, 100 * number + 30), words, "black", ImageFont.truetype(FONT, 22)
        )
    found = read(reader, page)
    assert [text.label for text in found] == lines
    for number, text in enumerate(found):
        assert text.y1 * 1300 == pytest.approx(100 * number + 35, abs=12)
        assert (text.x1 * 400, text.x2) == (
            pytest.approx(20, abs=12),
            pytest.approx(0.85, abs=0.15),
        )


def test_what_is_read_below_half_its_size_is_said(reader):
    ample, small = (reader(Image.new("RGB", size)) for size in ((2000, 1500), (1500, 1000)))
    assert (ample.notes, small.notes) == ((BELOW_HALF,), ())


@pytest.mark.parametrize(
    ("size", "ground"),
    [
        ((1, 1), "white"),
        ((3, 3), "navy"),
        ((640, 480), "white"),
        ((300, 200), "grey"),
        ((1300, 20), "black"),
        ((20, 1300), "grey"),
        ((1, 900), "white"),
    ],
)
def test_where_there_is_nothing_nothing_is_read(reader, size, ground):
    assert read(reader, Image.new("RGB", size, ground)) == []


def test_pictures_of_ten_thousand_pixels_a_side_are_read(reader, tmp_path):
    image = Image.new("1", (10_000, 8000), 1)
    ImageDraw.Draw(image).text((500, 6000), "Ten thousand", 0, ImageFont.truetype(FONT, 700))
    image.save(tmp_path / "large.png")
    (text,) = read(reader, read_image(tmp_path / "large.png"))
    assert text.label == "Ten thousand"
    assert (text.x1, text.y1) == pytest.approx((0.05, 0.76), abs=0.03)


def test_a_photograph_turned_by_its_metadata_is_read_upright(reader, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn clockwise
    image = drawn(("Top left", 40)).rotate(90, expand=True)
    image.save(tmp_path / "turned.jpg", exif=exif)
    (text,) = read(reader, read_image(tmp_path / "turned.jpg"))
    assert (text.label, text.x1 < 0.1, text.y1 < 0.1, text.y2 < 0.2) == (
        "Top left",
        True,
        True,
        True,
    )


def test_grey_and_palette_pictures_are_read(reader, tmp_path):
    for mode in ("L", "P", "1"):
        drawn(("Grey or not", 40), size=(300, 225)).convert(mode).save(tmp_path / "a.png")
        assert [text.label for text in read(reader, read_image(tmp_path / "a.png"))] == [
            "Grey or not"
        ], mode


def test_side_and_threshold_bound_what_is_read(reader):
    image = drawn(("Small print below", 12), ("HEADLINE", 90), size=(520, 390))
    assert [t.label for t in read(reader, image)] == ["Small print below", "HEADLINE"]
    assert "Small print below" not in [
        t.label for t in read(Reader(threshold=0.5, side=100, threads=1), image)
    ]
    assert read(Reader(threshold=1.0, side=640, threads=1), image) == []


def test_nothing_is_printed_fetched_or_written_to_the_package(reader, capfd, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("the network was asked")

    def state() -> dict[str, int]:
        files = sorted(Path(rapidocr.__file__).parent.rglob("*"))
        return {
            path.name: path.stat().st_mtime_ns
            for path in files
            if path.parent.name != "__pycache__"
        }

    before = state()
    monkeypatch.setattr("requests.get", refuse)
    fresh, image = (
        Reader(threshold=0.5, side=800, threads=2),
        drawn(("Words", 40), ("1, 2 and 3", 20), size=(240, 180)),
    )
    found = read(fresh, image)
    assert read(fresh, Image.new("RGB", (50, 50))) == []
    assert capfd.readouterr() == ("", "")
    assert state() == before
    assert found == read(reader, image)  # whatever the number of threads
    assert [text.label for text in found] == ["Words", "1, 2 and 3"]
    assert fresh.model.startswith("rapidocr 3.")
    assert fresh.revision.split()[0] == next(Path(name).stem for name in before if "_det_" in name)


def test_rows_are_read_from_the_top_and_each_from_the_left():
    def line(name: str, x: float, y: float, height: float = 0.04) -> Box:
        return Box(name, 1.0, x, y, x + 0.2, y + height)

    table = [
        line("b1", 0.4, 0.11),
        line("a2", 0.1, 0.20),
        line("a1", 0.1, 0.10),
        line("b2", 0.4, 0.19),
    ]
    assert [t.label for t in in_reading_order(table)] == ["a1", "b1", "a2", "b2"]
    price = [
        line("99", 0.5, 0.10, 0.2),
        line("was", 0.1, 0.10),
        line("only", 0.1, 0.18),
        line("EUR", 0.8, 0.26),
    ]
    assert [t.label for t in in_reading_order(price)] == ["was", "only", "99", "EUR"]
    side = [line("tall", 0.0, 0.0, 1.0), *(line(str(i), 0.3, i / 10) for i in range(9))]
    assert [t.label for t in in_reading_order(side)] == [
        "0",
        "1",
        "2",
        "3",
        "4",
        "tall",
        "5",
        "6",
        "7",
        "8",
    ]
    assert in_reading_order([]) == []


def test_texts_are_one_line_without_control_characters():
    assert cleaned("  two\twords\n\x00\u200b\x1b ") == "two words"
    assert cleaned("\u200e \ufeff") == ""
    assert cleaned("né 100\u00a0%") == "né 100 %"


def test_the_canvas_bears_the_colour_of_the_border():
    picture = Image.new("RGB", (400, 20), "navy")
    canvas, left, top = framed(picture)
    assert (canvas.size, left, top) == ((400, 200), 0, 90)
    assert canvas.getpixel((0, 0)) == canvas.getpixel((200, 90)) == (0, 0, 128)
    for size in ((640, 480), (1600, 800)):
        assert framed(Image.new("RGB", size)) == (Image.new("RGB", size), 0, 0)


@pytest.mark.parametrize(
    ("size", "scale", "tiles"),
    [
        ((640, 480), 1, 1),
        ((1600, 1200), 1, 1),
        ((4000, 3000), 0.4, 1),
        ((3200, 1600), 0.5, 1),
        ((60, 1600), 1, 1),
        ((800, 8000), 1, 7),
        ((8000, 800), 1, 7),
        ((1600, 16_000), 0.5, 7),
        ((1, 1), 1, 1),
        ((1, 3000), 1, 3),
    ],
)
def test_a_picture_is_scaled_by_what_is_read_at_once(size, scale, tiles):
    assert legible_scale(size, 1600) == pytest.approx(scale)
    scaled = round(size[0] * scale), round(size[1] * scale)
    boxes = tile_boxes(scaled, 1600)
    assert len(boxes) == tiles
    along = 0 if scaled[0] > scaled[1] else 1
    assert (boxes[0][along], boxes[-1][along + 2]) == (0, scaled[along])
    assert all(after[along] <= before[along + 2] - 400 for before, after in pairwise(boxes))
    assert all(box[along + 2] - box[along] <= 1600 for box in boxes)


def test_an_endless_picture_is_scaled_further():
    size = (800, 80_000)
    scale = legible_scale(size, 1600)
    assert 0.4 < scale < 0.5
    assert len(tile_boxes((round(800 * scale), round(80_000 * scale)), 1600)) == 32


def part(text: str, x: tuple[float, float], y: tuple[float, float], score: float = 0.9) -> Box:
    return Box(text, score, x[0], y[0], x[1], y[1])


def test_lines_of_overlapping_tiles_come_once_and_whole():
    first, cut = part("one", (0.1, 0.9), (0.1, 0.12)), part("fwo", (0.1, 0.9), (0.2, 0.205), 0.95)
    again, three = part("two", (0.1, 0.9), (0.2, 0.22), 0.8), part("three", (0.1, 0.9), (0.3, 0.32))
    unsure = part("thrce", (0.1, 0.9), (0.3, 0.319), 0.7)
    found = each_once([first, cut, again, three, unsure])
    assert {text.label for text in found} == {"one", "two", "three"}
    beside = [part("left", (0.1, 0.3), (0.1, 0.12)), part("right", (0.4, 0.6), (0.1, 0.12))]
    assert each_once(beside + beside) == beside
    assert each_once([]) == []


def test_both_parts_of_a_line_across_the_tiles_of_a_wide_picture_stand():
    parts = [
        part("The harbour was op", (0.0, 0.4), (0.1, 0.2)),
        part("ur was opened in 1932 by th", (0.25, 0.7), (0.1, 0.2), 0.8),
    ]
    assert each_once(parts) == parts[::-1]
