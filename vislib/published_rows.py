"""Rows of published datasets, whatever their form, in one form (the releases of VisCon-100K,
LLaVA's mixes, DenseFusion-1M).

Turns stand as `conversations` (from, value) or `messages` (role, content), as lists, as JSON text
or as a list for each field; or there is a caption alone. Images are embedded bytes, paths or links.
Files are read as they lie on disk, the hub is streamed, and nothing here grows with the number of
rows. A row that cannot be read goes on with its fault.
"""

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from vislib.fetching.links import store
from vislib.prompts import load
from vislib.runs import InputError, Run, seeded, short_hash, tables
from vislib.runs.arrow_types import plain
from vislib.runs.contract import CONVERSATIONS
from vislib.runs.json_files import json_rows
from vislib.runs.keys import expand
from vislib.runs.provenance import relative_to_root
from vislib.runs.tables import Row

MARK = "<image>"  # in a turn: the place of an image
# What a row may tell of itself, some of it under `caption_…`; "" where it does not.
TOLD = (
    "sample_id",
    "doc_id",
    "page_url",
    "alt_text",
    "context",
    "model",
    "prompt_sha",
    "request_sha",
)
_TEXT = pa.string()
_OWN = ("id", "place", "content", "fault", "question_model", "kind", "configuration", "split")
# address: as the ledger has it; file: "" of a link; image_id: "" until the file is looked at
_IMAGE = pa.struct([(name, _TEXT) for name in ("address", "file", "image_id")])
ROWS = pa.schema(
    [
        *((name, _TEXT) for name in (*_OWN, *TOLD)),
        ("images", pa.list_(_IMAGE)),
        ("sources", pa.list_(_TEXT)),
        ("mended", pa.int64()),  # characters
        CONVERSATIONS.field("conversations"),
    ]
)
_SPEAKERS = {
    "human": "human",
    "user": "human",
    "gpt": "gpt",
    "assistant": "gpt",
    "model": "gpt",
    "system": "system",
}
# In the row's own columns, or in names of folders, files and hub configurations. Nothing else
# counts: both become folders.
_NAMED = {
    "kind": re.compile(r"\b(?:fused_contextual|non_contextual|contextual|fused)\b"),
    "configuration": re.compile(
        r"\b(?:captions|free_form|multiple_choice|questions|separate|leaky_mix)\b"
    ),
}
_SPLIT = re.compile(r"(?:^|[-_./])(?:(train)|test|val|valid|validation|dev)(?=[-_./]|$)")
_FORMS = (".parquet", ".jsonl", ".json")  # of a folder, the first that it holds
_BATCH = 256  # rows of a stream
# Where a row stands, the folder that its paths start from, what it is filed under, and the row.
Found = tuple[str, Path, str, Any]


def write_rows(run: Run, found: Iterable[Found]) -> Path:
    """A table of `ROWS` in scratch from all rows found, embedded images beside it."""
    rows = (as_row(one, seed=run.seed, store=run.scratch / "embedded") for one in found)
    folder = run.scratch / "published"
    tables.write_table(folder, ROWS, rows, rows_per_part=tables.ROWS_PER_PART)
    return folder


# ---- where rows come from


def file_rows(places: Sequence[Path], configurations: Sequence[str], root: str) -> Iterator[Found]:
    """Rows of Parquet, JSONL and JSON files: of a folder those of the first form that it holds.

    `configurations`: folders or files to read, by name (none: all). `root`: folder that paths of
    images start from, "" for the file's own.
    """
    named = [(file, name) for place in places for file, name in _files(place)]
    wanted = set(configurations)
    chosen = [one for one in named if not wanted or wanted & set(re.split(r"[/.]", one[1]))]
    if not chosen:
        there = sorted({name.rpartition("/")[0] for _, name in named}) or "no file"
        raise InputError(
            f"00_published: of {list(map(str, places))}, configurations {list(configurations)}, no"
            f" .json, .jsonl or .parquet file is to be read (there: {there}); mend paths or"
            " configurations"
        )
    for file, name in chosen:
        parquet = file.suffix == ".parquet"
        rows = tables.read_rows(file, unreadable={}) if parquet else json_rows(file)
        for number, row in enumerate(rows):
            # `name`, not the whole path: the same data give the same ids wherever they lie
            yield f"{name}/{number}", Path(os.path.abspath(root or file.parent)), name, row


def _files(place: Path) -> list[tuple[Path, str]]:
    found = expand(place)
    if not place.is_dir():
        return [(file, file.name) for file in found]
    # beside rows it holds cards, checksums and descriptions, in JSON too
    for form in _FORMS:
        own = [file for file in found if file.suffix == form]
        if own:
            return [(file, os.path.relpath(file, place)) for file in own]
    return []


