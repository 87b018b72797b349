"""A release with images in the forms that trainers read: LLaVA's JSON, messages, WebDataset shards.

LLaVA's own code reads a list of rows with a path and turns; LLaMA-Factory and ms-swift read rows of
`messages` and `images`, the first by an entry of `dataset_info.json`; WebDataset reads tar files in
which the files of a row stand together. Each row keeps where it and its texts come from.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from shutil import rmtree
from typing import Any

from vislib.fetching.links import store
from vislib.publishing.release import configs_of
from vislib.runs import InputError, short_hash
from vislib.runs.keys import expand
from vislib.runs.tables import Row, open_part, read_rows

_ROLES = {"human": "user", "gpt": "assistant"}
# What LLaMA-Factory shall call the columns, and the speakers in them.
_NAMED = {
    "formatting": "sharegpt",
    "columns": {"messages": "messages", "images": "images"},
    "tags": {f"{name}_tag": name for name in ("role", "content", "user", "assistant")},
}
_SHARD_BYTES = 1e9  # as large as WebDataset's users make them
Form = Callable[[Iterator[Row], Path, str], None]


def llava(rows: Iterator[Row], folder: Path, name: str) -> None:
    """`<name>.json`, a list of rows {id, image, conversations, …}, and the image files beside."""
    # row by row: the list of a large release would fill the memory
    with (folder / f"{name}.json").open("w", encoding="utf-8") as file:
        file.write("[")
        between = "\n"
        for row in rows:
            row["image"] = _saved(row, folder)
            file.write(between + _json(row))
            between = ",\n"
        file.write("\n]\n")


def messages(rows: Iterator[Row], folder: Path, name: str) -> None:
    """`<name>.jsonl` of rows {messages, images, …}, and its entry in `dataset_info.json`."""
    with (folder / f"{name}.jsonl").open("w", encoding="utf-8") as file:
        for row in rows:
            said = []
            for turn in row.pop("conversations"):
                role = _ROLES[turn["from"]]
                said.append({"role": role, "content": turn["value"]})
            images = [_saved(row, folder)]  # a list: their readers take several
            del row["image"]
            whole = {"messages": said, "images": images} | row
            file.write(_json(whole) + "\n")
    # one file for all: LLaMA-Factory looks for it in its `dataset_dir`
    info = folder / "dataset_info.json"
    known = json.loads(info.read_text("utf-8")) if info.exists() else {}
    known[name] = {"file_name": f"{name}.jsonl"} | _NAMED
    info.write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")


def webdataset(rows: Iterator[Row], folder: Path, name: str) -> None:
    """`<name>-000000.tar` and so on: of each row the image file and `json` with all else."""
    from webdataset import ShardWriter  # late: a second, and of this form alone

    settings = {
        "maxsize": _SHARD_BYTES,
        "verbose": 0,
        "mtime": 0.0,  # a time would make other bytes of the same rows
        "encoder": False,  # what is written are bytes already
    }
    with ShardWriter(str(folder / f"{name}-%06d.tar"), **settings) as shards:
        for row in rows:
            image = row.pop("image")
            ending = Path(image["path"]).suffix[1:]
            text = _json(row).encode()
            shards.write({"__key__": row["id"], "json": text, ending: image["bytes"]})


FORMS: dict[str, Form] = {
    "llava": llava,
    "messages": messages,
    "webdataset": webdataset,
}


def write_forms(release: Path, into: Path, forms: Sequence[str], configs: Sequence[str]) -> None:
    """Write each form of each configuration and split to `<into>/<form>/<config>-<split>…`.

    Memory is bounded by a row group. Raises InputError for a release without images, or without a
    configuration that is named.
    """
    if not forms:
        return  # links alone are published
    known = configs_of(release)
    for name in configs:
        if name not in known:
            has = ", ".join(known) or "none: make with_images, or no form"
            raise InputError(f"{release} has no configuration {name!r}; it has {has}")
    first = open_part(expand(release / "data")[0])
    if "image" not in first.schema_arrow.names:
        raise InputError(f"{release} holds no images: `python -m vislib.links rehydrate` gets them")
    for form in forms:
        # anew: a row that was removed since must not stay here
        rmtree(into / form, ignore_errors=True)
        (into / form).mkdir(parents=True)
        for config in configs:
            for split, glob in known[config].items():
                rows = read_rows(release / glob)
                FORMS[form](rows, into / form, f"{config}-{split}")


def _saved(row: Row, folder: Path) -> str:
    """The path of the row's image from `folder`, where it is stored once."""
    data = row["image"]["bytes"]
    # a release is from outside: its names lead nowhere
    name = short_hash(data) + Path(row["image"]["path"]).suffix
    path = f"images/{name[:2]}/{name}"  # listings stay short
    store(data, folder / path)
    return path


def _json(row: Any) -> str:
    return json.dumps(row, ensure_ascii=False)
