"""`vislib.training.models`: what learns, what is saved, and that what was saved is what was
trained.
"""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.training_ground import encode
from tests.training_rows import SETTINGS
from vislib.runs import InputError, start_run
from vislib.training import models, tiny
from vislib.training.labels import Encoder
from vislib.training.parts import open_model, parts_of

ROW = {
    "id": "r",
    "source": "own",
    "images": ["x"],
    "conversations": [
        {"from": "human", "value": "<image>\nWhat is it?"},
        {"from": "gpt", "value": "A picture of noise."},
    ],
}
IMAGE = Image.effect_noise((90, 60), 99).convert("RGB")


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for name in tiny.NAMES:
        tiny.build(name, folder / name)
    return folder


def batch(processor):
    encoded = encode(Encoder(processor, max_length=2048), ROW, [IMAGE])
    return {
        "input_ids": torch.tensor([encoded.input_ids]),
        "labels": torch.tensor([encoded.labels]),
        **encoded.pixels,
    }


def logits(model, processor):
    with torch.inference_mode():
        return model.eval()(**batch(processor)).logits


def trained(place, settings, steps=2):
    """A model after a few steps: every weight that may learn has moved."""
    model, processor = open_model(place, settings=settings)
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(steps):
        model.train()(**batch(processor)).loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    return model, processor


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("method", ["full", "lora", "dora"])
@pytest.mark.parametrize("name", ["tiny-llava", "tiny-idefics2"])
def test_what_is_opened_again_answers_to_the_bit_as_what_was_trained(
    ground, tmp_path, name, method
):
    model, processor = trained(ground / name, replace(SETTINGS, method=method))
    expected, facts = logits(model, processor), {"base": name, "method": method, "arm": "ünï"}
    models.save_trained(model, processor, tmp_path / "a", facts)
    again = models.open_trained(tmp_path / "a" if method == "full" else ground / name)[0]
    if method != "full":  # beside its base, as it was trained
        again = PeftModel.from_pretrained(again, tmp_path / "a")
    assert torch.equal(logits(again, processor), expected)
    assert not torch.allclose(logits(*models.open_trained(ground / name)), expected, atol=1e-3)
    assert {
        k: v for k, v in models.read_facts(tmp_path / "a").items() if k != "base_weights"
    } == facts
    models.save_trained(model, processor, tmp_path / "b", facts)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert not [
        name
        for name, data in contents(tmp_path / "a").items()
        if re.search(rb"/tmp|/root|/home", data)
    ]
    merged = [tmp_path / "a"]
    if method != "full":
        merged.append(tmp_path / "b")
        models.merge_saved(tmp_path / "b", facts, precision="float32")
        assert not models.is_adapter(tmp_path / "b")
    for opened in map(models.open_trained, merged):
        assert torch.allclose(logits(*opened), expected, atol=1e-5)
        assert not hasattr(opened[0], "peft_config")
    assert torch.equal(logits(model, processor), expected)  # merging left it as it was


def test_adapters_of_idefics2_go_where_they_are_recommended_and_nowhere_else(ground):
    model, _ = open_model(ground / "tiny-idefics2", settings=replace(SETTINGS, method="dora"))
    attention, perceptron = (
        ("q_proj", "k_proj", "v_proj", "o_proj"),
        ("gate_proj", "up_proj", "down_proj"),
    )
    layers = [f"model.text_model.layers.{n}" for n in (0, 1)] + [
        "model.connector.perceiver_resampler.layers.0"
    ]
    expected = {f"{layer}.self_attn.{name}" for layer in layers for name in attention}
    expected |= {f"{layer}.mlp.{name}" for layer in layers for name in perceptron}
    expected |= {f"model.connector.modality_projection.{name}" for name in perceptron}
    names = [name for name, _ in model.base_model.model.named_modules()]
    assert {name.removesuffix(".lora_A") for name in names if name.endswith(".lora_A")} == expected
    learning = {
        name.rpartition(".lora_")[0] for name, p in model.named_parameters() if p.requires_grad
    }
    assert learning == {f"base_model.model.{name}" for name in expected}
    config = model.peft_config["default"]
    assert (config.r, config.use_dora, config.init_lora_weights, config.lora_dropout) == (
        4,
        True,
        "gaussian",
        0.1,
    )


