"""`vislib.media.pixels`: every kind of picture found on the web ends as RGB, or as an error with a
reason.
"""

import base64
import io
import struct
import warnings
import zlib
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFile, ImageFont, ImageOps

from vislib.media import pixels

LIMITS = {"max_bytes": 10_000_000, "max_pixels": 10_000_000}


def noise(width: int = 64, height: int = 48, seed: int = 0) -> Image.Image:
    values = np.random.default_rng(seed).integers(
        0, 255, (height // 8, width // 8, 3), dtype=np.uint8
    )
    return Image.fromarray(values).resize((width, height))


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def stored(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "picture"
    path.write_bytes(data)
    return path


def reason(data: bytes, **limits: int) -> str:
    with pytest.raises(pixels.ImageError) as caught:
        pixels.verify(data, **{**LIMITS, **limits})
    assert caught.value.reason in get_args(pixels.Reason)
    assert caught.value.detail
    return caught.value.reason


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "AVIF", "BMP", "TIFF", "JPEG2000"])
def test_every_format_is_verified_by_decoding(kind):
    facts = pixels.verify(encoded(noise(), kind), **LIMITS)
    assert (facts.width, facts.height, facts.format) == (64, 48, kind)
    assert len(facts.perceptual_hash) == 16


def test_exif_rotation_is_applied_to_size_and_pixels(tmp_path):
    image = Image.new("RGB", (60, 30), "red")
    image.paste("blue", (0, 0, 30, 30))
    exif = Image.Exif()
    exif[0x0112] = 6  # show turned by 90 degrees clockwise
    data = encoded(image, "JPEG", exif=exif, quality=95)
    facts = pixels.verify(data, **LIMITS)
    assert (facts.width, facts.height) == (30, 60)
    upright = pixels.read_image(stored(tmp_path, data))
    assert upright.size == (30, 60)
    assert upright.getpixel((15, 5))[2] > 200  # what was left is now on top
    assert upright.getpixel((15, 55))[0] > 200


def test_all_orientations_agree_with_pillow(tmp_path):
    picture = noise(64, 48)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        data = encoded(picture, "PNG", exif=exif)
        expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
        assert pixels.read_image(stored(tmp_path, data)).tobytes() == expected.tobytes(), (
            orientation
        )


def test_damaged_metadata_does_not_lose_the_picture():
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x02\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\x87\x69\0\x04\0\0\0\x01\xff\xff\xff\xff"  # noqa: E501
    facts = pixels.verify(encoded(noise(), "JPEG", exif=exif), **LIMITS)
    assert (facts.width, facts.height) in {(48, 64), (64, 48)}


def test_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (20, 10), colour) for colour in ("red", "lime", "blue")]
    for kind in ("GIF", "WEBP", "PNG"):
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], duration=100)
        red, green, blue = pixels.read_image(stored(tmp_path, data)).getpixel((5, 5))
        assert red > 240
        assert max(green, blue) < 15


def test_transparency_lies_on_white(tmp_path):
    clear = Image.new("RGBA", (10, 10), (0, 0, 0, 0))
    clear.paste((0, 0, 0, 255), (0, 0, 5, 10))
    palette = clear.convert("RGB").quantize(2)
    hidden = palette.getpixel((0, 0))
    for data in (
        encoded(clear, "PNG"),
        encoded(clear.convert("LA"), "PNG"),
        encoded(clear, "GIF"),
        encoded(Image.new("L", (10, 10), 7), "PNG", transparency=7),
    ):
        shown = pixels.read_image(stored(tmp_path, data))
        assert shown.mode == "RGB"
        assert shown.getpixel((8, 5)) == (255, 255, 255)
    shown = pixels.read_image(stored(tmp_path, encoded(palette, "PNG", transparency=hidden)))
    assert shown.getpixel((0, 0)) == (255, 255, 255)


def writing(
    text: str, colour: tuple[int, int, int], icon: tuple[int, int, int] | None = None
) -> Image.Image:
    """A text on nothing, as a logo made for a dark page is stored."""
    layer = Image.new("RGBA", (200, 40), (*colour, 0))
    ImageDraw.Draw(layer).text((45, 5), text, (*colour, 255), ImageFont.load_default(24))
    if icon:
        layer.paste((*icon, 255), (5, 5, 35, 35))
    return layer


