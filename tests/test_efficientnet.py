"""The weights in the package: names carried over whole, and pictures told apart."""

import numpy as np
import pytest
import torch

from vislib.media import efficientnet
from vislib.media.pixels import read_image
from vislib.media.vision import load_config, load_vision_model
from vislib.sample import image_file


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("chelsea.jpg", "Egyptian cat"),
        ("espresso.jpg", "espresso"),
        ("tripod.jpg", "tripod"),
        ("clock-ten-past-ten.png", "analog clock"),
    ],
)
def test_it_sees_what_a_picture_plainly_shows(name: str, label: str) -> None:
    vision = load_vision_model(
        efficientnet.NAME, "AutoModelForImageClassification", parameter="tagger", device="cpu"
    )
    with torch.inference_mode():
        scores = vision.model(**vision.inputs([read_image(image_file(name))])).logits.softmax(-1)[0]
    assert vision.model.config.id2label[int(scores.argmax())].split(",")[0] == label
    assert float(scores.max()) > 0.5
    assert vision.revision == efficientnet.VERSION


def test_features_of_one_thing_are_alike() -> None:
    vision = load_vision_model(efficientnet.NAME, "AutoModel", parameter="tagger", device="cpu")
    names = ("chelsea.jpg", "chelsea-eyes.jpg", "espresso.jpg")
    with torch.inference_mode():
        found = vision.model(**vision.inputs([read_image(image_file(name)) for name in names]))
    vectors = found.pooler_output.flatten(1).numpy()
    assert vectors.shape == (3, 1280)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    assert unit[0] @ unit[1] > unit[0] @ unit[2] + 0.2


def test_its_configuration_needs_no_weights() -> None:
    config = load_config(efficientnet.NAME, parameter="tagger")
    assert config.id2label[281].startswith("tabby")
    assert len(config.id2label) == 1000
