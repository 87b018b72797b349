"""`vislib.media.formats`: a file that is no picture of ours is called what it is."""

import io
import struct

import pytest
from PIL import Image

from vislib.media import pixels

SVG = '<svg xmlns="http://www.w3.org/2000/svg"><path d="M0 0"/></svg>'
XML = '<?xml version="1.0" encoding="UTF-8"?>\n'
DOCTYPE = '<!DOCTYPE svg PUBLIC "-//W3C//DTD SVG 1.1//EN" "http://www.w3.org/Graphics/SVG/1.1/DTD/svg11.dtd"'
HTML = "<html><body>{}<p>Not found</p></body></html>"


def boxes(brand: bytes, *compatible: bytes, first: bytes = b"ftyp") -> bytes:
    body = brand + bytes(4) + b"".join(compatible)
    return (
        struct.pack(">I", 8 + len(body))
        + first
        + body
        + struct.pack(">I", 900)
        + b"mdat"
        + bytes(900)
    )


def saved(kind: str, length: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (9, 9)).save(stream, kind)
    return stream.getvalue()[:length]


UNSUPPORTED = {
    "HEIF": [
        boxes(b"heic", b"mif1", b"heic"),
        boxes(b"mif1", b"heic"),
        boxes(b"heix"),
        boxes(b"msf1"),
        boxes(b"hevc"),
    ],
    "JPEG XL": [b"\0\0\0\x0cJXL \r\n\x87\n" + boxes(b"jxl "), b"\xff\x0a\xfa\x1f\x01\x90"],
    "MP4 or QuickTime video": [
        boxes(b"isom", b"iso2", b"mp41"),
        boxes(b"mp42"),
        boxes(b"qt  "),
        boxes(b"M4V "),
        boxes(b"3gp5"),
        boxes(b"", first=b"moov"),
        boxes(b"", first=b"wide"),
    ],
    "SVG": [
        text.encode()
        for text in (
            SVG,
            XML + SVG,
            XML + DOCTYPE + ">" + SVG,
            f"\ufeff \n{XML}<!-- made\nby hand -->{SVG}",
            DOCTYPE + "[" + "x" * 999,
            XML + DOCTYPE.lower().replace("svg", "SVG") + " [<!ENTITY a '>'>\n]>" + SVG,
            "<!-- -->" * 99 + SVG,
            f"<!--{'licence ' * 5000}-->{SVG}",
            '<svg:svg xmlns:svg="x"/>',
            "<!DOCTYPE x [<!ENTITY a 'b'>]><svg>",
        )
    ]
    + [(XML + SVG).encode("utf-16")],
    "AVI video": [b"RIFF\x99\0\0\0AVI LIST"],
    "Matroska or WebM video": [b"\x1a\x45\xdf\xa3" + bytes(9)],
    "PDF": [b"%PDF-1.7\n", b"\n%PDF-1.4"],
    "PostScript": [b"%!PS-Adobe-3.0 EPSF-3.0\n", b"\xc5\xd0\xd3\xc6" + bytes(28)],
    "PSD": [b"8BPS\0\1" + bytes(20)],
    "Windows cursor": [b"\0\0\2\0\1\0" + bytes(16)],
    "gzip": [b"\x1f\x8b\x08" + bytes(16)],
}
NO_IMAGES = [
    text.encode()
    for text in (
        "<!DOCTYPE html>" + HTML.format(SVG),
        HTML.format(SVG),
        f"<div>{SVG}</div>",
        f"404 {SVG}",
        "<svgs>",
        "<!-- " + SVG,
        XML + '<!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0//EN" "xhtml1.dtd">' + HTML.format(SVG),
        "<br />\n<b>Warning</b>: " + SVG,
        '{"error": "<svg>"}',
        "BMW builds cars and motorcycles",
        "Citywide news",
        "See %PDF- and %!PS",
        "ID30",
    )
] + [bytes(100), b"\0\0\0\x20abcd" + bytes(99)]
BROKEN = [
    saved("PNG", 12),
    saved("JPEG", 4),
    saved("GIF", 7),
    saved("WEBP", 20),
    saved("BMP", 9),
    saved("TIFF", 5),
    saved("AVIF", 60),
    b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(9),
    boxes(b"mif1", b"avif"),
    b"RIFF\1\0",
]


def verdict(data: bytes) -> tuple[str, str]:
    with pytest.raises(pixels.ImageError) as caught:
        pixels.verify(data, max_bytes=10**6, max_pixels=10**6)
    return caught.value.reason, caught.value.detail


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_formats_that_are_not_read_are_named(name):
    assert [verdict(data) for data in UNSUPPORTED[name]] == [("unsupported_format", name)] * len(
        UNSUPPORTED[name]
    )


def test_pages_and_texts_are_no_images_whatever_they_hold():
    assert [data for data in NO_IMAGES if verdict(data)[0] != "not_an_image"] == []


def test_damaged_headers_of_what_is_read_are_broken():
    assert [data for data in BROKEN if verdict(data)[0] not in ("broken", "truncated")] == []