@pytest.mark.parametrize("colour", [(255, 255, 255), (250, 250, 235), (225, 225, 225)])
def test_white_writing_on_nothing_lies_on_what_contrasts(tmp_path, colour):
    hashes = set()
    for text in ("Harbour", "Lighthouse"):
        data = encoded(writing(text, colour), "PNG")
        assert pixels.read_image(stored(tmp_path, data)).getpixel((199, 0)) == (0, 0, 0)
        hashes.add(pixels.verify(data, **LIMITS).perceptual_hash)
        assert decoded_uri(tmp_path / "picture").getpixel((199, 0)) == (0, 0, 0)
    assert len(hashes) == 2
    shown = pixels.read_image(
        stored(tmp_path, encoded(writing("Harbour", colour, (230, 120, 30)), "PNG"))
    )
    assert shown.getpixel((199, 0)) == (0, 0, 0)


@pytest.mark.parametrize("colour", [(0, 0, 0), (200, 30, 30), (128, 128, 128), (230, 120, 30)])
def test_other_writing_on_nothing_lies_on_white(tmp_path, colour):
    shown = pixels.read_image(stored(tmp_path, encoded(writing("Harbour", colour), "PNG")))
    assert shown.getpixel((199, 0)) == (255, 255, 255)


def test_a_bright_page_with_round_corners_stays_on_white(tmp_path):
    page = Image.new("RGBA", (200, 120), "white")
    ImageDraw.Draw(page).text((20, 40), "Opening hours", "black", ImageFont.load_default(24))
    corners = Image.new("L", page.size, 0)
    ImageDraw.Draw(corners).rounded_rectangle((0, 0, 199, 119), 20, 255)
    page.putalpha(corners)
    shown = pixels.read_image(stored(tmp_path, encoded(page, "PNG")))
    assert shown.getpixel((0, 0)) == (255, 255, 255)


def test_cmyk_bilevel_and_palette_become_rgb(tmp_path):
    for mode, kind in (
        ("CMYK", "JPEG"),
        ("1", "PNG"),
        ("P", "PNG"),
        ("L", "JPEG"),
        ("LAB", "TIFF"),
    ):
        white = Image.new("RGB", (16, 16), "white")
        image = (
            Image.new("LAB", (16, 16), (255, 128, 128)) if mode == "LAB" else white.convert(mode)
        )
        shown = pixels.read_image(stored(tmp_path, encoded(image, kind)))
        assert shown.mode == "RGB"
        assert min(shown.getpixel((8, 8))) > 250, mode


def test_sixteen_bit_grey_keeps_its_shades(tmp_path):
    ramp = np.linspace(0, 65535, 256).astype(np.uint16)[None, :].repeat(8, axis=0)
    shown = pixels.read_image(stored(tmp_path, encoded(Image.fromarray(ramp), "PNG")))
    assert [shown.getpixel((x, 0))[0] for x in (0, 64, 128, 255)] == [0, 64, 128, 255]
    unit = Image.fromarray(np.linspace(0, 1, 256, dtype=np.float32)[None, :].repeat(8, axis=0))
    shown = pixels.read_image(stored(tmp_path, encoded(unit, "TIFF")))
    assert shown.getpixel((128, 0)) == (128, 128, 128)


