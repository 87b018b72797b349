"""Whether pictures and questions of the data stand in the benchmarks that will judge it, or in a
model's own mix, and whether that mix holds the benchmarks (ours; the papers do not look).

FineVision compares pictures with 66 test sets of lmms-eval by a copy-detection embedding, which
misses crops at its threshold; language models are checked by 13-grams, longer than most questions
are. Here pictures are compared by perceptual hashes of the whole and of its parts and by the
features of 04, questions by pairs of content words in any order, by their options, and by
sentence embeddings. What each method finds and wrongly finds is measured on planted copies.
"""

import base64
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image, ImageOps

from vislib import plants
from vislib.media.embeddings import SentenceEncoder, embed_texts
from vislib.media.image_vectors import Encoder, embed_images
from vislib.media.near_hashes import banded, part_hashes
from vislib.media.pixels import ImageError, read_image
from vislib.plants import PLANTED
from vislib.runs import Drop, InputError, Run, To, short_hash, sql, tables
from vislib.runs.keys import expand
from vislib.runs.tables import Row
from vislib.training.chat import MARK
from vislib.training.sources import image_file, own_rows

DATA, MIX, BENCHMARK = range(3)  # roles: pairs are of one and a later one
_TEXT = pa.string()
_KEY = {"number": pa.int64(), "role": pa.int64(), "source": _TEXT, "id": _TEXT}
_OPTIONS = pa.list_(_TEXT)
UNITS = pa.schema({**_KEY, "unit": _TEXT, "path": _TEXT, "text": _TEXT, "options": _OPTIONS})
HASHES = pa.schema({**_KEY, "hashes": pa.list_(pa.uint64()), "picture": _TEXT})
PAIRS = pa.schema({"one": pa.int64(), "other": pa.int64(), "method": _TEXT, "score": pa.float64()})
LEVELS = {  # thresholds that recall is told at
    "hash": ("image", (1.0, 0.9375, 0.875)),
    "crop_hash": ("image", (0.9375, 0.90625, 0.875)),
    "features": ("image", (0.95, 0.9, 0.85, 0.8)),
    "words": ("question", (1.0, 0.5, 0.3, 0.2)),
    "options": ("question", (1.0,)),
    "sentences": ("question", (0.95, 0.9, 0.8, 0.7)),
}
_READ = {
    ".parquet": duckdb.read_parquet,
    ".json": duckdb.read_json,
    ".jsonl": duckdb.read_json,
    ".tsv": duckdb.read_csv,
    ".csv": duckdb.read_csv,
}
_OPTION = re.compile("(choice_|option_)?[a-f]", re.IGNORECASE)
_FILE = re.compile(r"\.(jpe?g|png|webp|gif|bmp)$", re.IGNORECASE)
_PATH = 1000  # characters: a longer text is a picture in base64
_BLOCK = 4096  # rows of a block of cosines
_ASKED = ("question", "text", "instruction")
_INDEX = 1_000_000  # MMBench numbers the rotations of a question by multiples of it
_TEXTS = """
    SELECT DISTINCT text FROM units WHERE unit = 'question' AND text <> ''
    ORDER BY length(text) DESC, text
"""
_OURS = """
    SELECT 'image' AS unit, image_id AS id, min(path) AS path, '' AS text, []::VARCHAR[] AS options
    FROM samples JOIN images USING (image_url) WHERE status = 'ok' GROUP BY image_id
    UNION ALL SELECT 'question', question_id, '', question, options FROM questions
    WHERE status = 'ok' ORDER BY ALL
"""
# Of each picture, its whole and its mirror image against all parts of the others: a crop is found
# whichever of the two was cut. Four bands, one with one bit changed: all pairs within 7 bits, and
# nearly all at 8.
_HASHES = f"""
    WITH tiles AS (SELECT number, role, unnest(hashes) AS hash,
            generate_subscripts(hashes, 1) AS place FROM hashed),
        wholes AS (SELECT *, unnest(list_filter([0, 1, 2], lambda x: x <> role)) AS target
            FROM {banded("(FROM tiles WHERE place <= 2)", 4, reach=True)}),
        parts AS {banded("(FROM tiles WHERE place > 1)", 4)}
    SELECT if(w.role < p.role, w.number, p.number) AS one,
        if(w.role < p.role, p.number, w.number) AS other,
        if(p.place = 2, 'hash', 'crop_hash') AS method,
        1 - min(bit_count(xor(w.hash, p.hash))) / 64 AS score
    FROM wholes AS w JOIN parts AS p ON w.target = p.role AND w.band = p.band
    WHERE bit_count(xor(w.hash, p.hash)) <= 8 GROUP BY ALL
"""
# A word of more than a twentieth of the questions of one source is its template's. What is left is
# paired in any order; the score is the share of common pairs in all pairs of both.
_WORDS = r"""
    WITH asked AS (SELECT number, role, source,
            list_distinct(regexp_extract_all(lower(text), '[\p{L}\p{N}]+')) AS words
            FROM units WHERE unit = 'question'),
        spoken AS (SELECT number, role, source, unnest(words) AS word FROM asked),
        sizes AS (SELECT source, count(*) AS n FROM asked GROUP BY source),
        template AS (SELECT word FROM spoken JOIN sizes USING (source) GROUP BY source, word
            HAVING count(*) > greatest(5, any_value(n) / 20)),
        content AS (FROM spoken ANTI JOIN template USING (word)),
        pairs AS (SELECT a.number, a.role, a.word || ' ' || b.word AS pair
            FROM content AS a JOIN content AS b ON a.number = b.number AND a.word < b.word),
        lengths AS (SELECT number, count(*) AS n FROM pairs GROUP BY number),
        shared AS (SELECT a.number AS one, b.number AS other, count(*) AS n
            FROM pairs AS a JOIN pairs AS b USING (pair) WHERE a.role < b.role GROUP BY ALL)
    SELECT one, other, 'words' AS method, s.n / (x.n + y.n - s.n) AS score
    FROM shared AS s JOIN lengths AS x ON x.number = one JOIN lengths AS y ON y.number = other
    WHERE score >= 0.2
"""
# Three options or more that few questions of a source have: yes and no, or colours, tell nothing.
_OPTIONS_MATCH = """
    WITH chosen AS (SELECT *, list_sort(list_transform(options, lambda x: lower(trim(x)))) AS key
            FROM units WHERE len(options) > 2),
        rare AS (SELECT *, count(*) OVER (PARTITION BY source, key) AS n FROM chosen)
    SELECT a.number AS one, b.number AS other, 'options' AS method, 1.0 AS score
    FROM rare AS a JOIN rare AS b USING (key) WHERE a.role < b.role AND a.n <= 3 AND b.n <= 3
"""
FOUND = f"""
    FROM ({_HASHES}) UNION ALL FROM ({_WORDS}) UNION ALL FROM ({_OPTIONS_MATCH})
    UNION ALL SELECT one, other, method, score FROM vectors
    ORDER BY one, other, method
"""
HITS = """
    WITH shown AS (SELECT source, id, if(count(*) = 1, any_value(picture), '') AS picture
        FROM hashed GROUP BY ALL)
    SELECT a.unit, a.source, a.id, b.source AS benchmark, b.id AS item,
        coalesce(any_value(picture), '') AS picture, method, max(score) AS score
    FROM pairs JOIN units AS a ON a.number = one JOIN units AS b ON b.number = other
        LEFT JOIN shown ON shown.source = b.source AND shown.id = b.id
    WHERE b.source <> 'planted' AND score >= {threshold}
    GROUP BY ALL ORDER BY ALL
"""
SIDES = """
    SELECT a.path, a.text, a.id, b.path, b.text, b.source || ' ' || b.id, method, score
    FROM pairs JOIN units AS a ON a.number = one JOIN units AS b ON b.number = other
    WHERE b.source {planted} 'planted' AND score >= {threshold}
    QUALIFY row_number() OVER (PARTITION BY method ORDER BY score, one, other) <= {limit}
    ORDER BY method, score, one, other
"""
RECALL = f"""
    WITH plants AS (SELECT *, split_part(id, '/', 1) AS origin, split_part(id, '/', 2) AS change
            FROM units WHERE source = '{PLANTED}'),
        found AS (SELECT method, score, other, a.id = origin AS genuine
            FROM pairs JOIN units AS a ON a.number = one JOIN plants ON plants.number = other
            WHERE a.role = {DATA})
    SELECT level.method, change, threshold::DOUBLE AS threshold,
        count(DISTINCT p.number) AS planted,
        count(DISTINCT other) FILTER (genuine) AS found,
        count(DISTINCT other) FILTER (NOT genuine) AS wrong
    FROM ({{levels}}) AS level(unit, method, threshold) JOIN plants AS p USING (unit)
        LEFT JOIN found ON other = p.number AND found.method = level.method AND score >= threshold
    GROUP BY ALL ORDER BY ALL
"""