@pytest.mark.parametrize("name", list(tiny.NAMES))
@pytest.mark.parametrize(
    "parts", [("connector",), ("vision", "connector", "language"), ("language",)]
)
def test_the_parts_that_learn_all_get_gradients_and_the_others_none(ground, name, parts):
    model, processor = open_model(ground / name, settings=replace(SETTINGS, parts=parts))
    model.train()(**batch(processor)).loss.backward()
    known = parts_of(model)
    assert sum(map(len, known.values())) == len(list(model.parameters()))
    got = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert got == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {part for part, names in known.items() if got & set(names)} == set(parts)
    assert all(set(known[part]) <= got for part in parts if part != "vision")
    layers = {type(module).__name__ for module in model.modules()}
    assert (
        len(layers & set(model._no_split_modules)) == len(model._no_split_modules) > 1
    )  # FSDP cuts there


def test_the_vision_tower_learns_from_a_layer_on(ground):
    def learning(name, layer):
        settings = replace(SETTINGS, parts=("vision",), vision_from_layer=layer)
        model, _ = open_model(ground / name, settings=settings)
        steps = {
            re.sub(r".*(layers\.\d|embeddings|post_layernorm|pre_layrnorm).*", r"\1", n)
            for n, p in model.named_parameters()
            if p.requires_grad
        }
        return sorted(steps)

    assert learning("tiny-llava", 0) == [
        "embeddings",
        "layers.0",
        "layers.1",
        "pre_layrnorm",
    ]  # features of layer -2
    assert learning("tiny-llava", 1) == ["layers.1"]
    assert learning("tiny-idefics2", 2) == ["layers.2", "post_layernorm"]
    with pytest.raises(InputError, match="vision_from_layer is 3; the vision tower has 3 layers"):
        learning("tiny-llava", 3)


@pytest.mark.parametrize(
    ("name", "splitting", "tokens"),
    [
        ("tiny-idefics2", True, 40),
        ("tiny-idefics2", False, 8),
        ("tiny-idefics3", True, 80),
        ("tiny-idefics3", False, 16),
    ],
)
def test_images_are_split_as_was_asked_for_also_when_the_model_is_opened_again(
    ground, tmp_path, name, splitting, tokens
):
    settings = replace(SETTINGS, method="lora", image_splitting=splitting)
    model, processor = trained(ground / name, settings, steps=1)
    assert batch(processor)["input_ids"].eq(processor.image_token_id).sum() == tokens
    models.save_trained(model, processor, tmp_path, {"base": name})
    opened = models.open_trained(tmp_path)
    assert batch(opened[1])["input_ids"].eq(processor.image_token_id).sum() == tokens
    assert torch.allclose(logits(*opened), logits(model, processor), atol=1e-5)
    models.merge_saved(tmp_path, {"base": name}, precision="float32")
    assert torch.equal(logits(*models.open_trained(tmp_path)), logits(*opened))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"parts": ()}, "parts is"),
        ({"parts": ("head",)}, "parts is"),
        ({"vision_from_layer": 1}, "vision_from_layer"),
        ({"method": "lora", "parts": ("vision", "language")}, "parts holds vision"),
        ({"image_splitting": True}, "image_splitting"),
    ],
)
def test_settings_that_this_model_cannot_follow_are_refused(ground, changes, named):
    with pytest.raises(InputError, match=named):
        open_model(ground / "tiny-llava", settings=replace(SETTINGS, **changes))


def test_folders_that_hold_no_such_model_are_refused_by_name(ground, tmp_path):
    def broken(change):
        folder = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        shutil.copytree(ground / "tiny-llava", folder)
        change(folder)
        with pytest.raises(InputError, match="model is ") as caught:
            open_model(folder, settings=SETTINGS)
        assert str(folder) in str(caught.value)
        return str(caught.value)

    def without(folder, key="multi_modal_projector.linear_1.weight"):
        weights = load_file(folder / "model.safetensors")
        del weights[key]
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    def edited(folder, file, **values):
        path = folder / file
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    llama = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
    assert "LlamaConfig" in broken(lambda f: edited(f, "config.json", **llama))

    def text_only(folder):
        edited(folder, "config.json", **llama)
        edited(folder, "tokenizer_config.json", processor_class=None)
        (folder / "processor_config.json").unlink()

    assert "takes no images" in broken(text_only)
    assert "lacks 1 weights" in broken(without)
    assert "chat_template.jinja" in broken(lambda f: (f / "chat_template.jinja").unlink())
    assert "lacks patch_size" in broken(
        lambda f: edited(f, "processor_config.json", patch_size=None)
    )
    assert "AutoProcessor" in broken(lambda f: (f / "processor_config.json").write_text("{"))
    assert "AutoModel" in broken(lambda f: (f / "model.safetensors").write_bytes(b"cut off"))


