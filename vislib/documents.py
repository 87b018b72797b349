"""Interleaved web documents in, every row held against the OBELICS form (VisCon-100K, section 3.1).

A row holds `images` and `texts` of equal length with exactly one non-null per index, in page order,
and two JSON strings; LAION-style rows are brought into that form first. Rows that break the form,
hold undecodable text or repeat a page are quarantined with their reason. The address in `images` is
the one that is fetched: `src` in the metadata may be another, of a mirror say, and is no fault.
Pages with only text or only images keep the form and stay. Nothing here grows with the number of
rows: shards are streamed, and the ids met lie in a temporary file.
"""

import json
import random
import re
import sqlite3
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import pyarrow as pa

from vislib import laion
from vislib.runs import InputError, Run, choose, seeded, short_hash
from vislib.runs.arrow_types import plain
from vislib.runs.keys import expand
from vislib.runs.provenance import relative_to_root
from vislib.runs.tables import batches, open_part

HUB = "HuggingFaceM4/OBELICS"
_HUB_ROWS = 141_047_697  # what progress is measured against when there is no limit
_SHUFFLE_ROWS = 10_000  # rows held to shuffle a stream, which draws from ten shards at a time
_BATCH = 256  # rows of a stream
# Read as bytes: one undecodable row must not take its whole batch with it.
_TEXTS, _JSON = pa.list_(pa.binary()), pa.binary()
_BYTES = pa.schema(
    [("images", _TEXTS), ("texts", _TEXTS), ("metadata", _JSON), ("general_metadata", _JSON)]
)
# What later stages read of an image's entry. Sizes are not among it: an odd one is an unknown one
# (`sizes`), and costs nobody the page. pandas writes NaN, a float, where a text is missing.
_OPTIONAL = (str, float, type(None))
_ENTRY: dict[str, tuple[type, ...]] = {
    "document_url": (str,),
    "unformatted_src": (str,),
    "src": (str,),
    "format": _OPTIONAL,
    "alt_text": _OPTIONAL,
}
# Source, number, and the row, or what makes it when it is asked for, so that a fault is its own.
Numbered = Iterator[tuple[str, int, Mapping[str, Any] | Callable[[], Mapping[str, Any]]]]
# Of an Arrow table or batch, and the place to name in errors.
ReadRows = Callable[[Any, str], list[dict[str, Any]]]


class BrokenRow(Exception):
    """A row to quarantine; its two arguments are a reason, one word of the account, and a
    detail.
    """


def load_documents(run: Run) -> None:
    """Stage 01: write the valid documents of the source, quarantine its other rows.

    Raises InputError for a source that is empty, unreadable or without a single valid row.
    """
    rows, total = open_source(run)
    first, is_new = "", unseen()
    with run.output() as output, run.progress(total, "rows") as progress:
        for source, number, row in rows:
            output.take("row")
            document, (reason, detail) = read_or_fault(row)
            if document and not is_new(document["doc_id"]):
                reason, detail = "duplicate", f"repeats document {document['doc_id']}"
            if document and not reason:
                output.write("documents", document)
                output.keep("row")
            else:
                said = f"{reason}: {detail}"
                first = first or f"; {source}, row {number}: {said}"
                output.write("quarantine", {"source": source, "row": number, "reason": said})
                output.drop("row", f"{source}:{number}", reason, detail)
            progress.update()
        # Within the block: what was written so far is no result, and is not completed.
        if not output.counts["row/kept"]:
            taken = output.counts["row/taken"]
            raise InputError(
                f"source = {run.params.source!r}: no valid document in {taken} rows{first}"
            )


