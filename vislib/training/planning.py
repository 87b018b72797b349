"""Before a training begins: every row is encoded once, counted, and accepted or refused with its
reason.

What a trained model was shown must be known (VisCon-100K, section 5, compares arms by it), and a
row that fails in the middle of a training would be lost in silence or end it. So rows are read,
their images decoded and their labels made in full here, in worker processes, and the training reads
the rows that passed from one file.
"""

import os
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, partial
from itertools import groupby, zip_longest
from pathlib import Path
from shutil import rmtree
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.csv import write_csv

from vislib.runs import InputError, Run, choose, tables
from vislib.runs.contract import CONVERSATIONS
from vislib.runs.shards import map_shards
from vislib.runs.tables import Output
from vislib.training.settings import Settings
from vislib.training.sources import Entry, Refusal, Row

if TYPE_CHECKING:
    import pandas as pd

    from vislib.training.labels import Encoded, Encoder

# Share of a source's rows that images or lengths may cost: above, a parameter is wrong.
MOST_REFUSED = 0.05
# Share that any reason may cost: rows of a wrong form are the data's own.
MOST_UNREADABLE = 0.5
_ROWS_PER_SHARD = 2000
_MENDS = ("n_left_out", "n_mended")  # turns and characters, in rows that are kept
_CANDIDATES = pa.schema(
    [
        ("id", pa.string()),
        ("source", pa.string()),
        ("images", pa.list_(pa.string())),
        CONVERSATIONS.field("conversations"),
        *((name, pa.int64()) for name in _MENDS),
    ]
)
_REFUSED = pa.schema([(name, pa.string()) for name in ("id", "source", "reason", "detail")])
_COUNTS = ("n_tokens", "n_image_tokens", "n_supervised", "n_pixels")
ROWS = pa.schema([*_CANDIDATES, *((name, pa.int64()) for name in _COUNTS)])
_SUMS = """
    SELECT count(*) AS rows,
        count(*) FILTER (source = 'visual') AS visual_rows,
        count(*) FILTER (source = 'own') AS own_rows,
        count(*) FILTER (len(images) = 0) AS text_only_rows,
        coalesce(sum(len(conversations) // 2), 0) AS rounds,  -- of a question and an answer
        coalesce(sum(n_tokens), 0) AS tokens,
        coalesce(sum(n_image_tokens), 0) AS image_tokens,
        coalesce(sum(n_supervised), 0) AS supervised_tokens,
        coalesce(sum(n_left_out), 0) AS n_left_out,
        coalesce(sum(n_mended), 0) AS n_mended
    FROM read_parquet($rows)
"""
_ACCOUNT = """
    SELECT source, 0 AS place, 'kept' AS what, count(*) AS n
        FROM read_parquet($rows) GROUP BY source
    UNION ALL SELECT source, 1, 'dropped: ' || reason, count(*)
        FROM read_parquet($refused) GROUP BY source, reason
    UNION ALL SELECT source, 2, 'characters mended', sum(n_mended)
        FROM read_parquet($rows) GROUP BY source HAVING sum(n_mended) > 0
    UNION ALL SELECT source, 2, 'turns left out', sum(n_left_out)
        FROM read_parquet($rows) GROUP BY source HAVING sum(n_left_out) > 0
    ORDER BY place, what
"""


