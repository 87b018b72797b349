"""Interleaved documents that come with the library, in the OBELICS form (VisCon-100K, section 3.1).

`pages/*.md` hold the web pages, one readable text file each: the page's address, its title after `#
`, paragraphs, and images as `![alt](address)`. `images/` holds what answers at the addresses of the
images, by file name. The addresses use the reserved example domains. Licences:
`images/LICENCES.md`.
"""

import json
import re
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urljoin, urlsplit

from PIL import Image, ImageOps

_HERE = Path(__file__).parent
# Sizes in px as the page's crawl stated them: three dead links, and one that answers with a page
_NO_PICTURE = {
    "spring-banner.jpg": (960, 240),
    "summer-palace-plan.jpg": (800, 600),
    "old-workshop.jpg": (640, 480),
    "visitor-map.jpg": (640, 480),
}
_IMAGE = re.compile(r"!\[(?P<alt>[^\]]*)\]\((?P<src>\S+)\)(?:\{(?P<attributes>[^}]*)\})?")


def rows() -> Iterator[dict[str, Any]]:
    """The documents as OBELICS rows (columns images, texts, metadata, general_metadata), in order
    of file name.

    A few rows are broken on purpose, as rows of a crawl are: see `damaged`.
    """
    for path in paths():
        row = read_page(path)
        yield row
        yield from damaged(path.stem, row)


def image_file(url: str) -> Path:
    """Where the picture of an address lies, by the name at its end; dead links have no file."""
    return _HERE / "images" / PurePosixPath(urlsplit(url).path).name


def image_bytes(url: str) -> bytes | None:
    """What answers at an address of the embedded pages; None where nobody does (a dead link)."""
    file = image_file(url)
    return file.read_bytes() if file.is_file() else None


def paths() -> list[Path]:
    """The page files in order of name; `NAME.fr.md` is a page in French, without a code it is
    English.
    """
    return sorted((_HERE / "pages").glob("*.md"))


def read_page(path: Path) -> dict[str, Any]:
    """One page file as an OBELICS row: `images` and `texts` of equal length, exactly one non-null
    per index.
    """
    address, _, body = path.read_text(encoding="utf-8").partition("\n")
    blocks = list(_blocks(body))
    metadata = [_image(block, address) for block in blocks]
    general = {
        "url": address,
        "warc_filename": f"vislib/sample/pages/{path.name}",
        "warc_record_offset": 0,
        "warc_record_length": path.stat().st_size,
    }
    return {
        "images": [entry and entry["src"] for entry in metadata],
        "texts": [None if entry else block for block, entry in zip(blocks, metadata, strict=True)],
        "metadata": json.dumps(metadata, ensure_ascii=False),
        "general_metadata": json.dumps(general, ensure_ascii=False),
    }


def damaged(page: str, row: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What a crawl does to rows: after some pages comes a copy of the row that breaks one rule of
    the form.
    """
    changes: dict[str, dict[str, Any]] = {
        "coffee-cup": {},  # the same page once more
        "rocket-pad": {"texts": row["texts"][:-1]},
        "textures": {"images": [None] * len(row["images"])},
        "clock-face": {"texts": ["caption"] * len(row["texts"])},
        "osi-model": {"metadata": row["metadata"][:-20]},
        "eclipse-note": {"general_metadata": "{url: none}"},
        # A byte of Latin-1 where UTF-8 is meant, as Python keeps it.
        "retina": {"texts": [text and text.replace("i", "\udced", 1) for text in row["texts"]]},
    }
    if page in changes:
        yield row | changes[page]


def _blocks(body: str) -> Iterator[str]:
    """Image lines one by one; the paragraphs between two images together, headings without their
    marks.
    """
    blocks = (block.strip() for block in re.split(r"\n\s*\n", body.strip()))
    for is_text, group in groupby(blocks, key=lambda block: _IMAGE.fullmatch(block) is None):
        if not is_text:
            yield from group
        else:
            yield "\n\n".join(re.sub("^#+ ", "", block) for block in group)


def _image(block: str, address: str) -> dict[str, Any] | None:
    """The metadata of an image line, None for text. Keys that the page does not give are absent, as
    in OBELICS.
    """
    match = _IMAGE.fullmatch(block)
    if match is None:
        return None
    src = urljoin(address, match["src"])
    file = image_file(src)
    width, height = _NO_PICTURE.get(file.name) or _size(file)
    counted = file.stem.startswith("IMG_")  # what a camera counts up is no name
    entry: dict[str, Any] = {
        "document_url": address,
        "unformatted_src": match["src"],
        "src": src,
        "formatted_filename": None if counted else re.sub("[-_]", " ", file.stem),
        "alt_text": match["alt"] or None,
        "original_width": width,
        "original_height": height,
        "format": file.suffix[1:].replace("jpg", "jpeg"),
    }
    for key, value in re.findall(r"(\w+)=(\S+)", match["attributes"] or ""):
        entry[f"rendered_{key}"] = int(value) if value.isdigit() else value  # or `100%`
    return {key: value for key, value in entry.items() if value is not None}


def _size(file: Path) -> tuple[int, int]:
    """Width and height in px as shown: a camera held upright says so in EXIF alone."""
    with Image.open(file) as picture:
        return ImageOps.exif_transpose(picture).size
