"""What the first bytes of a file say that it is, where no decoder knows it: why a link gave no
picture.

A ledger that calls a video "a damaged header" or an error page "SVG" sends its reader the wrong
way.
"""

import re
from typing import Literal

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


def unread(head: bytes) -> tuple[Literal["broken", "unsupported_format", "not_an_image"], str]:
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
