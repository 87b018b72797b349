"""The embedded tagger: what can be measured in a picture, as tags, where DenseFusion-1M asks a
tagging model.

An honest baseline, which needs no model and knows no object: it says only what the numbers leave no
doubt of.
"""

from collections.abc import Iterator, Sequence

from PIL import Image

from vislib.experts.findings import Findings, Tag
from vislib.media import picture

MODEL = "measured-1"  # raised by whoever changes what it finds
_SHAPES = (
    (3, "panorama"),
    (1.05, "landscape format"),
    (0.95, "square format"),
    (0, "portrait format"),
)


class MeasuredTagger:
    """The expert `tagger` without a model: format, light, kind of surface, main colours."""

    name, model, revision = "tagger", MODEL, ""

    def __init__(self, *, threshold: float, max_tags: int) -> None:
        """`threshold`: least score of a tag, 0-1. `max_tags` for an image, best first."""
        self._threshold, self._most = threshold, max_tags

    def __call__(
        self, images: Sequence[Image.Image], tags: Sequence[Sequence[str]]
    ) -> list[Findings]:
        """Tags of each image; none for one of less than 16 px a side."""
        return [Findings(tags=tuple(self._best(picture.measure(image)))) for image in images]

    def _best(self, facts: picture.Picture | None) -> list[Tag]:
        if facts is None:
            return []
        found = [Tag(label, round(score, 4)) for label, score in _tags(facts)]
        kept = [tag for tag in found if tag.score >= self._threshold]
        return sorted(kept, key=lambda tag: -tag.score)[: self._most]  # equal scores stay in order


def _tags(p: picture.Picture) -> Iterator[tuple[str, float]]:
    """Label and score: the measured share where there is one, else 1."""
    yield next(name for least, name in _SHAPES if p.width / p.height >= least), 1.0
    # Between these bounds a picture is neither: what lies near a bound is not said.
    if p.light < 70 or p.light > 195:
        yield "dark picture" if p.light < 70 else "bright picture", 1.0
    if p.grey:
        yield "black-and-white picture", 1.0
    if p.even > 0.7:
        yield "flat graphic", p.even
    elif p.even < 0.1:
        yield "photograph-like", 1 - p.even
    # A cast of colour in a grey picture is the paper's or the scanner's.
    for colour in p.areas["all"] if not p.grey else ():
        if colour.share > 0.05:
            yield colour.shade, colour.share
