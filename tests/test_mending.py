"""Metadata or a lost end cost no picture; lost or false pixels still do."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vislib.media import pixels
from vislib.media.formats import mended

LIMITS = {"max_bytes": 10_000_000, "max_pixels": 10_000_000}


def picture(width: int = 96, height: int = 64) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 255, (height // 8, width // 8, 3), dtype=np.uint8)
    return Image.fromarray(values).resize((width, height))


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def chunk(kind: bytes, body: bytes, *, false: bool = False) -> bytes:
    checksum = zlib.crc32(kind + body) ^ (1 if false else 0)
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", checksum)


def with_chunk(data: bytes, added: bytes, *, behind: bool = False) -> bytes:
    at = data.index(b"IEND" if behind else b"IDAT") - 4
    return data[:at] + added + data[at:]


LONG = zlib.compress(b"x" * 3_000_000)
ODD = {
    "zTXt": chunk(b"zTXt", b"note\0\0" + LONG),
    "iTXt": chunk(b"iTXt", b"note\0\1\0\0\0" + LONG),
    "iCCP": chunk(b"iCCP", b"profile\0\0" + LONG),
    "false pHYs": chunk(b"pHYs", struct.pack(">IIB", 3000, 3000, 1), false=True),
    "false iCCP": chunk(b"iCCP", b"profile\0\0" + zlib.compress(b"x"), false=True),
    "false tEXt": chunk(b"tEXt", b"Software\0paint", false=True),
    "short pHYs": chunk(b"pHYs", b"\0\0"),
    "empty gAMA": chunk(b"gAMA", b""),
    "empty cHRM": chunk(b"cHRM", b""),
    "short iCCP": chunk(b"iCCP", b""),
    "many": b"".join(
        chunk(b"zTXt", b"note\0\0" + zlib.compress(b"x" * 1_000_000)) for _ in range(68)
    ),
}


@pytest.mark.parametrize("behind", [False, True])
@pytest.mark.parametrize("name", ODD)
def test_metadata_cost_no_png(tmp_path, name, behind):
    plain = encoded(picture())
    data = with_chunk(plain, ODD[name], behind=behind)
    facts = pixels.verify(data, **LIMITS)
    assert facts == pixels.verify(plain, **LIMITS)
    (tmp_path / "a.png").write_bytes(data)
    assert pixels.read_image(tmp_path / "a.png").tobytes() == picture().tobytes()
    out, kind = pixels.portable(tmp_path / "a.png")
    with Image.open(io.BytesIO(out)) as sent:
        assert (kind, sent.tobytes()) == ("PNG", picture().tobytes())


def test_what_changes_the_look_is_kept_where_it_can_be(tmp_path):
    """Transparency, rotation and a profile stay when a text beside them is bad."""
    layer = picture().convert("RGBA")
    exif = Image.Exif()
    exif[0x0112] = 6
    for image, options in (
        (picture().quantize(8), {"transparency": 0}),
        (picture(), {"exif": exif}),
        (layer, {}),
    ):
        plain = encoded(image, **options)
        seen = []
        for number, data in enumerate((plain, with_chunk(plain, ODD["zTXt"] + ODD["false tEXt"]))):
            (path := tmp_path / str(number)).write_bytes(data)
            seen.append(pixels.read_image(path))
        assert seen[0] == seen[1]


def test_false_pixels_stay_broken():
    data = bytearray(with_chunk(encoded(picture()), ODD["zTXt"]))
    data[data.index(b"IDAT") + 20] ^= 0xFF
    with pytest.raises(pixels.ImageError) as caught:
        pixels.verify(bytes(data), **LIMITS)
    assert caught.value.reason in {"broken", "truncated"}
    for share in (0.3, 0.9):
        cut = with_chunk(encoded(picture(800, 600)), ODD["false pHYs"])
        with pytest.raises(pixels.ImageError):
            pixels.verify(cut[: int(len(cut) * share)], **LIMITS)


def test_a_bomb_is_refused_after_mending_too():
    for side in (4_000, 60_000):
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
        body = header + ODD["short pHYs"] + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
        with pytest.raises(pixels.ImageError, match="too_many_pixels"):
            pixels.verify(b"\x89PNG\r\n\x1a\n" + body, **LIMITS)


@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"restart_marker_rows": 1}, {"subsampling": 0}]
)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_jpeg_that_lacks_its_end_alone_is_whole(tmp_path: Path, options, mode):
    whole = encoded(picture(203, 157).convert(mode), "JPEG", **options)
    (tmp_path / "whole").write_bytes(whole)
    for lost in (1, 2):
        (tmp_path / "cut").write_bytes(whole[:-lost])
        assert pixels.read_image(tmp_path / "cut") == pixels.read_image(tmp_path / "whole")
        with Image.open(io.BytesIO(pixels.portable(tmp_path / "cut", lossy=True)[0])) as sent:
            sent.load()
    for lost in (30, len(whole) // 10, len(whole) // 2):
        with pytest.raises(pixels.ImageError):
            pixels.verify(whole[:-lost], **LIMITS)


def test_nothing_else_is_mended():
    for kind in ("GIF", "WEBP", "BMP"):
        assert list(mended(encoded(picture(), kind)[:-40])) == []
    assert list(mended(b"")) == list(mended(b"\xff\xd8\xff")) == []