def theirs(place: Path, store: Path) -> Iterator[Row]:
    """Units of a benchmark's file, folder or glob, which is named as lmms-eval's task: rows with
    `question`, options (a list, or columns A to F), and columns whose name begins with `image`
    (bytes, base64 text, paths, lists of these).

    An item is called as 12 calls it: by its number, of MMBench by its index.
    """
    numbers = count()
    for file in expand(place):
        if file.suffix not in _READ:
            if file == place:
                raise InputError(
                    f"benchmarks holds {file}; it takes {', '.join(_READ)}: export a task by"
                    " `datasets.load_dataset(…).to_parquet('seedbench.parquet')`"
                )
            continue  # a folder may hold its pictures too
        for batch in _READ[file.suffix](str(file)).to_arrow_reader(100):
            for row, number in zip(batch.to_pylist(), numbers, strict=False):
                name = str(int(row["index"]) % _INDEX if "index" in row else number)
                at = {"role": BENCHMARK, "source": place.stem, "id": name}
                for column, value in row.items():
                    if column.lower().startswith("image"):
                        yield from _pictures(at, value, file.parent, store)
                listed = row.get("options") or row.get("choices") or []
                if isinstance(listed, str):  # MMMU writes a list as Python does
                    listed = re.findall("'([^']*)'", listed)
                options = [v for c, v in row.items() if v and _OPTION.fullmatch(c)] or listed
                asked = next((row[name] for name in _ASKED if row.get(name)), "")
                at |= {"options": [str(option) for option in options]}
                yield at | {"unit": "question", "text": str(asked)}


