"""What a picture file holds: its kind by its first bytes, colours brought to sRGB, and good pixels
where metadata or the last bytes are bad, as browsers show them.
"""

import io
import re
import zlib
from collections.abc import Callable, Collection, Iterator
from functools import lru_cache
from typing import Literal

from PIL import Image, ImageCms

# ---- signatures: a ledger that calls a video "a damaged header", or an error page "SVG", sends its
# reader the wrong way
LOOKED_AT = 64 * 1024  # bytes; a drawing may begin with a long comment
_DAMAGED = "the header is incomplete or damaged"
_READ = re.compile(  # beginnings of what this house reads
    rb"\x89PNG|\xff\xd8\xff|GIF8|RIFF(.{0,3}$|.{4}WEBP|.{4}.{0,3}$)|BM(.{0,7}$|.{4}\0{4})|(II|MM)([*+]\0|\0[*+])|"
    rb"\0\0\x01\0|\xff\x4f\xff\x51|\0\0\0\x0cjP  ",
    re.DOTALL,
)
_OTHERS = {
    "HEIF": rb"\0...ftyp(hei[cxms]|hev[cxms]|mif[12]|msf1|miaf)",
    "camera RAW": rb"\0...ftypcrx |FUJIFILMCCD|IIR[OS]|IIU\0",
    "MP4 or QuickTime video": rb"\0...(ftyp|moov|mdat|wide|free|skip|pnot)",
    "JPEG XL": rb"\0\0\0\x0cJXL |\xff\x0a",
    "JPEG XR": rb"II\xbc\x01",
    "AVI video": rb"RIFF....AVI ",
    "WAVE sound": rb"RIFF....WAVE",
    "Matroska or WebM video": rb"\x1a\x45\xdf\xa3",
    "Flash": rb"FLV\x01|[CFZ]WS[\x01-\x2f]",
    "Ogg": rb"OggS",
    "MP3 sound": rb"ID3[\x02-\x04]",
    "PDF": rb"\s*%PDF-",
    "PostScript": rb"\s*%!PS|\xc5\xd0\xd3\xc6",
    "Windows metafile": rb"\xd7\xcd\xc6\x9a|\x01\0\0\0.{36} EMF",
    "Windows cursor": rb"\0\0\x02\0",
    "PSD": rb"8BPS",
    "XCF": rb"gimp xcf",
    "DDS": rb"DDS ",
    "OpenEXR": rb"\x76\x2f\x31\x01",
    "PNM": rb"P[1-7]\s+[\d#]",
    "DjVu": rb"AT&TFORM",
    "gzip": rb"\x1f\x8b\x08",  # SVGZ, mostly
    "zip": rb"PK\x03\x04",
}
_OTHER = {name: re.compile(begin, re.DOTALL) for name, begin in _OTHERS.items()}
_AVIF = re.compile(
    rb"\0...ftyp(?=.{0,60}avi[fs])", re.DOTALL
)  # also where another brand comes first
# What XML may have before its first element.
_PROLOG = r"(?:\s+|<\?.*?\?>|<!--.*?-->|<!DOCTYPE(?!\s+svg)[^>\[]*(?:\[.*?\]\s*)?>)*+"
_SVG = re.compile(rf"{_PROLOG}(?:<!DOCTYPE\s+svg\b|<(?:\w+:)?svg[\s>/])", re.DOTALL | re.IGNORECASE)


def why_unread(head: bytes) -> tuple[Literal["broken", "unsupported_format", "not_an_image"], str]:
    """Reason and detail of a file that no decoder took, by its first `LOOKED_AT` bytes."""
    if _READ.match(head) or _AVIF.match(head):
        return "broken", _DAMAGED
    for name, begin in _OTHER.items():
        if begin.match(head):
            return "unsupported_format", name
    # Last, because it reads all of the head as text.
    if _is_svg(head):
        return "unsupported_format", "SVG"
    return "not_an_image", f"begins with {head[:24]!r}"


def _is_svg(head: bytes) -> bool:
    """Whether a file's first element is a drawing: one within a page makes it no picture."""
    wide = head[:2] in (b"\xff\xfe", b"\xfe\xff")
    text = head.decode("utf-16" if wide else "utf-8-sig", "replace")
    return bool(_SVG.match(text))


# ---- colours: an Adobe RGB or Display P3 read as sRGB shows orange as brown; a CMYK profile means
# nothing beside RGB pixels. A profile that is broken, or of another kind than the pixels, is
# ignored, as browsers do. (PNG's gAMA and cHRM and a video's code points are not read.)
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


# ---- mending: Pillow refuses a PNG for a wrong checksum or a long text beside its pixels, and a
# JPEG for want of its last two bytes. What comes from here is decoded within the same bounds.
_PNG, _JPEG, _END = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"\xff\xd9"
_PIXELS = {b"IHDR", b"PLTE", b"IDAT", b"IEND"}
_LOOK = {b"tRNS", b"eXIf", b"iCCP"}  # change what is seen; kept if they can be
_FILLING = b"\x55\xaa" * 64


def mended(data: bytes) -> Iterator[bytes]:
    """Files that may show the picture of `data`, the best first; none where nothing can be
    mended.
    """
    if data.startswith(_PNG):
        yield _with_chunks(data, _LOOK)
        yield _with_chunks(data, {b"tRNS"})
    elif data.startswith(_JPEG) and _lacks_its_end_alone(data):
        yield data.removesuffix(b"\xff") + _END


def _with_chunks(data: bytes, kept: Collection[bytes]) -> bytes:
    """A PNG of its critical chunks, and of the others those named whose checksum is right."""
    # Length, kind, data, checksum: a file that is cut off ends with its last whole chunk.
    chunks, at = [_PNG], len(_PNG)
    while (end := at + 12 + int.from_bytes(data[at : at + 4])) <= len(data):
        kind, checksum = data[at + 4 : at + 8], int.from_bytes(data[end - 4 : end])
        if kind in _PIXELS or (kind in kept and zlib.crc32(data[at + 4 : end - 4]) == checksum):
            chunks.append(data[at:end])
        at = end
    return b"".join(chunks)


def _lacks_its_end_alone(data: bytes) -> bool:
    """Whether a JPEG holds all its pixels: then what stands behind them changes none."""
    # If pixels were missing, the decoder would read the filling as pixels.
    body = data.removesuffix(b"\xff")
    try:
        seen = []
        for file in (body + _END, body + _FILLING + _END):
            with Image.open(io.BytesIO(file), formats=["JPEG"]) as image:
                seen.append(image.tobytes())
    except Exception:  # decoders meet hostile bytes with any exception there is
        return False
    return seen[0] == seen[1]
