"""LoRA and DoRA adapters by peft, as recommended for IDEFICS2-8b (VisCon-100K, section 5).

Adapters go on the projections of the language model and on the linear layers of the connector,
never on the vision tower or the vocabulary. peft only warns when a file lacks weights of an
adapter, and goes on with random ones: here that is an error.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vislib.runs.errors import InputError
from vislib.training.parts import part_of
from vislib.training.settings import Settings

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def targets(model: Any, parts: Sequence[str]) -> list[str]:
    """Names of the linear layers that get adapters; raises InputError if there are none."""
    import torch

    if "vision" in parts:
        raise InputError(
            "parts holds vision, which adapters leave alone; take it out, or set method to full"
        )
    found = []
    for name, module in model.named_modules():
        part, last = part_of(name), name.rpartition(".")[2]
        if isinstance(module, torch.nn.Linear) and part in parts:
            # lm_head belongs to the language part too, and must keep its words
            found += [name] if part == "connector" or last in _PROJECTIONS else []
    if not found:
        raise InputError(
            f"parts is {list(parts)!r}: {type(model).__name__} has no layers there that are named"
            f" as adapters expect ({', '.join(_PROJECTIONS)}); set method to full, or parts to"
            " connector and language"
        )
    return found


def attach(model: Any, settings: Settings) -> Any:
    """The model with new adapters, which alone learn."""
    import peft

    # One pattern for all layers: peft would write a set of names, in another order in every run.
    names = {re.escape(name) for name in targets(model, settings.parts)}
    pattern = "|".join(sorted({re.sub(r"\\\.\d+", r"\\.\\d+", name) for name in names}))
    config = peft.LoraConfig(
        r=settings.lora_rank,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        use_dora=settings.method == "dora",
        init_lora_weights="gaussian",
        bias="none",
        target_modules=pattern,
    )
    # ZeRO-3 deals out weights of one type only
    return peft.get_peft_model(model, config, autocast_adapter_dtype=settings.strategy != "zero3")


def save(model: Any, folder: Path, *, base: str, state: Mapping[str, Any] | None = None) -> None:
    """Write the adapter of `model` (its values from `state`, where processes hold parts of them)
    and its config, which names its base `base`.
    """
    # peft writes the path that the base was opened from, which is of this machine
    model.peft_config["default"].base_model_name_or_path = base
    # "auto" would ask the hub for the base's vocabulary
    model.save_pretrained(str(folder), state_dict=state, save_embedding_layers=False)
    (folder / "README.md").unlink()  # a card of blanks, with that path in it


def load(base: Any, folder: Path) -> Any:
    """The model `base` with the adapter that lies in `folder`; raises InputError unless all its
    weights fit, one to one.
    """
    import peft

    try:
        config = peft.PeftConfig.from_pretrained(str(folder))
        config.base_model_name_or_path = None  # peft warns of every name but a path of its own
        model = peft.PeftModel(base, config, autocast_adapter_dtype=False)
        found = model.load_adapter(str(folder), "default", autocast_adapter_dtype=False)
        wrong = [f"lacks {name}" for name in found.missing_keys]
        wrong += [f"has {name}, unlike the model" for name in found.unexpected_keys]
    except Exception as error:  # damaged files, other versions and other shapes fail with all kinds
        wrong = [f"cannot be read ({' '.join(str(error).split())[:300]})"]
    if wrong:
        raise InputError(
            f"model is {str(folder)!r}: the adapter {wrong[0]}; {len(wrong)} of its weights do not"
            " fit: take the base that it was trained on, and the peft version of its record, or"
            " train it again"
        )
    return model