@dataclass(frozen=True)
class Planned:
    """Rows that passed, in the file `rows` (of `ROWS`, in order), and those that did not."""

    rows: Path
    refused: tuple[Path, ...]  # tables of id, source, reason, detail
    truncated: int  # rows whose last answers end at max_length

    def refusals(self) -> Iterable[Row]:
        """The refused rows in order: id, source, reason, detail."""
        return (row for table in self.refused for row in tables.read_rows(table))

    def counts(self) -> dict[str, int]:
        """Of the accepted rows: rows, rounds, text_only_rows, SOURCE_rows, tokens, image_tokens,
        supervised_tokens.

        Also n_left_out (turns) and n_mended (characters).
        """
        found = duckdb.execute(_SUMS, {"rows": str(self.rows)})
        names = [column[0] for column in found.description or ()]
        return {name: int(n) for name, n in zip(names, found.fetchone() or (), strict=True)}

    def account(self) -> "pd.DataFrame":
        """Rows by source: taken, kept, and dropped by reason; then what was left out of rows that
        were kept.
        """
        refused = [f"{table}/*.parquet" for table in self.refused]
        found = duckdb.execute(_ACCOUNT, {"rows": str(self.rows), "refused": refused}).df()
        columns = ["kept", *(what for what in found["what"].unique() if what != "kept")]
        table = found.pivot_table("n", "source", "what", aggfunc="sum").reindex(columns=columns)
        table = table.fillna(0).astype(int).sort_index(ascending=False)
        dropped = table.filter(regex="^(kept|dropped: )").sum(axis=1)
        table.insert(0, "taken", dropped)
        return table.rename_axis(columns=None)


def plan_rows(
    run: Run, entries: Iterable[Entry], settings: Settings, *, name: str = "planning"
) -> Planned:
    """Encode all `entries` as `settings` say and leave what passes in
    `<scratch>/<name>/rows.parquet`.

    Shards that are done stay done when the stage goes on after a stop. Raises InputError, which
    names reasons and a first row, if nothing passes or more than `MOST_REFUSED` of a source's rows
    are refused; these are then listed in `<scratch>/refused.csv`, and the next attempt reads all
    rows anew.
    """
    folder = run.scratch / name
    candidates, file = _gathered(entries, folder), folder / "rows.parquet"
    counts = map_shards(
        partial(_encode_part, settings=settings),
        tables.parts(candidates / "rows"),
        folder=folder / "encoded",
        schemas={"rows": ROWS, "refused": _REFUSED},
        marks=folder / "marks",
        workers=max(1, settings.loader_workers),
        lock=run.stage.run / ".workers.lock",
    )
    if not file.exists():
        _join(tables.parts(folder / "encoded/rows"), file)
    refused = candidates / "refused", folder / "encoded/refused"
    planned = Planned(file, refused, counts["note/truncated"])
    _require_enough(planned, folder)
    return planned


def _gathered(entries: Iterable[Entry], folder: Path) -> Path:
    """Tables `rows` and `refused` of all entries, in shards; made once, whole or not at all."""
    done, building = folder / "candidates", folder / "candidates.building"
    # reading the own data may take an hour: a stop afterwards must not cost it again
    if not done.exists():
        rmtree(building, ignore_errors=True)
        schemas = {"rows": _CANDIDATES, "refused": _REFUSED}
        with Output(building, schemas, rows_per_part=_ROWS_PER_SHARD) as output:
            for entry in entries:
                if isinstance(entry, Refusal):
                    output.write("refused", vars(entry))
                else:
                    output.write("rows", dict.fromkeys(_MENDS, 0) | entry)
        os.replace(building, done)
    return done


def _join(parts: Iterable[Path], file: Path) -> None:
    with pq.ParquetWriter(file.with_suffix(".tmp"), ROWS, compression="zstd") as writer:
        for part in parts:
            with tables.open_part(part) as opened:
                for batch in opened.iter_batches():
                    writer.write_batch(batch)
    os.replace(file.with_suffix(".tmp"), file)


@cache  # a worker process encodes many shards with one processor
def _encoder(settings: Settings) -> "Encoder":
    from vislib.training.labels import Encoder
    from vislib.training.models import open_processor

    processor = open_processor(settings.model, image_splitting=settings.image_splitting)
    return Encoder(processor, max_length=settings.max_length)