def _pictures(at: Row, value: Any, root: Path, store: Path) -> Iterator[Row]:
    for one in value if isinstance(value, list) else [value]:
        if isinstance(one, str) and len(one) > _PATH:
            one = base64.b64decode(one)
        elif isinstance(one, str) and not _FILE.search(one):
            continue  # POPE names the set that a picture is from
        if one:
            held = {"bytes": one} if isinstance(one, bytes) else one
            yield at | {"unit": "image", "path": str(image_file(held, root, store))}


def read_units(run: Run) -> Path:
    """A table of all pictures and questions: of the data, the mixes, the benchmarks, and planted
    copies of some of the data.
    """
    store, root = run.scratch / "files", run.table("images").parent
    given: Any = {name: run.table(name) for name in ("samples", "images", "questions")}
    ours = run.sql(_OURS, into="ours", **given)

    def found() -> Iterator[Row]:
        data: Row = {"role": DATA, "source": "data"}
        for row in tables.read_rows(ours):
            yield row | data | {"path": str(root / row["path"])}
        for place in run.inputs("mixes"):
            images = run.input("mix_images")
            for row in own_rows([place], images=images, fraction=1.0, seed=0, store=store):
                at = {"role": MIX, "source": place.stem, "id": row["id"]}
                for path in row["images"]:
                    yield at | {"unit": "image", "path": path}
                for turn in row["conversations"][::2]:
                    yield at | {"unit": "question", "text": turn["value"].replace(MARK, "")}
        for place in run.inputs("benchmarks"):
            yield from theirs(place, store)
        copies = plants.pictures, plants.questions
        for unit, plant in zip(("image", "question"), copies, strict=True):
            mine = [
                row | {"path": str(root / row["path"])}
                for row in tables.read_rows(ours)
                if row["unit"] == unit
            ]
            for row in plant(mine, run):
                yield row | {"role": BENCHMARK, "source": PLANTED, "unit": unit}

    empty: Row = {"path": "", "text": "", "options": []}
    rows = (empty | row | {"number": number} for number, row in enumerate(found()))
    tables.write_table(run.scratch / "units", UNITS, rows, rows_per_part=5000)
    return run.scratch / "units"


