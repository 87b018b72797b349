"""Text in images, read by RapidOCR, whose models come inside its package (DenseFusion-1M,
Perceptual Fusion: OCR).

Its models read Latin with accents, digits, Chinese and Japanese, and single Greek letters. The
picture is scaled and framed here, a long one in tiles: what the package itself does to very long or
flat pictures costs gigabytes or misplaces the boxes.
"""

import unicodedata
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vislib.experts.findings import Findings, Text
from vislib.experts.tiles import legible_scale, merged, tile_boxes
from vislib.media.pixels import scaled
from vislib.runs.errors import InputError

# px a side of the canvas: the detector enlarges its short side to 736, small print asks for no more
_LEAST = 184
# times its short side, of the canvas: as many lines are found as at 4, in five sixths of the time
_LONGEST = 2
# The note: small print was lost, what was read may be wrong.
BELOW_HALF = "ocr_read_below_half_size"
_PARTS = {"Det": "*_det_*.onnx", "Cls": "*_cls_*.onnx", "Rec": "*_rec_*.onnx"}


class Reader:
    """The expert `ocr`: lines of text in reading order. Deterministic; the number of threads
    changes no result.
    """

    name = "ocr"

    def __init__(self, *, threshold: float, side: int, threads: int) -> None:
        """`threshold`: least score of a line, 0-1. `side`: px of the longest side that is read at
        once: larger pictures are scaled down to it, long ones read in tiles (`tiles`).
        """
        import cv2
        import rapidocr

        cv2.setNumThreads(threads)
        models = _models(Path(rapidocr.__file__).parent / "models")
        self.model, self._side = f"rapidocr {version('rapidocr')}", side
        self.revision = " ".join(path.stem for path in models.values())
        params = {
            "Global.log_level": "error",
            "Global.text_score": threshold,
            # Its own scaling and framing are what costs gigabytes.
            "Global.use_preprocess_img": False,
            "Global.use_vertical_padding": False,
            "EngineConfig.onnxruntime.intra_op_num_threads": threads,
        }
        # Models are named, so that nothing is fetched.
        params |= {f"{part}.model_path": str(path) for part, path in models.items()}
        self._engine = rapidocr.RapidOCR(params=params)

    def __call__(
        self, images: Sequence[Image.Image], tags: Sequence[Sequence[str]]
    ) -> list[Findings]:
        """The texts of each image; `tags` are not looked at."""
        return [self._read(image) for image in images]

    def _read(self, image: Image.Image) -> Findings:
        # Scaled once: what is legible after one scaling is lost after two.
        scale = legible_scale(image.size, self._side)
        small = scaled(image, round(max(image.size) * scale))
        boxes = tile_boxes(small.size, self._side)
        texts = merged((self._lines(small, box) for box in boxes), wide=small.width > small.height)
        notes = (BELOW_HALF,) if scale < 0.5 else ()
        return Findings(texts=tuple(in_reading_order(texts)), notes=notes)

    def _lines(self, small: Image.Image, box: tuple[int, int, int, int]) -> list[Text]:
        """The lines of one tile, their places those in the whole picture."""
        canvas, left, top = framed(small.crop(box))
        found: Any = self._engine(np.asarray(canvas)[:, :, ::-1])  # OpenCV's order of colours
        if not getattr(found, "txts", None):
            return []
        texts = []
        for text, score, corners in zip(found.txts, found.scores, found.boxes, strict=True):
            # Four corners, as text may be turned; the prior takes the upright box around them.
            spots = np.asarray(corners) - (left, top) + box[:2]
            spots = np.clip(spots / small.size, 0, 1).round(5)
            x1, y1 = spots.min(axis=0).tolist()
            x2, y2 = spots.max(axis=0).tolist()
            if (words := cleaned(text)) and x1 < x2 and y1 < y2:
                texts.append(Text(words, round(float(score), 4), x1, y1, x2, y2))
        return texts


def _models(folder: Path) -> dict[str, Path]:
    # One of each, or the package is another: with two, which is read would be chance.
    found = {part: sorted(folder.glob(pattern)) for part, pattern in _PARTS.items()}
    if any(len(paths) != 1 for paths in found.values()):
        raise InputError(
            f"ocr: {folder} should hold one model of each kind; install the rapidocr of"
            " requirements.txt"
        )
    return {part: paths[0] for part, paths in found.items()}


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
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    colour = tuple(int(value) for value in np.median(border, axis=0))
    left = (width - image.width) // 2
    top = (height - image.height) // 2
    canvas = Image.new("RGB", (width, height), colour)
    canvas.paste(image, (left, top))
    return canvas, left, top


def cleaned(text: str) -> str:
    """One line: runs of white space as one space, without control and other invisible
    characters.
    """
    plain = " ".join(text.split())
    return "".join(c for c in plain if unicodedata.category(c)[0] != "C").strip()


def in_reading_order(texts: Iterable[Text]) -> list[Text]:
    """Rows from top to bottom, each from left to right.

    A line belongs to a row if its middle is less than half the lesser height from that of the row's
    highest line.
    """
    rows: list[list[Text]] = []
    for text in sorted(texts, key=lambda t: (t.y1 + t.y2, t.x1, t.text)):
        first = rows[-1][0] if rows else text
        apart = (text.y1 + text.y2 - first.y1 - first.y2) / 2
        if rows and apart < min(text.height, first.height) / 2:
            rows[-1].append(text)
        else:
            rows.append([text])
    return [text for row in rows for text in sorted(row, key=lambda t: (t.x1, t.y1))]
