"""Where rows to learn from come from: conversations of stage 08, and the data that a model itself
was tuned on.

VisCon-100K (section 5) adds its conversations to the model's own mix: LLaVA's JSON, with text-only
rows, for ShareGPT4V, and The Cauldron's Parquet, with several images a row, for IDEFICS2. All
become one form: paths of images, and turns in which `<image>` marks each image's place. A row that
cannot be used comes as a `Refusal`, never in silence; what is left out of a row, or mended in it,
is counted with it.
"""

import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vislib.runs import InputError, choose, tables
from vislib.runs.keys import expand
from vislib.runs.seeding import seeded, short_hash

MARK = "<image>"  # in a question: the place of an image
# Sources: conversations of stage 08 (or captions of 06), and the model's own data.
VISUAL, OWN = "visual", "own"
# Characters that are read at once, and that one row of JSON may have.
_CHUNK, _LONGEST = 1 << 20, 1 << 26
_GAP = re.compile(r"[\s,]*")
_ENDINGS = (".json", ".parquet")
Row = dict[str, Any]


@dataclass(frozen=True)
class Refusal:
    """A row that is not learnt from: `reason` is malformed (its fields), image_missing, or one of
    `labels.REASONS`.
    """

    id: str
    source: str
    reason: str
    detail: str


Entry = Row | Refusal
"""A Row: id, source, images (paths as text), conversations (list of {from, value}), and n_left_out
and n_mended if any.
"""


def entry(
    name: str, source: str, images: Sequence[Path | None], turns: Any, *, mended: int = 0
) -> Entry:
    """One row in the form that training reads; what only a model's processor can tell is found by
    `planning`.

    `images`: files, None for one that cannot be had. `turns`: list of {from, value}. Those before
    the first human one are left out and counted (`n_left_out`), as LLaVA's recipe does with an
    answer to nothing; a system turn is too, since models are trained with their own. Where no
    question marks the places of the images, all stand at the beginning, each on a line of its own,
    as in LLaVA's rows.
    `mended`: characters that were replaced in the row.
    """
    if not isinstance(turns, list) or not turns:
        return Refusal(name, source, "malformed", "no list of turns")
    for number, turn in enumerate(turns):
        if not isinstance(turn, dict) or not all(
            isinstance(turn.get(field), str) for field in ("from", "value")
        ):
            return Refusal(name, source, "malformed", f"turn {number} is not {{from, value}}")
    if None in images:
        return Refusal(
            name,
            source,
            "image_missing",
            f"image {images.index(None)} was not fetched, or has no file",
        )
    if not any(turn["from"] == "human" for turn in turns):
        speakers = ", ".join(turn["from"] for turn in turns)
        return Refusal(name, source, "bad_turns", f"the turns are of {speakers}"[:200])
    # what comes before the first question answers nothing
    first = [turn["from"] for turn in turns].index("human")
    conversation = [{"from": turn["from"], "value": turn["value"]} for turn in turns[first:]]
    if images and not any(MARK in turn["value"] for turn in conversation[::2]):
        conversation[0]["value"] = f"{MARK}\n" * len(images) + conversation[0]["value"]
    row = {"id": name, "source": source, "images": [str(image) for image in images]}
    counts = {"n_left_out": first, "n_mended": mended}
    return row | {"conversations": conversation} | {key: n for key, n in counts.items() if n}


# ---- conversations of stage 08


def parts_of(table: Path, split: str = "train") -> list[Path]:
    """The parts of a configuration's train or test split; InputError if there are none."""
    parts = tables.parts(table)
    if split == "test" or parts != [table]:  # a single file has no other split
        parts = [part for part in parts if part.name.startswith(split)]
    if not parts:
        raise InputError(
            f"{table}: no {split}-*.parquet; name a configuration such as"
            " 08_merging/contextual/leaky_mix"
        )
    return parts


def contract_rows(
    table: Path, ledger: Path, *, max_samples: int, seed: int, split: str = "train"
) -> Iterator[Entry]:
    """The rows of a configuration's `split`, in order, their images through the ledger
    `03_images/images`.

    `max_samples` (0: all) samples, drawn by the hash of seed and sample_id with all their rows:
    configurations that are made of the same samples keep the same ones.
    """
    parts, wanted = parts_of(table, split), None
    if max_samples:
        names = (tables.read_rows(part, ["sample_id"]) for part in parts)
        samples = dict.fromkeys(row["sample_id"] for rows in names for row in rows)
        wanted = set(choose(samples, max_samples, seed))
    for part in parts:
        rows = [
            row
            for row in tables.read_rows(part, ["id", "sample_id", "images", "conversations"])
            if wanted is None or row["sample_id"] in wanted
        ]
        # a part at a time: the ledger of a million images need not be held
        ids = {image for row in rows for image in row["images"]}
        found = tables.lookup(ledger, "image_id", ids, ["path"])
        paths = {name: ledger.parent / row["path"] for name, row in found.items() if row["path"]}
        for row in rows:
            images = [paths.get(image) for image in row["images"]]
            yield entry(row["id"], VISUAL, images, row["conversations"])


# ---- a model's own data


