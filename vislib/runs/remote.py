"""Inputs of a store that fsspec knows (`s3://bucket/pages/*.parquet`, `hf://datasets/…`), as files
on this machine: keys hash what is read, and stages read files.

A file is copied when it is first named, and again when the store says that it is another one.
"""

import os
from functools import cache
from pathlib import Path
from typing import Any

from vislib.runs.errors import InputError
from vislib.runs.progress import Progress


@cache  # a plan, its keys and the stage ask for the same input
def local_copy(url: str, folder: Path) -> Path:
    """Where the files of an address lie below `folder`: a file, a folder, or a glob as given.

    Raises InputError for an address that cannot be read or names no file.
    """
    try:
        return _copied(url, folder)
    except Exception as error:  # clients of stores raise all kinds
        raise InputError(
            f"{url}: {type(error).__name__}: {error}; mend the address, or the settings of the"
            " store's client in the environment"
        ) from error


def _copied(url: str, folder: Path) -> Path:
    from fsspec.core import has_magic, url_to_fs

    from vislib.runs.keys import expand  # which asks for copies

    store, root = url_to_fs(url.rstrip("/"))
    inside = str(root).lstrip("/")
    store.invalidate_cache()
    names = store.glob(root) if has_magic(root) else store.find(root)
    if not names:
        raise FileNotFoundError("no file is there")
    place = Path(os.path.abspath(folder / url.partition("://")[0]))
    files = {place / name.lstrip("/"): name for name in names}
    for old in set(expand(place / inside)) - files.keys():
        old.unlink()  # the store has it no more
    with Progress(len(files), "file") as progress:
        for file, name in files.items():
            _copy(store, name, file, place)
            progress.update()
    return place / inside


def _copy(store: Any, name: str, file: Path, place: Path) -> None:
    if not Path(os.path.normpath(file)).is_relative_to(place):
        raise ValueError(f"{name} leads out of its folder")
    version = file.with_name(f".{file.name}.version")  # hidden: no part of the input
    now = str(store.ukey(name))
    if file.exists() and version.exists() and version.read_text(encoding="utf-8") == now:
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    store.get_file(name, str(temporary := file.with_name(f".{file.name}.tmp")))
    os.replace(temporary, file)
    version.write_text(now, encoding="utf-8")
