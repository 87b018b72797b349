"""Model experts give the scores and boxes of the models themselves."""

import copy
import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from tests import tiny_vision_models as tiny
from vislib.experts.findings import Findings
from vislib.experts.models import PROMPT, TAGS, ClosedDetector, ModelTagger, OpenDetector, read_tags
from vislib.runs import InputError

WORDS = ["cat", "red house", "dog", "boat", "bell"]
VOCABULARIES = [["cat", "red boat"], ["dog"], [], ["bell", "dog", "cat"], ["boat", "cat"], ["x"]]
ZERO_SHOT, CLOSED, OPEN = (
    ("clip", "siglip", "siglip2"),
    ("detr", "yolos", "rt_detr"),
    ("owlv2",),
)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # for so little work, more of them wait for each other
    root = tmp_path_factory.mktemp("models")
    for name in (*ZERO_SHOT, "vit", *CLOSED, *OPEN):
        getattr(tiny, name)(root / name)
    tiny.vit(root / "several", problem_type="multi_label_classification")
    (root / "tags.txt").write_text("# things\n" + "\n".join(WORDS))
    yield root
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    """Coloured noise, wide, high, square, and of one pixel; two share their shape."""
    noise = np.random.default_rng(0)
    sizes = [(96, 64), (64, 96), (96, 64), (200, 60), (50, 50), (1, 1)]
    return [
        Image.fromarray(noise.integers(0, 255, (5, 4, 3), np.uint8)).resize(size) for size in sizes
    ]


def tagger(models: Path, name: str, *, threshold: float = 0.0, max_tags: int = 9) -> ModelTagger:
    options = {
        "tag_list": models / "tags.txt",
        "threshold": threshold,
        "max_tags": max_tags,
        "device": "cpu",
    }
    return ModelTagger(str(models / name), **options)


def expert(
    models: Path, name: str, threshold: float = 0.0
) -> ModelTagger | ClosedDetector | OpenDetector:
    if name in CLOSED:
        return ClosedDetector(str(models / name), threshold=threshold, device="cpu")
    if name in OPEN:
        return OpenDetector(str(models / name), threshold=threshold, device="cpu")
    return tagger(models, name, threshold=threshold)


def each(
    found: ModelTagger | ClosedDetector | OpenDetector,
    images: list[Image.Image],
    vocabularies: list[list[str]] = VOCABULARIES,
) -> list[Findings]:
    return [found(image, words) for image, words in zip(images, vocabularies, strict=False)]


def tags(scores: torch.Tensor, labels: list[str]) -> list[tuple[str, float]]:
    return sorted(zip(labels, scores.tolist(), strict=True), key=lambda pair: -pair[1])


@pytest.mark.parametrize("name", ZERO_SHOT)
def test_zero_shot_scores_are_those_of_the_whole_model(models, images, name):
    found = tagger(models, name)
    model, processor = found.vision.model, found.vision.processor
    padding = {"padding": "max_length", "max_length": 24} if name != "clip" else {"padding": True}
    texts = [PROMPT.format(word) for word in WORDS]
    with torch.inference_mode():
        logits = model(
            **processor(text=texts, images=images, return_tensors="pt", **padding)
        ).logits_per_image
    scores = logits.softmax(-1) if name == "clip" else logits.sigmoid()
    for one, row in zip(each(found, images), scores, strict=True):
        expected = tags(row, WORDS)
        assert [tag.label for tag in one.tags] == [label for label, _ in expected]
        assert [tag.score for tag in one.tags] == pytest.approx(
            [score for _, score in expected], abs=1e-4, rel=1e-3
        )


@pytest.mark.parametrize(
    ("name", "activate"), [("vit", torch.softmax), ("several", lambda x, _: x.sigmoid())]
)
def test_a_classifier_tags_with_the_first_synonym_of_its_labels(models, images, name, activate):
    found = tagger(models, name)
    vision = found.vision
    with torch.inference_mode():
        scores = activate(vision.model(**vision.inputs(images)).logits, -1)
    for one, row in zip(each(found, images), scores, strict=True):
        cranes = max(row[1], row[3])  # two classes of that name: one tag
        expected = tags(
            torch.stack([row[0], cranes, row[2], row[4]]),
            ["tabby", "crane", "street sign", "bell pepper"],
        )
        assert [(tag.label, pytest.approx(tag.score, abs=1e-4)) for tag in one.tags] == expected