def hub_rows(name: str, revision: str, configurations: Sequence[str]) -> Iterator[Found]:
    """Stream a dataset of the hub at a commit (or a local folder in the hub's layout)."""
    from datasets import get_dataset_config_names, load_dataset

    place = name
    if not re.fullmatch("[0-9a-f]{40}", revision) and not os.path.isdir(name):
        raise InputError(
            f"00_published: revision = {revision!r}: the hub changes; give the 40 hex digits"
            " of a commit"
        )
    try:
        at = {"revision": revision or None}
        for configuration in configurations or get_dataset_config_names(name, **at):
            splits = load_dataset(name, configuration, streaming=True, **at)
            for split, stream in splits.items():
                place = f"{configuration}/{split}"
                # as Arrow, so that no picture is decoded on its way
                batches = stream.with_format("arrow").iter(batch_size=_BATCH)
                rows = (row for batch in batches for row in plain(batch).to_pylist())
                for number, row in enumerate(rows):
                    yield f"{place}/{number}", Path(), place, row
    except Exception as error:  # datasets, its file systems and HTTP clients raise all kinds
        raise InputError(
            f"00_published: {name}@{revision}, {place}: the stream failed ({type(error).__name__}:"
            f" {error}); check hub, revision, configurations and network, or download the files"
            " and name them in paths"
        ) from error


# ---- one row


def as_row(found: Found, *, seed: int, store: Path) -> Row:
    """A row of `ROWS`; what cannot be read of it is its `fault`. Embedded images go to `store`."""
    place, root, name, given = found
    row, mended = tables.mend_text(given if isinstance(given, dict) else {})
    made: Row = dict.fromkeys(ROWS.names, "") | {
        "id": str(row.get("id") or row.get("image_id") or place),
        "place": place,
        "mended": mended,
        "images": [],
        "sources": [],
        "conversations": [],
    }
    try:
        for column in TOLD:
            made[column] = str(row.get(column) or row.get(f"caption_{column}") or "")
        made["question_model"] = ", ".join(row.get("question_models") or [])
        made["sources"] = list(map(str, row.get("sources") or []))
        for column, names in _NAMED.items():
            said = names.search(f"{row.get(column)}/{name}")
            made[column] = said[0] if said else ""
        # the house knows two splits: what is not learnt from is held out
        split = _SPLIT.search(name)
        made["split"] = (split[1] or "test") if split else ""
        made["conversations"] = turns_of(row, seeded(seed, made["id"], "instruction"))
        made["images"] = pictures_of(row, root, store)
    except Exception as error:  # a fault that nobody thought of costs its row, not the stage
        made["fault"] = f"{type(error).__name__}: {error}"[:200]
    made["content"] = short_hash(json.dumps([made["images"], made["conversations"]]))
    return made


def turns_of(row: Mapping[str, Any], draw: int) -> list[dict[str, str]]:
    """Turns of a row as {from: human | gpt | system, value}. A caption alone answers an instruction
    drawn from our list by the number `draw`.
    """
    said = row.get("conversations") or row.get("messages")
    if isinstance(said, str):
        said = json.loads(said)
    if isinstance(said, dict):  # a list for each field, as `datasets` keeps a sequence of them
        said = [dict(zip(said, values, strict=True)) for values in zip(*said.values(), strict=True)]
    if not said:
        lines = load("caption_instructions").text.splitlines()
        asked = {"from": "human", "value": lines[draw % len(lines)]}
        said = [asked, {"from": "gpt", "value": row["caption"]}]
    return [
        {
            "from": _SPEAKERS[turn.get("from") or turn["role"]],
            "value": _text(turn["value"] if "value" in turn else turn["content"]),
        }
        for turn in said
    ]


def _text(content: str | Iterable[Mapping[str, str]] | None) -> str:
    """The words of a turn; where it is a list of parts, with a mark for each image."""
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(part.get("text") or f"{MARK}\n" for part in content)


def pictures_of(row: Mapping[str, Any], root: Path, into: Path) -> list[dict[str, str]]:
    """The images of a row, in order."""
    shown = row.get("images") or row.get("image") or row.get("image_url") or row.get("url") or []
    shown = shown if isinstance(shown, list) else [shown]
    told: Mapping[str, Any] = row if len(shown) == 1 else {}  # address and hash are of one image
    return [_picture(one, told, root, into) for one in shown]


def _picture(one: Any, told: Mapping[str, Any], root: Path, into: Path) -> dict[str, str]:
    if not isinstance(one, dict):
        one = {"bytes" if isinstance(one, bytes) else "path": one}
    address, data, path = told.get("image_url"), one.get("bytes"), one.get("path")
    image_id = ""
    if data:
        image_id = short_hash(data)
        file = str(into / image_id[:2] / image_id)
        store(data, Path(file))
        address = address or f"embedded/{image_id}"
    elif "://" in path:
        address, file = path, ""
        # a release of links tells the hash of the file, and so its id
        image_id = (told.get("sha256") or "")[:16]
    else:
        file = os.path.normpath(root / path)
        if not Path(file).is_relative_to(root):
            raise ValueError(f"image {path} leads out of {root}; name a folder above: images_root")
        address = address or relative_to_root(Path(file))
    return {"address": address, "file": file, "image_id": image_id}
