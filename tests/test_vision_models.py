"""Vision models load from a folder with their processor, or the error says what is wrong with the
name.
"""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests import tiny_vision_models as tiny
from vislib.media.vision import choose_device, load_config, load_vision_model
from vislib.runs import InputError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP, a ViT with its head, and damaged copies of the latter."""
    root = tmp_path_factory.mktemp("models")
    tiny.clip(root / "clip")
    tiny.vit(root / "vit")
    for name, spoil in SPOILT.items():
        tiny.vit(root / name)
        spoil(root / name)
    return root


def headless(place: Path) -> None:
    """The trunk alone, as a pre-trained model of the hub is."""
    from transformers import ViTForImageClassification

    ViTForImageClassification.from_pretrained(place).vit.save_pretrained(place)


def with_code(place: Path) -> None:
    """A model that asks to run its own Python."""
    (place / "config.json").write_text(
        json.dumps({"model_type": "other", "auto_map": {"AutoConfig": "a.B"}})
    )
    (place / "a.py").write_text("raise SystemExit('this ran')")


SPOILT = {
    "headless": headless,
    "with_code": with_code,
    "truncated": lambda place: (place / "model.safetensors").write_bytes(b"\x20"),
    "no_processor": lambda place: (place / "preprocessor_config.json").unlink(),
    "no_config": lambda place: (place / "config.json").write_text("{"),
}


def test_a_model_of_a_folder_is_ready_to_run(folder):
    threads = torch.get_num_threads()
    vision = load_vision_model(
        str(folder / "clip"), "AutoModel", parameter="embedding_model", device="cpu"
    )
    assert (vision.name, vision.revision, vision.model.training) == (
        str(folder / "clip"),
        "",
        False,
    )
    assert vision.model.dtype == torch.float32
    batch = vision.inputs([Image.new("RGB", (3, 3)), Image.new("RGB", (9000, 90), "red")])
    assert batch["pixel_values"].shape == (2, 3, tiny.SIDE, tiny.SIDE)
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize(
    ("name", "auto_class", "message"),
    [
        ("clip", "AutoModelForObjectDetection", "Unrecognized configuration class"),
        ("vit", "AutoModelForZeroShotObjectDetection", "Unrecognized configuration class"),
        (
            "headless",
            "AutoModelForImageClassification",
            "lacks 2 weights, such as classifier.bias: it is of another",
        ),
        ("with_code", "AutoModel", "contains custom code"),
        ("truncated", "AutoModel", ""),
        ("no_processor", "AutoModel", "Can.t load image processor"),
        ("no_config", "AutoModel", "not a valid JSON"),
        ("nowhere", "AutoModel", ""),
        (".", "AutoModel", ""),
    ],
)
def test_what_cannot_be_loaded_is_named_with_the_mend(folder, name, auto_class, message):
    start = f"detector is '{folder / name}', which {auto_class} cannot load "
    with pytest.raises(InputError, match=rf"^{start}.*{message}.*give a hub id"):
        load_vision_model(str(folder / name), auto_class, parameter="detector", device="cpu")


@pytest.mark.parametrize("value", ["", "no-such-owner/no-such-model@v1", "@", "a b c"])
def test_a_name_that_is_no_model_is_an_error(value):
    with pytest.raises(
        InputError, match="give a hub id with an optional @revision, or the folder of a model"
    ):
        load_config(value, parameter="tagger")


@pytest.mark.parametrize("device", ["gpu", "cuda:99", ""])
def test_a_device_that_is_not_there_is_an_error(device):
    with pytest.raises(InputError, match=rf"device = '{device}' cannot be had here"):
        choose_device(device)