@pytest.mark.parametrize("name", ["clip", "vit"])
def test_thresholds_and_counts_cut_from_below(models, images, name):
    whole = [one.tags for one in each(tagger(models, name), images)]
    middle = whole[0][1].score
    found = [one.tags for one in each(tagger(models, name, threshold=middle - 1e-6), images)]
    assert found == [tuple(tag for tag in one if tag.score >= middle - 1e-6) for one in whole]
    assert [one.tags for one in each(tagger(models, name, max_tags=2), images)] == [
        one[:2] for one in whole
    ]
    assert each(tagger(models, name, threshold=1.0), images)[0].tags == ()


@pytest.mark.parametrize("name", CLOSED)
def test_closed_boxes_are_those_of_the_librarys_post_processing(models, images, name):
    found = expert(models, name)
    vision, processor = found.vision, found.vision.processor
    for image, one in zip(images, each(found, images), strict=True):
        with torch.inference_mode():
            outputs = vision.model(**processor(images=image, return_tensors="pt"))
        sizes = [(image.height, image.width)]
        [expected] = processor.post_process_object_detection(
            outputs, threshold=0.0, target_sizes=sizes
        )
        labels = [
            vision.model.config.id2label[i].split(",")[0] for i in expected["labels"].tolist()
        ]
        check(one, image, expected["scores"], labels, expected["boxes"])


@pytest.mark.parametrize("turned", [False, True])
def test_owlv2_boxes_are_those_of_the_librarys_post_processing(models, images, turned):
    """Of a wide and a high picture: the model sees a square, padded at the right or below."""
    found, image, words = expert(models, "owlv2"), images[turned], ["cat", "red boat", "dog"]
    processor = found.vision.processor
    with torch.inference_mode():
        outputs = found.vision.model(
            **processor(
                text=[[PROMPT.format(word) for word in words]],
                images=image,
                return_tensors="pt",
                truncation=True,
            )
        )
    [expected] = processor.post_process_grounded_object_detection(
        outputs, threshold=0.0, target_sizes=[(image.height, image.width)], text_labels=[words]
    )
    one = found(image, words)
    assert 0 < len(one.boxes) <= len(expected["boxes"])
    check(one, image, expected["scores"], expected["text_labels"], expected["boxes"])


def test_owlv2_finds_an_object_where_the_shown_picture_has_it(models, images, monkeypatch):
    """The box of the padded square from (0.25, 0) to (0.75, 0.5) is, in a picture of 96x64, (0.25,
    0, 0.75, 0.75).
    """
    found = expert(models, "owlv2")
    boxes = torch.tensor(
        [[[0.5, 0.25, 0.5, 0.5], [0.5, 0.9, 0.2, 0.1]]]
    )  # the second one lies on the padding
    found.vision.model.forward = lambda **_: SimpleNamespace(
        logits=torch.tensor([[[9.0], [9.0]]]), pred_boxes=boxes
    )
    [box] = found(images[0], ["cat"]).boxes
    assert dataclasses.astuple(box) == (
        "cat",
        pytest.approx(1, abs=1e-3),
        *map(pytest.approx, (0.25, 0, 0.75, 0.75)),
    )


@pytest.mark.parametrize("name", ["detr", "owlv2"])
@pytest.mark.parametrize("odd", [float("nan"), float("inf"), -float("inf")])
def test_a_box_that_is_no_number_is_none_and_costs_no_other(models, images, name, odd):
    found = expert(models, name)
    kind = found.vision.model
    width = len(kind.config.id2label) + 1 if name == "detr" else 1
    logits = torch.zeros(1, 4, width)
    logits[..., 0] = 9.0
    corners = torch.tensor([[0.5, 0.5, 0.2, 0.2]] * 4)
    corners[0, 0] = corners[1, 2] = odd  # a middle, a width
    logits[0, 2] = float("nan")
    kind.forward = lambda **_: SimpleNamespace(logits=logits, pred_boxes=corners[None])
    one = found(images[4], ["cat"])  # 50 px square
    [box] = one.boxes
    assert dataclasses.astuple(box)[2:] == pytest.approx((0.4, 0.4, 0.6, 0.6), abs=1e-3)


