"""Text in images, read by RapidOCR, whose models come inside its package (DenseFusion-1M,
Perceptual Fusion: OCR).

Its models read Latin with accents, digits, Chinese and Japanese, and single Greek letters. The
picture is scaled and framed here: what the package itself does to very long or flat pictures costs
gigabytes or misplaces the boxes. A screenshot of a whole page, 800 x 8,000 px, scaled by its long
side shows no letter, and an OCR that is shown it invents some. So a picture that is far longer than
wide is scaled as if it were twice as long as wide, and read in overlapping tiles; of a line that
two tiles saw one stays.
"""

import unicodedata
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vislib.experts.findings import Box, Findings
from vislib.media.pixels import scaled

# px a side of the canvas: the detector enlarges its short side to 736, small print asks for no more
_LEAST = 184
# times its short side, of the canvas: as many lines are found as at 4, in five sixths of the time
_LONGEST = 2
# The note: small print was lost, what was read may be wrong.
BELOW_HALF = "ocr_read_below_half_size"
_ASPECT = 2  # long side to short side of what is read whole
_OVERLAP = 4  # a tile shares this part of its length with the next: higher than any line but titles
_MOST = 32  # tiles of a picture: half a minute or more; a longer one is scaled further
Size = tuple[int, int]
_PARTS = ("Det", "Cls", "Rec")  # where lines are, which way up, what they say
Tile = tuple[int, int, int, int]  # left, top, right, bottom in px


class Reader:
    """The expert `ocr`: lines of text in reading order. Deterministic; the number of threads
    changes no result.
    """

    name = "ocr"

    def __init__(self, *, threshold: float, side: int, threads: int) -> None:
        """`threshold`: least score of a line, 0-1. `side`: px of the longest side that is read at
        once: larger pictures are scaled down to it, long ones read in tiles.
        """
        import cv2
        import rapidocr

        cv2.setNumThreads(threads)
        folder = Path(rapidocr.__file__).parent / "models"
        # Models are named, so that nothing is fetched.
        models = {part: min(folder.glob(f"*_{part.lower()}_*.onnx")) for part in _PARTS}
        self._side = side
        self.model = f"rapidocr {version('rapidocr')}"
        self.revision = " ".join(path.stem for path in models.values())
        params = {
            "Global.log_level": "error",
            "Global.text_score": threshold,
            # Its own scaling and framing are what costs gigabytes.
            "Global.use_preprocess_img": False,
            "Global.use_vertical_padding": False,
            "EngineConfig.onnxruntime.intra_op_num_threads": threads,
        }
        params |= {f"{part}.model_path": str(path) for part, path in models.items()}
        self._engine = rapidocr.RapidOCR(params=params)

    def __call__(self, image: Image.Image, tags: Sequence[str] = ()) -> Findings:
        """The texts of an image; `tags` are not looked at."""
        # Scaled once: what is legible after one scaling is lost after two.
        scale = legible_scale(image.size, self._side)
        small = scaled(image, round(max(image.size) * scale))
        tiles = tile_boxes(small.size, self._side)
        texts = each_once(line for tile in tiles for line in self._lines(small, tile))
        notes = (BELOW_HALF,) if scale < 0.5 else ()
        return Findings(texts=tuple(in_reading_order(texts)), notes=notes)

    def _lines(self, small: Image.Image, tile: Tile) -> list[Box]:
        """The lines of one tile, their places those in the whole picture."""
        canvas, left, top = framed(small.crop(tile))
        found: Any = self._engine(np.asarray(canvas)[:, :, ::-1])  # OpenCV's order of colours
        if not getattr(found, "txts", None):
            return []
        texts = []
        for text, score, corners in zip(found.txts, found.scores, found.boxes, strict=True):
            # Four corners, as text may be turned; the prior takes the upright box around them.
            spots = np.asarray(corners) - (left, top) + tile[:2]
            spots = np.clip(spots / small.size, 0, 1).round(5)
            low = spots.min(axis=0)
            high = spots.max(axis=0)
            words = cleaned(text)
            if words and (low < high).all():
                box = Box(words, round(float(score), 4), *low.tolist(), *high.tolist())
                texts.append(box)
        return texts


def framed(image: Image.Image) -> tuple[Image.Image, int, int]:
    """The picture amid a canvas of its border's colour, no side tiny or far shorter than the other;
    left, top in px.
    """
    least = max(_LEAST, max(image.size) // _LONGEST)
    width = max(image.width, least)
    height = max(image.height, least)
    if (width, height) == image.size:
        return image, 0, 0
    # The border's own colour: on another, its edge would be read as a line.
    pixels = np.asarray(image)
    edges = [
        pixels[0],
        pixels[-1],
        pixels[:, 0],
        pixels[:, -1],
    ]
    colour = np.median(np.concatenate(edges), axis=0)
    canvas = Image.new("RGB", (width, height), tuple(map(int, colour)))
    left = (width - image.width) // 2
    top = (height - image.height) // 2
    canvas.paste(image, (left, top))
    return canvas, left, top


def cleaned(text: str) -> str:
    """One line: runs of white space as one space, without control and other invisible
    characters.
    """
    plain = " ".join(text.split())
    shown = [c for c in plain if not unicodedata.category(c).startswith("C")]
    return "".join(shown).strip()


def in_reading_order(texts: Iterable[Box]) -> list[Box]:
    """Rows from top to bottom, each from left to right.

    A line belongs to a row if its middle is less than half the lesser height from that of the row's
    highest line.
    """
    rows: list[list[Box]] = []
    for text in sorted(texts, key=lambda t: (t.y1 + t.y2, t.x1, t.label)):
        first = rows[-1][0] if rows else None
        middle = (text.y1 + text.y2) / 2
        if first and middle - (first.y1 + first.y2) / 2 < min(text.height, first.height) / 2:
            rows[-1].append(text)
        else:
            rows.append([text])
    ordered = []
    for row in rows:
        ordered += sorted(row, key=lambda t: (t.x1, t.y1))
    return ordered


# ---- tiles of a long picture


def legible_scale(size: Size, side: int) -> float:
    """The scale, at most 1, at which a picture of `size` px is read in tiles of at most `side`
    px.
    """
    # Nobody waits an hour for one picture: beyond so many tiles legibility gives way.
    short, long = sorted(size)
    shared = side // _OVERLAP
    most = _MOST * (side - shared) + shared
    return min(1.0, side / min(long, _ASPECT * short), most / long)


def tile_boxes(size: Size, side: int) -> list[Tile]:
    """The tiles of a scaled picture, evenly along its long side."""
    width, height = size
    long = max(size)
    if long <= side:
        return [(0, 0, width, height)]
    shared = side // _OVERLAP
    count = ceil((long - shared) / (side - shared))
    starts = np.linspace(0, long - side, count).round().astype(int).tolist()
    if width > height:
        return [(start, 0, start + side, height) for start in starts]
    return [(0, start, width, start + side) for start in starts]


def each_once(texts: Iterable[Box]) -> list[Box]:
    """Of two readings of one place the larger, which no tile's end cut; largest first."""
    kept: list[Box] = []
    for text in sorted(texts, key=lambda t: -t.width * t.height):
        if not any(_lies_in(text, other) for other in kept):
            kept.append(text)
    return kept


def _lies_in(text: Box, other: Box) -> bool:
    """Whether more than half of its width and height do."""
    width = min(text.x2, other.x2) - max(text.x1, other.x1)
    height = min(text.y2, other.y2) - max(text.y1, other.y1)
    return width > text.width / 2 and height > text.height / 2
