"""From the colours that a file states to sRGB, which models, people and measurements all expect.

A camera's Adobe RGB or a phone's Display P3 read as sRGB shows orange as brown; a CMYK profile
means nothing beside RGB pixels. So a picture's profile is applied once when it is read. One that is
broken or of another kind than the pixels is ignored, as browsers do. (PNG's gAMA and cHRM and a
video's code points are not read.)
"""

import io
from collections.abc import Callable
from functools import lru_cache

from PIL import Image, ImageCms

Conversion = Callable[[Image.Image], Image.Image]
# Modes of pixels that a profile may speak of; Pillow's others are brought into RGB first.
_MODES = {"1": "L", "L": "L", "LA": "L", "I;16": "L", "I": "L", "F": "L", "CMYK": "CMYK"}
_SRGB = {"sRGB", "sRGB built-in", "sRGB IEC61966-2.1"}  # profiles that change nothing


def to_srgb(image: Image.Image) -> Conversion | None:
    """What brings the picture into sRGB (mode L, RGB or CMYK in, RGB out); None if it is there."""
    profile = image.info.get("icc_profile")
    return _by_profile(bytes(profile), _MODES.get(image.mode, "RGB")) if profile else None


@lru_cache(maxsize=16)
def _by_profile(profile: bytes, mode: str) -> Conversion | None:
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if ImageCms.getProfileDescription(source).strip() in _SRGB:
            return None
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
        return None

    # The picture in the profile's own mode: a grey profile knows no RGB.
    def convert(image: Image.Image) -> Image.Image:
        converted = ImageCms.applyTransform(image.convert(mode), transform)
        return converted if converted is not None else image

    return convert
