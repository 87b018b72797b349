"""Reading pictures as they are found on the web, in one form: sRGB, upright, the first frame,
opaque.

Web pages (VisCon-100K, section 3.1) carry CMYK, palette, 16-bit, transparent, rotated and animated
pictures, colour profiles, broken metadata around good pixels, and files that are not what they say.
They stay on disk as fetched; every stage sees them through `read_image`, and nothing is kept that
`verify` did not decode.
"""

import base64
import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import IO, Literal

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.Image import Transpose

from vislib.media.formats import LOOKED_AT, mended, to_srgb, why_unread

Reason = Literal[
    "empty",
    "too_many_bytes",
    "too_many_pixels",
    "too_small",
    "not_an_image",
    "unsupported_format",
    "truncated",
    "broken",
    "not_found",
    "outside_root",
    "bad_url",
    "unreadable",
    # of the web: dead or refused, opted out, no address, not a public one, no answer, too few or
    # bad ones
    "forbidden",
    "http_error",
    "opted_out",
    "no_address",
    "not_public",
    "too_many_redirects",
    "bad_certificate",
    "unreachable",
    "timed_out",
    "disconnected",
    "rate_limited",
    "server_error",
    "host_failed",
    # not asked for, as no parameter said so
    "not_asked",
]
# What Pillow may try, and the ending of a stored file: a closed list keeps its EPS interpreter out
# of reach.
ENDINGS = {
    "JPEG": "jpg",
    "PNG": "png",
    "GIF": "gif",
    "WEBP": "webp",
    "AVIF": "avif",
    "BMP": "bmp",
    "TIFF": "tif",
    "ICO": "ico",
    "JPEG2000": "jp2",
}
_SENT = {"JPEG", "PNG", "GIF", "WEBP"}  # what model servers take
# By EXIF's orientation 2 to 8. ImageOps.exif_transpose also writes the metadata anew, which fails
# if damaged.
_TURNS = (
    Transpose.FLIP_LEFT_RIGHT,
    Transpose.ROTATE_180,
    Transpose.FLIP_TOP_BOTTOM,
    Transpose.TRANSPOSE,
    Transpose.ROTATE_270,
    Transpose.TRANSVERSE,
    Transpose.ROTATE_90,
)
_LOSSY = {"JPEG", "WEBP", "AVIF", "JPEG2000"}


class ImageError(ValueError):
    """A picture that cannot be used: `reason` is one of `Reason`, `detail` says what was found."""

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


@dataclass(frozen=True)
class ImageFacts:
    """Width and height in pixels **as shown** (EXIF rotation applied), format, 64-bit perceptual
    hash.
    """

    width: int
    height: int
    format: str
    perceptual_hash: str


def read_image(path: str | Path) -> Image.Image:
    """The picture in sRGB, upright by EXIF, first frame, transparency on white or what contrasts.

    Raises ImageError, and OSError for a file that cannot be read.
    """
    return _read(Path(path).read_bytes())[0]


def verify(data: bytes, *, max_bytes: int, max_pixels: int) -> ImageFacts:
    """Decode the whole first frame of `data` within limits and describe it; raises ImageError.

    Pixels are counted from the header, before anything is decoded.
    """
    if not data:
        raise ImageError("empty", "0 bytes")
    if len(data) > max_bytes:
        raise ImageError("too_many_bytes", f"{len(data)} bytes, at most {max_bytes}")

    with warnings.catch_warnings(action="ignore"):  # remarks on metadata
        shown, kind, _ = _read(data, max_pixels)
    return ImageFacts(*shown.size, kind, perceptual_hash(shown))


def perceptual_hash(image: Image.Image) -> str:
    """The 64-bit DCT hash of the ImageHash package as 16 hex digits; alike pictures differ in few
    bits.
    """
    import imagehash

    return str(imagehash.phash(image))


def scaled(image: Image.Image, side: int) -> Image.Image:
    """The picture made smaller so that its longest side is at most `side` px (0: as it is); never
    larger.
    """
    small = image.copy()
    if side:
        small.thumbnail((side, side), Image.Resampling.LANCZOS)
    return small


def encode_data_uri(path: str | Path, *, side: int) -> str:
    """A `data:` URI of `portable`, with JPEG in place of PNG where the file was lossy."""
    data, kind = portable(path, side=side, lossy=True)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(data).decode('ascii')}"


def portable(path: str | Path, *, side: int = 0, lossy: bool = False) -> tuple[bytes, str]:
    """A file that every receiver reads as `read_image` does, and its format.

    `side`: px to which the longest side is scaled down (0: not). The file's own bytes go out when
    they already are that picture (PNG, JPEG, GIF or WebP; fits, upright, opaque, in sRGB, not
    animated, nothing to mend): receivers differ on the rest. Otherwise PNG; with `lossy`, JPEG
    (full chroma, so that coloured text stays legible) if the file was lossy. Same file and side,
    same bytes. Raises ImageError, and OSError as `read_image` does.
    """
    data = Path(path).read_bytes()
    shown, kind, as_it_is = _read(data)
    if as_it_is and kind in _SENT and (not side or max(shown.size) <= side):
        return data, kind
    # JPEG of a lossless file would blur its edges; PNG of a photograph is several times as large.
    kind = "JPEG" if lossy and kind in _LOSSY else "PNG"
    stream = io.BytesIO()
    scaled(shown, side).save(stream, kind, quality=90, subsampling=0)
    return stream.getvalue(), kind