def open_source(run: Run) -> tuple[Numbered, int]:
    """The rows of the parameter `source` as (source, row number, row), and how many are
    expected.
    """
    source, limit = run.params.source, run.params.limit
    if source == "sample":
        from vislib import sample

        rows = list(enumerate(sample.rows()))
        chosen = choose(rows, limit, run.seed, key=lambda pair: str(pair[0]))
        return (("sample", number, row) for number, row in chosen), len(chosen)
    if source == "hub":
        if not re.fullmatch(r"[0-9a-f]{40}", run.params.revision):
            raise InputError(
                f"revision = {run.params.revision!r}: source hub needs the 40 hex digits of a"
                " commit"
            )
        return hub_rows(run.params.revision, limit=limit, seed=run.seed), limit or _HUB_ROWS
    if source in ("html", "warc"):
        from vislib import pages

        return pages.open_pages(run)
    found = (
        f
        for path in run.inputs("paths")
        for f in expand(path)
        if path.is_file() or f.suffix == ".parquet"
    )
    files = list(dict.fromkeys(found))  # a glob and a folder may name a file twice
    if not files:
        raise InputError(
            f"paths = {run.params.paths!r}: no .parquet file there; give files, folders or globs"
        )
    read = laion.obelics_rows if source == "laion" else obelics_rows
    positions: Sequence[int] = range(sum(_count_rows(file, read) for file in files))
    # Positions over all files, so that the choice is the same however rows are spread over them.
    if 0 < limit < len(positions):
        positions = sorted(random.Random(seeded(run.seed, "01_documents")).sample(positions, limit))
    return parquet_rows(files, positions, read), len(positions)


def parquet_rows(files: Sequence[Path], positions: Sequence[int], read: ReadRows) -> Numbered:
    """Stream the rows at the sorted `positions`, which count over all `files`; other row groups are
    not read.
    """

    def within(start: int, size: int) -> Sequence[int]:
        return positions[bisect_left(positions, start) : bisect_left(positions, start + size)]

    start = 0
    for file in files:
        first, source = start, relative_to_root(file)
        try:
            with open_part(file) as parquet:
                for group in range(parquet.num_row_groups):
                    size = parquet.metadata.row_group(group).num_rows
                    at = start
                    for batch in batches(parquet, [group]) if within(start, size) else ():
                        chosen = within(at, len(batch))
                        rows = read(batch.take([position - at for position in chosen]), source)
                        for position, row in zip(chosen, rows, strict=True):
                            yield source, position - first, row
                        at += len(batch)
                    start += size
        except (pa.ArrowException, OSError) as error:
            raise InputError(
                f"{file}: cannot be read to its end ({error}); fetch it again, leave it out, or"
                " write its columns as plain strings and lists"
            ) from error


def hub_rows(revision: str, *, limit: int, seed: int) -> Numbered:
    """Stream OBELICS at a commit; with a limit, rows of seeded shards through a seeded shuffle
    buffer.

    The row number is the position in this stream.
    """
    from datasets import load_dataset

    source, number = f"{HUB}@{revision}", 0
    try:
        stream = load_dataset(HUB, split="train", streaming=True, revision=revision)
        if limit:
            stream = stream.shuffle(seed=seed, buffer_size=_SHUFFLE_ROWS).take(limit)
        for table in stream.with_format("arrow").iter(batch_size=_BATCH):
            for row in obelics_rows(table, source):
                yield source, number, row
                number += 1
    except InputError:
        raise
    except Exception as error:  # datasets, its file systems and HTTP clients raise all kinds
        raise InputError(
            f"{source}: the stream failed after {number} rows ({type(error).__name__}: {error}); "
            "check revision and network and run again, or set source to parquet"
        ) from error


def obelics_rows(table: Any, place: str) -> list[dict[str, Any]]:
    """The rows of an Arrow table or batch, texts as bytes; InputError where a column is missing or
    of another type.
    """
    try:
        read = plain(table.select(_BYTES.names)).cast(_BYTES).to_pylist()
        return cast(list[dict[str, Any]], read)
    except (pa.ArrowException, KeyError) as error:
        raise InputError(
            f"{place}: not an OBELICS shard ({error}); it holds {laion.held(table.schema)}, and"
            " must hold images and texts (lists of strings), metadata and general_metadata"
            " (strings)"
        ) from error


def read_or_fault(
    row: Mapping[str, Any] | Callable[[], Mapping[str, Any]],
) -> tuple[dict[str, Any] | None, tuple[str, str]]:
    """A row as `read_document` has it, or the reason and detail of its quarantine."""
    try:
        return read_document(row() if callable(row) else row), ("", "")
    except BrokenRow as fault:
        return None, fault.args
    except Exception as error:  # a fault that nobody thought of costs its row, not the stage
        return None, ("unexpected", f"{type(error).__name__}: {error}"[:300])


