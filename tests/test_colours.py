"""A picture's own colours end as sRGB, whatever profile says them, and go out without it."""

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from tests import colour_profiles as profiles
from vislib.media import pixels

ORANGE = (230, 120, 30)


def stored(folder: Path, image: Image.Image, kind: str, **options: object) -> Path:
    path = folder / "picture"
    image.save(path, kind, **options)
    return path


def seen(path: Path) -> tuple[int, ...]:
    return pixels.read_image(path).getpixel((4, 4))


def sent(path: Path, side: int) -> Image.Image:
    data = pixels.encode_data_uri(path, side=side).partition(",")[2]
    return Image.open(io.BytesIO(base64.b64decode(data)))


def in_space(colour: tuple[int, ...], profile: bytes, mode: str = "RGB") -> Image.Image:
    """A picture of one sRGB colour, in the numbers that the profile has for it."""
    plain = Image.new("RGB", (64, 64), colour)
    return ImageCms.profileToProfile(
        plain,
        ImageCms.createProfile("sRGB"),
        ImageCms.ImageCmsProfile(io.BytesIO(profile)),
        outputMode=mode,
    )


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize(
    "profile",
    [
        profiles.rgb(profiles.ADOBE, 2.2),
        profiles.rgb(profiles.PROPHOTO, 1.8),
        profiles.rgb(profiles.SRGB, 1.0),
        profiles.rgb(profiles.SWAPPED, 2.2),
    ],
    ids=["adobe", "prophoto", "linear", "swapped"],
)
def test_what_a_profile_says_is_what_is_seen_and_sent(tmp_path, kind, profile):
    image = in_space(ORANGE, profile)
    assert max(abs(a - b) for a, b in zip(image.getpixel((4, 4)), ORANGE, strict=True)) > 8
    path = stored(tmp_path, image, kind, icc_profile=profile, quality=100, lossless=True)
    assert seen(path) == pytest.approx(ORANGE, abs=6)
    for side in (0, 32):
        out = sent(path, side)
        assert "icc_profile" not in out.info
        assert out.convert("RGB").getpixel((4, 4)) == pytest.approx(ORANGE, abs=8)


def test_a_profile_that_changes_nothing_leaves_the_file_as_it_is(tmp_path):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    path = stored(tmp_path, Image.new("RGB", (64, 64), ORANGE), "PNG", icc_profile=profile)
    assert seen(path) == ORANGE
    assert pixels.portable(path) == (path.read_bytes(), "PNG")
    assert "icc_profile" not in sent(path, 32).info


def test_inks_are_read_by_their_profile(tmp_path):
    cyan = Image.new("CMYK", (64, 64), (255, 0, 0, 0))
    for kind in ("TIFF", "JPEG"):
        shown = seen(stored(tmp_path, cyan, kind, icc_profile=profiles.cmyk()))
        assert max(shown) - min(shown) < 12, kind  # a grey, where the formula gives cyan
        assert 90 < shown[0] < 160
        out = sent(tmp_path / "picture", 0)
        assert (out.mode, "icc_profile" in out.info) == ("RGB", False)
        assert out.getpixel((4, 4)) == pytest.approx(shown, abs=4)
    assert seen(stored(tmp_path, cyan, "TIFF"))[0] < 20


def test_grey_and_transparent_pictures_are_read_by_their_profile(tmp_path):
    grey = stored(tmp_path, Image.new("L", (64, 64), 55), "PNG", icc_profile=profiles.grey(1.0))
    assert seen(grey) == pytest.approx((128, 128, 128), abs=3)
    sixteen = Image.fromarray(np.full((64, 64), 55 * 257, np.uint16))
    assert seen(stored(tmp_path, sixteen, "PNG", icc_profile=profiles.grey(1.0))) == pytest.approx(
        (128,) * 3, abs=3
    )
    profile = profiles.rgb(profiles.ADOBE, 2.2)
    layer = in_space(ORANGE, profile).convert("RGBA")
    layer.paste((0, 0, 0, 0), (32, 0, 64, 64))
    path = stored(tmp_path, layer, "PNG", icc_profile=profile)
    assert seen(path) == pytest.approx(ORANGE, abs=3)
    assert pixels.read_image(path).getpixel((60, 4)) == (255, 255, 255)
    palette = in_space(ORANGE, profile).quantize(4)
    assert seen(stored(tmp_path, palette, "PNG", icc_profile=profile)) == pytest.approx(
        ORANGE, abs=3
    )


@pytest.mark.parametrize(
    "profile",
    [
        b"no profile",
        profiles.rgb(profiles.ADOBE, 2.2)[:150],
        profiles.cmyk(),
        profiles.grey(1.0),
        b"\0" * 500,
    ],
)
def test_a_profile_that_is_broken_or_of_another_kind_is_ignored(tmp_path, profile):
    path = stored(tmp_path, Image.new("RGB", (64, 64), ORANGE), "PNG", icc_profile=profile)
    assert seen(path) == ORANGE
    assert "icc_profile" not in sent(path, 32).info