def _encode_part(part: Path, output: Output, *, settings: Settings) -> None:
    from vislib.training.labels import RowError

    encoder = _encoder(settings)
    for row in tables.read_rows(part):
        try:
            encoded = encoder.encode(row)
        except RowError as error:
            refusal = Refusal(row["id"], row["source"], error.reason, error.detail)
            output.write("refused", vars(refusal))
            continue
        output.note("truncated", encoded.truncated)
        counts = {
            "n_tokens": len(encoded.input_ids),
            "n_image_tokens": encoded.n_image_tokens,
            "n_supervised": encoded.n_supervised,
            "n_pixels": encoded.n_pixels,
        }
        output.write("rows", row | counts)


def _require_enough(planned: Planned, folder: Path) -> None:
    """Stop before anything is trained on data that lost more than it may, and forget what was
    planned.
    """
    taken = planned.account()["taken"]
    if taken.empty:
        raise InputError(
            "there is no row to learn from; name conversations, own_data with an own_fraction"
            " above 0"
        )
    for source, count in taken.items():
        # 5 % by the parameters a user set, or half by any reason
        lost = [row for row in planned.refusals() if row["source"] == source]
        by_parameters = [row for row in lost if _mend(row["reason"])]
        if len(by_parameters) > MOST_REFUSED * count:
            first, most = by_parameters[0], MOST_REFUSED
            mend = " or ".join(sorted({_mend(row["reason"]) for row in by_parameters}))
        elif len(lost) > MOST_UNREADABLE * count:
            first, most, mend = lost[0], MOST_UNREADABLE, "mend the rows, or leave their file out"
        else:
            continue
        reasons = Counter(row["reason"] for row in lost)
        said = ", ".join(f"{reason} {n}" for reason, n in sorted(reasons.items()))
        listed = folder.with_name("refused.csv")
        write_csv(pa.Table.from_pylist(list(planned.refusals()), _REFUSED), listed)
        rmtree(folder)  # so that rows which were mended meanwhile are read anew
        raise InputError(
            f"{len(lost)} of {count} rows of the {source} data are refused ({said}), such as"
            f" {first['id']}: {first['detail']}; at most {most:.0%} may be: {mend}. All refused"
            f" rows stand in {listed}"
        )


def _mend(reason: str) -> str:
    """The parameters that may be at fault for a refused row; "" where it is the row's own form."""
    if reason in ("image_cut", "no_answer_left"):
        return "raise max_length"
    if reason.startswith("image_") and reason != "image_count":
        return "mend the images, or where they are looked for (images, own_images)"
    return ""


def examples(planned: Planned, settings: Settings, count: int, seed: int) -> list[Row]:
    """A seeded handful of the rows that passed, the sources in turn.

    `picture` is the first image; `text` is what the model reads, with what it learns to write
    between ⟦ and ⟧.
    """
    ids: dict[str, list[str]] = {}
    for row in tables.read_rows(planned.rows, ["id", "source"]):
        ids.setdefault(row["source"], []).append(row["id"])
    # one of each source first, so that a look never misses the own data
    in_turn = zip_longest(*(choose(names, count, seed) for names in ids.values()))
    names = [name for group in in_turn for name in group if name is not None][:count]
    found, encoder = tables.lookup(planned.rows, "id", names), _encoder(settings)
    shown = []
    for row in map(found.__getitem__, names):
        text = _marked(encoder.encode(row), encoder.processor)
        shown.append(row | {"picture": next(iter(row["images"]), None), "text": text})
    return shown


def _marked(encoded: "Encoded", processor: Any) -> str:
    """The tokens as text, supervised ones between ⟦ and ⟧; a row of image tokens is written once
    with its number.
    """
    shown, end, before = "", 0, ""
    for learnt, group in groupby(label != -100 for label in encoded.labels):
        end += len(list(group))
        # from the start: a piece alone may lose its space
        text = processor.tokenizer.decode(encoded.input_ids[:end])
        said, before = text[len(before) :], text
        shown += f"⟦{said}⟧" if learnt else said
    image = str(processor.image_token)
    many = re.compile(f"(?:{re.escape(image)}){{2,}}")
    return many.sub(lambda found: f"{image}×{len(found[0]) // len(image)}", shown)
