"""Replay: the answers that a run was made from, in one file for those who have neither key nor
server.

The captions and questions of a data set (VisCon-100K, sections 3.2 and 3.3) come from models that
are retired one day. Its authors publish what the models said, beside the data and the parameter
set:

    python -m vislib.runs.replay export runs/viscon-100k answers.parquet

Readers import it, set `replay: true` in 06 and 07, and make the same data, byte for byte, at no
cost:

    python -m vislib.runs.replay import answers.parquet
    python -m vislib.run params/viscon-100k

The file knows a request by its hash alone: it holds no prompt, picture, key, address or path.
Readers need the same documents and images therefore, and the weights of a model that was named by
its folder.
"""

import argparse
import os
import re
import sqlite3
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import groupby, islice
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.parquet as pq

from vislib.runs.errors import InputError
from vislib.runs.journal import Journal, usable
from vislib.runs.redaction import redact, without_places
from vislib.runs.stage import run_folder
from vislib.runs.tables import Row, open_part, read_rows

_FORMAT, _BATCH = b"vislib answers 1", 2000
_TEXTS = dict.fromkeys(("journal", "request_sha", "body", "reason", "detail"), pa.string())
SCHEMA = pa.schema(
    [*_TEXTS.items(), ("usd", pa.float64()), ("at", pa.float64())]
)  # at: seconds of the epoch
_ROWS = """SELECT key, body, NULL, NULL, NULL, answered_at FROM answers
UNION ALL SELECT key, NULL, reason, detail, usd, failed_at FROM failures ORDER BY 1, 6"""
_ANSWER = "INSERT OR IGNORE INTO answers VALUES (:request_sha, :body, :at)"
_FAILURE = "INSERT OR IGNORE INTO failures VALUES (:request_sha, :at, :reason, :detail, :usd)"


def export_answers(run: Path, file: Path) -> Counter[str]:
    """Write the answers and failures of a run's requests to `file`.

    Sorted by request: the same journal gives the same bytes. Returns how many `answers` and
    `failures`. Raises InputError when the journals beside the run lack one of its requests.
    """
    wanted, found = _requests_of(run), set[str]()
    counts = Counter[str](answers=0, failures=0)
    # beside the file, so that it appears whole or not at all
    with TemporaryDirectory(dir=file.absolute().parent) as folder:
        with pq.ParquetWriter(Path(folder, "answers"), SCHEMA, compression="zstd") as writer:
            writer.add_key_value_metadata({b"format": _FORMAT})
            for journal in sorted(run.parent.glob("journal/*.sqlite")):
                rows = (row for row in _rows(journal) if row["request_sha"] in wanted)
                while batch := list(islice(rows, _BATCH)):
                    writer.write_table(pa.Table.from_pylist(batch, SCHEMA))
                    found |= {row["request_sha"] for row in batch}
                    counts.update("answers" if row["body"] else "failures" for row in batch)
        # an export that lacks a request could not be replayed: better no file than that
        if found != wanted or not counts["answers"]:
            raise InputError(
                f"{run}: of the {len(wanted)} requests in its tables {len(wanted - found)} stand in"
                f" no journal beside it, and {counts['answers']} have an answer; name a finished"
                " run with its journal"
            )
        os.replace(Path(folder, "answers"), file)
    return counts


def _requests_of(run: Path) -> set[str]:
    """The column `request_sha` of all tables of a run."""
    found: set[str] = set()
    for part in run.glob("[0-9][0-9]_*/data/**/*.parquet"):
        with open_part(part) as table:
            named = "request_sha" in table.schema_arrow.names
        if named and not part.relative_to(run).parts[0].endswith((".partial", ".previous")):
            found |= {row["request_sha"] for row in read_rows(part, ["request_sha"])}
    return found - {"", None}  # rows that no model answered


def _rows(journal: Path) -> Iterator[Row]:
    """What a journal holds, clean."""
    # read-only: an export makes no journal and waits for no writer
    place = f"{journal.resolve().as_uri()}?mode=ro"
    with usable(journal), closing(sqlite3.connect(place, uri=True)) as db:
        for key, body, reason, detail, *rest in db.execute(_ROWS):
            clean = body and redact(body), reason, detail and without_places(redact(detail))
            yield dict(zip(SCHEMA.names, (journal.stem, key, *clean, *rest), strict=True))


def import_answers(file: Path, journals: Path) -> Counter[str]:
    """Add an export to the journals in a folder; what they hold already stays, and a second time
    adds nothing.

    Returns how many `answers` and `failures` were added, of how many rows `read`. Raises InputError
    for a file that `export_answers` did not write.
    """
    with open_part(file) as table:
        kind = (table.metadata.metadata or {}).get(b"format")
        if kind != _FORMAT or table.schema_arrow != SCHEMA:
            raise InputError(
                f"{file}: not an export of answers that this version can read; export it again"
            )
    counts = Counter[str](answers=0, failures=0, read=0)
    for name, rows in groupby(read_rows(file), key=lambda row: str(row["journal"])):
        # a name from outside becomes a path here
        if not re.fullmatch(r"\w+", name):
            raise InputError(f"{file}: {name!r} can name no journal; get the file again")
        Journal(path := journals / f"{name}.sqlite")  # makes it
        with usable(path), closing(sqlite3.connect(path, timeout=60)) as db, db:
            for row in rows:
                kind, insert = ("answers", _ANSWER) if row["body"] else ("failures", _FAILURE)
                counts[kind] += db.execute(insert, row).rowcount
                counts["read"] += 1
    return counts


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line. Exit status: 0, or 2 for bad input."""
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="python -m vislib.runs.replay", description=__doc__, formatter_class=layout
    )
    what = parser.add_subparsers(dest="what", required=True)
    export = what.add_parser("export", help="a run's answers into a file")
    export.add_argument("run", type=Path, help="folder of a run")
    for command in (export, what.add_parser("import", help="that file into the journals")):
        command.add_argument("file", type=Path, help="Parquet file of answers")
    options = parser.parse_args(arguments)
    # any run: the journal stands beside them all
    place = run_folder("runs/any").parent / "journal"
    try:
        if options.what == "export":
            run = options.run if options.run.exists() else run_folder(str(options.run))
            counts, place = export_answers(run, options.file), options.file
        else:
            counts = import_answers(options.file, place)
    except (InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{place}: " + ", ".join(f"{name} {n:,}" for name, n in counts.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
