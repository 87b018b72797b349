"""LLaVA's own checkpoints, such as ShareGPT4V-7b, in the form that transformers reads (VisCon-100K,
section 5).

`python -m vislib.training.llava_weights SOURCE VISION_TOWER TARGET`: SOURCE is the folder as it was
published, VISION_TOWER the folder of its CLIP, which gives the form and, where SOURCE has none of
its own, the weights; TARGET is made. Files are converted one at a time, so that memory holds one of
them. A weight that is missing, unknown or of another shape is an error.
"""

import argparse
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from vislib.media.tokenization import load_tokenizer
from vislib.runs.errors import InputError
from vislib.training import vicuna

_IN_LLAVA = {  # names in SOURCE, and in transformers' files; the longest first
    "model.vision_tower.vision_tower.": "vision_tower.",
    "model.mm_projector.0.": "multi_modal_projector.linear_1.",
    "model.mm_projector.2.": "multi_modal_projector.linear_2.",
    "model.": "language_model.model.",
    "lm_head.": "language_model.lm_head.",
}
_IN_MEMORY = {  # names in transformers' model, and in its files
    "model.vision_tower.": "vision_tower.vision_model.",
    "model.multi_modal_projector.": "multi_modal_projector.",
    "model.language_model.": "language_model.model.",
    "lm_head.": "language_model.lm_head.",
}
_BUFFERS = re.compile(r"(rotary_emb\.inv_freq|embeddings\.position_ids)$")  # computed anew
_GROWS = ("language_model.model.embed_tokens.weight", "language_model.lm_head.weight")
_ROUND = 64  # the vocabulary becomes a multiple of it: faster on GPUs
_SETTINGS = {
    "mm_projector_type": ("mlp2x_gelu",),
    "mm_vision_select_feature": ("patch", "cls_patch"),
}


def convert(source: Path, vision_tower: Path, target: Path) -> None:
    """Convert the checkpoint in `source` into the folder `target`, which must not exist. Raises
    InputError.
    """
    if target.exists():
        raise InputError(f"{target} exists; remove it, or name another folder")
    described = _described(source)
    processor = _processor(source, vision_tower, described)
    config = _config(described, vision_tower, processor)
    building = target.with_name(f"{target.name}.partial")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    _write_weights(source, vision_tower, config, building)
    config.save_pretrained(str(building))  # with the ids that generation needs
    processor.save_pretrained(str(building))
    os.replace(building, target)


def _described(source: Path) -> dict[str, Any]:
    """What `config.json` of `source` says; raises InputError for what this conversion does not
    know.
    """
    try:
        described: dict[str, Any] = json.loads((source / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{source}: its config file cannot be read ({error}); name the folder of a LLaVA"
        ) from error
    for name, known in _SETTINGS.items():
        if described.get(name) not in known:
            held = described.get(name)
            raise InputError(
                f"{source}: {name} is {held!r} in config.json; a LLaVA-1.5 has {' or '.join(known)}"
            )
    return described


def _processor(source: Path, vision_tower: Path, described: Mapping[str, Any]) -> Any:
    import transformers
    from tokenizers import decoders, processors

    backend = load_tokenizer(str(source))
    backend.encode_special_tokens = False
    backend.post_processor = processors.Sequence([])  # the chat template writes the beginning token
    if backend.decoder is None:  # made from SentencePiece's own file
        parts = [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
        backend.decoder = decoders.Sequence(parts)
    tokenizer: Any = transformers.PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        model_max_length=described.get("max_position_embeddings", 2048),
    )
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    images = transformers.CLIPImageProcessorPil.from_pretrained(str(vision_tower)).to_dict()
    images.pop("image_processor_type")
    kind: Any = transformers.CLIPImageProcessorPil
    if described.get("image_aspect_ratio") == "pad":  # to a square, so that nothing is cropped
        kind, images = transformers.LlavaImageProcessorPil, images | {"do_pad": True}
    select = "default" if described["mm_vision_select_feature"] == "patch" else "full"
    return transformers.LlavaProcessor(  # type: ignore[no-untyped-call]
        kind(**images),
        tokenizer,
        patch_size=_vision(vision_tower).patch_size,
        num_additional_image_tokens=1,
        vision_feature_select_strategy=select,
        chat_template=vicuna.TEMPLATE,
    )


def _vision(vision_tower: Path) -> Any:
    import transformers

    config = transformers.AutoConfig.from_pretrained(str(vision_tower))
    config = getattr(config, "vision_config", config)
    if not isinstance(config, transformers.CLIPVisionConfig):
        raise InputError(
            f"{vision_tower}: is {config.model_type}; name the CLIP that the model was trained with"
        )
    return config


def _config(described: Mapping[str, Any], vision_tower: Path, processor: Any) -> Any:
    import transformers

    tokenizer = processor.tokenizer
    known = {*transformers.LlamaConfig().to_dict(), "rope_theta", "rope_scaling"} - {
        "model_type",
        "architectures",
    }
    language = {name: value for name, value in described.items() if name in known}
    size = max(len(tokenizer), described.get("vocab_size", 0))
    language |= {
        "vocab_size": -(-size // _ROUND) * _ROUND,
        "pad_token_id": tokenizer.pad_token_id,
        "use_cache": True,
    }
    ids = {
        name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")
    }
    return transformers.LlavaConfig(
        text_config=transformers.LlamaConfig(**language),
        vision_config=_vision(vision_tower),
        image_token_index=processor.image_token_id,
        vision_feature_layer=described.get("mm_vision_select_layer", -2),
        vision_feature_select_strategy=processor.vision_feature_select_strategy,
        architectures=["LlavaForConditionalGeneration"],
        dtype=described.get("torch_dtype") or described.get("dtype") or "float16",
        **ids,
    )


# ---- weights
# ------------------------------------------------------------------------------------------------


def _write_weights(source: Path, vision_tower: Path, config: Any, folder: Path) -> None:
    """One file of `folder` for each of `source`, and for each of the tower's own where `source`
    holds none.
    """
    from safetensors.torch import save_file

    expected, found, total = _expected(config), dict[str, str](), 0
    files: list[tuple[Path, Callable[[str], str]]] = [(file, _of_llava) for file in _files(source)]
    while files:
        file, rename = files.pop(0)
        part = {}
        for name, value in _read(file).items():
            if new := rename(name):
                part[new] = _checked(value, new, expected, config, f"{file}: {name}")
        written = (
            f"model-{file.stem}.safetensors"
            if rename is _of_llava
            else f"model-vision-{file.stem}.safetensors"
        )
        save_file(part, str(folder / written), metadata={"format": "pt"})
        found |= dict.fromkeys(part, written)
        total += sum(value.nbytes for value in part.values())
        if not files and not any(name.startswith("vision_tower.") for name in found):
            files = [(file, _of_clip) for file in _files(vision_tower)]
    if lacking := sorted(expected.keys() - found.keys()):
        raise InputError(
            f"{source}: lacks {len(lacking)} of {len(expected)} weights, such as {lacking[0]}"
        )
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(found.items()))}
    (folder / "model.safetensors.index.json").write_text(
        json.dumps(index, indent=1) + "\n", encoding="utf-8"
    )


