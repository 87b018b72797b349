"""Tags of a whole image by a model: zero-shot over a list, or an image classifier (DenseFusion-1M,
Perceptual Fusion).

The paper takes a tagging model over 4,585 categories; here a CLIP or SigLIP model scores each tag
of a list, ours or the reader's own, or a classifier gives its own labels. The model's configuration
decides which of the two it is.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from vislib.experts.findings import Findings, Tag
from vislib.media.vision import VisionModel, load_config, load_vision_model
from vislib.runs.errors import InputError

TAGS = Path(__file__).with_name("tags.txt")
PROMPT = "a photo of {}"
_BATCH = 64  # prompts embedded at a time
# Model types whose image and text vectors share a space.
_ZERO_SHOT = ("clip", "metaclip_2", "siglip", "siglip2")


class ModelTagger:
    """The `max_tags` best tags (0: all) of each image that reach `threshold` (0-1), best first.

    Scores. SigLIP: the sigmoid of the model's own logits: each tag for itself. CLIP: their softmax
    over the whole list, in which tags compete: thresholds are lower, and depend on the list.
    Classifiers: softmax over their labels, or the sigmoid where the configuration says that an
    image may have several; of `tabby, tabby cat` the first synonym is the tag. Raises InputError
    for a model or list that cannot be used, and values out of range.
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
        check_share("tagger_threshold", threshold)
        if max_tags < 0:
            raise InputError(f"max_tags = {max_tags}: at least 0, which keeps all")
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

    def __call__(
        self, images: Sequence[Image.Image], tags: Sequence[Sequence[str]] = ()
    ) -> list[Findings]:
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
            if scores[i] < self.threshold or len(best) == (self.max_tags or len(scores)):
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

    def __call__(self, images: Sequence[Image.Image]) -> Any:
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

    def __call__(self, images: Sequence[Image.Image]) -> Any:
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


def check_share(parameter: str, value: float) -> None:
    """InputError unless `value` lies in 0-1."""
    if not 0 <= value <= 1:
        raise InputError(f"{parameter} = {value}: allowed are 0 to 1")


def first_synonym(label: str) -> str:
    """Of a class `tabby, tabby cat`: tabby."""
    return label.split(",")[0].strip()


def _classifies(config: Any) -> bool:
    return any(name.endswith("ForImageClassification") for name in config.architectures or ())


def _unit(features: Any) -> Any:
    """Pooled features as unit vectors in float32."""
    vectors = features.pooler_output.float()
    return vectors / vectors.norm(dim=-1, keepdim=True)
