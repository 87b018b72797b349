"""A release as Croissant 1.1 tells it to programs: files with their hashes, the columns of every
configuration, where the data came from (PROV-O), and the responsible-AI fields (Croissant RAI 1.0)
that conferences ask for.

`mlcroissant` reads the records back through it, from the folder as it lies.
"""

import json
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vislib.publishing.facts import Facts
from vislib.publishing.templates import TEMPLATES, sections
from vislib.runs.digests import file_hashes

Node = dict[str, Any]
_TYPES = {pa.string(): "sc:Text", pa.int64(): "sc:Integer", pa.float64(): "sc:Float"}
# of any length, in one dimension
_ARRAY = {"isArray": True, "arrayShape": "-1"}


def write_croissant(facts: Facts) -> None:
    """Write croissant.json into the release."""
    text = json.dumps(described(facts), indent=1, ensure_ascii=False)
    (facts.folder / "croissant.json").write_text(text + "\n", encoding="utf-8")


def described(facts: Facts, tell: Callable[[Any], Any] = str) -> Any:
    """The release as JSON-LD; `tell` sees every value that is told."""
    said = sections(facts.render("rai.md", tell))
    hashes = file_hashes([facts.folder / name for name in facts.files])
    # numbers and texts come from the template, the shape of the columns from the files
    more: dict[str, Any] = {
        "rai": {name: _rai(text) for name, text in said.items()},
        "hashes": dict(zip(facts.files, hashes, strict=True)),
        "record_sets": [_record_set(facts, name) for name in facts.splits],
    }
    return json.loads(facts.render("croissant.json", **more))


def _rai(text: str) -> str | list[str]:
    """One text, or the items of a Markdown list."""
    # lines of a template break where they are long, items of Croissant do not
    items = [" ".join(item.split()) for item in f"\n{text}".split("\n- ")]
    return items[1:] or items[0]


def _record_set(facts: Facts, config: str) -> Node:
    """The columns of one configuration, and the split that a file's name tells."""
    says = sections((TEMPLATES / "columns.md").read_text(encoding="utf-8"))
    part = next(name for name in facts.files if name.split("/")[1] == config)
    fields = [_field(config, column) for column in pq.read_schema(facts.folder / part)]
    split = {"regex": r".*?(\w+)-\d+-of-\d+\.parquet$"}
    # no column tells it: `datasets` and Croissant both read it off the file's name
    fields.append(_leaf(config, "split", "sc:Text", {"fileProperty": "fullpath"}, split))
    for field in fields:
        field["description"] = says.get(field["name"], field["name"])
    return {
        "@type": "cr:RecordSet",
        "@id": config,
        "name": config,
        "field": fields,
    }


def _field(config: str, column: pa.Field) -> Node:
    """One column: a text or number, a picture, a list, or a list of turns."""
    name, kind, extract = column.name, column.type, {"column": column.name}
    if pa.types.is_struct(kind):  # a picture's bytes and file name
        return _leaf(config, name, "sc:ImageObject", extract, {"jsonPath": "bytes"})
    if not pa.types.is_list(kind):
        return _leaf(config, name, _TYPES[kind], extract)
    if not pa.types.is_struct(kind.value_type):
        return _leaf(config, name, _TYPES[kind.value_type], extract) | _ARRAY
    # mlcroissant gives such a list back as one dictionary per turn
    place = f"{config}/{name}"
    parts = [
        _leaf(place, part.name, _TYPES[part.type], extract, {"jsonPath": part.name})
        for part in kind.value_type
    ]
    return {
        "@type": "cr:Field",
        "@id": place,
        "name": name,
        "subField": parts,
        **_ARRAY,
    }


def _leaf(above: str, name: str, kind: str, extract: Node, transform: Node | None = None) -> Node:
    # a set of files, not a file: a configuration may have any number of shards
    return {
        "@type": "cr:Field",
        "@id": f"{above}/{name}",
        "name": name,
        "dataType": kind,
        "source": {
            "fileSet": {"@id": f"{above.split('/')[0]}-files"},
            "extract": extract,
            **({"transform": transform} if transform else {}),
        },
    }
