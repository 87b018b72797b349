"""Stage 04: representative images, by size, perceptual hash, clusters and semantic likeness
(DenseFusion-1M).
"""

from vislib.selection.stage import select_images

__all__ = ["select_images"]
