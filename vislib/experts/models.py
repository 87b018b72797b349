"""Tags and boxes by models of transformers (DenseFusion-1M, Perceptual Fusion).

The paper takes a tagging model over 4,585 categories; here a CLIP or SigLIP model scores each tag
of a list, ours or the reader's own, or a classifier gives its own labels: its configuration decides
which. As in the paper, detectors of closed sets and of open vocabularies look for objects.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from vislib.experts.findings import Box, Findings, Tag
from vislib.media.vision import VisionModel, load_config, load_vision_model
from vislib.runs.errors import InputError

TAGS = Path(__file__).with_name("tags.txt")
PROMPT = "a photo of {}"
Images = Sequence[Image.Image]
_BATCH = 64  # prompts embedded at a time
_OWL, _GROUNDING = ("owlv2", "owlvit"), ("grounding-dino", "mm-grounding-dino")
# Model types whose image and text vectors share a space.
_ZERO_SHOT = ("clip", "metaclip_2", "siglip", "siglip2")


class ModelTagger:
    """The `max_tags` best tags of each image that reach `threshold` (0-1), best first.

    Scores. SigLIP: the sigmoid of the model's own logits: each tag for itself. CLIP: their softmax
    over the whole list, in which tags compete: thresholds are lower, and depend on the list.
    Classifiers: softmax over their labels, or the sigmoid where the configuration says that an
    image may have several; of `tabby, tabby cat` the first synonym is the tag. Raises InputError
    for a model or list that cannot be used.
    """

    name = "tagger"

    def __init__(
        self,
        value: str,
        *,
        tag_list: Path | None = None,
        threshold: float,
        max_tags: int,
        device: str = "auto",
    ) -> None:
        self.threshold, self.max_tags = threshold, max_tags
        # The configuration tells the kind before the weights are fetched.
        config = load_config(value, parameter="tagger")
        self.score: _ZeroShot | _Classifier
        if config.model_type in _ZERO_SHOT and not _classifies(config):
            tags = read_tags(tag_list or TAGS)
            options = {"processor": "AutoProcessor", "parameter": "tagger", "device": device}
            self.score = _ZeroShot(load_vision_model(value, "AutoModel", **options), tags)
        else:
            vision = load_vision_model(
                value, "AutoModelForImageClassification", parameter="tagger", device=device
            )
            self.score = _Classifier(vision)
        self.model, self.revision = value, self.score.vision.revision

    def __call__(self, images: Images, tags: Sequence[Sequence[str]] = ()) -> list[Findings]:
        """The tags of each RGB image; `tags` is not looked at."""
        import torch

        if not images:
            return []
        with torch.inference_mode():
            scores = self.score(images).tolist()
        return [Findings(tags=self._best(row)) for row in scores]

    def _best(self, scores: Sequence[float]) -> tuple[Tag, ...]:
        # Sums in another number of threads differ in the last digits of a float.
        scores = [round(score, 4) for score in scores]
        best: dict[str, float] = {}  # two labels of a classifier may share their first synonym
        for i in sorted(range(len(scores)), key=lambda i: -scores[i]):
            if scores[i] < self.threshold or len(best) == self.max_tags:
                break
            best.setdefault(self.score.labels[i], scores[i])
        return tuple(Tag(label, score) for label, score in best.items())


class _ZeroShot:
    """Images against the list; the vectors of its prompts are computed once."""

    def __init__(self, vision: VisionModel, tags: Sequence[str]) -> None:
        import torch

        self.vision, self.labels = vision, tags
        self.bias = getattr(vision.model, "logit_bias", None)  # SigLIP's alone
        # In small letters: SigLIP's texts were, and CLIP's tokenizer makes them so itself.
        prompts = [PROMPT.format(tag).lower() for tag in tags]
        parts = [prompts[start : start + _BATCH] for start in range(0, len(prompts), _BATCH)]
        with torch.inference_mode():
            self.texts = torch.cat(
                [_unit(vision.model.get_text_features(**self._tokens(part))) for part in parts]
            )

    def _tokens(self, prompts: list[str]) -> Any:
        """SigLIP was trained on texts padded to their full length and sees the padding; CLIP does
        not.
        """
        length = self.vision.model.config.text_config.max_position_embeddings
        options = {"truncation": True, "max_length": length, "return_tensors": "pt"}
        if self.bias is None:
            options |= {"padding": True}
        else:
            options |= {"padding": "max_length", "return_attention_mask": False}
        return self.vision.processor.tokenizer(prompts, **options).to(self.vision.device)

    def __call__(self, images: Images) -> Any:
        """Scores of shape (images, tags), float32."""
        model = self.vision.model
        vectors = _unit(model.get_image_features(**self.vision.inputs(images)))
        logits = vectors @ self.texts.T * model.logit_scale.float().exp()
        if self.bias is None:
            return logits.softmax(-1)
        return (logits + self.bias.float()).sigmoid()


class _Classifier:
    """Images against the classes of a trained head."""

    def __init__(self, vision: VisionModel) -> None:
        names: Mapping[int, str] = vision.model.config.id2label
        self.vision = vision
        self.labels = [first_synonym(names[i]) for i in range(len(names))]
        self.several = vision.model.config.problem_type == "multi_label_classification"

    def __call__(self, images: Images) -> Any:
        """Scores of shape (images, classes), float32."""
        logits = self.vision.model(**self.vision.inputs(images)).logits.float()
        return logits.sigmoid() if self.several else logits.softmax(-1)


def read_tags(file: Path) -> list[str]:
    """The tags of a list, one a line, UTF-8, lines of `#` are comments; InputError names the line
    that is at fault.
    """
    try:
        lines = file.read_bytes().splitlines()
    except OSError as error:
        raise InputError(
            f"tag_list: {file} cannot be read ({error.strerror}); give a list, one tag a line"
        ) from error
    # Case is kept for the prompt, but no tag stands twice: softmax would share its score.
    tags: dict[str, str] = {}
    first: dict[str, int] = {}  # the line of each
    for number, line in enumerate(lines, 1):
        place = f"tag_list: {file}, line {number}"
        try:
            tag = " ".join(line.decode("utf-8-sig").split())
        except UnicodeDecodeError as error:
            raise InputError(f"{place}: not UTF-8 ({error.reason}); save it so") from error
        if not tag or tag.startswith("#"):
            continue
        key = tag.casefold()
        if key in tags:
            raise InputError(f"{place}: {tag!r} repeats line {first[key]}; take one of them away")
        tags[key], first[key] = tag, number
    if not tags:
        raise InputError(f"tag_list: {file} holds no tag; write one a line")
    return list(tags.values())


def first_synonym(label: str) -> str:
    """Of a class `tabby, tabby cat`: tabby."""
    return label.split(",")[0].strip()


def _classifies(config: Any) -> bool:
    return any(name.endswith("ForImageClassification") for name in config.architectures or ())


def _unit(features: Any) -> Any:
    """Pooled features as unit vectors in float32."""
    vectors = features.pooler_output.float()
    return vectors / vectors.norm(dim=-1, keepdim=True)


class _Detector:
    """What both detectors share: loading, and boxes from the library's own post-processing.

    Each picture is looked at alone: nothing is padded, so that what is found in it does not depend
    on its neighbours in a batch (YOLOS would even measure its boxes on the padding).
    """

    name: str
    _auto_class: str
    _processor: str

    def __init__(self, value: str, *, threshold: float, device: str = "auto") -> None:
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
        self, image: Image.Image, inputs: Any, names: Mapping[int, str], silent: Any = ()
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
    Raises InputError for a model of another kind.
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
    kind.
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

    def _queries(self, image: Image.Image, tags: Sequence[str]) -> tuple[Any, Any]:
        """OWLv2: one prompt per tag. The tag of each column of its logits: one after the other."""
        import torch

        # Of full length, as in training.
        length = self.vision.model.config.text_config.max_position_embeddings
        text = [[PROMPT.format(tag) for tag in tags]]
        inputs = self.vision.inputs(
            [image], text=text, padding="max_length", truncation=True, max_length=length
        )
        return inputs, torch.arange(len(tags), device=self.vision.device)

    def _sentence(self, image: Image.Image, tags: Sequence[str]) -> tuple[Any, Any]:
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
