"""Crops of photographs that installed packages carry, in the encodings met on the web (VisCon-100K, section 3.1).

The photographs are read where the packages keep them; none is copied into this one, none is downloaded.
"""

from collections.abc import Mapping
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from vislib.runs.errors import InputError

_FOLDERS = (("skimage", "data"), ("sklearn", "datasets/images"), ("matplotlib", "mpl-data/sample_data"))


def original(name: str) -> Path:
    """Where an installed package keeps the photograph `name`; nothing is downloaded."""
    for package, folder in _FOLDERS:
        spec = find_spec(package)
        for root in (spec.submodule_search_locations or []) if spec else []:
            if (Path(root) / folder / name).is_file():
                return Path(root) / folder / name
    raise InputError(f"photograph {name!r}: in no installed package; run `pip install -r requirements.txt`")


def encoded(entry: Mapping[str, Any], size: tuple[int, int], image_format: str) -> bytes:
    """The crop `box` of the photograph `of` in `size` px, as a file of `image_format`."""
    frames = [_crop(name, entry, size) for name in (entry["of"], *entry.get("then", []))]
    form, first = entry.get("form", ""), frames[0]
    extra: dict[str, Any] = {"quality": 88} if image_format == "jpeg" else {}
    if form == "cmyk":
        first = first.convert("CMYK")
    elif form == "palette":  # the paper of a scan or silhouette becomes transparent
        first, extra = first.quantize(16, dither=Image.Dither.NONE), {"transparency": 0}
    elif form == "rotated":  # as a phone held upright stores it: turned, with a note for the viewer
        first = first.transpose(Image.Transpose.ROTATE_90)
        exif = Image.Exif()
        exif[0x0112] = 6
        extra["exif"] = exif
    if image_format == "gif":
        extra = {"save_all": True, "append_images": frames[1:], "duration": 200, "loop": 0}
    file = BytesIO()
    first.save(file, format=image_format, **extra)
    return file.getvalue()


def _crop(name: str, entry: Mapping[str, Any], size: tuple[int, int]) -> Image.Image:
    with Image.open(original(name)) as photograph:
        if photograph.mode == "RGBA":
            paper = Image.new("RGBA", photograph.size, "white")
            picture = Image.alpha_composite(paper, photograph).convert("RGB")
        else:
            picture = photograph.convert("L" if photograph.mode == "L" else "RGB")
        return picture.resize(size, Image.Resampling.LANCZOS, box=tuple(entry["box"]))