def test_what_is_no_picture_says_why():
    assert reason(b"") == "empty"
    assert reason(b"<!DOCTYPE html><title>404 Not Found</title>") == "not_an_image"
    assert (
        reason(b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>')
        == "unsupported_format"
    )
    assert reason(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n") == "unsupported_format"
    assert reason(b"%PDF-1.7\n") == "unsupported_format"
    assert reason(b"\x89PNG\r\n\x1a\n" + b"\0" * 40) == "broken"
    assert reason(encoded(noise(), "PNG"), max_bytes=100) == "too_many_bytes"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"])
def test_a_truncated_file_fails(kind):
    data = encoded(noise(200, 160), kind)
    for share in (0.3, 0.6, 0.9):
        assert reason(data[: int(len(data) * share)]) in {"truncated", "broken"}


def test_a_damaged_checksum_fails():
    data = bytearray(encoded(noise(), "PNG"))
    at = data.index(b"IDAT")
    data[at + 20] ^= 0xFF
    assert reason(bytes(data)) in {"truncated", "broken"}


def bomb(width: int, height: int) -> bytes:
    """A valid PNG header that claims a size, with next to no pixels behind it."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


def test_pixels_are_counted_before_decoding(monkeypatch):
    def load(self: ImageFile.ImageFile) -> None:
        raise AssertionError("decoded")

    with monkeypatch.context() as patch:
        patch.setattr(ImageFile.ImageFile, "load", load)
        for side in (4_000, 10_000, 60_000):  # above the limit, Pillow's warning, Pillow's error
            assert reason(bomb(side, side)) == "too_many_pixels"
    assert reason(bomb(100, 100)) in {"truncated", "broken"}


def test_no_global_state_of_pillow_or_warnings_changes():
    before = (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, list(warnings.filters))
    pixels.verify(encoded(noise(), "PNG"), **LIMITS)
    reason(bomb(10_000, 10_000))
    assert (
        Image.MAX_IMAGE_PIXELS,
        ImageFile.LOAD_TRUNCATED_IMAGES,
        list(warnings.filters),
    ) == before


def test_scaled_never_enlarges():
    assert pixels.scaled(noise(64, 48), 32).size == (32, 24)
    assert pixels.scaled(noise(48, 64), 32).size == (24, 32)
    assert pixels.scaled(noise(64, 48), 100).size == (64, 48)
    assert pixels.scaled(noise(64, 48), 0).size == (64, 48)
    assert pixels.scaled(Image.new("RGB", (2000, 2)), 100).size == (100, 1)


def decoded(uri: str) -> tuple[str, bytes]:
    head, body = uri.split(";base64,")
    return head.removeprefix("data:"), base64.b64decode(body)


def decoded_uri(path: Path) -> Image.Image:
    return Image.open(io.BytesIO(decoded(pixels.encode_data_uri(path, side=0))[1]))


def test_data_uri_sends_a_plain_file_as_it_is(tmp_path):
    for kind, media in (
        ("PNG", "image/png"),
        ("JPEG", "image/jpeg"),
        ("GIF", "image/gif"),
        ("WEBP", "image/webp"),
    ):
        data = encoded(noise(), kind)
        path = stored(tmp_path, data)
        assert decoded(pixels.encode_data_uri(path, side=0)) == (media, data)
        assert decoded(pixels.encode_data_uri(path, side=64)) == (media, data)


def test_data_uri_scales_and_repeats(tmp_path):
    path = stored(tmp_path, encoded(noise(400, 300), "JPEG"))
    uri = pixels.encode_data_uri(path, side=100)
    assert uri == pixels.encode_data_uri(path, side=100)
    media, data = decoded(uri)
    assert media == "image/jpeg"
    assert Image.open(io.BytesIO(data)).size == (100, 75)


def test_data_uri_re_encodes_what_receivers_read_differently(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    clear = Image.new("RGBA", (40, 20), (0, 0, 0, 0))
    frames = [Image.new("RGB", (40, 20), colour) for colour in ("red", "blue")]
    for data, size in (
        (encoded(noise(40, 24), "JPEG", exif=exif), (24, 40)),
        (encoded(clear, "PNG"), (40, 20)),
        (encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]), (40, 20)),
        (encoded(noise(40, 24).convert("CMYK"), "JPEG"), (40, 24)),
        (encoded(noise(40, 24), "BMP"), (40, 24)),
    ):
        media, sent = decoded(pixels.encode_data_uri(stored(tmp_path, data), side=0))
        assert media in {"image/png", "image/jpeg"}
        image = Image.open(io.BytesIO(sent))
        assert (image.size, image.mode) == (size, "RGB")
        assert sent != data


def test_perceptual_hash_survives_scaling_and_tells_pictures_apart():
    def bits(a: Image.Image, b: Image.Image) -> int:
        return (int(pixels.perceptual_hash(a), 16) ^ int(pixels.perceptual_hash(b), 16)).bit_count()

    picture = noise(256, 192)
    assert bits(picture, pixels.scaled(picture, 128)) <= 4
    assert bits(picture, noise(256, 192, seed=1)) >= 12


def test_reading_a_broken_file_raises_the_same_error(tmp_path):
    with pytest.raises(pixels.ImageError, match="not_an_image"):
        pixels.read_image(stored(tmp_path, b"nothing to see here"))
    with pytest.raises(FileNotFoundError):
        pixels.read_image(tmp_path / "absent.png")
