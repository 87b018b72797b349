"""Vision models of the hub or of a folder, through transformers: what selection and experts run
(DenseFusion-1M).

One place says how a name is read (`id`, `id@revision`, or a folder), on which device it runs, and
what is wrong when it cannot be loaded. The PIL image processors are taken: they need no torchvision
and give the same pixels everywhere. Threads are left as torch has them: a stage with several
workers divides the cores itself.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from vislib.media import efficientnet
from vislib.media.pixels import scaled
from vislib.runs.errors import InputError

# px: more than these models look at; some processors would filter a 10,000 px picture in 64 bits
_SIDE = 2048


@dataclass(frozen=True)
class VisionModel:
    """A model in evaluation mode with its processor; `revision` is the hub's commit, "" for a
    folder.
    """

    name: str
    revision: str
    model: Any
    processor: Any
    device: Any

    def inputs(self, images: Sequence[Image.Image], **options: Any) -> Any:
        """The processor's batch of RGB images on the model's device, its floating values in the
        model's type; `options` are the processor's (text, ...).
        """
        small = [scaled(image, _SIDE) for image in images]
        batch = self.processor(images=small, return_tensors="pt", **options)
        # A model in half precision refuses the processor's float32.
        return batch.to(self.device, self.model.dtype)


def load_vision_model(
    value: str,
    auto_class: str,
    *,
    parameter: str,
    device: str = "auto",
    processor: str = "AutoImageProcessor",
) -> VisionModel:
    """The model that the [model] parameter `parameter` names, as transformers' `auto_class`
    (`AutoModel`, ...) has it.

    `processor` is the class that prepares its inputs: `AutoProcessor` where it reads text too.
    `device`: cpu, cuda, cuda:1, mps, or auto for the best there is; half precision on a GPU,
    float32 elsewhere. Raises InputError if it cannot be loaded, or if weights are missing that this
    kind of model needs.
    """
    with quiet_transformers(value, parameter, auto_class) as (transformers, place, revision):
        where = choose_device(device)
        if value == efficientnet.NAME:
            model, prepare = efficientnet.load(auto_class)
            return VisionModel(value, efficientnet.VERSION, model.to(where), prepare, where)
        # Code of strangers is not run, nor asked for at a terminal.
        options = {"revision": revision or None, "trust_remote_code": False}
        # The configuration comes first: without a network it fails soonest.
        config = transformers.AutoConfig.from_pretrained(place, **options)
        prepare = getattr(transformers, processor).from_pretrained(place, backend="pil", **options)
        model = load_weights(
            getattr(transformers, auto_class),
            place,
            config=config,
            dtype="float32" if where.type == "cpu" else "float16",
            **options,
        )
        # A branch moves: what is recorded is the commit that it stood at.
        if not Path(place).is_dir():
            revision = getattr(config, "_commit_hash", None) or revision
        return VisionModel(value, revision, model.eval().to(where), prepare, where)


def load_weights(auto: Any, place: str, **options: Any) -> Any:
    """The model of `place` as transformers' class `auto` opens it; raises ValueError if its file
    lacks weights.
    """
    model, loading = auto.from_pretrained(place, output_loading_info=True, **options)
    # transformers fills missing weights by chance and says so in a log that nobody reads.
    if missing := sorted(loading["missing_keys"]):
        raise ValueError(
            f"its file lacks {len(missing)} weights, such as {missing[0]}: it is of another kind"
        )
    return model


def load_config(value: str, *, parameter: str) -> Any:
    """The configuration of that model, read before its weights; raises InputError."""
    with quiet_transformers(value, parameter, "AutoConfig") as (transformers, place, revision):
        if value == efficientnet.NAME:
            return efficientnet.config()
        return transformers.AutoConfig.from_pretrained(
            place, revision=revision or None, trust_remote_code=False
        )


def choose_device(device: str) -> Any:
    """The torch device that `device` names, or the best there is for auto; InputError for another
    word.
    """
    import torch

    if device == "auto":
        device = str(torch.accelerator.current_accelerator(check_available=True) or "cpu")
    # A tensor of no size tells whether the device is really there, and what it is called in full.
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, ImportError) as error:
        first = str(error).strip().partition("\n")[0]
        raise InputError(
            f"device = {device!r} cannot be had here ({first}); allowed: auto, cpu, cuda, mps"
        ) from error


@contextmanager
def quiet_transformers(
    value: str, parameter: str, auto_class: str
) -> Iterator[tuple[Any, str, str]]:
    """Quiet transformers with the place and revision of `value`; what it raises becomes an
    InputError.
    """
    with warnings.catch_warnings(action="ignore"):  # tqdm asks for ipywidgets in every kernel
        import transformers

    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    place, _, revision = value.partition("@")
    if value and (folder := Path(value).expanduser()).is_dir():
        place, revision = str(folder), ""
    try:
        yield transformers, place, revision
    except InputError:
        raise
    except Exception as error:  # configurations, weights and tokenizers fail with all kinds
        first = str(error).strip().partition("\n")[0][:300]
        raise InputError(
            f"{parameter} is {value!r}, which {auto_class} cannot load ({first}); give a hub id"
            " with an optional @revision, or the folder of a model with its processor"
        ) from error
