"""Models, before and after a training: opened, saved and named in one place (VisCon-100K, section
5).

Any vision-language model of transformers' `AutoModelForImageTextToText` will do, IDEFICS2-8b and
LLaVA-1.5's kin, which ShareGPT4V-7b is, above all. What is saved has no machine's path in it and is
byte-equal when the training is: an adapter names its base by the parameter's value.
"""

import json
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from vislib.media.vision import choose_device, load_weights, quiet_transformers
from vislib.runs import InputError, Run
from vislib.runs.digests import file_hashes
from vislib.runs.keys import input_path, is_local_model
from vislib.training import tiny

FACTS = "training.json"
ADAPTER = ("adapter_config.json", "adapter_model.safetensors")
_NOT_WEIGHED = {FACTS, "README.md"}  # they change no answer


def resolve_model(value: str, run: Run) -> str:
    """Where the model of a [model] parameter lies: a folder, or a hub id as it is.

    An installed tiny name is built into the run's scratch folder, always from the same seed, as a
    checkpoint would be. Raises InputError if there is no model.
    """
    if value in tiny.NAMES:
        folder = run.scratch / value
        tiny.build(value, folder)  # anew: a kill may have left half a model
        return str(folder)
    if not is_local_model(value):
        if "/" not in value:  # a name misspelt, rather than a hub id
            raise InputError(
                f"model is {value!r}; name one of {', '.join(tiny.NAMES)}, a folder or a hub id"
                " org/name"
            )
        return value
    folder = run.place(value)
    if not is_adapter(folder) and not (folder / "config.json").is_file():
        raise InputError(
            f"model is {value!r}, but {folder} holds neither config.json nor {ADAPTER[0]}"
        )
    return str(folder)


def portable(value: str) -> str:
    """A parameter's value as a record may hold it: of an absolute path the last part."""
    return Path(value).name if Path(value).expanduser().is_absolute() else value


def is_adapter(place: str | Path) -> bool:
    """Whether a folder holds an adapter rather than whole weights."""
    return (Path(place) / ADAPTER[0]).is_file()


def open_processor(place: str | Path, *, image_splitting: bool | None = None) -> Any:
    """The processor at `place`, a folder or hub id, with a tokenizer that pads and a chat form.

    `image_splitting`: whether an image is also shown in parts, None for its own choice; it stays
    when the processor is saved. Raises InputError if it cannot be loaded, or splits no images.
    """
    name = f"model is {str(place)!r}"
    with quiet_transformers(str(place), "model", "AutoProcessor") as (transformers, path, revision):
        processor = transformers.AutoProcessor.from_pretrained(
            path, revision=revision or None, backend="pil"
        )
    if not hasattr(processor, "image_processor"):
        raise InputError(f"{name}, which takes no images; take a vision-language model")
    # the last two tell how many tokens an image becomes
    for lacking in ("chat_template", "patch_size", "vision_feature_select_strategy"):
        if getattr(processor, lacking, "") is None:
            raise InputError(
                f"{name}, whose processor lacks {lacking}; add it to processor_config.json, or the"
                " model's own template beside it as chat_template.jinja (for LLaVA"
                " params/recipes/llava_weights.py writes one)"
            )
    images, tokenizer = processor.image_processor, processor.tokenizer
    if image_splitting is not None and hasattr(images, "do_image_splitting"):
        images.do_image_splitting = image_splitting
    elif image_splitting:
        raise InputError(
            f"image_splitting is true, but {type(images).__name__} splits no images; set it to"
            " false"
        )
    if tokenizer.pad_token is None:  # as LLaMA has none; padding is masked, so any will do
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    return processor


def save_trained(
    model: Any,
    processor: Any,
    folder: str | Path,
    facts: Mapping[str, Any],
    *,
    precision: str = "float32",
    state: Mapping[str, Any] | None = None,
) -> None:
    """Write the trained weights, the processor and `training.json` (`facts`) into `folder`, byte
    for byte the same.

    Adapters are written alone (`merge_saved`); whole weights have the type `precision`. `state`
    gives the gathered weights where processes hold parts of them. `facts["base"]` is the value of
    the parameter that names the base.
    """
    import torch

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    # else what the last batch set would be written
    processor.tokenizer.backend_tokenizer.no_padding()
    processor.tokenizer.backend_tokenizer.no_truncation()
    processor.save_pretrained(str(folder))
    told = dict(facts)
    if hasattr(model, "peft_config"):
        # peft writes the path that the base was opened from, which is of this machine
        model.peft_config["default"].base_model_name_or_path = facts["base"]
        # "auto" would ask the hub for the base's vocabulary
        model.save_pretrained(str(folder), state_dict=state, save_embedding_layers=False)
        (folder / "README.md").unlink()  # a card of blanks, with that path in it
        place = model.get_base_model().name_or_path
        told["base_weights"] = weights_hash(place) if Path(place).is_dir() else ""
    else:
        kind = getattr(torch, precision)  # full training works on float32, servers want halves
        values = {
            name: value.to(kind) if value.is_floating_point() else value
            for name, value in (state or model.state_dict()).items()
        }
        model.config.dtype = kind
        model.save_pretrained(str(folder), state_dict=values)
    text = json.dumps(told, indent=1, sort_keys=True, ensure_ascii=False)
    (folder / FACTS).write_text(text + "\n", encoding="utf-8")