def _expected(config: Any) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all weights, as they stand in transformers' files."""
    import torch
    import transformers

    with torch.device("meta"):
        model = transformers.LlavaForConditionalGeneration(config)
    return {
        _renamed(name, _IN_MEMORY): tuple(value.shape) for name, value in model.state_dict().items()
    }


def _renamed(name: str, names: Mapping[str, str]) -> str:
    return next(
        (new + name.removeprefix(old) for old, new in names.items() if name.startswith(old)), name
    )


def _of_llava(name: str) -> str:
    """The name in transformers' files; "" for what is computed anew, the name itself for what is
    unknown.
    """
    return "" if _BUFFERS.search(name) else _renamed(name, _IN_LLAVA)


def _of_clip(name: str) -> str:
    """The same for CLIP's own files: with its text side, its vision side, or bare."""
    if _BUFFERS.search(name) or name.startswith(
        ("text_model.", "text_projection", "visual_projection", "logit_scale")
    ):
        return ""
    return f"vision_tower.vision_model.{name.removeprefix('vision_model.')}"


def _checked(
    value: Any, name: str, expected: Mapping[str, tuple[int, ...]], config: Any, place: str
) -> Any:
    """The weight in the model's type; vocabulary that was added gets the mean of all: greedy
    answers never take it.
    """
    import torch

    if name not in expected:
        raise InputError(
            f"{place} is unknown in a LLaVA of this config; is it of another architecture?"
        )
    if name in _GROWS and len(value) < expected[name][0]:
        mean = value.float().mean(0, keepdim=True).to(value.dtype)
        value = torch.cat([value, mean.expand(expected[name][0] - len(value), -1)])
    if tuple(value.shape) != expected[name]:
        raise InputError(
            f"{place} has the shape {tuple(value.shape)}, not {expected[name]} as its config.json"
            " says"
        )
    return value.to(config.dtype).contiguous()


def _files(folder: Path) -> list[Path]:
    """The files that hold a folder's weights."""
    for kind in ("model.safetensors", "pytorch_model.bin"):
        index = folder / f"{kind}.index.json"
        if index.is_file():
            return [
                folder / name
                for name in sorted(set(json.loads(index.read_text())["weight_map"].values()))
            ]
        if (folder / kind).is_file():
            return [folder / kind]
    raise InputError(
        f"{folder}: holds no model.safetensors or pytorch_model.bin, in one file or with an index"
    )


def _read(file: Path) -> dict[str, Any]:
    import torch
    from safetensors.torch import load_file

    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        weights: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        return weights
    except Exception as error:  # damaged files fail with all kinds
        raise InputError(f"{file}: cannot be read ({str(error)[:200]}); fetch it again") from error


def main(arguments: list[str]) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m vislib.training.llava_weights", description=__doc__
    )
    for name in ("source", "vision_tower", "target"):
        parser.add_argument(name, type=Path)
    try:
        convert(**vars(parser.parse_args(arguments)))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
