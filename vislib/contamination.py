"""Whether pictures and questions of the data stand in the benchmarks that will judge it, or in a
model's own mix, and whether that mix holds the benchmarks (ours; the papers do not look).

FineVision compares pictures with 66 test sets of lmms-eval by a copy-detection embedding, which
misses crops at its threshold; language models are checked by 13-grams, longer than most questions
are. Here pictures are compared by perceptual hashes of the whole and of its parts and by the
features of 04, questions by pairs of content words in any order, by their options, and by
sentence embeddings. What each method finds and wrongly finds is measured on planted copies.
"""

import ast
import base64
import re
from collections.abc import Iterable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image, ImageOps

from vislib import plants
from vislib.media.near_hashes import banded, part_hashes
from vislib.media.pixels import ImageError, read_image
from vislib.runs import Drop, InputError, Run, To, short_hash, sql, tables
from vislib.runs.keys import expand
from vislib.runs.tables import Row
from vislib.training.chat import MARK
from vislib.training.sources import image_file, own_rows

DATA, MIX, BENCHMARK = range(3)  # roles: a pair is of one and a later one
HASHES = pa.schema(
    {
        "number": pa.int64(),
        "role": pa.int64(),
        "hashes": pa.list_(pa.uint64()),
        "picture": pa.string(),
    }
)
_ENDINGS = (".parquet", ".json", ".jsonl", ".tsv", ".csv")
_FILE = re.compile(r"\.(jpe?g|png|webp|gif|bmp)$", re.IGNORECASE)
_OPTION = re.compile("(choice_|option_)?[a-f]", re.IGNORECASE)
_INDEX = 1_000_000  # MMBench numbers the rotations of a question by multiples of it
# `rank`: by hash of the seed, for what is planted.
_OURS = """
    WITH ours AS (
        SELECT 'image' AS unit, image_id AS id, min(path) AS path, '' AS text, '' AS options
        FROM samples JOIN images USING (image_url) WHERE status = 'ok' GROUP BY image_id
        UNION ALL SELECT 'question', question_id, '', question,
            array_to_string(list_sort(list_transform(options, lambda x: lower(trim(x)))), chr(10))
        FROM questions WHERE status = 'ok')
    SELECT *, row_number() OVER (PARTITION BY unit ORDER BY {drawn}) AS rank FROM ours
    ORDER BY unit, id
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
            FROM units WHERE text <> ''),
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
_SAME_OPTIONS = """
    WITH rare AS (SELECT *, count(*) OVER (PARTITION BY source, options) AS n FROM units
        WHERE len(string_split(options, chr(10))) > 2)
    SELECT a.number AS one, b.number AS other, 'options' AS method, 1.0 AS score
    FROM rare AS a JOIN rare AS b USING (options) WHERE a.role < b.role AND a.n <= 3 AND b.n <= 3
"""
FOUND = f"""
    FROM ({_HASHES}) UNION ALL FROM ({_WORDS}) UNION ALL FROM ({_SAME_OPTIONS})
    UNION ALL SELECT one, other, method, score FROM vectors
    ORDER BY one, other, method
"""
HITS = """
    SELECT a.unit, a.source, a.id, b.source AS benchmark, b.id AS item, method,
        coalesce(any_value(shown.picture), '') AS picture, max(score) AS score
    FROM pairs JOIN units AS a ON a.number = one JOIN units AS b ON b.number = other
        LEFT JOIN (SELECT source, id, if(count(*) = 1, any_value(picture), '') AS picture
            FROM hashed JOIN units USING (number) GROUP BY ALL) AS shown
            ON shown.source = b.source AND shown.id = b.id
    WHERE b.source <> 'planted' AND score >= {threshold} GROUP BY ALL ORDER BY ALL
"""
# Of each method the weakest, of what was found and of what was planted: ours beside theirs.
SIDES = """
    SELECT a.path, a.source || ' ' || a.id, a.text, b.path, b.source || ' ' || b.id, b.text,
        method, score
    FROM pairs JOIN units AS a ON a.number = one JOIN units AS b ON b.number = other
    WHERE score >= {threshold} QUALIFY row_number()
        OVER (PARTITION BY b.source = 'planted', method ORDER BY score, one, other) <= 2
    ORDER BY b.source = 'planted', method, score, one, other
"""
RECALL = """
    WITH level AS (SELECT unit, method, unnest(thresholds)::DOUBLE AS threshold FROM (VALUES
            ('image', 'hash', [1, 0.9375, 0.875]),
            ('image', 'crop_hash', [0.9375, 0.90625, 0.875]),
            ('image', 'features', [0.95, 0.9, 0.85, 0.8]),
            ('question', 'words', [1, 0.5, 0.3, 0.2]),
            ('question', 'options', [1]),
            ('question', 'sentences', [0.95, 0.9, 0.8, 0.7])) AS given(unit, method, thresholds)),
        plants AS (SELECT *, split_part(id, '/', 1) AS origin, split_part(id, '/', 2) AS change
            FROM units WHERE source = 'planted'),
        found AS (SELECT method, score, other, a.id = origin AS genuine
            FROM pairs JOIN units AS a ON a.number = one JOIN plants ON plants.number = other
            WHERE a.source = 'data')
    SELECT level.method, change, threshold, count(DISTINCT p.number) AS planted,
        count(DISTINCT other) FILTER (genuine) AS found,
        count(DISTINCT other) FILTER (NOT genuine) AS wrong
    FROM level JOIN plants AS p USING (unit)
        LEFT JOIN found ON other = p.number AND found.method = level.method AND score >= threshold
    WHERE level.method IN (SELECT method FROM pairs) GROUP BY ALL ORDER BY ALL
