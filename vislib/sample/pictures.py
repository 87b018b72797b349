"""The catalogue behind the image links of the embedded pages (VisCon-100K, section 3.1: images are links only)."""

import tomllib
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

_FOLDER = Path(__file__).parent
_FORMATS = {".jpg": "jpeg", ".png": "png", ".gif": "gif"}
LONGEST_SIDE = 640  # px


@cache
def catalogue() -> dict[str, dict[str, Any]]:
    """File name of every picture that the pages show, with what makes it: a few kilobytes of text."""
    entries: dict[str, dict[str, Any]] = {}
    for source in ("photographs.toml", "drawings.toml"):
        entries |= tomllib.loads((_FOLDER / source).read_text(encoding="utf-8"))
    return entries


def name_of(url: str) -> str:
    """The file name at the end of an address, without folders and query."""
    return PurePosixPath(urlsplit(url).path).name


def format_of(name: str) -> str:
    """The image format that the file name promises."""
    return _FORMATS[Path(name).suffix]


def size(name: str) -> tuple[int, int]:
    """Width and height in px as shown, known without making the picture."""
    entry = catalogue()[name]
    if "box" not in entry:
        width, height = entry.get("size", (640, 420))
        return width, height
    left, top, right, bottom = entry["box"]
    scale = min(entry.get("scale", 1), LONGEST_SIDE / max(right - left, bottom - top))
    return round((right - left) * scale), round((bottom - top) * scale)


def encoded(name: str) -> bytes | None:
    """The picture's bytes, the same on every call; None for a dead link and for an unknown name."""
    entry = catalogue().get(name, {"dead": True})
    if entry.get("dead"):
        return None
    if "bytes" in entry:  # an address that answers with something that is no image
        return str(entry["bytes"]).encode()
    if "of" in entry:
        from vislib.sample import photographs

        return photographs.encoded(entry, size(name), format_of(name))
    from vislib.sample import drawings

    return drawings.encoded(entry, size(name))
