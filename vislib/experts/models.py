"""Tags and boxes by models of transformers (DenseFusion-1M, Perceptual Fusion).

The paper takes a tagging model over 4,585 categories; here a CLIP or SigLIP model scores each tag
of a list, ours or the reader's own, or a classifier gives its own labels: its configuration decides
which. As in the paper, detectors of closed sets and of open vocabularies look for objects.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from vislib.experts.findings import Box, Findings, Tag
from vislib.media.vision import load_config, load_vision_model
from vislib.runs.errors import InputError

TAGS = Path(__file__).with_name("tags.txt")
PROMPT = "a photo of {}"
_BATCH = 64  # prompts embedded at a time
_OWL = ("owlv2", "owlvit")
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
        classifies = any(
            name.endswith("ForImageClassification") for name in config.architectures or ()
        )
        self.zero_shot = config.model_type in _ZERO_SHOT and not classifies
        options = {"parameter": "tagger", "device": device}
        if self.zero_shot:
            self.labels = read_tags(tag_list or TAGS)
            self.vision = load_vision_model(
                value, "AutoModel", processor="AutoProcessor", **options
            )
            self.texts = self._embedded(self.labels)
        else:
            self.vision = load_vision_model(value, "AutoModelForImageClassification", **options)
            names = self.vision.model.config.id2label
            self.labels = [first_synonym(names[i]) for i in range(len(names))]
        self.model, self.revision = value, self.vision.revision

    def __call__(self, image: Image.Image, tags: Sequence[str] = ()) -> Findings:
        """The tags of an RGB image; `tags` is not looked at."""
        import torch

        with torch.inference_mode():
            [scores] = self._scores(image).tolist()
        return Findings(tags=self._best(scores))

    def _embedded(self, tags: Sequence[str]) -> Any:
        """Unit vectors of the tags' prompts, computed once."""
        import torch

        model, tokenizer = self.vision.model, self.vision.processor.tokenizer
        options = {
            # SigLIP was trained on texts padded to their full length and sees the padding.
            "padding": "max_length" if hasattr(model, "logit_bias") else True,
            "truncation": True,
            "max_length": model.config.text_config.max_position_embeddings,
            # CLIP needs none: a token sees those before it alone.
            "return_attention_mask": False,
            "return_tensors": "pt",
        }
        # In small letters: SigLIP's texts were, and CLIP's tokenizer makes them so itself.
        prompts = [PROMPT.format(tag).lower() for tag in tags]
        vectors = []
        with torch.inference_mode():
            for start in range(0, len(prompts), _BATCH):
                tokens = tokenizer(prompts[start : start + _BATCH], **options)
                vectors.append(_unit(model.get_text_features(**tokens.to(self.vision.device))))
        return torch.cat(vectors)

    def _scores(self, image: Image.Image) -> Any:
        """Scores of shape (1, labels), float32."""
        model, inputs = self.vision.model, self.vision.inputs([image])
        if self.zero_shot:
            vectors = _unit(model.get_image_features(**inputs))
            logits = vectors @ self.texts.T
            logits *= model.logit_scale.float().exp()
            several = hasattr(model, "logit_bias")
            if several:
                logits += model.logit_bias.float()
        else:
            logits = model(**inputs).logits.float()
            several = model.config.problem_type == "multi_label_classification"
        return logits.sigmoid() if several else logits.softmax(-1)

    def _best(self, scores: Sequence[float]) -> tuple[Tag, ...]:
        # Sums in another number of threads differ in the last digits of a float.
        rounded = [round(score, 4) for score in scores]
        best: dict[str, float] = {}  # two labels of a classifier may share their first synonym
        for score, label in sorted(
            zip(rounded, self.labels, strict=True),
            key=lambda pair: -pair[0],
        ):
            if score >= self.threshold and len(best) < self.max_tags:
                best.setdefault(label, score)
        return tuple(Tag(label, score) for label, score in best.items())


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
    tags: list[str] = []
    lines_of: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        place = f"tag_list: {file}, line {number}"
        try:
            tag = " ".join(line.decode("utf-8-sig").split())
        except UnicodeDecodeError as error:
            raise InputError(f"{place}: not UTF-8 ({error.reason}); save it so") from error
        if not tag or tag.startswith("#"):
            continue
        # Case is kept for the prompt, but no tag stands twice: softmax would share its score.
        first = lines_of.setdefault(tag.casefold(), number)
        if first != number:
            raise InputError(f"{place}: {tag!r} repeats line {first}; take one of them away")
        tags.append(tag)
    if not tags:
        raise InputError(f"tag_list: {file} holds no tag; write one a line")
    return tags