def merge_saved(folder: Path, facts: Mapping[str, Any], *, precision: str) -> None:
    """Put whole weights, as servers need them, in place of the adapter that `save_trained` left in
    `folder`.
    """
    # opened anew: the base may be here in bfloat16, quantized, or in other processes' hands
    merged = open_trained(folder, precision=precision)
    for file in ADAPTER:  # else it would be opened as an adapter
        (folder / file).unlink()
    save_trained(*merged, folder, facts, precision=precision)


def open_weights(
    place: str,
    *,
    precision: str = "float32",
    attention: str = "sdpa",
    quantization: str = "none",
) -> Any:
    """The model at `place`, an adapter merged into its base; raises InputError for another kind."""
    if is_adapter(place):
        if quantization != "none":
            raise InputError(
                f"model is {place!r}, an adapter, and quantization {quantization!r}; train its"
                " base with merge set to true first, or set quantization to none"
            )
        import torch

        return _merged(Path(place)).to(getattr(torch, precision))
    auto = "AutoModelForImageTextToText"
    with quiet_transformers(place, "model", auto) as (transformers, path, revision):
        return load_weights(
            transformers.AutoModelForImageTextToText,
            path,
            revision=revision or None,
            dtype=precision,
            attn_implementation=attention,
            **_quantized(quantization, precision),
        )


def _quantized(quantization: str, precision: str) -> dict[str, Any]:
    """Options of `from_pretrained` for QLoRA: NF4 with quantized scales, as in its paper (Dettmers
    et al. 2023), or 8 bits.
    """
    if quantization == "none":
        return {}
    from accelerate import PartialState
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=quantization == "4bit",
        load_in_8bit=quantization == "8bit",
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=precision,
    )
    # quantized weights cannot be moved later: each process loads them where it trains
    return {"quantization_config": config, "device_map": {"": PartialState().device}}


def open_trained(
    folder: str | Path, *, device: str = "cpu", precision: str = "float32"
) -> tuple[Any, Any]:
    """`(model, processor)` of a trained folder, or of any other model, to use.

    An adapter's weights are added to its base in float32: faster than beside it, equal but for
    rounding. Raises InputError if they do not fit or the base is not the one that it was trained
    on.
    """
    # first the processor: what is no such model fails in seconds
    where, processor = choose_device(device), open_processor(folder)
    return open_weights(str(folder), precision=precision).eval().to(where), processor


def _merged(folder: Path) -> Any:
    """The base of the adapter in `folder` with its weights added; raises InputError unless all of
    them fit, one to one. peft only warns of what a file lacks, and goes on with random ones.
    """
    import peft

    base = _base(folder)
    try:
        config = peft.PeftConfig.from_pretrained(str(folder))
        config.base_model_name_or_path = None  # peft warns of every name but a path of its own
        model = peft.PeftModel(base, config, autocast_adapter_dtype=False)
        found = model.load_adapter(str(folder), "default", autocast_adapter_dtype=False)
        if wrong := [*found.missing_keys, *found.unexpected_keys]:
            raise ValueError(f"file and model differ in {len(wrong)} weights, such as {wrong[0]}")
    except Exception as error:  # damaged files, other versions and other shapes fail with all kinds
        raise InputError(
            f"model is {str(folder)!r}, an adapter whose weights do not fit"
            f" ({' '.join(str(error).split())[:300]}): take the base that it was trained on, and"
            " the peft version of its record, or train it again"
        ) from error
    return model.merge_and_unload()


def _base(folder: Path) -> Any:
    """The base of the adapter in `folder`, in float32: tiny models are built anew, tables found
    beside its own run.
    """
    facts = read_facts(folder)
    value = str(facts.get("base", ""))
    if not value:
        raise InputError(
            f"{folder / FACTS}: names no base, but the folder holds an adapter; train it again"
        )
    if not is_local_model(value) and value not in tiny.NAMES:
        return open_weights(value)
    with TemporaryDirectory() as built:
        base = Path(built)
        if value in tiny.NAMES:  # nobody keeps a tiny base: its weights come from a seed
            tiny.build(value, base)
        else:  # the adapter lies in RUN/STAGE/data/model, and a table is named from its run
            base = input_path(value, folder.resolve() / "../../..").resolve()
        if not base.is_dir():
            raise InputError(
                f"{folder}: there is no {base}, its base {value!r}; an adapter of a run was taken"
                " from there, or its base was: leave both there"
            )
        if facts.get("base_weights") != weights_hash(base):
            raise InputError(
                f"{folder}: its base {value!r} has changed since it was trained; train it again"
            )
        return open_weights(str(base))


def read_facts(folder: str | Path) -> dict[str, Any]:
    """What `training.json` says of a trained model; nothing for a model that was not trained
    here.
    """
    file = Path(folder) / FACTS
    if not file.is_file():
        return {}
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except ValueError as error:
        raise InputError(f"{file}: not readable ({error}); train the model again") from error


def weights_hash(folder: str | Path) -> str:
    """16 hex digits over all in a model's folder that its answers depend on; of an adapter, its
    base too.
    """
    if not Path(folder).is_dir():
        raise InputError(f"model is {str(folder)!r}, which is no folder")
    files = sorted(
        path for path in Path(folder).iterdir() if path.is_file() and path.name not in _NOT_WEIGHED
    )
    lines = zip(files, file_hashes(files), strict=True)
    text = "".join(f"{path.name}\0{content}\0" for path, content in lines)
    base = str(read_facts(folder).get("base_weights", ""))
    return sha256((text + base).encode()).hexdigest()[:16]