def read_document(row: Mapping[str, Any]) -> dict[str, Any]:
    """One row of the `documents` table from one OBELICS row; raises BrokenRow for a row that breaks
    the form.
    """
    images, texts = _texts(row, "images"), _texts(row, "texts")
    metadata, general = _json(row, "metadata", list), _json(row, "general_metadata", dict)
    lengths = len(images), len(texts), len(metadata)
    if len(set(lengths)) > 1:
        raise BrokenRow("unequal_lengths", "images {}, texts {}, metadata {}".format(*lengths))
    if not images:
        raise BrokenRow("empty", "neither text nor image")
    for index, (image, text, entry) in enumerate(zip(images, texts, metadata, strict=True)):
        if (image is None) == (text is None):
            held = "neither" if text is None else "both"
            raise BrokenRow("both_or_neither", f"index {index} holds {held}")
        if fault := _entry_fault(entry, beside_text=image is None):
            raise BrokenRow("bad_metadata", f"metadata[{index}] {fault}")
    url = general.get("url")
    if not isinstance(url, str) or not url:
        raise BrokenRow("no_page_url", f"general_metadata.url is {url!r:.60}")
    # By address and texts: a page that was crawled twice and has changed is two documents.
    doc_id = short_hash(url, *(text for text in texts if text is not None))
    unchanged = {name: _text(row[name], name) for name in ("metadata", "general_metadata")}
    return {"doc_id": doc_id, "images": images, "texts": texts, **unchanged}


def unseen() -> Callable[[str], bool]:
    """A test whether a 16-digit id is new, which remembers it: in a temporary file of SQLite's,
    with a fixed cache.
    """
    database = sqlite3.connect("", isolation_level=None)  # a file that goes with the connection
    database.execute("PRAGMA cache_size = -65536")  # KiB
    database.execute("CREATE TABLE seen (id INTEGER PRIMARY KEY)")
    database.execute("BEGIN")  # once: to commit each id would take longer than to read its row
    # SQLite's integers are signed: half of the ids would not fit.
    add = "INSERT OR IGNORE INTO seen VALUES (?)"
    return lambda doc_id: database.execute(add, (int(doc_id, 16) - 2**63,)).rowcount == 1


def _count_rows(file: Path, read: ReadRows) -> int:
    with open_part(file) as parquet:
        read(parquet.schema_arrow.empty_table(), str(file))
        return int(parquet.metadata.num_rows)


def _text(value: Any, place: str) -> str:
    try:
        if isinstance(value, bytes):
            return value.decode()
        if isinstance(value, str):
            value.encode()  # half a character (a lone surrogate) cannot be written
            return value
    except (UnicodeDecodeError, UnicodeEncodeError) as error:
        raise BrokenRow("undecodable_text", f"{place}: {error.reason} at {error.start}") from error
    raise BrokenRow("wrong_type", f"{place} is {type(value).__name__}, not text")


def _texts(row: Mapping[str, Any], column: str) -> list[str | None]:
    values = row.get(column)
    if not isinstance(values, list):
        raise BrokenRow("wrong_type", f"{column} is {type(values).__name__}, not a list")
    return [
        None if value is None else _text(value, f"{column}[{i}]") for i, value in enumerate(values)
    ]


def _json(row: Mapping[str, Any], column: str, kind: type) -> Any:
    text = _text(row.get(column), column)
    try:
        # As floats: a size of 5,000 digits is no size, and no reason to lose the page.
        value = json.loads(text, parse_int=float if column == "metadata" else None)
        if "\\ud" in text.lower():  # an escape may spell half a character too
            _text(json.dumps(value, ensure_ascii=False), column)
    except (ValueError, RecursionError) as error:
        raise BrokenRow("bad_json", f"{column}: {error}") from error
    if not isinstance(value, kind):
        raise BrokenRow("wrong_type", f"{column} holds {type(value).__name__}, not {kind.__name__}")
    return value


def _entry_fault(entry: Any, *, beside_text: bool) -> str:
    if beside_text:
        return "" if entry is None else "stands beside a text"
    if not isinstance(entry, dict):
        return f"is {type(entry).__name__}, not the image's dictionary"
    wrong = [key for key, kinds in _ENTRY.items() if type(entry.get(key)) not in kinds]
    return f"lacks a valid {', '.join(wrong)}" if wrong else ""