def first_synonym(label: str) -> str:
    """Of a class `tabby, tabby cat`: tabby."""
    return label.split(",")[0].strip()


def _unit(features: Any) -> Any:
    """Pooled features as unit vectors in float32."""
    vectors = features.pooler_output.float()
    return vectors / vectors.norm(dim=-1, keepdim=True)


class _Detector:
    """What both detectors share: loading, and boxes from the library's own post-processing.

    A picture is looked at alone: nothing is padded (YOLOS would measure its boxes on the padding).
    """

    name: str
    _auto_class: str
    _processor: str

    def __init__(self, value: str, *, threshold: float, device: str = "auto") -> None:
        self.vision = load_vision_model(
            value, self._auto_class, parameter=self.name, device=device, processor=self._processor
        )
        self.threshold = threshold
        self.model, self.revision = value, self.vision.revision

    def _detect(self, image: Image.Image, inputs: Any, names: Mapping[int, str]) -> Findings:
        """Boxes of 0-1 within the picture, best first, labelled by the column of the logits that
        won.
        """
        import torch

        processor = self.vision.processor
        # A processor of images and texts holds the one of images, which has the post-processing.
        post = getattr(processor, "image_processor", processor)
        with torch.inference_mode():
            outputs = self.vision.model(**inputs)
            # Half precision, as on a GPU, would round corners to a pixel or two.
            outputs.logits = outputs.logits.float()
            outputs.pred_boxes = outputs.pred_boxes.float()
            [found] = post.post_process_object_detection(
                outputs, threshold=self.threshold, target_sizes=[image.size[::-1]]
            )
        scale = found["boxes"].new_tensor([*image.size, *image.size])
        # An endless corner, of a model that overflows, is none: clamped it would look like one.
        corners = torch.where(found["boxes"].isfinite(), found["boxes"] / scale, torch.nan)
        boxes = []
        for score, label, box in zip(
            found["scores"].tolist(),
            found["labels"].tolist(),
            corners.clamp(0, 1).tolist(),
            strict=True,
        ):
            # Else it lies beside the picture, on OWLv2's padding, or a corner is no number.
            if box[0] < box[2] and box[1] < box[3]:
                boxes.append(Box(names[label], score, *box))
        return Findings(boxes=tuple(sorted(boxes, key=lambda box: -box.score)))


class ClosedDetector(_Detector):
    """Objects of the classes that a detection model was trained on (DETR, RT-DETR, YOLOS, ...),
    best first.

    Kept are boxes whose score is above `threshold` (0-1), by the model's own post-processing.
    Raises InputError for a model of another kind.
    """

    name = "detector"
    _auto_class, _processor = "AutoModelForObjectDetection", "AutoImageProcessor"

    def __call__(self, image: Image.Image, tags: Sequence[str] = ()) -> Findings:
        """The boxes of an RGB image; `tags` is not looked at."""
        labels = self.vision.model.config.id2label
        names = {number: first_synonym(name) for number, name in labels.items()}
        return self._detect(image, self.vision.inputs([image]), names)


class OpenDetector(_Detector):
    """Objects of each image's own tags, by OWLv2 or OWL-ViT, best first.

    A box is labelled with the one tag that fits it best, and its score is that tag's; kept above
    `threshold` (0-1). An image without tags gives no boxes. Raises InputError for a model of
    another kind.
    """

    name = "open_detector"
    _auto_class, _processor = "AutoModelForZeroShotObjectDetection", "AutoProcessor"

    def __init__(self, value: str, *, threshold: float, device: str = "auto") -> None:
        super().__init__(value, threshold=threshold, device=device)
        config = self.vision.model.config
        if config.model_type not in _OWL:
            raise InputError(
                f"open_detector is {value!r}, a {config.model_type}; allowed are {', '.join(_OWL)}"
            )
        self._length = config.text_config.max_position_embeddings

    def __call__(self, image: Image.Image, tags: Sequence[str]) -> Findings:
        """The boxes of an RGB image, labelled with its own `tags`."""
        if not tags:
            return Findings()
        inputs = self.vision.inputs(
            [image],
            # A prompt a tag, of full length, as in training.
            text=[[PROMPT.format(tag) for tag in tags]],
            padding="max_length",
            truncation=True,
            max_length=self._length,
        )
        return self._detect(image, inputs, dict(enumerate(tags)))