"""


def theirs(place: Path, store: Path) -> Iterator[Row]:
    """Units of a benchmark's file, folder or glob, which is named as lmms-eval's task: rows with
    `question`, options (a list, or columns A to F), and columns whose name begins with `image`
    (bytes, base64 text, paths, lists of these).

    An item is called as 12 calls it: by its number, of MMBench by its index.
    """
    # a folder may hold its pictures too
    files = [file for file in expand(place) if file.suffix in _ENDINGS]
    # a folder of pictures alone, or a name that was misspelt
    if not files:
        raise InputError(
            f"benchmarks holds {place}; it takes {', '.join(_ENDINGS)}: export a task by"
            " `datasets.load_dataset(…).to_parquet('seedbench.parquet')`"
        )
    numbers = count()
    for file in files:
        name = str(file).replace("'", "''")
        found: Any = duckdb.sql(f"FROM '{name}'")
        # few at once: a row holds its pictures' bytes
        for batch in found.to_arrow_reader(100):
            for row, number in zip(batch.to_pylist(), numbers, strict=False):
                item = str(int(row.get("index", number)) % _INDEX)
                at = {"role": BENCHMARK, "source": place.stem, "id": item}
                for path in _pictures(row, file.parent, store):
                    yield at | {"unit": "image", "path": path}
                listed = row.get("options") or row.get("choices") or []
                if isinstance(listed, str):  # MMMU writes a list as Python does
                    listed = ast.literal_eval(listed)
                listed = [v for c, v in row.items() if v and _OPTION.fullmatch(c)] or listed
                options = "\n".join(sorted(str(option).strip().lower() for option in listed))
                text = str(row.get("question") or row.get("text") or "")
                yield at | {"unit": "question", "text": text, "options": options}


def _pictures(row: Row, root: Path, store: Path) -> Iterator[str]:
    for column, value in row.items():
        held = value if isinstance(value, list) else [value]
        for one in held if column.lower().startswith("image") else []:
            if isinstance(one, str) and len(one) > 1000:  # no path is as long
                one = base64.b64decode(one)
            if isinstance(one, bytes):
                one = {"bytes": one}
            # other texts name the set that a picture is from (POPE)
            if isinstance(one, dict) or _FILE.search(str(one)):
                yield str(image_file(one, root, store))


def read_units(run: Run) -> Path:
    """A table of all pictures and questions: of the data, the mixes, the benchmarks, and planted
    copies of some of the data.
    """
    store, root = run.scratch / "files", run.table("images").parent
    # ours first, since plants are copies of them
    given: Any = {name: run.table(name) for name in ("samples", "images", "questions")}
    query = _OURS.format(drawn=sql.drawn("id", run.seed))
    data = {"role": DATA, "source": "data"}
    units: list[Row] = [
        row | data | {"path": row["path"] and str(root / row["path"])}
        for row in tables.read_rows(run.sql(query, into="ours", **given))
    ]
    for copy in list(plants.copies(units, run)):
        units.append(copy | {"role": BENCHMARK, "source": "planted"})
    for place in run.inputs("benchmarks"):
        units.extend(theirs(place, store))
    images = run.input("mix_images")
    for place in run.inputs("mixes"):
        for row in own_rows([place], images=images, fraction=1.0, seed=0, store=store):
            at = {"role": MIX, "source": place.stem, "id": row["id"]}
            units += [at | {"unit": "image", "path": path} for path in row["images"]]
            # turns alternate, and the person begins
            for turn in row["conversations"][::2]:
                units.append(at | {"unit": "question", "text": turn["value"].replace(MARK, "")})
    file = run.scratch / "units.parquet"
    pd.DataFrame(units).drop(columns="rank").fillna("").reset_index(names="number").to_parquet(file)
    return file


def hashed(pictures: Iterable[Row], *, into: str) -> Iterator[To | Drop]:
    """Rows of `HASHES`; of a benchmark also the picture's pixels as a hash, which 12 has too."""
    for row in pictures:
        try:
            found = part_hashes(read_image(row["path"]))
        except (ImageError, OSError) as error:
            yield Drop("image_failed", f"{row['source']} {row['id']}: {error}")
            continue
        pixels = ""
        if row["role"] == BENCHMARK:
            # as lmms-eval sees it, and 12 notes it (`picture_id` of evaluation/item_scores.py)
            with Image.open(row["path"]) as image:
                shown = ImageOps.exif_transpose(image).convert("RGB")
            pixels = short_hash(repr(shown.size).encode() + shown.tobytes())
        key = {"number": row["number"], "role": row["role"]}
        yield To(into, key | {"hashes": found, "picture": pixels})


def alike(
    units: pd.DataFrame, vectors: NDArray[np.float32], method: str, *, least: float
) -> Iterator[Row]:
    """Pairs of units whose vectors (a row each, of length 1) have a cosine of `least` or more; time
    grows with the product of both sides.
    """
    roles, numbers = units["role"].to_numpy(), units["number"].to_numpy()
    # the data is never the later one of a pair
    later = np.flatnonzero(roles > DATA)
    against = vectors[later].T
    for rows in np.array_split(np.arange(len(units)), len(units) // 1024 + 1):
        # -1: two of one role, or the pair the other way round, are none
        near = np.where(roles[rows, None] < roles[later], vectors[rows] @ against, -1)
        for one, other in np.argwhere(near >= least):
            pair = {"one": numbers[rows[one]], "other": numbers[later[other]]}
            yield pair | {"method": method, "score": float(near[one, other])}
