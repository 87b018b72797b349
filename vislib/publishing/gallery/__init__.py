"""A static page to look at a dataset and to review it: images, the pages around them, captions with
what the page gave, conversations, who wrote what, and what was set aside and why.

Both papers judged their data by reading samples (VisCon-100K, section 3.2; DenseFusion-1M,
section 4). The page opens from the disk, without a server or a network: rows come as scripts that
set JSON, as many at a time as are looked at. All text is the web's: the page shows
it as text alone, and pictures are decoded and written anew, so that no file of the web goes along.
"""

import json
from collections import defaultdict
from collections.abc import Collection, Iterable
from functools import partial
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path
from shutil import copytree, rmtree
from typing import Any

from vislib.publishing.gallery.record import SIDES, entry_of, record_of
from vislib.runs import Run, short_hash, sql, tables
from vislib.runs.tables import Row

_PAGE = Path(__file__).parent / "page"
PER_CHUNK = 50  # samples in a script: half a megabyte
# Parameters that name tables, and the column by which each tells of a sample.
_TABLES = {
    "samples": "sample_id",
    "images": "image_url",
    "captions": "sample_id",
    "further_captions": "sample_id",
    "questions": "sample_id",
    "conversations": "sample_id",
    "priors": "image_id",
}
_CHOSEN = """
WITH drawn AS (
    SELECT sample_id, image_url, row FROM samples_0 ORDER BY {drawn} LIMIT {count}
), chosen AS (
    SELECT sample_id, image_url, image_id, row_number() OVER (ORDER BY drawn.row) AS place
    FROM drawn LEFT JOIN (
        SELECT image_url, min(image_id) AS image_id FROM images_0 GROUP BY image_url
    ) USING (image_url)
)
"""
# Of the path of a part only what is the same on every machine.
_FACTS = """
SELECT place, '{name}' AS name, to_json(fact)::VARCHAR AS fact
FROM (
    SELECT * EXCLUDE (row) REPLACE (string_split(file, '/')[-3:] AS file) FROM {table}_with_file
) fact JOIN chosen USING ({key})
"""
# Some ids are of a sample and a kind.
_DROPPED = """
SELECT place, 'dropped', to_json(drops)::VARCHAR
FROM ({drops}) drops JOIN (
    SELECT place, sample_id AS id FROM chosen UNION SELECT place, image_url FROM chosen {questions}
) named ON named.id = regexp_replace(drops.id, '^([0-9a-f]{{16}})/.*$', '\\1')
"""
_QUESTIONS = "UNION SELECT place, question_id FROM questions_0 JOIN chosen USING (sample_id)"
_NONE = "SELECT '' AS stage, '' AS id, '' AS reason, '' AS detail WHERE false"
_COUNTED = "SELECT stage, reason, count(*) FROM ({drops}) GROUP BY ALL ORDER BY ALL"


def write(run: Run, count: int) -> Row:
    """Write `gallery/`: of the samples of the run's tables a seeded choice of at most `count`.

    Returns what the page says of the whole: the number of `samples`, the `entries` that are shown,
    and `drops` as stage, reason and number.
    """
    folder = run.data / "gallery"
    rmtree(folder, ignore_errors=True)
    copytree(_PAGE, folder)
    for name in ("data", *SIDES):
        (folder / name).mkdir()
    given: dict[str, Any] = {
        f"{name}_{n}": path
        for name in (*_TABLES, "dropped")
        for n, path in enumerate(run.inputs(name))
    }
    drops = _drops(run)
    query = _query(given, drops, count=count, seed=run.seed)
    found = tables.read_rows(run.sql(query, into="gallery", **given))
    shown = partial(record_of, files=run.table("images").parent, folder=folder)
    records = (shown(_by_table(rows)) for _, rows in groupby(found, key=itemgetter("place")))
    entries = list[Row]()
    while chunk := list(islice(records, PER_CHUNK)):
        _write_script(folder / f"data/{len(entries) // PER_CHUNK:05d}.js", chunk)
        entries += map(entry_of, chunk)
    index = {
        "name": run.stage.run.name,
        # what a browser keeps belongs to these samples, and to no other gallery
        "key": short_hash(*(entry["id"] for entry in entries)),
        "samples": tables.count_rows(run.table("samples")),
        "per_chunk": PER_CHUNK,
        "drops": sql.select(_COUNTED.format(drops=drops), given, run.scratch),
        "entries": entries,
    }
    _write_script(folder / "data/index.js", index)
    return index


def _drops(run: Run) -> str:
    """SQL: what every stage set aside."""
    return _NONE + "".join(
        f" UNION ALL SELECT '{path.parent.parent.name}', id, reason, detail[:2000] FROM dropped_{n}"
        for n, path in enumerate(run.inputs("dropped"))
    )


def _query(given: Collection[str], drops: str, *, count: int, seed: int) -> str:
    """SQL: all that the tables hold of each chosen sample, as JSON, samples in order of pages."""
    facts = [
        _FACTS.format(table=table, name=name.removeprefix("further_"), key=key)
        for name, key in _TABLES.items()
        for table in given
        if table.startswith(f"{name}_")
    ]
    asked = _QUESTIONS if "questions_0" in given else ""
    facts.append(_DROPPED.format(drops=drops, questions=asked))
    chosen = _CHOSEN.format(drawn=sql.drawn("sample_id", seed), count=count)
    return f"{chosen} {' UNION ALL '.join(facts)} ORDER BY ALL"


def _by_table(rows: Iterable[Row]) -> dict[str, list[Row]]:
    found = defaultdict[str, list[Row]](list)
    for row in rows:
        found[row["name"]].append(json.loads(row["fact"]))
    return found


def _write_script(file: Path, value: object) -> None:
    """A script that gives `data` JSON, which no text in it can leave: all but ASCII is escaped,
    line separators and bidirectional controls too, and so is `<`.
    """
    text = json.dumps(value).replace("<", "\\u003c")
    file.write_text(f'data["{file.stem}"]={text};\n')
