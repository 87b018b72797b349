"""`params/recipes/llava_weights.py`: a checkpoint in LLaVA's own layout becomes the same model in
transformers' form.
"""

import importlib.util
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from shutil import copytree

import mistral_common
import pytest
import torch
import transformers as t
from PIL import Image
from safetensors.torch import save_file
from sentencepiece import SentencePieceProcessor

from tests.test_training_models import IMAGE, ROW
from tests.training_ground import encode
from tests.training_rows import SETTINGS
from vislib.runs import InputError
from vislib.training import models
from vislib.training.chat import model_inputs, prompt_text
from vislib.training.labels import IGNORED, Encoder
from vislib.training.parts import open_model
from vislib.training.vicuna import SYSTEM

RECIPE = Path(__file__).parents[1] / "params/recipes/llava_weights.py"
described_as = importlib.util.spec_from_file_location("llava_weights", RECIPE)
recipe = importlib.util.module_from_spec(described_as)
described_as.loader.exec_module(recipe)
convert = recipe.convert
PIECES = (
    Path(mistral_common.__file__).parent / "data/tokenizer.model.v1"
)  # of LLaMA's kind, 32,000 entries
SIDE = 56
TEXT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 32000,
    "max_position_embeddings": 512,
}
VISION = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": SIDE,
    "patch_size": 14,
}


def build() -> t.LlavaForConditionalGeneration:
    """The model itself, in this form: what a conversion must give, but for the vocabulary that it
    adds.
    """
    torch.manual_seed(0)
    vision = t.CLIPVisionConfig(**VISION)
    config = t.LlavaConfig(
        text_config=t.LlamaConfig(**TEXT), vision_config=vision, image_token_index=0
    )
    return t.LlavaForConditionalGeneration(config).eval()


def original(model: t.LlavaForConditionalGeneration) -> tuple[dict, dict]:
    """Its weights under the names of LLaVA's code: the language model with its projector, and the
    vision tower.
    """
    language, vision = {}, {}
    for name, value in model.state_dict().items():
        if name.startswith("model.vision_tower."):
            vision["vision_model." + name.removeprefix("model.vision_tower.")] = value
        else:
            name = name.replace("multi_modal_projector.linear_1", "mm_projector.0").replace(
                ".language_model.", "."
            )
            language[name.replace("multi_modal_projector.linear_2", "mm_projector.2")] = value
    return language, vision


def sharded(weights: dict, folder: Path) -> None:
    """In the two files and the index that old versions of transformers wrote, with a buffer that
    they still had.
    """
    weights = weights | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
    places = {
        name: f"pytorch_model-0000{1 + (at % 2)}-of-00002.bin" for at, name in enumerate(weights)
    }
    for file in set(places.values()):
        torch.save(
            {name: weights[name].clone() for name, place in places.items() if place == file},
            folder / file,
        )
    (folder / "pytorch_model.bin.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": places})
    )


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    """`source` has no tower of its own, but `clip`'s; `tuned`, in one file, came with a tower that
    was trained.
    """
    folder = tmp_path_factory.mktemp("llava")
    model = build()
    language, vision = original(model)
    described = TEXT | {
        "model_type": "llava",
        "architectures": ["LlavaLlamaForCausalLM"],
        "mm_projector_type": "mlp2x_gelu",
        "mm_vision_select_feature": "patch",
        "mm_vision_select_layer": -2,
        "mm_vision_tower": "clip",
        "image_aspect_ratio": "pad",
        "torch_dtype": "float32",
        "bos_token_id": 1,
        "eos_token_id": 2,
        "use_cache": False,
    }
    for name in ("source", "tuned", "clip"):
        (folder / name).mkdir()
        if name != "clip":
            (folder / name / "config.json").write_text(json.dumps(described))
            (folder / name / "tokenizer.model").write_bytes(PIECES.read_bytes())
    sharded(language, folder / "source")
    t.CLIPVisionConfig(**VISION).save_pretrained(folder / "clip")
    size = {"shortest_edge": SIDE}
    t.CLIPImageProcessorPil(size=size, crop_size={"height": SIDE, "width": SIDE}).save_pretrained(
        folder / "clip"
    )
    save_file(
        {name: value.clone() for name, value in vision.items()},
        folder / "clip/model.safetensors",
        {"format": "pt"},
    )
    own = {f"model.vision_tower.vision_tower.{name}": value * 1.5 for name, value in vision.items()}
    torch.save(language | own, folder / "tuned/pytorch_model.bin")
    return folder, model


