"""Where rows to learn from come from: conversations of stage 08, and the data that a model itself
was tuned on.

VisCon-100K (section 5) adds its conversations to the model's own mix: LLaVA's JSON, with text-only
rows, for ShareGPT4V, and The Cauldron's Parquet, with several images a row, for IDEFICS2. All
become one form: paths of images, and turns in which `<image>` marks each image's place. A row that
cannot be used comes with its reason, never in silence; what is left out of a row, or mended in it,
is counted with it.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vislib.fetching import links
from vislib.runs import InputError, choose, tables
from vislib.runs.json_files import json_rows
from vislib.runs.keys import expand
from vislib.runs.seeding import seeded, short_hash
from vislib.runs.tables import Row
from vislib.training.chat import MARK, Turns

# Sources: conversations of stage 08 (or captions of 06), and the model's own data.
VISUAL, OWN = "visual", "own"
_ENDINGS = (".json", ".parquet")
# The id of a row of the own data, its images and turns as they stand there, and characters mended.
_Read = tuple[str, Any, Any, int]


def entry(
    name: str,
    source: str,
    images: Any,
    turns: Any,
    *,
    sample: str = "",
    mended: int = 0,
    sealed: bool = False,
) -> Row:
    """One row in the form that training reads: id, source, sample_id, images (paths as text),
    conversations (list of {from, value}), n_left_out, n_mended, sealed, and `reason` (malformed or
    image_missing) with `detail` where it cannot be learnt from. What only a model's processor can
    tell is found by `planning`.

    `images`: list of files, None for one that cannot be had. `turns`: list of {from, value}. Those
    before the first human one are left out and counted (`n_left_out`), as LLaVA's recipe does with
    an answer to nothing; a system turn is too, since models are trained with their own. Where no
    question marks the places of the images, all stand at the beginning, each on a line of its own,
    as in LLaVA's rows. `mended`: characters that were replaced in the row. `sealed`: whether what
    follows the first answer must not attend to it.
    """
    row: Row = {"id": name, "source": source, "sample_id": sample, "images": [], "n_mended": mended}
    row |= {"conversations": [], "n_left_out": 0, "sealed": sealed}
    row["reason"], row["detail"] = _fault(images, turns)
    if row["reason"]:
        return row
    # what comes before the first question answers nothing; without any, the speakers will tell
    speakers = [turn["from"] for turn in turns]
    first = speakers.index("human") if "human" in speakers else 0
    conversation = [{"from": turn["from"], "value": turn["value"]} for turn in turns[first:]]
    if images and not any(MARK in turn["value"] for turn in conversation[::2]):
        conversation[0]["value"] = f"{MARK}\n" * len(images) + conversation[0]["value"]
    files = [str(image) for image in images]
    return row | {"images": files, "conversations": conversation, "n_left_out": first}


def _fault(images: Any, turns: Any) -> tuple[str, str]:
    """Why a row cannot be learnt from, reason and detail; two empty texts if it can."""
    if not isinstance(images, list) or not all(isinstance(one, Path | None) for one in images):
        return "malformed", f"images are {str(images)[:80]!r}, not paths"
    if not isinstance(turns, list) or not turns:
        return "malformed", "no list of turns"
    for number, turn in enumerate(turns):
        told = turn if isinstance(turn, dict) else {}
        if not all(isinstance(told.get(field), str) for field in ("from", "value")):
            return "malformed", f"turn {number} is not {{from, value}}"
    if None in images:
        return "image_missing", f"image {images.index(None)} was not fetched, or has no file"
    return "", ""


# ---- conversations of stage 08


def contract_rows(
    table: Path,
    ledger: Path,
    *,
    max_samples: int,
    seed: int,
    split: str = "train",
    caption_visible: float = -1,
) -> Iterator[Row]:
    """The rows of a configuration's `split`, in order, their images through the ledger
    `03_images/images`.

    `max_samples` (0: all) samples, drawn by the hash of seed and sample_id with all their rows:
    configurations that are made of the same samples keep the same ones. From 0 on,
    `caption_visible` is the share of samples, drawn likewise, whose questions may attend to their
    caption; it then comes first in all rows. Raises InputError for a table without that split.
    """
    parts = [part for part in tables.parts(table) if part.name.startswith(split)]
    if not parts:
        raise InputError(
            f"{table}: no {split}-*.parquet; name a configuration such as"
            " 08_merging/contextual/leaky_mix"
        )
    wanted = set[str]()
    if max_samples:  # the names of a million samples need not be held
        rows_of = (tables.read_rows(part, ["sample_id"]) for part in parts)
        samples = dict.fromkeys(row["sample_id"] for rows in rows_of for row in rows)
        wanted = set(choose(samples, max_samples, seed))
    for part in parts:
        found = tables.read_rows(part, ["id", "sample_id", "images", "conversations", "sources"])
        rows = [row for row in found if not max_samples or row["sample_id"] in wanted]
        # a part at a time: the ledger of a million images need not be held
        ids = {image for row in rows for image in row["images"]}
        files = tables.lookup(ledger, "image_id", ids, ["path"])
        paths = {name: ledger.parent / row["path"] for name, row in files.items() if row["path"]}
        for row in rows:
            images = [paths.get(image) for image in row["images"]]
            sample, turns, sealed = row["sample_id"], row["conversations"], False
            if caption_visible >= 0:
                turns = caption_first(turns, row["sources"])
                # by hash: who is sealed at one level is sealed at every lower one
                sealed = seeded(seed, "caption", sample) >= int(caption_visible * 2**64)
            yield entry(row["id"], VISUAL, images, turns, sample=sample, sealed=sealed)


def caption_first(turns: Turns, sources: Sequence[str]) -> Turns:
    """The turns of a conversation of 08 with the caption's round before the others, whose order
    stays; the mark of the image still opens the first. Raises InputError without caption or
    question.
    """
    if len(set(sources)) < 2 or "caption" not in sources:
        raise InputError(
            f"caption_visible wants a caption and questions in every row, and one has"
            f" {', '.join(sources)}; name a configuration such as leaky_mix, or set -1"
        )
    at, lead = 2 * sources.index("caption"), f"{MARK}\n"
    moved = [*turns[at : at + 2], *turns[:at], *turns[at + 2 :]]
    said = [turn | {"value": turn["value"].removeprefix(lead)} for turn in map(dict, moved)]
    said[0]["value"] = lead + said[0]["value"]
    return said


# ---- a model's own data


def own_rows(
    places: Sequence[Path], *, images: Path | None, fraction: float, seed: int, store: Path
) -> Iterator[Row]:
    """Rows of LLaVA JSON (`.json`) and of The Cauldron's Parquet in order: files, folders or globs.

    Each row joins with the chance `fraction`, by the hash of seed and id alone: whatever else an
    arm learns from, it is the same rows. `images`: folder that paths of images start from (None:
    the file's own folder). `store`: folder that embedded images are written to. Raises InputError
    for a file in which no row has the form.
    """

    for file in _own_files(places):
        # one bad row costs itself; a file without a good one is of another form
        malformed, formed = "", False
        read = _cauldron_rows if file.suffix == ".parquet" else _llava_rows
        for name, shown, turns, mended in read(file):
            if seeded(seed, "own", name) >= int(fraction * 2**64):
                continue
            if isinstance(shown, list):
                shown = [image_file(image, images or file.parent, store) for image in shown]
            row = entry(name, OWN, shown, turns, mended=mended)
            if row["reason"] == "malformed":
                malformed = malformed or f"row {row['id']}: {row['detail']}"
            else:
                formed = True
            yield row
        if malformed and not formed:
            raise InputError(
                f"{file}: no row has the form; {malformed}. LLaVA's JSON is a list of {{id, image,"
                " conversations}, The Cauldron's Parquet has images and texts; mend the file or"
                " own_data"
            )


def _own_files(places: Sequence[Path]) -> list[Path]:
    found = [file for place in places for file in expand(place)]
    # a folder may hold more than data; a file that is named must be data
    files = [file for file in found if file.suffix in _ENDINGS or file in places]
    if wrong := [file for file in files if file.suffix not in _ENDINGS]:
        raise InputError(
            f"own_data holds {wrong[0]}; it takes .json (LLaVA) and .parquet (The Cauldron)"
        )
    if places and not files:
        raise InputError(f"own_data is {places[0]}, where no .json or .parquet is; name the files")
    return files


def _llava_rows(file: Path) -> Iterator[_Read]:
    for number, item in enumerate(json_rows(file)):
        row, mended = tables.mend_text(item)  # half a character would fail when it is written
        fields = row if isinstance(row, dict) else {}
        images = fields.get("image") or []
        images = [images] if isinstance(images, str) else images
        name = str(fields.get("id") or f"{file.stem}/{number}")
        yield name, images, fields.get("conversations"), mended


def _cauldron_rows(file: Path) -> Iterator[_Read]:
    # what stands for a row whose text is no UTF-8 has a turn of no words
    unreadable: Row = {"images": [], "texts": [{}]}
    rows = tables.read_rows(file, ["images", "texts"], unreadable=unreadable)
    for number, row in enumerate(rows):
        turns: list[Any] = []
        for text in row["texts"] or []:
            said = text if isinstance(text, dict) else {}
            turns.append({"from": "human", "value": said.get("user")})
            turns.append({"from": "gpt", "value": said.get("assistant")})
        # The Cauldron has no ids
        yield f"{file.parent.name}/{file.stem}/{number}", row["images"] or [], turns, 0


def image_file(image: Any, root: Path, store: Path) -> Any:
    """The file of an image, a path from `root` or {bytes, path}; None if it names none. Embedded
    bytes are written once, under their hash. What is no image stays, to be refused.
    """
    held = image if isinstance(image, dict) else {"path": image}
    data, path = held.get("bytes"), held.get("path") or None
    if not data or not isinstance(data, bytes):
        return root / path if isinstance(path, str) else path
    # The Cauldron shows one image in many rows; folders of two digits keep listings short
    name = short_hash(data)
    place = store / name[:2] / name
    links.store(data, place)
    return place
