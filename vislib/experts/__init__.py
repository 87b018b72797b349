"""Stage 05: vision experts say what is in an image, as priors for captions (DenseFusion-1M,
Perceptual Fusion).
"""

from vislib.experts.findings import Box, Expert, Findings, Tag
from vislib.experts.overlays import examples, overlay
from vislib.experts.stage import check_looked, distinct, look, part_size, settings_of

__all__ = [
    "Box",
    "Expert",
    "Findings",
    "Tag",
    "check_looked",
    "distinct",
    "examples",
    "look",
    "overlay",
    "part_size",
    "settings_of",
]
