"""Before a training begins: every row is encoded once, counted, and accepted or refused with its reason.

What a trained model was shown must be known (VisCon-100K, section 5, compares arms by it), and a row that fails in
the middle of a training would be lost in silence or end it. So rows are read, their images decoded and their labels
made in full here, in worker processes, and the training reads the rows that passed from one file.
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

MOST_REFUSED = 0.05  # share of a source's rows: above, a folder or a length is wrong rather than some rows
_ROWS_PER_SHARD = 2000
_COUNTS = ("n_tokens", "n_image_tokens", "n_supervised", "n_pixels")
_TURNS = CONVERSATIONS.field("conversations")
_CANDIDATES = pa.schema([("id", pa.string()), ("source", pa.string()), ("images", pa.list_(pa.string())), _TURNS])
_REFUSED = pa.schema([(name, pa.string()) for name in ("id", "source", "reason", "detail")])
ROWS = pa.schema([*_CANDIDATES, *((name, pa.int64()) for name in _COUNTS)])


@dataclass(frozen=True)
class Planned:
    """Rows that passed, in the file `rows` (of `ROWS`, in order), and those that did not."""

    rows: Path
    refused: tuple[Path, ...]  # tables of id, source, reason, detail
    truncated: int  # rows whose last answers end at max_length

    def refusals(self) -> Iterable[Row]:
        """The refused rows in order: id, source, reason, detail."""
        return (row for table in self.refused for row in tables.read_rows(table))

    def counts(self) -> Counter[str]:
        """Of the accepted rows: rows, text_only_rows, SOURCE_rows, tokens, image_tokens, supervised_tokens."""
        found: Counter[str] = Counter()
        for row in tables.read_rows(self.rows, ["source", "images", *_COUNTS]):
            found.update(rows=1, text_only_rows=not row["images"], **{f"{row['source']}_rows": 1})
            found.update(tokens=row["n_tokens"], image_tokens=row["n_image_tokens"])
            found.update(supervised_tokens=row["n_supervised"])
        return found

    def account(self) -> "pd.DataFrame":
        """Rows by source: taken, kept, and dropped by reason."""
        import pandas as pd

        counts = Counter((row["source"], "kept") for row in tables.read_rows(self.rows, ["source"]))
        counts.update((row["source"], f"dropped: {row['reason']}") for row in self.refusals())
        sources = sorted({source for source, _ in counts}, reverse=True)
        whats = ["kept", *sorted({what for _, what in counts} - {"kept"})]
        table = pd.DataFrame([[counts[s, what] for what in whats] for s in sources], index=sources, columns=whats)
        table.insert(0, "taken", table.sum(axis=1))
        return table


def plan_rows(run: Run, entries: Iterable[Entry], settings: Settings) -> Planned:
    """Encode all `entries` as `settings` say and leave what passes in `<scratch>/planning/rows.parquet`.

    Shards that are done stay done when the stage goes on after a stop. Raises InputError, which names reasons and a
    first row, if nothing passes or more than `MOST_REFUSED` of a source's rows are refused; these are then listed in
    `<scratch>/refused.csv`, and the next attempt reads all rows anew.
    """
    folder = run.scratch / "planning"
    candidates, file = _gathered(entries, folder), folder / "rows.parquet"
    counts = map_shards(
        partial(_encode_part, settings=settings), tables.parts(candidates / "rows"), folder=folder / "encoded",
        schemas={"rows": ROWS, "refused": _REFUSED}, marks=folder / "marks",
        workers=max(1, settings.loader_workers), lock=run.stage.run / ".workers.lock",
    )  # fmt: skip
    if not file.exists():
        _join(tables.parts(folder / "encoded/rows"), file)
    planned = Planned(file, (candidates / "refused", folder / "encoded/refused"), counts["note/truncated"])
    _require_enough(planned, folder)
    return planned


def _gathered(entries: Iterable[Entry], folder: Path) -> Path:
    """Tables `rows` and `refused` of all entries, in shards; made once, whole or not at all."""
    done, building = folder / "candidates", folder / "candidates.building"
    if not done.exists():
        rmtree(building, ignore_errors=True)
        schemas = {"rows": _CANDIDATES, "refused": _REFUSED}
        with Output(building, schemas, rows_per_part=_ROWS_PER_SHARD) as output:
            for entry in entries:
                output.write(*(("refused", vars(entry)) if isinstance(entry, Refusal) else ("rows", entry)))
        os.replace(building, done)
    return done


def _join(parts: Iterable[Path], file: Path) -> None:
    with pq.ParquetWriter(file.with_suffix(".tmp"), ROWS, compression="zstd") as writer:
        for part in parts:
            with tables.open_part(part) as opened:
                for batch in opened.iter_batches():
                    writer.write_batch(batch)
    os.replace(file.with_suffix(".tmp"), file)


@cache
def _encoder(settings: Settings) -> "Encoder":
    from vislib.training.labels import Encoder
    from vislib.training.models import open_processor

    processor = open_processor(settings.model, image_size=settings.image_size, image_splitting=settings.image_splitting)
    return Encoder(processor, max_length=settings.max_length)


def _encode_part(part: Path, output: Output, *, settings: Settings) -> None:
    from vislib.training.labels import RowError

    encoder = _encoder(settings)
    for row in tables.read_rows(part):
        try:
            encoded = encoder.encode(row)
        except RowError as error:
            output.write("refused", vars(Refusal(row["id"], row["source"], error.reason, error.detail)))
            continue
        output.note("truncated", encoded.truncated)
        output.write("rows", row | {
            "n_tokens": len(encoded.input_ids), "n_image_tokens": encoded.n_image_tokens,
            "n_supervised": encoded.n_supervised, "n_pixels": encoded.n_pixels,
        })  # fmt: skip


def _require_enough(planned: Planned, folder: Path) -> None:
    """Stop before anything is trained on data that lost more than a few rows, and forget what was planned."""
    table = planned.account()
    for source, row in table.iterrows():
        refused = row["taken"] - row["kept"]
        if refused > MOST_REFUSED * row["taken"]:
            first = next(found for found in planned.refusals() if found["source"] == source)
            reasons = ", ".join(f"{name.removeprefix('dropped: ')} {n}" for name, n in row[2:].items() if n)
            listed = folder.with_name("refused.csv")
            write_csv(pa.Table.from_pylist(list(planned.refusals()), _REFUSED), listed)
            rmtree(folder)
            raise InputError(
                f"{refused} of {row['taken']} rows of the {source} data are refused ({reasons}), such as "
                f"{first['id']}: {first['detail']}; at most {MOST_REFUSED:.0%} may be: mend the images, where they are "
                f"looked for (images, own_images), the rows or max_length. All refused rows stand in {listed}"
            )
    if table.empty:
        raise InputError("there is no row to learn from; name conversations, own_data with an own_fraction above 0")


def examples(planned: Planned, settings: Settings, count: int, seed: int) -> list[Row]:
    """A seeded handful of the rows that passed, the sources in turn.

    `picture` is the first image; `text` is what the model reads, with what it learns to write between ⟦ and ⟧.
    """
    ids: dict[str, list[str]] = {}
    for row in tables.read_rows(planned.rows, ["id", "source"]):
        ids.setdefault(row["source"], []).append(row["id"])
    in_turn = zip_longest(*(choose(names, count, seed) for names in ids.values()))
    names = [name for group in in_turn for name in group if name is not None][:count]
    found, encoder = tables.lookup(planned.rows, "id", names), _encoder(settings)
    return [
        found[name] | {
            "picture": next(iter(found[name]["images"]), None),
            "text": _marked(encoder.encode(found[name]), encoder.processor),
        }
        for name in names
    ]  # fmt: skip


def _marked(encoded: "Encoded", processor: Any) -> str:
    """The tokens as text, supervised ones between ⟦ and ⟧; a row of image tokens is written once with its number."""
    shown, end, before = [], 0, ""
    for learnt, group in groupby(label != -100 for label in encoded.labels):
        end += sum(1 for _ in group)
        text = processor.tokenizer.decode(encoded.input_ids[:end])  # from the start: a piece alone may lose its space
        shown.append(f"⟦{text[len(before) :]}⟧" if learnt else text[len(before) :])
        before = text
    image = str(processor.image_token)
    many = re.compile(f"(?:{re.escape(image)}){{2,}}")
    return many.sub(lambda found: f"{image}×{len(found[0]) // len(image)}", "".join(shown))
