"""LLaVA's own checkpoints, such as ShareGPT4V-7b, in the form that transformers reads (VisCon-100K,
section 5).

    python params/recipes/llava_weights.py SOURCE VISION_TOWER TARGET

SOURCE: the folder as it was published; VISION_TOWER: the folder of its CLIP, which gives the form
and, where SOURCE has none of its own, the weights; TARGET is made.
"""

import sys
from pathlib import Path
from typing import Any

import torch
import transformers as t
from tokenizers import decoders, processors

from vislib.media.tokenization import load_tokenizer
from vislib.runs import InputError
from vislib.training import vicuna

NAMES = {  # of weights: LLaVA's, and transformers'
    r"^model\.vision_tower\.vision_tower\.(vision_model\.)?": "model.vision_tower.",
    r"^model\.mm_projector\.0\.": "model.multi_modal_projector.linear_1.",
    r"^model\.mm_projector\.2\.": "model.multi_modal_projector.linear_2.",
    r"^model\.(?=embed_tokens|layers|norm)": "model.language_model.",
}
PATCHES = {"patch": "default", "cls_patch": "full"}  # which features of the tower are taken


def convert(source: Path, vision_tower: Path, target: Path) -> None:
    """Convert the checkpoint in `source` into `target`; raises InputError for another kind."""
    if target.exists():
        raise InputError(f"{target} exists; remove it, or name another folder")
    described, _ = t.PreTrainedConfig.get_config_dict(source)
    held = described.get("mm_projector_type"), described.get("mm_vision_select_feature")
    if held[0] != "mlp2x_gelu" or held[1] not in PATCHES:
        raise InputError(
            f"{source}: config.json is of no LLaVA-1.5: its projector and features {held}"
        )
    vision = t.CLIPVisionModel.from_pretrained(vision_tower, dtype="auto")
    processor = processor_of(source, vision_tower, described, vision.config.patch_size)
    config = t.LlavaConfig(
        text_config=t.LlamaConfig(**known(described)),
        vision_config=vision.config,
        image_token_index=processor.image_token_id,
        vision_feature_layer=described.get("mm_vision_select_layer", -2),
        vision_feature_select_strategy=processor.vision_feature_select_strategy,
    )
    model = opened(source, config, vision)
    grow(model, processor.tokenizer)
    model.save_pretrained(target, save_original_format=False)  # else under LLaVA's names again
    processor.save_pretrained(target)


def opened(source: Path, config: Any, vision: Any) -> Any:
    """The model of `source`; raises InputError unless every weight is there and fits."""
    try:
        model, loading = t.LlavaForConditionalGeneration.from_pretrained(
            source, config=config, key_mapping=NAMES, dtype="auto", output_loading_info=True
        )
    except Exception as error:  # damaged files and other shapes fail with all kinds
        raise InputError(
            f"{source}: cannot be read ({str(error)[:300]}); fetch it again"
        ) from error
    missing = loading["missing_keys"]
    if missing and all(name.startswith("model.vision_tower.") for name in missing):
        model.model.vision_tower.load_state_dict(vision.state_dict())  # SOURCE left CLIP as it was
        missing = []
    if wrong := sorted({*missing, *loading["unexpected_keys"]}):
        raise InputError(
            f"{source}: {len(wrong)} weights are missing or unknown, such as {wrong[0]}"
        )
    return model


def processor_of(source: Path, vision_tower: Path, described: dict[str, Any], patch: int) -> Any:
    """LLaVA's images and text, with the chat form that it is trained with."""
    backend = load_tokenizer(str(source))
    backend.encode_special_tokens = False
    backend.post_processor = processors.Sequence([])  # the chat template writes the beginning token
    if backend.decoder is None:  # made from SentencePiece's own file
        space = decoders.Replace("▁", " "), decoders.Strip(" ", 1, 0)
        parts = [space[0], decoders.ByteFallback(), decoders.Fuse(), space[1]]
        backend.decoder = decoders.Sequence(parts)
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    longest = described.get("max_position_embeddings", 2048)
    tokenizer = t.PreTrainedTokenizerFast(
        tokenizer_object=backend, model_max_length=longest, **special
    )
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    kind, images = (
        t.CLIPImageProcessorPil,
        t.CLIPImageProcessorPil.from_pretrained(vision_tower).to_dict(),
    )
    images.pop("image_processor_type")
    if described.get("image_aspect_ratio") == "pad":  # to a square, so that nothing is cropped
        kind, images = t.LlavaImageProcessorPil, images | {"do_pad": True}
    return t.LlavaProcessor(
        kind(**images),
        tokenizer,
        patch_size=patch,
        num_additional_image_tokens=1,
        vision_feature_select_strategy=PATCHES[described["mm_vision_select_feature"]],
        chat_template=vicuna.TEMPLATE,
    )


def grow(model: Any, tokenizer: Any) -> None:
    """Room for <pad> and <image>: their weights are the mean of all, so that no greedy answer takes
    them.
    """
    own = model.config.text_config.vocab_size
    # a multiple of 64 is faster on GPUs
    model.resize_token_embeddings(
        max(own, len(tokenizer)), pad_to_multiple_of=64, mean_resizing=False
    )
    with torch.no_grad():
        for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
            layer.weight[own:] = layer.weight[:own].float().mean(0).to(layer.weight.dtype)
    for config in (model.config, model.config.text_config, model.generation_config):
        config.bos_token_id, config.eos_token_id = tokenizer.bos_token_id, tokenizer.eos_token_id
        config.pad_token_id = tokenizer.pad_token_id


def known(described: dict[str, Any]) -> dict[str, Any]:
    """What the language model's own config has a word for."""
    names = {*t.LlamaConfig().to_dict(), "rope_theta", "rope_scaling"}
    dropped = {"model_type", "architectures", "use_cache"}  # LLaVA's was saved while it trained
    return {name: value for name, value in described.items() if name in names - dropped}


if __name__ == "__main__":
    try:
        convert(*map(Path, sys.argv[1:]))
    except InputError as error:
        sys.exit(f"error: {error}")
