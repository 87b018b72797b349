"""The size of images that a processor makes and a vision tower takes (DenseFusion-1M trains at
several).

LLaVA-style towers know one size; for another one their position embeddings are interpolated once
and for all. IDEFICS2's takes any size up to its own, keeps the shape, and can split an image in
four beside the whole.
"""

from typing import Any

from vislib.runs.errors import InputError


def set_image_options(
    processor: Any, *, image_size: int = 0, image_splitting: bool | None = None
) -> None:
    """Set size (px, 0: as it is) and splitting (None: as it is) of a processor's images; raises
    InputError.
    """
    images = processor.image_processor
    options: dict[str, Any] = images.to_dict()
    if image_splitting is not None and "do_image_splitting" in options:
        options["do_image_splitting"] = image_splitting
    elif image_splitting:
        raise InputError(
            f"image_splitting is true, but {type(images).__name__} splits no images; set it to"
            " false"
        )
    if image_size:
        options |= _sizes(type(images).__name__, options, image_size)
    processor.image_processor = type(images)(**options)


def _sizes(name: str, options: dict[str, Any], side: int) -> dict[str, Any]:
    """The options by which this kind of image processor makes images of `side` px."""
    size, square = dict(options.get("size") or {}), {"height": side, "width": side}
    splits = options.get("do_image_splitting")
    if (
        "max_image_size" in options
    ):  # Idefics3: squares of the tower's size, with splitting as many as `side` has
        if not splits and side != options["max_image_size"]["longest_edge"]:
            own = options["max_image_size"]["longest_edge"]
            raise InputError(
                f"image_size is {side}, but {name} makes {own} px of a whole image; split it, or"
                " set 0"
            )
        return {"size": {"longest_edge": side}} if splits else {}
    if splits is not None and set(size) == {
        "shortest_edge",
        "longest_edge",
    }:  # Idefics2: any shape within these
        return {"size": {"shortest_edge": min(side, size["shortest_edge"]), "longest_edge": side}}
    if (
        "crop_size" in options
        and set(size) == {"shortest_edge"}
        and "image_grid_pinpoints" not in options
    ):
        return {"size": {"shortest_edge": side}, "crop_size": square}
    if set(size) == {"height", "width"} and "crop_size" not in options:
        return {"size": square}
    raise InputError(f"image_size is {side}, but {name} sets its sizes in another way; set 0")


def fit_tower(model: Any, processor: Any) -> None:
    """Make the vision tower of `model` take the images that `processor` makes; raises InputError if
    it cannot.

    Positions of a square grid are interpolated (bicubic), as transformers does at each call where
    it is asked to.
    """
    config: Any = getattr(model.config, "vision_config", None)
    own, side = getattr(config, "image_size", None), _side(processor.image_processor.to_dict())
    if not isinstance(own, int) or not side or side == own:
        return
    towers = [
        m
        for m in model.modules()
        if hasattr(m, "position_embedding") and hasattr(m, "interpolate_pos_encoding")
    ]
    if not towers:
        if side > own:
            raise InputError(
                f"image_size is {side}; the vision tower of {type(model).__name__} takes up to"
                f" {own} px"
            )
        return  # Idefics2's takes what is smaller
    if side % towers[0].patch_size:
        raise InputError(
            f"image_size is {side}; it must be a multiple of the tower's patch,"
            f" {towers[0].patch_size} px"
        )
    _interpolate(towers[0], side)
    config.image_size = model.config.vision_config.image_size = side


def _side(options: dict[str, Any]) -> int:
    size = options.get("size") or {}
    if "max_image_size" in options:
        return int(options["max_image_size"]["longest_edge"])
    return int(
        (options.get("crop_size") or {}).get("height")
        or size.get("height")
        or size.get("longest_edge")
        or 0
    )


def _interpolate(embeddings: Any, side: int) -> None:
    import torch

    weight, extra = (
        embeddings.position_embedding.weight.data,
        embeddings.num_positions - embeddings.num_patches,
    )
    old, new = int(embeddings.num_patches**0.5), side // embeddings.patch_size
    if len(weight) != extra + old * old:  # ZeRO-3 has dealt it out, or no square grid
        raise InputError(
            f"image_size is {side}, but positions cannot be interpolated here; set strategy to"
            " zero2"
        )
    grid = weight[extra:].float().T.reshape(1, -1, old, old)
    grid = torch.nn.functional.interpolate(
        grid, size=(new, new), mode="bicubic", align_corners=False
    )
    fitted = torch.cat([weight[:extra], grid[0].flatten(1).T.to(weight.dtype)])
    embeddings.position_embedding = torch.nn.Embedding(len(fitted), fitted.shape[1], _weight=fitted)
    embeddings.register_buffer(
        "position_ids", torch.arange(len(fitted)).expand(1, -1), persistent=False
    )
    embeddings.image_size, embeddings.num_patches, embeddings.num_positions = (
        side,
        new * new,
        len(fitted),
    )
