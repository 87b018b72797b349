"""A model to train: its parts, and which of them learn, by their own weights or by adapters beside
them (VisCon-100K, section 5; DenseFusion-1M's stages).

LLaVA-style models, IDEFICS2 and their kin are a vision tower, a connector and a language model.
DenseFusion trains the connector first (pre-align), then with the upper half of the vision tower
(pre-train), then fine-tunes. LoRA and DoRA, as recommended for IDEFICS2-8b, go on the linear layers
of the language model and of the connector, never on the vision tower or the vocabulary.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vislib.runs.errors import InputError
from vislib.training.models import open_processor, open_weights
from vislib.training.settings import Settings

# Names of modules in transformers, by the part that they are; of several in one path the innermost
# counts.
_MODULES = {
    "vision": "vision_tower vision_model visual vision_encoder image_encoder",
    "connector": "multi_modal_projector connector modality_projection perceiver_resampler merger"
    " qformer query_tokens language_projection vision_projection projector mm_projector aligner"
    " image_newline",
    "language": "language_model text_model lm_head",
}
_PART = {name: part for part, names in _MODULES.items() for name in names.split()}
_LAYER = re.compile(r"\.(?:layers?|blocks?)\.(\d+)\.")


def open_model(place: str | Path, *, settings: Settings) -> tuple[Any, Any]:
    """`(model, processor)` to train, on CPU: parts that do not learn are frozen, adapters attached.

    Weights are float32 where the optimiser works on them directly (full training by ddp or fsdp);
    else, in bfloat16 training, they are bfloat16: frozen, or copied to float32 by DeepSpeed. Raises
    InputError for what cannot be.
    """
    import torch

    torch.manual_seed(settings.seed)  # of the adapters' first weights
    processor = open_processor(place, image_splitting=settings.image_splitting)
    if settings.vision_from_layer and "vision" not in settings.parts:
        raise InputError(
            f"vision_from_layer is {settings.vision_from_layer}, but parts lacks vision; add it, or"
            " set 0"
        )
    # Adam loses small updates of bfloat16 weights; DeepSpeed keeps float32 copies of its own
    updated = settings.method == "full" and settings.strategy in ("ddp", "fsdp")
    model = open_weights(
        str(place),
        precision="float32" if updated else settings.precision,
        attention=settings.attention,
        quantization=settings.quantization,
    )
    model.name_or_path = str(place)  # of an adapter that was merged, its base's until now
    # FSDP cuts at the layers that these name; CLIP also names those of a text tower it lacks here
    layers = {type(module).__name__ for module in model.modules()}
    model._no_split_modules = sorted(layers & set(model._no_split_modules))
    if settings.method == "full":
        freeze(model, settings.parts, vision_from_layer=settings.vision_from_layer)
    else:
        model = attach(model, settings)
    if settings.gradient_checkpointing:
        _checkpoint_layers(model)
    return model, processor


def _checkpoint_layers(model: Any) -> None:
    """Compute activations of layers again for their gradients, of those alone that have any.

    transformers also lets every embedding ask for gradients, the vision tower's too, as only the
    reentrant form needs it: a frozen tower would be computed three times instead of once. Hence
    here, not by the Trainer's option.
    """
    from vislib.training.throughput import FlopMeter

    how = {"use_reentrant": False, "context_fn": FlopMeter.contexts}
    model.activation_checkpointing_enable(activation_checkpointing_kwargs=how)
    model.disable_input_require_grads()


def part_of(name: str) -> str:
    """The part that a module's or parameter's dotted name belongs to, "" if that cannot be told."""
    return next((_PART[step] for step in reversed(name.split(".")) if step in _PART), "")


def parts_of(model: Any) -> dict[str, list[str]]:
    """Names of the parameters of each part; raises InputError if a part cannot be told."""
    names = [name for name, _ in model.named_parameters()]
    found = {part: [name for name in names if part_of(name) == part] for part in ("", *_MODULES)}
    unknown = found.pop("")
    if unknown or not all(found.values()):
        lacking = " and ".join(part for part, own in found.items() if not own)
        what = f"the {lacking} part" if lacking else f"the part of {unknown[0]}"
        tops = sorted({".".join(name.split(".")[:2]) for name in names})
        raise InputError(
            f"model: of {type(model).__name__}, {what} cannot be told among its modules"
            f" {', '.join(tops)}; add the module's name to _MODULES in vislib/training/parts.py,"
            " or take another model"
        )
    return found


def freeze(model: Any, parts: Sequence[str], *, vision_from_layer: int) -> None:
    """Let `parts` learn and nothing else; of the vision tower its layers from `vision_from_layer`
    (0: all of it).

    What stands behind the layer whose features the model takes never learns: it would have no
    gradient, for which processes that train together would wait. Raises InputError for unknown
    parts, none, or a layer beyond the tower.
    """
    known = parts_of(model)
    if not parts or set(parts) - known.keys():
        raise InputError(f"parts is {list(parts)!r}; name one or more of {', '.join(known)}")
    known["vision"] = _tower(known["vision"], vision_from_layer, model.config)
    chosen = {name for part in parts for name in known[part]}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in chosen)


def _tower(names: Sequence[str], first: int, config: Any) -> list[str]:
    """Parameters of the tower that learn. They are registered in the order of use: embeddings,
    layers, last norm.
    """
    layers = {i: int(match[1]) for i, name in enumerate(names) if (match := _LAYER.search(name))}
    depth = max(layers.values(), default=-1) + 1
    if first >= max(depth, 1):
        raise InputError(
            f"vision_from_layer is {first}; the vision tower has {depth} layers: 0 to {depth - 1}"
        )
    # from 0 on also the embeddings learn, which stand before all layers
    start = min(i for i, layer in layers.items() if layer >= first) if first else 0
    features = getattr(config, "vision_feature_layer", None)
    if features is None:  # all that the tower makes goes on
        return list(names[start:])
    # layers whose output goes on, counted from the end (-1: the last) or from the embeddings' (0)
    taken = [features] if isinstance(features, int) else features
    beyond = max(n if n >= 0 else depth + 1 + n for n in taken)
    used = [i for i, layer in layers.items() if layer < beyond]
    return list(names[start : max(used, default=-1) + 1])


def attach(model: Any, settings: Settings) -> Any:
    """The model with new adapters, which alone learn: on all linear layers of `parts`.

    Raises InputError for the vision tower, and if there are none.
    """
    import peft
    import torch

    parts = settings.parts
    if "vision" in parts:
        raise InputError(
            "parts holds vision, which adapters leave alone; take it out, or set method to full"
        )
    # lm_head belongs to the language part too, and must keep its words
    words = model.get_output_embeddings()
    names = [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and part_of(name) in parts and module is not words
    ]
    if not names:
        raise InputError(
            f"parts is {list(parts)!r}: {type(model).__name__} has no linear layers there; set"
            " method to full, or parts to connector and language"
        )
    config = peft.LoraConfig(
        r=settings.lora_rank,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        use_dora=settings.method == "dora",
        init_lora_weights="gaussian",
        target_modules=names,
    )
    # ZeRO-3 deals out weights of one type only
    given = peft.get_peft_model(model, config, autocast_adapter_dtype=settings.strategy != "zero3")
    # peft makes a set of them, which it would write in another order in every run
    config.target_modules = names
    return given
