"""Readable page files to OBELICS rows (VisCon-100K, section 3.1): one list slot per run of text or
image.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

from PIL import ExifTags, Image

from vislib.runs.errors import InputError
from vislib.sample import image_file

FOLDER = Path(__file__).parent / "pages"
# px as the page's crawl stated them: three dead links, and one that answers with a page
_NO_PICTURE = {
    "spring-banner.jpg": (960, 240),
    "summer-palace-plan.jpg": (800, 600),
    "old-workshop.jpg": (640, 480),
    "visitor-map.jpg": (640, 480),
}
_FORMATS = {".jpg": "jpeg", ".png": "png", ".gif": "gif"}
_ROTATED = range(5, 9)  # EXIF orientations that swap the sides
_IMAGE = re.compile(r"!\[(?P<alt>[^\]]*)\]\((?P<src>\S+)\)(?:\{(?P<attributes>[^}]*)\})?")


def paths() -> list[Path]:
    """The page files in order of name; `NAME.fr.md` is a page in French, without a code it is
    English.
    """
    return sorted(FOLDER.glob("*.md"), key=lambda path: path.name)


def read_page(path: Path) -> dict[str, Any]:
    """One page file as an OBELICS row: `images` and `texts` of equal length, exactly one non-null
    per index.

    Raises InputError for a file without address and title, or for an image without a file.
    """
    address, _, body = path.read_text(encoding="utf-8").partition("\n")
    if not address.startswith("https://") or not body.startswith("# "):
        raise InputError(
            f"{path}: the first line must be the page's https:// address, the second `# ` and its"
            " title"
        )
    images: list[str | None] = []
    texts: list[str | None] = []
    metadata: list[dict[str, Any] | None] = []
    for block in _blocks(body):
        entry = _image(block, address, path)
        images.append(entry["src"] if entry else None)
        texts.append(None if entry else block)
        metadata.append(entry)
    general = {
        "url": address,
        "warc_filename": f"vislib/sample/pages/{path.name}",
        "warc_record_offset": 0,
        "warc_record_length": path.stat().st_size,
    }
    return {
        "images": images,
        "texts": texts,
        "metadata": _json(metadata),
        "general_metadata": _json(general),
    }


def damaged(page: str, row: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What a crawl does to rows: after some pages comes a copy of the row that breaks one rule of
    the form.
    """
    changes: dict[str, dict[str, Any]] = {
        "coffee-cup": {},  # the same page once more
        "rocket-pad": {"texts": row["texts"][:-1]},
        "garden-path": {"images": [None] * len(row["images"])},
        "clock-face": {"texts": ["caption"] * len(row["texts"])},
        "osi-model": {"metadata": row["metadata"][:-20]},
        "eclipse-note": {"general_metadata": "{url: none}"},
        "retina": {
            "texts": [text and text.replace("i", "\udced", 1) for text in row["texts"]]
        },  # Latin-1 bytes
    }
    if page in changes:
        yield row | changes[page]


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _blocks(body: str) -> Iterator[str]:
    """Image lines one by one; the paragraphs between two images together, headings without their
    marks.
    """
    paragraphs: list[str] = []
    for block in re.split(r"\n\s*\n", body.strip()):
        if _IMAGE.fullmatch(block.strip()):
            if paragraphs:
                yield "\n\n".join(paragraphs)
            paragraphs = []
            yield block.strip()
        else:
            paragraphs.append(re.sub(r"^#+ ", "", block.strip()))
    if paragraphs:
        yield "\n\n".join(paragraphs)


def _image(block: str, address: str, path: Path) -> dict[str, Any] | None:
    """The metadata of an image line, None for text. Keys that the page does not give are absent, as
    in OBELICS.
    """
    match = _IMAGE.fullmatch(block)
    if match is None:
        return None
    src = urljoin(address, match["src"])
    file = image_file(src)
    name = file.name
    if name not in _NO_PICTURE and not file.is_file():
        raise InputError(f"{path}: no picture {name!r}; put it into {file.parent}")
    width, height = _NO_PICTURE.get(name) or _size(file)
    entry: dict[str, Any] = {"document_url": address, "unformatted_src": match["src"], "src": src}
    if not name.startswith("IMG_"):  # what a camera counts up is no name
        entry["formatted_filename"] = re.sub(r"[-_]", " ", Path(name).stem)
    if match["alt"]:
        entry["alt_text"] = match["alt"]
    entry |= {"original_width": width, "original_height": height, "format": _FORMATS[file.suffix]}
    for key, value in re.findall(r"(\w+)=(\S+)", match["attributes"] or ""):
        entry[f"rendered_{key}"] = int(value) if value.isdigit() else value
    return entry


def _size(file: Path) -> tuple[int, int]:
    """Width and height in px as shown."""
    with Image.open(file) as picture:
        turned = picture.getexif().get(ExifTags.Base.Orientation) in _ROTATED
        return picture.size[::-1] if turned else picture.size
