"""Boxes by detection models: of the classes they know, or of the image's own tags (DenseFusion-1M,
Perceptual Fusion).

The paper joins closed-set and open-vocabulary detectors. Each picture is looked at alone: nothing
is padded, so that what is found in it does not depend on its neighbours in a batch (YOLOS would
even measure its boxes on the padding).
"""

import re
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
    """What both detectors share: loading, and boxes from the library's own post-processing."""

    name: str
    _auto_class: str
    _processor: str

    def __init__(self, value: str, *, threshold: float, device: str = "auto") -> None:
        check_share(f"{self.name}_threshold", threshold)
        self.vision = load_vision_model(
            value, self._auto_class, parameter=self.name, device=device, processor=self._processor
        )
        # A processor of images and texts holds the one of images, which has the post-processing.
        self.kind = self.vision.model.config.model_type
        self.post = getattr(self.vision.processor, "image_processor", self.vision.processor)
        if not hasattr(self.post, "post_process_object_detection"):
            raise InputError(
                f"{self.name} is {value!r}, a {self.kind}, which detects no objects; name DETR,"
                " RT-DETR, YOLOS"
            )
        self.threshold = threshold
        self.model, self.revision = value, self.vision.revision

    def _detect(
        self, image: Image.Image, inputs: Inputs, names: Mapping[int, str], silent: Any = ()
    ) -> Findings:
        """Boxes of 0-1 within the picture, best first, labelled by the column of the logits that
        won; `silent` columns cannot.
        """
        import torch

        with torch.inference_mode():
            outputs = self.vision.model(**inputs)
            # Half precision, as on a GPU, would round corners to a pixel or two.
            outputs.logits = outputs.logits.float()
            outputs.pred_boxes = outputs.pred_boxes.float()
            outputs.logits[..., silent] = -torch.inf
            [found] = self.post.post_process_object_detection(
                outputs, threshold=self.threshold, target_sizes=[image.size[::-1]]
            )
        scale = found["boxes"].new_tensor([*image.size, *image.size])
        corners = (found["boxes"] / scale).clamp(0, 1).tolist()
        scores, labels = found["scores"].tolist(), found["labels"].tolist()
        boxes = [
            Box(names[label], score, *box)
            for score, label, box in zip(scores, labels, corners, strict=True)
            if box[0] < box[2] and box[1] < box[3]  # else it lies beside it, on OWLv2's padding
        ]
        return Findings(boxes=tuple(sorted(boxes, key=lambda box: -box.score)))


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
        labels = self.vision.model.config.id2label
        names = {i: first_synonym(name) for i, name in labels.items()}
        return [self._detect(image, self.vision.inputs([image]), names) for image in images]


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
        if self.kind not in (*_OWL, *_GROUNDING):
            raise InputError(
                f"open_detector is {value!r}, a {self.kind}; allowed are"
                f" {', '.join((*_OWL, *_GROUNDING))}"
            )

    def __call__(self, images: Images, tags: Sequence[Sequence[str]]) -> list[Findings]:
        """The boxes of each RGB image, labelled with its own `tags`."""
        asked = zip(images, tags, strict=True)
        return [self._look(image, own) if own else Findings() for image, own in asked]

    def _look(self, image: Image.Image, tags: Sequence[str]) -> Findings:
        prepare = self._queries if self.kind in _OWL else self._sentence
        # Columns of the logits are prompts in OWL, tokens in Grounding DINO: each knows its tag.
        inputs, columns = prepare(image, tags)
        names = {column: tags[tag] for column, tag in enumerate(columns.tolist()) if tag >= 0}
        return self._detect(image, inputs, names, silent=columns < 0)

    def _queries(self, image: Image.Image, tags: Sequence[str]) -> tuple[Inputs, Any]:
        """OWLv2: one prompt per tag. The tag of each column of its logits: one after the other."""
        import torch

        # Of full length, as in training.
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

        # Points and question marks part its phrases: none may stand within a tag.
        text = " ".join(re.sub(r"[.?]", " ", tag).strip().lower() + "." for tag in tags)
        width = self.vision.model.config.max_text_len
        inputs = self.vision.inputs([image], text=text, truncation=True, max_length=width)
        parting = torch.isin(inputs["input_ids"][0], self.vision.model.model.special_tokens)
        columns = torch.full((width,), -1, device=self.vision.device)
        # A token's tag is how many parting tokens stand before it, the first of them at the start.
        columns[: len(parting)] = (parting.cumsum(0) - 1).masked_fill(parting, -1)
        return inputs, columns
