"""LoRA and DoRA adapters by peft, as recommended for IDEFICS2-8b (VisCon-100K, section 5).

Adapters go on the projections of the language model and on the linear layers of the connector,
never on the vision tower or the vocabulary. peft only warns when a file lacks weights of an
adapter, and goes on with random ones: here that is an error.
"""

import json
import re
from collections.abc import Mapping
from copy import copy
from pathlib import Path
from typing import Any

from vislib.runs.errors import InputError
from vislib.training.parts import part_of
from vislib.training.settings import Settings

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def targets(model: Any, parts: tuple[str, ...]) -> list[str]:
    """Names of the linear layers that get adapters; raises InputError if there are none."""
    import torch

    linear = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    found = [
        name
        for name in linear
        if (part := part_of(name)) in parts
        and (
            part == "connector" or (part == "language" and name.rpartition(".")[2] in _PROJECTIONS)
        )
    ]
    if "vision" in parts:
        raise InputError(
            "parts holds vision, which adapters leave alone; take it out, or set method to full"
        )
    if not found:
        raise InputError(
            f"parts is {list(parts)!r}: {type(model).__name__} has no layers there that are named"
            f" as adapters expect ({', '.join(_PROJECTIONS)}); set method to full, or parts to"
            " connector and language"
        )
    return found


def attach(model: Any, settings: Settings, *, base: str) -> Any:
    """The model with new adapters, which alone learn; `base` is the place that its weights come
    from.
    """
    import peft

    config = peft.LoraConfig(
        r=settings.lora_rank,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        use_dora=settings.method == "dora",
        init_lora_weights="gaussian",
        bias="none",
        target_modules=_pattern(targets(model, settings.parts)),
    )
    adapted = peft.get_peft_model(
        model, config, autocast_adapter_dtype=settings.strategy != "zero3"
    )
    adapted.peft_config["default"].base_model_name_or_path = base
    return adapted


def save(model: Any, folder: Path, *, base: str, state: Mapping[str, Any] | None = None) -> None:
    """Write the adapter of `model` (its values from `state`, where processes hold parts of them)
    and its config.
    """
    from safetensors.torch import save_file

    save_file(_weights(model, state), str(folder / WEIGHTS), metadata={"format": "pt"})
    config = {
        **model.peft_config["default"].to_dict(),
        "base_model_name_or_path": base,
        "inference_mode": True,
    }
    text = json.dumps(config, indent=1, sort_keys=True, ensure_ascii=False)
    (folder / CONFIG).write_text(text + "\n", encoding="utf-8")


def read(folder: Path) -> tuple[Any, dict[str, Any]]:
    """The config and the weights that `save` wrote; raises InputError if they cannot be read."""
    import peft
    from safetensors.torch import load_file

    try:
        return peft.PeftConfig.from_pretrained(str(folder)), load_file(folder / WEIGHTS)
    except Exception as error:  # damaged JSON, weights and versions fail with all kinds
        raise InputError(f"{folder}: not a readable adapter ({error}); train it again") from error


def apply(base: Any, config: Any, weights: Mapping[str, Any], *, place: object) -> Any:
    """The model with an adapter that was trained before; raises InputError unless all its weights
    fit, one to one.
    """
    import peft

    named = copy(config)
    named.base_model_name_or_path = (
        None  # peft warns of every name but its own, which is a path here
    )
    model = peft.get_peft_model(base, named, autocast_adapter_dtype=False)
    expected = {name: value.shape for name, value in _weights(model).items()}
    given = {name: value.shape for name, value in weights.items()}
    if wrong := sorted(
        name for name in expected.keys() | given.keys() if expected.get(name) != given.get(name)
    ):
        lacks = (
            "lacks"
            if wrong[0] not in given
            else "resizes"
            if wrong[0] in expected
            else "has, unlike the model,"
        )
        raise InputError(
            f"model is {str(place)!r}: the adapter {lacks} {wrong[0]}, one of {len(wrong)} weights"
            f" of {len(expected)} that do not fit; take the base that it was trained on, and the"
            " peft version of its record"
        )
    peft.set_peft_model_state_dict(model, dict(weights))
    return model


def of(model: Any, state: Mapping[str, Any] | None = None) -> tuple[Any, dict[str, Any], str]:
    """The config, weights and base of the adapters that `attach` put on `model`."""
    config = model.peft_config["default"]
    return config, _weights(model, state), str(config.base_model_name_or_path)


def _weights(model: Any, state: Mapping[str, Any] | None = None) -> dict[str, Any]:
    import peft

    found = peft.get_peft_model_state_dict(
        model, dict(state) if state else None, save_embedding_layers=False
    )
    return {name: value.detach().cpu().contiguous() for name, value in sorted(found.items())}


def _pattern(names: list[str]) -> str:
    """One expression for all names, whatever the number of a layer: readable in the file, the same
    in every run.
    """
    forms: dict[str, list[str]] = {}
    for name in names:
        path, _, last = re.sub(r"\.\d+(?=\.)", ".#", name).rpartition(".")
        if last not in forms.setdefault(path, []):
            forms[path].append(last)
    written = (
        rf"{re.escape(path)}\.({'|'.join(map(re.escape, lasts))})" for path, lasts in forms.items()
    )
    return "|".join(written).replace(r"\#", r"\d+")