def hashed(pictures: Iterable[Row], *, into: str) -> Iterator[To | Drop]:
    """Rows of `HASHES`; of a benchmark also the picture's pixels as a hash, which 12 has too."""
    for row in pictures:
        try:
            found = part_hashes(read_image(row["path"]))
        except (ImageError, OSError) as error:
            yield Drop("image_failed", str(error)[:200])
            continue
        pixels = ""
        if row["role"] == BENCHMARK:
            # as lmms-eval sees it, and 12 notes it (`picture_id` of evaluation/item_scores.py)
            with Image.open(row["path"]) as image:
                shown = ImageOps.exif_transpose(image).convert("RGB")
            pixels = short_hash(repr(shown.size).encode() + shown.tobytes())
        key = {name: row[name] for name in ("number", "role", "source", "id")}
        yield To(into, key | {"hashes": found.tolist(), "picture": pixels})


def vector_pairs(run: Run, units: Path, hashed: Path) -> Path:
    """Pairs by the cosine of image features and of sentence embeddings, for each model that is
    named; time grows with the product of both sides.
    """
    p = run.params
    table = run.scratch / "vectors"
    rows = list[Row]()
    every = list(tables.read_rows(units, ["number", "role", "unit", "path", "text"]))
    if p.image_model:
        readable = {row["number"] for row in tables.read_rows(hashed, ["number"])}
        shown = [row for row in every if row["number"] in readable]
        encoder = Encoder(p.image_model, device=p.device)
        paths = [row["path"] for row in shown]
        given = {"encoder": encoder, "folder": run.scratch, "batch_size": p.batch_size}
        vectors, failed = embed_images(paths, paths, workers=p.workers, **given)
        seen = [row for place, row in enumerate(shown) if place not in failed]
        rows += _alike(seen, vectors, "features")
    if p.sentence_model:
        asked = [row for row in every if row["unit"] == "question" and row["text"]]
        texts = run.sql(_TEXTS, into="texts", units=units)
        given = {"encoder": SentenceEncoder(p.sentence_model), "folder": run.scratch}
        found = embed_texts(texts, batch_size=p.batch_size, **given)
        rows += _alike(asked, found.of([row["text"] for row in asked]), "sentences")
    tables.write_table(table, PAIRS, rows)
    return table


def _alike(units: Sequence[Row], vectors: NDArray[np.float32], method: str) -> Iterator[Row]:
    roles = np.array([unit["role"] for unit in units])
    later = np.flatnonzero(roles > DATA)
    theirs = vectors[later].T
    least = min(LEVELS[method][1])
    for start in range(0, len(units), _BLOCK):
        near = vectors[start : start + _BLOCK] @ theirs
        near[roles[start : start + _BLOCK, None] >= roles[later]] = 0
        for one, other in np.argwhere(near >= least):
            pair = {"one": units[start + one]["number"], "other": units[later[other]]["number"]}
            yield pair | {"method": method, "score": float(near[one, other])}


def at_least(thresholds: Mapping[str, float]) -> str:
    """SQL of the threshold of a row's `method`."""
    cases = " ".join(f"WHEN '{method}' THEN {value}" for method, value in thresholds.items())
    return f"CASE method {cases} END"


def levels(run: Run) -> str:
    """SQL of the thresholds at which recall is told, of the methods that the run's models allow."""
    needs = {"features": run.params.image_model, "sentences": run.params.sentence_model}
    rows = [
        f"('{unit}', '{method}', {value})"
        for method, (unit, values) in LEVELS.items()
        for value in values
        if needs.get(method, "words")
    ]
    return f"VALUES {', '.join(rows)}"


def side_by_side(
    run: Run, thresholds: Mapping[str, float], *, planted: bool, limit: int = 3, **given: Path
) -> list[list[Row]]:
    """Of each method the weakest hits (of planted items, or of the others): what is ours, and
    theirs, as rows to look at.
    """
    query = SIDES.format(
        planted="=" if planted else "<>", threshold=at_least(thresholds), limit=limit
    )
    names = ("path", "text", "id")
    return [
        [
            dict(zip(names, row[:3], strict=True)),
            dict(zip(names, row[3:6], strict=True)) | {"method": row[6], "score": row[7]},
        ]
        for row in sql.select(query, given, run.scratch)
    ]
