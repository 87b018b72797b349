"""What the gallery shows of one sample, from what the tables hold of it.

A text whose words may be the page's is a list of pieces, plain and marked ones in turn; which are
marked is the rule of the figures (VisCon-100K, figures 1 and 8).
"""

import re
from collections.abc import Iterable, Mapping
from itertools import repeat
from pathlib import Path

from vislib.media.pixels import ImageError, read_image, scaled
from vislib.media.stems import added_stems, marked
from vislib.media.words import count_words
from vislib.prompts import neutralise
from vislib.qa_format import as_text
from vislib.qa_options import lettered
from vislib.runs import short_hash
from vislib.runs.tables import Row

SIDES = {"images": 800, "thumbs": 112}  # folders, and px of the longest side
LONGEST = 20_000  # characters of a text; one of megabytes would stop a browser
_READ_PAGE = ("contextual", "fused_contextual")  # kinds in which words may be the page's
_OF_SAMPLE = ("sample_id", "page_url", "alt_text", "context")
_MAKER = ("question_id", "model", "prompt_sha", "request_sha")
Found = Mapping[str, list[Row]]  # rows by table
Round = tuple[str, str, str, str]  # kind of caption, source, question, answer


def record_of(found: Found, *, files: Path, folder: Path) -> Row:
    """A sample as the page shows it; its picture, below `files`, is written below `folder`."""
    sample = found["samples"][0]
    plain = [row["caption"] for row in found["captions"] if row["kind"] == "non_contextual"]
    added = added_stems(sample | {"non_contextual": "".join(filter(None, plain))})
    talks, rounds = _talks(found["conversations"])
    asked = {row["question_id"]: _cut(as_text(row)) for row in found["questions"]}
    return {name: _cut(sample[name]) for name in _OF_SAMPLE} | {
        "image": _image(found["images"], files, folder),
        "priors": found["priors"][:1],
        "captions": [
            row | {"caption": _pieces(row["caption"], row["kind"], added)}
            for row in found["captions"]
        ],
        "talks": talks,
        "rounds": [_round(said, found, added) for said in rounds],
        "dropped": [row | {"text": asked.get(row["id"], "")} for row in found["dropped"]],
    }


def entry_of(record: Row) -> Row:
    """A record in the list of all: what it is filtered by before it is loaded."""
    return {
        "id": record["sample_id"],
        "image": record["image"].get("shown"),
        "title": (record["alt_text"] or record["context"])[:160],
        "page": record["page_url"][:200],
        "captions": [
            (row["kind"], count_words("".join(row["caption"]))) for row in record["captions"]
        ],
        "types": sorted({row["source"] for row in record["rounds"]}),
        "configurations": sorted({talk["name"] for talk in record["talks"]}),
        "reasons": sorted({row["reason"] for row in record["dropped"]}),
    }


def _cut(text: str | None) -> str:
    """A text that is not too long to be shown, or what of it is, and how much is not."""
    over = len(text or "") - LONGEST
    return f"{(text or '')[:LONGEST]}{f' … ({over:,} more characters)' if over > 0 else ''}"


def _pieces(text: str | None, kind: str, added: frozenset[str]) -> list[str]:
    given = added if kind in _READ_PAGE else frozenset()
    return [piece for piece, _ in marked(_cut(text), given)]


def _talks(conversations: Iterable[Row]) -> tuple[list[Row], list[Round]]:
    """Conversations that name their rounds by number, and the rounds: most rounds stand in several
    configurations.
    """
    talks, numbers = list[Row](), dict[Round, int]()
    for row in conversations:
        kind, configuration, file = row["file"]
        turns = [turn["value"].removeprefix("<image>\n") for turn in row["conversations"]]
        said = zip(repeat(kind), row["sources"], turns[::2], turns[1::2], strict=False)
        talk = {"name": f"{kind}/{configuration}", "split": file.partition("-")[0]}
        talks.append(talk | {"rounds": [numbers.setdefault(one, len(numbers)) for one in said]})
    return talks, list(numbers)


def _round(said: Round, found: Found, added: frozenset[str]) -> Row:
    """A round with who wrote it and the id of its question, which conversations do not tell."""
    kind, source, asked, answer = said
    rows = found["captions" if source == "caption" else "questions"]
    rows = [row for row in rows if row["kind"] == kind and asked.startswith(_asked(row))]
    # of two questions of which one begins the other, the longer one
    maker = max(rows, key=lambda row: len(_asked(row)), default={})
    shown = {"source": source, "asked": _cut(asked), "answer": _pieces(answer, kind, added)}
    return shown | {name: maker.get(name, "") for name in _MAKER}


def _asked(row: Row) -> str:
    """How the turn that asks a question begins; any turn begins as a caption's, which is ""."""
    lines = row.get("question", ""), *lettered(row.get("options", ()))
    return neutralise("\n".join(lines))[0]


def _image(rows: list[Row], files: Path, folder: Path) -> Row:
    """The facts of a picture and, if it could be read, the name under which it is `shown`."""
    image: Row = dict(*rows[:1])
    if image.get("status") != "ok":
        return image
    # an id of a foreign table may be any text, and a path is none
    known = re.fullmatch("[0-9a-f]{16}", image["image_id"])
    name = f"{image['image_id'] if known else short_hash(image['image_id'])}.jpg"
    try:
        # many samples may show one picture
        if not (folder / "thumbs" / name).exists():
            picture = read_image(files / image["path"])
            for size, side in SIDES.items():
                scaled(picture, side).save(folder / size / name, quality=88, subsampling=0)
    except (ImageError, OSError) as error:
        # without the place, which differs between machines
        return image | {"reason": str(error.args[-1])}
    return image | {"shown": name}
