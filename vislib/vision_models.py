"""Vision models of the hub or of a folder, through transformers: what selection and experts run (DenseFusion-1M).

One place says how a name is read (`id`, `id@revision`, or a folder), on which device it runs, and what is wrong when
it cannot be loaded. The PIL image processors are taken: they need no torchvision and give the same pixels everywhere.
"""

import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vislib.runs.errors import InputError


@dataclass(frozen=True)
class VisionModel:
    """A model in evaluation mode with its processor; `revision` is the hub's commit, "" for a folder."""

    name: str
    revision: str
    model: Any
    processor: Any
    device: Any

    def moved(self, batch: Any) -> Any:
        """A processor's batch on the model's device, its floating values in the model's type."""
        return batch.to(self.device, self.model.dtype)


def load_vision_model(
    value: str, auto_class: str, *, parameter: str, device: str = "auto", processor: str = "AutoImageProcessor"
) -> VisionModel:
    """The model that the [model] parameter `parameter` names, as transformers' `auto_class` (`AutoModel`, ...) reads it.

    `processor` is the class that prepares its inputs: `AutoProcessor` where it reads text too.

    `device`: cpu, cuda, cuda:1, mps, or auto for the best there is; half precision on a GPU, float32 elsewhere.
    Raises InputError if it cannot be loaded.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tqdm asks for ipywidgets in every kernel
        import torch
        import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    place, _, revision = value.partition("@")
    if (folder := Path(value).expanduser()).is_dir():
        place, revision = str(folder), ""
    where = torch.device(_best(torch) if device == "auto" else device)
    kind = torch.float32 if where.type == "cpu" else torch.float16
    options: dict[str, Any] = {"revision": revision or None}
    try:
        prepare = getattr(transformers, processor).from_pretrained(place, backend="pil", **options)
        model = getattr(transformers, auto_class).from_pretrained(place, dtype=kind, **options)
    except (OSError, ValueError, KeyError) as error:
        first = str(error).strip().partition("\n")[0]
        raise InputError(
            f"{parameter} is {value!r}, which {auto_class} cannot load ({first}); give a hub id with an optional "
            "@revision, or the folder of a model with its processor"
        ) from error
    commit = "" if folder.is_dir() else str(getattr(model.config, "_commit_hash", "") or revision)
    return VisionModel(value, commit, model.eval().to(where), prepare, where)


def _best(torch: Any) -> str:
    if torch.cuda.is_available():
        return "cuda"
    torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    return "mps" if torch.backends.mps.is_available() else "cpu"
