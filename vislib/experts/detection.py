"""Boxes by detection models: of the classes they know, or of the image's own tags (DenseFusion-1M,
Perceptual Fusion).

The paper joins closed-set and open-vocabulary detectors. Each picture is prepared alone, and only
those of equal shape share a batch: nothing is padded, so that what is found in a picture does not
depend on its neighbours (YOLOS would even measure its boxes on the padding). Models of one input
size, as RT-DETR and OWLv2, batch in full.
"""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from vislib.experts.findings import Box, Findings
from vislib.experts.tagging import PROMPT, check_share, first_synonym
from vislib.media.vision import load_vision_model
from vislib.runs.errors import InputError

_OWL, _GROUNDING = ("owlv2", "owlvit"), ("grounding-dino", "mm-grounding-dino")
Images = Sequence[Image.Image]
Inputs = Any  # a processor's batch of one picture


class _Detector:
    """What both detectors share: loading, batches, and boxes from the library's own
    post-processing.
    """

    name: str
    _auto_class: str
    _processor: str

    def __init__(self, value: str, *, threshold: float, device: str = "auto") -> None:
        check_share(f"{self.name}_threshold", threshold)
        self.vision = load_vision_model(
            value, self._auto_class, parameter=self.name, device=device, processor=self._processor
        )
        self.post = getattr(self.vision.processor, "image_processor", self.vision.processor)
        if not hasattr(self.post, "post_process_object_detection"):
            kind = self.vision.model.config.model_type
            raise InputError(
                f"{self.name} is {value!r}, a {kind}, which detects no objects; name DETR, RT-DETR,"
                " YOLOS"
            )
        self.threshold, self.model, self.revision = threshold, value, self.vision.revision

    def _detect(
        self, images: Images, prepared: Sequence[Inputs], columns: Sequence[Any] = ()
    ) -> list[Any]:
        """Scores, boxes in pixels and labels of each image; logits whose column is negative cannot
        win.
        """
        import torch

        groups = defaultdict(list)
        for index, inputs in enumerate(prepared):
            groups[tuple((name, tuple(inputs[name].shape)) for name in inputs)].append(index)
        found: list[Any] = [None] * len(images)
        for members in groups.values():
            batch = {
                name: torch.cat([prepared[i][name] for i in members])
                for name in prepared[members[0]]
            }
            with torch.inference_mode():
                outputs = self.vision.model(**batch)
                outputs.logits, outputs.pred_boxes = (
                    outputs.logits.float(),
                    outputs.pred_boxes.float(),
                )
                for position, i in enumerate(members if columns else ()):
                    outputs.logits[position, :, columns[i] < 0] = -torch.inf
                sizes = [images[i].size[::-1] for i in members]
                boxes = self.post.post_process_object_detection(
                    outputs, threshold=self.threshold, target_sizes=sizes
                )
            for i, one in zip(members, boxes, strict=True):
                found[i] = one
        return found


class ClosedDetector(_Detector):
    """Objects of the classes that a detection model was trained on (DETR, RT-DETR, YOLOS, ...),
    best first.

    Kept are boxes whose score is above `threshold` (0-1), by the model's own post-processing.
    Raises InputError for a model of another kind and values out of range.
    """

    name = "detector"
    _auto_class, _processor = "AutoModelForObjectDetection", "AutoImageProcessor"

    def __call__(self, images: Images, tags: Sequence[Sequence[str]] = ()) -> list[Findings]:
        """The boxes of each RGB image; `tags` is not looked at."""
        found = self._detect(images, [self.vision.inputs([image]) for image in images])
        names = {i: first_synonym(name) for i, name in self.vision.model.config.id2label.items()}
        return [
            Findings(boxes=_boxes(one, image, names))
            for one, image in zip(found, images, strict=True)
        ]


class OpenDetector(_Detector):
    """Objects of each image's own tags, by OWLv2, OWL-ViT or Grounding DINO, best first.

    A box is labelled with the one tag that fits it best, and its score is that tag's; kept above
    `threshold` (0-1). Grounding DINO reads all tags as one text: of a long list, the first that fit
    its 256 tokens. An image without tags gives no boxes. Raises InputError for a model of another
    kind and values out of range.
    """

    name = "open_detector"
    _auto_class, _processor = "AutoModelForZeroShotObjectDetection", "AutoProcessor"

    def __init__(self, value: str, *, threshold: float, device: str = "auto") -> None:
        super().__init__(value, threshold=threshold, device=device)
        kind = self.vision.model.config.model_type
        if kind not in (*_OWL, *_GROUNDING):
            raise InputError(
                f"open_detector is {value!r}, a {kind}; allowed are"
                f" {', '.join((*_OWL, *_GROUNDING))}"
            )
        self._prepare = self._queries if kind in _OWL else self._sentence

    def __call__(self, images: Images, tags: Sequence[Sequence[str]]) -> list[Findings]:
        """The boxes of each RGB image, labelled with its own `tags`."""
        asked = [i for i, own in enumerate(tags) if own]
        pictures = [images[i] for i in asked]
        prepared = [self._prepare(images[i], tags[i]) for i in asked]
        found = self._detect(
            pictures, [inputs for inputs, _ in prepared], [columns for _, columns in prepared]
        )
        findings = [Findings()] * len(images)
        for i, one, (_, columns) in zip(asked, found, prepared, strict=True):
            names = {
                column: tags[i][tag] for column, tag in enumerate(columns.tolist()) if tag >= 0
            }
            findings[i] = Findings(boxes=_boxes(one, images[i], names))
        return findings

    def _queries(self, image: Image.Image, tags: Sequence[str]) -> tuple[Inputs, Any]:
        """OWLv2: one prompt per tag. The tag of each column of its logits: one after the other."""
        import torch

        length = self.vision.model.config.text_config.max_position_embeddings
        text = [[PROMPT.format(tag) for tag in tags]]
        inputs = self.vision.inputs(
            [image], text=text, padding="max_length", truncation=True, max_length=length
        )
        return inputs, torch.arange(len(tags), device=self.vision.device)

    def _sentence(self, image: Image.Image, tags: Sequence[str]) -> tuple[Inputs, Any]:
        """Grounding DINO: `cat. dog.` The tag of each column of its logits, which are tokens; -1:
        none.
        """
        import torch

        text = " ".join(
            re.sub(r"[.?]", " ", tag).strip().lower() + "." for tag in tags
        )  # both part its phrases
        width = self.vision.model.config.max_text_len
        inputs = self.vision.inputs([image], text=text, truncation=True, max_length=width)
        parting = torch.isin(inputs["input_ids"][0], self.vision.model.model.special_tokens)
        columns = torch.full((width,), -1, device=self.vision.device)
        columns[: len(parting)] = (parting.cumsum(0) - 1).masked_fill(parting, -1)
        return inputs, columns


def _boxes(
    found: Mapping[str, Any], image: Image.Image, names: Mapping[int, str]
) -> tuple[Box, ...]:
    """Boxes of 0-1 within the picture, best first; what lies beside it (on OWLv2's padding)
    goes.
    """
    scale = found["boxes"].new_tensor([*image.size, *image.size])
    corners = (found["boxes"] / scale).clamp(0, 1).tolist()
    scored = zip(found["scores"].tolist(), found["labels"].tolist(), corners, strict=True)
    kept = [
        (score, label, box) for score, label, box in scored if box[0] < box[2] and box[1] < box[3]
    ]
    return tuple(
        Box(names[label], score, *box)
        for score, label, box in sorted(kept, key=lambda one: -one[0])
    )