def own_rows(
    places: Sequence[Path], *, images: Path | None, fraction: float, seed: int, store: Path
) -> Iterator[Entry]:
    """Rows of LLaVA JSON (`.json`) and of The Cauldron's Parquet in order: files, folders or globs.

    Each row joins with the chance `fraction`, by the hash of seed and id alone: whatever else an
    arm learns from, it is the same rows. `images`: folder that paths of images start from (None:
    the file's own folder). `store`: folder that embedded images are written to. Raises InputError
    for a file in which no row has the form.
    """
    for file in _own_files(places):
        # one bad row costs itself; a file without a good one is of another form
        malformed, formed = "", 0
        read = _cauldron_rows if file.suffix == ".parquet" else _llava_rows
        for found in read(file, images or file.parent, int(fraction * 2**64), seed, store):
            if isinstance(found, Refusal) and found.reason == "malformed":
                malformed = malformed or f"row {found.id}: {found.detail}"
            else:
                formed += 1
            yield found
        if malformed and not formed:
            raise InputError(
                f"{file}: no row has the form; {malformed}. LLaVA's JSON is a list of {{id, image,"
                " conversations}, The Cauldron's Parquet has images and texts; mend the file or"
                " own_data"
            )


def _own_files(places: Sequence[Path]) -> list[Path]:
    files = [
        file
        for place in places
        for file in expand(place)
        if place.is_file() or file.suffix in _ENDINGS
    ]
    if wrong := [file for file in files if file.suffix not in _ENDINGS]:
        raise InputError(
            f"own_data holds {wrong[0]}; it takes .json (LLaVA) and .parquet (The Cauldron)"
        )
    if places and not files:
        raise InputError(f"own_data is {places[0]}, where no .json or .parquet is; name the files")
    return files


def _llava_rows(file: Path, root: Path, chance: int, seed: int, store: Path) -> Iterator[Entry]:
    for number, item in enumerate(_json_items(file)):
        row, mended = tables.mend_text(item)  # half a character would fail when it is written
        fields = row if isinstance(row, dict) else {}
        name = str(fields.get("id") or f"{file.stem}/{number}")
        # by the row alone: what else an arm learns from changes nothing
        if seeded(seed, "own", name) >= chance:
            continue
        given = fields.get("image") or []
        given = [given] if isinstance(given, str) else given
        if not isinstance(given, list) or not all(isinstance(path, str) for path in given):
            yield Refusal(
                name,
                OWN,
                "malformed",
                f"image is {str(given)[:80]!r}, neither a path nor a list of paths",
            )
        else:
            paths = [root / path for path in given]
            yield entry(name, OWN, paths, fields.get("conversations"), mended=mended)


def _json_items(file: Path) -> Iterator[Any]:
    """The items of a JSON list, one after the other: memory is bounded by the longest."""
    decode, number, at, text = json.JSONDecoder().raw_decode, 0, 0, ""
    # a byte that is no UTF-8 becomes half a character, which its row is mended of
    with file.open(encoding="utf-8-sig", errors="surrogateescape") as stream:
        try:
            text = stream.read(_CHUNK).lstrip()
            if not text.startswith("["):
                raise ValueError(f"it begins with {text[:20]!r}, not with [")
            at = 1
            while True:
                at = _GAP.match(text, at).end()  # type: ignore[union-attr]
                if text.startswith("]", at):
                    return
                try:
                    item, at = decode(text, at)
                except ValueError:
                    # cut by the end of what was read: twice as much keeps long items linear
                    more = stream.read(max(_CHUNK, len(text) - at))
                    if not more or len(text) - at > _LONGEST:
                        raise
                    text, at = text[at:] + more, 0
                    continue
                yield item
                number += 1
        except ValueError as error:
            raise InputError(
                f"{file}: no JSON list of rows, row {number}: {error}; write the file again"
            ) from error


def _cauldron_rows(file: Path, root: Path, chance: int, seed: int, store: Path) -> Iterator[Entry]:
    rows = tables.read_rows(file, ["images", "texts"], unreadable={})
    for number, row in enumerate(rows):
        name = f"{file.parent.name}/{file.stem}/{number}"  # The Cauldron has no ids
        if seeded(seed, "own", name) >= chance:
            continue
        if not row:
            yield Refusal(name, OWN, "malformed", "text that is no UTF-8")
            continue
        images, texts = row["images"] or [], row["texts"] or []
        if not all(isinstance(one, dict | None) for one in (*images, *texts)):
            yield Refusal(
                name,
                OWN,
                "malformed",
                "images are not {bytes, path}, or texts not {user, assistant}",
            )
            continue
        turns = [
            {"from": role, "value": text.get(key)}
            for text in texts
            for role, key in (("human", "user"), ("gpt", "assistant"))
        ]
        yield entry(name, OWN, [_stored(image or {}, root, store) for image in images], turns)


def _stored(image: Row, root: Path, store: Path) -> Path | None:
    """The file of an image {bytes, path}: embedded bytes are written once, under their hash."""
    data = image.get("bytes")
    if not isinstance(data, bytes) or not data:
        return root / image["path"] if image.get("path") else None
    # The Cauldron shows one image in many rows; folders of two digits keep listings short
    name = short_hash(data)
    path = store / name[:2] / name
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".tmp").write_bytes(data)
        os.replace(path.with_suffix(".tmp"), path)
    return path