def test_an_adapter_must_fit_its_base_weight_for_weight(ground, tmp_path):
    model, processor = open_model(ground / "tiny-llava", settings=replace(SETTINGS, method="lora"))
    models.save_trained(model, processor, tmp_path, {"base": "tiny-llava"})
    file = tmp_path / models.ADAPTER[1]
    weights = load_file(file)
    name = next(iter(weights))
    others = {key: value for key, value in weights.items() if key != name}
    renamed = {key.replace(".model.language", ".language"): value for key, value in weights.items()}
    for changed in (
        others,
        weights | {"x.lora_A.weight": torch.ones(1)},
        others | {name: torch.ones(1, 1)},
        renamed,
    ):
        save_file(changed, file, metadata={"format": "pt"})
        with pytest.raises(InputError, match=rf"'{re.escape(str(tmp_path))}'.* do not fit"):
            models.open_trained(tmp_path)
    save_file(weights, file, metadata={"format": "pt"})
    facts = json.loads((tmp_path / models.FACTS).read_text())
    (tmp_path / models.FACTS).write_text(json.dumps(facts | {"base_weights": "0" * 16}))
    with pytest.raises(InputError, match="has changed since"):
        models.open_trained(tmp_path)


def test_a_model_trained_in_stages_finds_its_bases_in_its_run(ground, tmp_path, monkeypatch):
    monkeypatch.setenv("VISLIB_RUNS", str(tmp_path))
    run = start_run("01_documents", {"run_dir": "runs/demo"})
    place = models.resolve_model("tiny-llava", run)
    assert models.weights_hash(place) == models.weights_hash(ground / "tiny-llava")
    stages = [
        ("10_finetuning.align", "lora", "tiny-llava"),
        ("10_finetuning", "dora", "10_finetuning.align/model"),
    ]
    for stage, method, base in stages:
        model, processor = trained(
            models.resolve_model(base, run), replace(SETTINGS, method=method)
        )
        expected, folder = logits(model, processor), tmp_path / "demo" / stage / "data" / "model"
        models.save_trained(model, processor, folder, {"base": base})
    assert torch.allclose(logits(*models.open_trained(folder)), expected, atol=1e-5)
    assert models.resolve_model("org/name@main", run) == "org/name@main"
    shutil.copytree(folder, tmp_path / "elsewhere")
    with pytest.raises(InputError, match="leave both there"):
        models.open_trained(tmp_path / "elsewhere")
    for value in ("", "tiny-lava", "12_evaluation/model", "/no/such/folder"):
        with pytest.raises(InputError, match="model is"):
            models.resolve_model(value, run)
    run.close()


def test_weights_in_bfloat16_are_saved_so(ground, tmp_path):
    model, processor = open_model(
        ground / "tiny-llava", settings=replace(SETTINGS, precision="bfloat16")
    )
    assert {p.dtype for p in model.parameters()} == {torch.float32}  # the optimiser works on them
    models.save_trained(model, processor, tmp_path, {}, precision="bfloat16")
    assert {value.dtype for value in load_file(tmp_path / "model.safetensors").values()} == {
        torch.bfloat16
    }
    assert models.open_trained(tmp_path, precision="bfloat16")[0].dtype == torch.bfloat16
    settings = replace(SETTINGS, precision="bfloat16", method="lora")
    adapted, _ = open_model(ground / "tiny-llava", settings=settings)
    kinds = {p.requires_grad: p.dtype for p in adapted.parameters()}
    assert kinds == {True: torch.float32, False: torch.bfloat16}
