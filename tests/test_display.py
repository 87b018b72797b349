"""`vislib.media.display`: cards hold the rows' own words, escaped, with small pictures, and survive
what is missing.
"""

import base64
import io
import re
from pathlib import Path

from PIL import Image

from vislib.media.display import SIDE, cards


def picture(folder: Path, size: tuple[int, int] = (900, 600)) -> str:
    (folder / "files").mkdir(exist_ok=True)
    Image.effect_noise(size, 60).convert("RGB").save(folder / "files" / "a.png")
    return "files/a.png"


def test_a_card_shows_texts_escaped_and_a_small_picture(tmp_path):
    row = {
        "path": picture(tmp_path),
        "url": "http://a.example/?x=1&y=2",
        "caption": "<script>alert(1)</script>",
    }
    html = cards([row], image="path", root=tmp_path, title="url", text=["caption"]).data
    assert "<script>" not in html
    assert "&lt;script&gt;" in html
    assert "x=1&amp;y=2" in html
    found = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', html)
    assert len(found) == 1
    thumbnail = Image.open(io.BytesIO(base64.b64decode(found[0])))
    assert max(thumbnail.size) == SIDE
    assert len(html) < 40_000


def test_missing_pictures_and_values_are_said(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"<html>not found</html>")
    rows = [
        {"path": None, "n": None},
        {"path": "absent.png", "n": 3},
        {"path": "broken.png", "n": 0.123456},
    ]
    html = cards(rows, image="path", root=tmp_path, text=["n", "absent_column"]).data
    assert "no image" in html
    assert "absent.png" in html
    assert str(tmp_path) not in html
    assert "not_an_image" in html
    assert "<bdi>–</bdi>" in html
    assert "<bdi>3</bdi>" in html
    assert "<bdi>0.123</bdi>" in html
    assert "no rows" in cards([], text=["n"]).data


def test_long_texts_scroll_and_very_long_ones_are_cut():
    html = cards([{"context": "word " * 5000}], text=["context"]).data
    assert "overflow:auto" in html
    assert "more characters)" in html
    assert len(html) < 6000


def test_every_text_finds_its_own_direction():
    row = {"caption": "اختر لغة التثبيت من القائمة ثم اضغط متابعة لإكمال العملية", "kind": "صورة"}
    html = cards([row], text=["caption", "kind"]).data
    assert re.search(r'<div dir="auto"[^>]*>اختر', html)
    assert "<bdi>صورة</bdi>" in html


def test_lists_become_lines_and_styles_stand_inline():
    html = cards([{"options": ["A. one", "B. two"]}], text=["options"]).data
    assert "A. one\nB. two" in html
    assert "<style" not in html
    assert "<script" not in html


def test_conversations_are_shown_as_a_chat():
    turns = [{"from": "human", "value": "<image>\nWhy?"}, {"from": "gpt", "value": "So."}]
    html = cards([{"conversations": turns}], text=["conversations"]).data
    assert re.search(
        r"margin-left[^>]*>&lt;image&gt;\nWhy\?.*margin-right[^>]*>So\.", html, re.DOTALL
    )
