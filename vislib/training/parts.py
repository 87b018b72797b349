"""The parts of a vision-language model, and which of them learn (VisCon-100K, section 5;
DenseFusion-1M's stages).

LLaVA-style models, IDEFICS2 and their kin are a vision tower, a connector and a language model.
DenseFusion trains the connector first (pre-align), then with the upper half of the vision tower
(pre-train), then fine-tunes.
"""

import re
from collections.abc import Sequence
from typing import Any

from vislib.runs.errors import InputError

# Of modules, in transformers; of several in one path the innermost counts.
NAMES: dict[str, tuple[str, ...]] = {
    "vision": ("vision_tower", "vision_model", "visual", "vision_encoder", "image_encoder"),
    "connector": (
        "multi_modal_projector",
        "connector",
        "modality_projection",
        "perceiver_resampler",
        "merger",
        "qformer",
        "query_tokens",
        "language_projection",
        "vision_projection",
        "projector",
        "mm_projector",
        "aligner",
        "image_newline",
    ),
    "language": ("language_model", "text_model", "lm_head"),
}
_PART = {name: part for part, names in NAMES.items() for name in names}
_LAYER = re.compile(r"\.(?:layers?|blocks?)\.(\d+)\.")


def part_of(name: str) -> str:
    """The part that a module's or parameter's dotted name belongs to, "" if that cannot be told."""
    return next((_PART[step] for step in reversed(name.split(".")) if step in _PART), "")


def parts_of(model: Any) -> dict[str, list[str]]:
    """Names of the parameters of each part, in the order of `NAMES`; raises InputError if a part
    cannot be told.
    """
    found: dict[str, list[str]] = {part: [] for part in NAMES}
    unknown: list[str] = []
    for name, _ in model.named_parameters():
        found.get(part_of(name), unknown).append(name)
    if unknown or not all(found.values()):
        tops = sorted({".".join(name.split(".")[:2]) for name, _ in model.named_parameters()})
        lacking = [part for part, names in found.items() if not names]
        what = f"the {' and '.join(lacking)} part" if lacking else f"the part of {unknown[0]}"
        raise InputError(
            f"model: of {type(model).__name__}, {what} cannot be told among its modules"
            f" {', '.join(tops)}; add the module's name to NAMES in vislib/training/parts.py, or"
            " take another model"
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
    # vision apart: of it only some layers may learn
    chosen = {name for part in parts for name in known[part]} - set(known["vision"])
    if "vision" in parts:
        chosen |= set(_vision(known["vision"], vision_from_layer, _features(model.config)))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in chosen)


def _features(config: Any) -> int | None:
    """The layer whose output goes on to the connector, counted from the end (-1: the last), if the
    model names one.
    """
    layer = getattr(config, "vision_feature_layer", None)
    layers = [layer] if isinstance(layer, int) else layer or []
    depth = getattr(getattr(config, "vision_config", None), "num_hidden_layers", 0)
    # counted from the start, 0 is the embeddings' output
    return max((n if n < 0 else n - depth - 1 for n in layers), default=None)


def _vision(names: Sequence[str], first: int, features: int | None) -> list[str]:
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
    if features is None:  # all that the tower makes goes on
        return list(names[start:])
    used = [i for i, layer in layers.items() if layer <= depth + features]
    return list(names[start : max(used, default=start - 1) + 1])
