"""Rows of JSON and JSONL files from outside, one after the other: memory is bounded by the longest.

LLaVA's mixes are one list of hundreds of megabytes, DenseFusion's release a row a line, and both
hold what other programs wrote: bytes that are no UTF-8, half characters, lines that are cut off.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vislib.runs.errors import InputError

# Characters that are read at once, and that one row may have.
_CHUNK, _LONGEST = 1 << 20, 1 << 26
_GAP = re.compile(r"[\s,]*")


def json_rows(file: Path) -> Iterator[Any]:
    """The items of a JSON list, or of the lines of a `.jsonl` file; a line that is no JSON comes as
    its text.

    A byte that is no UTF-8 becomes half a character, which `tables.mend_text` mends. Raises
    InputError for a list that cannot be read to its end.
    """
    if file.suffix == ".jsonl":
        # some editors begin a file with a mark of its encoding
        with file.open(encoding="utf-8-sig", errors="surrogateescape") as stream:
            yield from map(_line, filter(str.strip, stream))
    else:
        yield from _items(file)


def _line(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:  # one cut line costs itself
        return text


def _items(file: Path) -> Iterator[Any]:
    decode, number, at = json.JSONDecoder().raw_decode, 0, 1
    with file.open(encoding="utf-8-sig", errors="surrogateescape") as stream:
        try:
            text = stream.read(_CHUNK).lstrip()
            if not text.startswith("["):
                raise ValueError(f"it begins with {text[:20]!r}, not with [")
            # `at` stands behind the bracket, or behind an item
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
