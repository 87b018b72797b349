"""LAION-style rows (address, alternative text, size) as one-image documents (DenseFusion-1M,
section on selection).

Such a row does not say on which page its image stood: the image's own address stands for the
page's.
"""

import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from vislib.runs.arrow_types import plain
from vislib.runs.errors import InputError
from vislib.sizes import stated_size

# The names that a column may have, case ignored, the first one found wins; sizes may be missing.
_NAMES = {
    "url": ("url",),
    "text": ("text", "caption", "alt", "alt_text"),
    "width": ("width", "original_width"),
    "height": ("height", "original_height"),
}
_TEXTS = ("url", "text")


def obelics_rows(table: Any, place: str) -> list[dict[str, Any]]:
    """The rows of an Arrow table or batch in the OBELICS form, their texts as bytes, decodable or
    not.

    Raises InputError where `table` lacks an address or a text, or holds them in another type.
    """
    # Of two that differ in case alone the first one wins, and of a key's names too.
    columns = {name.lower(): name for name in reversed(table.schema.names)}
    chosen: dict[str, list[Any]] = {}
    try:
        data = plain(table)
        for key, names in _NAMES.items():
            there = [columns[name] for name in names if name in columns]
            if there:
                kind = pa.binary() if key in _TEXTS else pa.float64()
                # Not safely: a size that no float holds exactly is odd, and no fault of the shard.
                chosen[key] = data.column(there[0]).cast(kind, safe=False).to_pylist()
            elif key in _TEXTS:
                raise KeyError(f"no column {key}")
    except (pa.ArrowException, KeyError) as error:
        raise InputError(
            f"{place}: not a LAION shard ({error.args[0]}); it holds {held(table.schema)}, and must"
            " hold url and text (or caption, alt, alt_text), strings, and may hold width and"
            " height, numbers"
        ) from error
    rows = zip(*chosen.values(), strict=True)
    return [_document(dict(zip(chosen, row, strict=True))) for row in rows]


def held(schema: pa.Schema) -> str:
    """Columns and their types, for messages."""
    return ", ".join(f"{field.name}: {field.type}" for field in schema)


def _document(row: Mapping[str, Any]) -> dict[str, Any]:
    address = row["url"] or b""
    # Undecodable bytes stay as they came in, so that validation finds and names them.
    url = address.decode(errors="surrogateescape")
    entry = {
        "document_url": url,
        "unformatted_src": url,
        "src": url,
        "format": "",
        "original_width": stated_size(row.get("width")),
        "original_height": stated_size(row.get("height")),
        "alt_text": None if row["text"] is None else row["text"].decode(errors="surrogateescape"),
    }
    columns = {"metadata": [entry], "general_metadata": {"url": url}}
    document: dict[str, Any] = {"images": [address], "texts": [None]}
    for name, value in columns.items():
        text = json.dumps(value, ensure_ascii=False)
        document[name] = text.encode(errors="surrogateescape")
    return document