def _read(data: bytes, max_pixels: int = 0) -> tuple[Image.Image, str, bool]:
    """The picture as it is shown, its format, and whether the file as it stands shows the same."""
    failures: list[ImageError] = []
    for file in chain([data], mended(data)):
        try:
            with _opened(io.BytesIO(file)) as image:
                if 0 < max_pixels < image.width * image.height:
                    size = f"{image.width} x {image.height}"
                    raise ImageError("too_many_pixels", f"{size}, at most {max_pixels}")
                # A JPEG with further pictures behind the first (MPO) is a JPEG.
                kind = "JPEG" if image.format == "MPO" else str(image.format)
                return _normalised(image), kind, file is data and _plain(image)
        except ImageError as error:
            if error.reason not in {"broken", "truncated"}:  # too large, say
                raise
            failures.append(error)
    raise failures[0]  # what is wrong with the file as it is


@contextmanager
def _opened(stream: IO[bytes]) -> Iterator[Image.Image]:
    """An undecoded picture; whatever a broken file makes Pillow raise becomes an ImageError."""
    try:
        with Image.open(stream, formats=list(ENDINGS)) as image:
            yield image
    except (ImageError, MemoryError):  # a full machine says nothing about the picture
        raise
    except Image.DecompressionBombError as error:
        raise ImageError("too_many_pixels", str(error)) from error
    except UnidentifiedImageError as error:
        raise ImageError(*_unread(stream)) from error
    except Exception as error:  # decoders meet hostile bytes with any exception there is
        if (other := _unread(stream))[0] != "broken":  # a text that begins with BM, say
            raise ImageError(*other) from error
        # Pillow has no class of its own for a file that ends too soon.
        cut_off = isinstance(error, EOFError) or "truncated" in str(error).lower()
        detail = f"{type(error).__name__}: {error}"
        raise ImageError("truncated" if cut_off else "broken", detail) from error


def _unread(stream: IO[bytes]) -> tuple[Reason, str]:
    stream.seek(0)
    return why_unread(stream.read(LOOKED_AT))


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(0x0112, 1))
    except Exception:  # damaged metadata costs no picture: browsers show it unrotated
        return 1


def _plain(image: Image.Image) -> bool:
    """Whether the file as it stands shows what `_normalised` makes of it."""
    opaque = image.mode in {"1", "L", "P", "RGB"} and not image.has_transparency_data
    upright = opaque and not 2 <= _orientation(image) <= 8
    return upright and to_srgb(image) is None and getattr(image, "n_frames", 1) == 1


def _normalised(image: Image.Image) -> Image.Image:
    image.load()
    # Before anything else: turning and converting lose the profile and the orientation.
    orientation, in_srgb = _orientation(image), to_srgb(image)
    turned = image.transpose(_TURNS[orientation - 2]) if 2 <= orientation <= 8 else image
    if turned.mode[0] in "IF":
        turned = _eight_bit(turned)
    alpha = None
    if turned.has_transparency_data:
        layer = turned.convert("RGBA")
        # Colours and transparency part: a profile speaks of colours alone.
        turned = layer.convert("L" if turned.mode in {"L", "LA"} else "RGB")
        alpha = layer.getchannel("A")
    shown = (in_srgb(turned) if in_srgb else turned).convert("RGB")
    if alpha:
        shown = _opaque(shown, alpha)
    shown.info.clear()  # a profile that was applied, or not, must not be saved with these pixels
    return shown


def _opaque(colours: Image.Image, alpha: Image.Image) -> Image.Image:
    """The picture on white, as browsers show it; on black if most of it would be lost on white.

    White writing made for a dark page is such a picture. Edges tell: on black they must be twice as
    strong, which leaves a flat logo of up to two thirds of white's brightness on white.
    """
    grounds = [Image.new("RGB", colours.size, ground) for ground in ("white", "black")]
    on_white, on_black = (Image.composite(colours, ground, alpha) for ground in grounds)
    return on_black if _edges(on_black) > 2 * _edges(on_white) else on_white


def _edges(image: Image.Image) -> float:
    """Sum of the differences between neighbouring pixels of the grey picture, seen at 1,024 px."""
    small = scaled(image.convert("L"), 1024)
    values = np.asarray(small, dtype=np.int16)
    return float(sum(np.abs(np.diff(values, axis=axis)).sum() for axis in (0, 1)))


def _eight_bit(image: Image.Image) -> Image.Image:
    """Grey of 16 or 32 bits scaled to 8 by its range; Pillow's own conversion cuts everything above
    255.
    """
    values = np.nan_to_num(np.asarray(image, dtype=np.float64))
    # Other modes than 16 bits do not say their range: the largest value is taken for white.
    top = 65535.0 if image.mode.startswith("I;16") else max(float(values.max()), 1.0)
    grey = np.clip(values / top * 255 + 0.5, 0, 255)
    return Image.fromarray(grey.astype(np.uint8))