@pytest.fixture(scope="module")
def converted(ground):
    folder, _ = ground
    convert(folder / "source", folder / "clip", folder / "converted")
    return folder / "converted"


def encoded(processor):
    row = encode(Encoder(processor, max_length=512), ROW, [IMAGE])
    return row, {"input_ids": torch.tensor([row.input_ids]), **row.pixels}


def direct(model, processor, batch):
    """Logits of the model itself, its image token set to the processor's, which no text holds."""
    model.config.image_token_id = model.model.config.image_token_id = processor.image_token_id
    embeds = model.get_input_embeddings()(batch["input_ids"].clamp(max=TEXT["vocab_size"] - 1))
    features = torch.cat(list(model.model.get_image_features(batch["pixel_values"]).pooler_output))
    at = batch["input_ids"] == processor.image_token_id
    return model(inputs_embeds=embeds.masked_scatter(at.unsqueeze(-1), features)).logits


def test_the_converted_model_computes_what_the_original_does(ground, converted):
    _, source = ground
    model, processor = open_model(converted, settings=replace(SETTINGS, parts=("language",)))
    row, batch = encoded(processor)
    with torch.inference_mode():
        logits, expected = model.eval()(**batch).logits, direct(source, processor, batch)
    assert torch.equal(logits[..., : TEXT["vocab_size"]], expected)
    assert row.n_image_tokens == (SIDE // 14) ** 2
    added = logits[..., TEXT["vocab_size"] :]
    assert added.shape[-1] == 64
    assert (
        added < expected.max(-1, keepdim=True).values
    ).all()  # no greedy answer takes what was added


def test_a_tower_that_came_with_the_language_model_is_taken_before_clip_s(ground, tmp_path):
    folder, source = ground
    convert(folder / "tuned", folder / "clip", tmp_path / "out")
    model, processor = models.open_trained(tmp_path / "out")
    _, batch = encoded(processor)
    tuned = build()
    tuned.load_state_dict(source.state_dict())
    with torch.inference_mode():
        for parameter in tuned.model.vision_tower.parameters():
            parameter *= 1.5
        assert torch.equal(
            model(**batch).logits[..., : TEXT["vocab_size"]], direct(tuned, processor, batch)
        )


def test_text_is_tokenised_as_by_the_original(converted):
    processor = models.open_processor(converted)
    pieces = SentencePieceProcessor(model_file=str(PIECES))
    for text in ("A  naïve\tcafé, 12,345.", "東京 🙂\n\nmulti-line ", " x"):
        assert processor.tokenizer(text, add_special_tokens=False)["input_ids"] == pieces.encode(
            text
        )
        assert processor.tokenizer.decode(pieces.encode(text)) == text


def llavas_recipe(turns: list[dict], pieces: SentencePieceProcessor) -> tuple[list[int], list[int]]:
    """Token ids without those of images, and labels, by LLaVA's rules for Vicuna, written down
    anew.

    The image goes to the front of its turn, whose text is stripped. The system sentence and
    questions end with a space, answers with </s>. A text behind a special token is tokenised by
    itself. From the token behind `ASSISTANT:` to </s> a token carries loss.
    """
    ids, labels = [1], [IGNORED]

    def add(text: str, learnt: bool = False) -> None:
        made = pieces.encode(text)
        ids.extend(made)
        labels.extend(made if learnt else [IGNORED] * len(made))

    asked = f"{SYSTEM} "
    for turn in turns:
        if turn["from"] == "human":
            text, image = turn["value"], "<image>" in turn["value"]
            asked += "USER: "
            if image:
                add(asked)
                text = ("\n" + text.replace("<image>", "").strip()).rstrip()
                asked = ""
            asked += f"{text} "
        else:
            question = len(pieces.encode(f"{asked}ASSISTANT:"))
            made = pieces.encode(f"{asked}ASSISTANT: {turn['value']}")
            ids.extend([*made, 2])
            labels.extend([*[IGNORED] * question, *made[question:], 2])
            asked = ""
    return ids, labels


@pytest.mark.parametrize(
    "turns",
    [
        ["<image>\nHi?", "Yes.", "Why?", "So."],
        ["What is on the bus?\n<image>", "A  cat, 12,345."],
        ["Is it <image> red?  \n", "No: blue.\n\n- sky"],
        [" <image>", "A lamp."],
        ["  2 + 2? ", " 4", "And 3?", "3"],
        ["Where?", "USER: there. ASSISTANT: no", "<image>\nAnd here?", "東京 🙂"],
    ],
)
def test_a_row_is_llavas_training_text_token_for_token(converted, turns):
    said = [{"from": ("human", "gpt")[n % 2], "value": value} for n, value in enumerate(turns)]
    processor = models.open_processor(converted)
    images = [IMAGE] * sum(value.count("<image>") for value in turns)
    row = {"images": ["x"] * len(images), "conversations": said}
    found = encode(Encoder(processor, max_length=512), row, images)
    of_text = [at for at, token in enumerate(found.input_ids) if token != processor.image_token_id]
    ids, labels = llavas_recipe(said, SentencePieceProcessor(model_file=str(PIECES)))
    assert [found.input_ids[at] for at in of_text] == ids
    assert [found.labels[at] for at in of_text] == labels
    asked = prompt_text(processor, said[:-1])  # what generation reads, in 11 and 12
    begun = model_inputs(processor, asked, images)["input_ids"][0].tolist()
    assert found.input_ids[: len(begun)] == begun


def test_a_harness_that_writes_a_turn_as_one_text_gets_the_same_text(converted):
    """lmms-eval gives the template no list of parts, and the tokenizer whatever that writes."""
    processor = models.open_processor(converted)
    message = {"role": "user", "content": "<image>\nWhat is it?"}
    text = processor.apply_chat_template([message], tokenize=False, add_generation_prompt=True)
    assert text == prompt_text(processor, [{"from": "human", "value": "What is it?\n<image>"}])
    ids = processor(text=text, images=[IMAGE])["input_ids"][0]
    assert (ids[0], list(ids).count(1)) == (1, 1)


def test_a_wide_picture_is_padded_to_a_square_as_llava_does(converted):
    processor = models.open_processor(converted)
    wide = Image.new("RGB", (200, 50), "red")
    values = processor.image_processor(wide, return_tensors="pt")["pixel_values"][0]
    assert values.shape == (3, SIDE, SIDE)
    assert values[:, 0].abs().max() < 0.02  # the mean colour above it
    assert values[0, SIDE // 2].min() > 1  # red from edge to edge: nothing is cropped


def test_what_is_missing_unknown_or_misshapen_is_an_error_and_leaves_no_folder(ground, tmp_path):
    folder, _ = ground
    norm = "model.norm.weight"
    for number, (change, named) in enumerate(
        [
            ({norm: None}, "1 weights are missing or unknown, .*language_model.norm.weight"),
            ({"model.extra.weight": torch.ones(2)}, "missing or unknown, .*model.extra.weight"),
            ({norm: torch.ones(3)}, "cannot be read"),
        ]
    ):
        broken = copytree(folder / "tuned", tmp_path / str(number))
        weights = torch.load(broken / "pytorch_model.bin") | change
        torch.save(
            {name: value for name, value in weights.items() if value is not None},
            broken / "pytorch_model.bin",
        )
        with pytest.raises(InputError, match=named):
            convert(broken, folder / "clip", tmp_path / "out")
        assert not (tmp_path / "out").exists()


def test_other_checkpoints_and_folders_that_exist_are_refused(ground, tmp_path):
    folder, _ = ground
    other = copytree(folder / "tuned", tmp_path / "other")
    described = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(described | {"mm_projector_type": "resampler"}))
    with pytest.raises(InputError, match=r"its projector and features .'resampler', 'patch'"):
        convert(other, folder / "clip", tmp_path / "out")
    (other / "config.json").write_text(json.dumps(described))
    (other / "pytorch_model.bin").write_bytes(b"cut off")
    with pytest.raises(InputError, match="cannot be read"):
        convert(other, folder / "clip", tmp_path / "out")
    command = [sys.executable, str(RECIPE), str(other), str(folder / "clip"), str(other)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert "exists; remove it" in ended.stderr