def check(
    one: Findings, image: Image.Image, scores: torch.Tensor, labels: list[str], boxes: torch.Tensor
) -> None:
    """The library's boxes, in pixels, are ours: clipped, scaled, best first, without those beside
    the picture.
    """
    scaled = (boxes / torch.tensor([*image.size, *image.size])).clamp(0, 1)
    expected = [
        (label, pytest.approx(score, abs=1e-4), *(pytest.approx(x, abs=1e-4) for x in box))
        for score, label, box in sorted(
            zip(scores.tolist(), labels, scaled.tolist(), strict=True), reverse=True
        )
        if box[0] < box[2] and box[1] < box[3]
    ]
    assert [dataclasses.astuple(box) for box in one.boxes] == expected
    assert all(0 <= box.x1 < box.x2 <= 1 and 0 <= box.y1 < box.y2 <= 1 for box in one.boxes)


@pytest.mark.parametrize("name", OPEN)
def test_the_vocabulary_of_an_image_is_its_own_tags(models, images, name):
    found = each(expert(models, name), images)
    for one, words in zip(found, VOCABULARIES, strict=True):
        assert {box.label for box in one.boxes} <= set(words)
        assert bool(one.boxes) == bool(words)
    many = [chr(97 + i // 26) + chr(97 + i % 26) for i in range(200)]
    assert {box.label for box in expert(models, name)(images[0], many).boxes} <= set(many)


@pytest.mark.parametrize("name", [*CLOSED, *OPEN])
def test_boxes_below_the_threshold_are_left_out(models, images, name):
    whole = expert(models, name)(images[0], VOCABULARIES[0]).boxes
    limit = (whole[2].score + whole[3].score) / 2
    assert expert(models, name, limit)(images[0], VOCABULARIES[0]).boxes == whole[:3]


@pytest.mark.parametrize("name", [*ZERO_SHOT, "vit", *CLOSED, *OPEN])
def test_half_precision_runs_and_agrees(models, images, name):
    """As on a GPU."""
    found = expert(models, name)
    whole = each(found, images[:2])
    found.vision = dataclasses.replace(found.vision, model=copy.deepcopy(found.vision.model).half())
    best = [(one.tags or one.boxes)[0].score for one in each(found, images[:2])]
    assert best == pytest.approx([(one.tags or one.boxes)[0].score for one in whole], abs=0.03)


@pytest.mark.parametrize(
    ("kind", "name", "parameter"),
    [
        (tagger, "detr", "tagger"),
        (tagger, "owlv2", "tagger"),
        (tagger, "nowhere", "tagger"),
        (ClosedDetector, "vit", "detector"),
        (ClosedDetector, "clip", "detector"),
        (ClosedDetector, "owlv2", "detector"),
        (OpenDetector, "detr", "open_detector"),
        (OpenDetector, "siglip", "open_detector"),
    ],
)
def test_a_model_of_the_wrong_kind_is_refused_by_its_parameter(models, kind, name, parameter):
    with pytest.raises(
        InputError, match=rf"^{parameter} is '{models / name}', which \w+ cannot load"
    ):
        kind(models, name) if kind is tagger else kind(str(models / name), threshold=0.5)


def test_our_tags_are_well_formed():
    """Lower case, one a line, sorted in each commented section, none twice; short enough for
    OWLv2's 16 tokens.
    """
    tags, sections = read_tags(TAGS), TAGS.read_text("utf-8").split("\n\n")[1:]
    assert 1000 <= len(tags) <= 3000
    assert len(sections) > 20
    for section in sections:
        title, *lines = section.splitlines()
        assert title.startswith("# ")
        assert lines == sorted(lines)
    assert all(
        re.fullmatch(r"[a-zâéçé][a-zâéç' -]*[a-zâéç]", tag) and len(tag) <= 30 for tag in tags
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"cat\n# a comment\n\n Dog \ncat\n", "line 5: 'cat' repeats line 1"),
        (b"cat\nCAT", "line 2: 'CAT' repeats line 1"),
        (b"cat\ncaf\xe9\n", "line 2: not UTF-8"),
        (b"# nothing\n\n", "holds no tag"),
        (None, "cannot be read"),
    ],
)
def test_a_list_of_tags_that_cannot_be_used_says_where(tmp_path, content, message):
    if content is not None:
        (tmp_path / "list.txt").write_bytes(content)
    with pytest.raises(InputError, match=rf"^tag_list: .*list.txt.*{message}"):
        read_tags(tmp_path / "list.txt")


def test_a_list_of_tags_keeps_its_order_and_spelling(tmp_path):
    (tmp_path / "list.txt").write_bytes(
        "\ufeffZebra\r\n  café  au lait \r\n# no\r\nC#\r\n".encode()
    )
    assert read_tags(tmp_path / "list.txt") == ["Zebra", "café au lait", "C#"]
