"""Before a training begins: every row is encoded once, counted, and accepted or refused with its
reason.

What a trained model was shown must be known (VisCon-100K, section 5, compares arms by it), and a
row that fails in the middle of a training would be lost in silence or end it. So rows are read,
their images decoded and their labels made in full here, in worker processes, and the training reads
the rows that passed from one file.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from itertools import groupby, zip_longest
from pathlib import Path
from shutil import rmtree
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from vislib.runs import Drop, InputError, Note, Run, To, choose, tables
from vislib.runs.contract import CONVERSATIONS
from vislib.runs.tables import Row
from vislib.runs.verbs import Said
from vislib.training.chat import RowError
from vislib.training.labels import Encoded, Encoder
from vislib.training.launch import COUNTED, LEARNT, placed
from vislib.training.models import open_processor, portable, resolve_model
from vislib.training.settings import Settings

# Share of a source's rows that images or lengths may cost: above, a parameter is wrong.
MOST_REFUSED = 0.05
# Share that any reason may cost: rows of a wrong form are the data's own.
MOST_UNREADABLE = 0.5
_ROWS_PER_PART = 2000
COUNTS = (*COUNTED, "pixels")
ROWS = pa.schema(
    [
        *((name, pa.string()) for name in ("id", "source", "sample_id", "reason", "detail")),
        ("images", pa.list_(pa.string())),
        CONVERSATIONS.field("conversations"),
        ("sealed", pa.bool_()),
        *((name, pa.int64()) for name in ("n_left_out", "n_mended", *COUNTS)),
    ]
)
_CANDIDATES = pa.schema(list(ROWS)[: -len(COUNTS)])  # rows that are not counted yet
_SUMS = """
    SELECT count(*) AS rows,
        count(*) FILTER (source = 'own') AS own_rows,
        count(*) FILTER (len(images) = 0) AS text_only_rows,
        count(DISTINCT sample_id) FILTER (sample_id <> '') AS samples,
        coalesce(sum(rounds), 0) AS rounds,
        coalesce(sum(tokens), 0) AS tokens,
        coalesce(sum(image_tokens), 0) AS image_tokens,
        coalesce(sum(supervised_tokens), 0) AS supervised_tokens
    FROM planned
"""


def settings_of(run: Run, **given: Any) -> Settings:
    """The settings of a run's parameters, its model at hand; what this machine lacks is an
    InputError now, before rows are read for hours.
    """
    settings = Settings.of(
        run.params,
        model=resolve_model(run.params.model, run),
        checkpoints=str(run.scratch / "checkpoints"),
        output=str(run.data / "model"),
        **given,
    )
    placed(settings)
    return settings


def plan_arm(
    run: Run, settings: Settings, rows: Mapping[str, Iterable[Row]], **named: Any
) -> tuple[Settings, Row]:
    """The settings to learn from `rows` (`plan_rows`), and the row of `arms` as one pass over them
    would have it; `named` are its model, arm and conversations. The model's record says the same,
    but for what is known at the end.
    """
    file = plan_rows(run, rows, settings, name="planning")
    base, method = run.params.model, run.params.method
    named["model"] = named["model"] or Path(base.partition("@")[0]).name
    arm = {**named, "seed": run.seed, "base": portable(base), "method": method, **counts(file)}
    facts = {name: value for name, value in arm.items() if name not in LEARNT} | {"base": base}
    return replace(settings, rows=file, facts=facts), arm


def plan_rows(run: Run, rows: Mapping[str, Iterable[Row]], settings: Settings, *, name: str) -> str:
    """Encode all `rows` (`sources.entry`) as `settings` say, and leave what passes, in order, in a
    file `name` that `open_rows` reads.

    Each unit of `rows` has an account of its own, which closes with the run's. Parts that are done
    stay done when the stage goes on after a stop. Raises InputError, which names reasons and a
    first row, if nothing passes or more than `MOST_REFUSED` of a unit's rows are refused; the next
    attempt reads all rows anew.
    """
    file = run.scratch / f"{name}.arrow"
    model = (settings.model, settings.image_splitting, settings.max_length)
    passed: list[Path] = []
    for unit, given in rows.items():
        folder = run.scratch / name / unit
        into = folder / "rows"
        run.map(
            partial(_encode, into=str(into), model=model),
            _gathered(given, folder / "candidates"),
            unit=unit,
            id="id",
            workers=max(1, settings.loader_workers),
            tables={str(into): ROWS},
            verb=f"encode {name} {unit}",
        )
        _require_enough(run, unit, [folder, run.folder / f"shards/encode {name} {unit}"])
        passed += tables.parts(into)
    with pa.ipc.new_file(file.with_suffix(".tmp"), ROWS) as writer:
        for part in passed:
            writer.write_table(pq.read_table(part, schema=ROWS))
    os.replace(file.with_suffix(".tmp"), file)
    if not len(open_rows(file)):
        raise InputError(
            "there is no row to learn from; name conversations, own_data with an own_fraction"
            " above 0"
        )
    return str(file)


def open_rows(file: str | Path) -> pa.Table:
    """The planned rows of `file`, memory-mapped: loader workers ask for them one by one, at random,
    and Parquet would be decoded by the row group.
    """
    return pa.ipc.open_file(pa.memory_map(str(file))).read_all()


def counts(file: str | Path) -> dict[str, int]:
    """Of the planned rows: rows, rounds, text_only_rows, own_rows, samples, tokens, image_tokens,
    supervised_tokens.
    """
    with duckdb.connect() as connection:
        found = connection.register("planned", open_rows(file)).execute(_SUMS).df()
    return {name: int(found[name][0]) for name in found}


def _gathered(rows: Iterable[Row], folder: Path) -> Path:
    """A table of all rows; made once, whole or not at all."""
    building = folder.with_suffix(".building")
    # reading the own data may take an hour: a stop afterwards must not cost it again
    if not folder.exists():
        rmtree(building, ignore_errors=True)
        tables.write_table(building, _CANDIDATES, rows, rows_per_part=_ROWS_PER_PART)
        os.replace(building, folder)
    return folder


@cache  # a worker process encodes many parts with one processor
def _encoder(model: str, image_splitting: bool, max_length: int) -> Encoder:
    processor = open_processor(model, image_splitting=image_splitting)
    return Encoder(processor, max_length=max_length)


def _encode(rows: Sequence[Row], *, into: str, model: tuple[str, bool, int]) -> Iterator[Said]:
    for row in rows:
        if row["reason"]:
            yield Drop(row["reason"], row["detail"])
            continue
        try:
            encoded = _encoder(*model).encode(row)
        except RowError as error:
            yield Drop(error.reason, error.detail)
            continue
        rounds = len(row["conversations"]) // 2  # of a question and an answer
        yield To(into, row | encoded.counts | {"rounds": rounds})
        yield Note("sealed_rows", encoded.sealed)
        yield Note("truncated_rows", encoded.truncated)
        yield Note("turns_left_out", row["n_left_out"])
        yield Note("characters_mended", row["n_mended"])


def _require_enough(run: Run, unit: str, planned: Sequence[Path]) -> None:
    """Stop before anything is trained on data that lost more than it may, and forget what was
    `planned`, so that rows which are mended meanwhile are read anew.
    """
    account = run.counts().get(unit, {"taken": 0, "dropped": {}})
    reasons, taken = account["dropped"], account["taken"]
    lost = sum(reasons.values())
    # 5 % by the parameters a user set, or half by any reason
    by_parameters = {reason: n for reason, n in reasons.items() if _mend(reason)}
    if sum(by_parameters.values()) > MOST_REFUSED * taken:
        most, shown, mend = MOST_REFUSED, by_parameters, " or ".join(map(_mend, by_parameters))
    elif lost > MOST_UNREADABLE * taken:
        most, shown, mend = MOST_UNREADABLE, reasons, "mend the rows, or leave their file out"
    else:
        return
    dropped = run.data / "dropped"
    last = list(tables.read_rows(dropped))[-lost:]  # this unit's, which was encoded just now
    first = next(row for row in last if row["reason"] in shown)
    for folder in planned:
        rmtree(folder)
    said = ", ".join(f"{reason} {n}" for reason, n in sorted(reasons.items()))
    raise InputError(
        f"{lost} of {taken} {unit}s are refused ({said}), such as {first['id']}:"
        f" {first['detail']}; at most {most:.0%} may be: {mend}. All refused rows stand in"
        f" {dropped}"
    )


def _mend(reason: str) -> str:
    """The parameters that may be at fault for a refused row; "" where it is the row's own form."""
    if reason in ("image_cut", "no_answer_left"):
        return "raise max_length"
    if reason.startswith("image_") and reason != "image_count":
        return "mend the images, or where they are looked for (images, own_images)"
    return ""


def examples(settings: Settings, count: int, seed: int) -> list[Row]:
    """A seeded handful of the rows that passed, the sources in turn.

    `picture` is the first image; `text` is what the model reads, with what it learns to write
    between ⟦ and ⟧.
    """
    table, drawn = open_rows(settings.rows), []
    ids, sources = (table.column(name).to_pylist() for name in ("id", "source"))
    for source in dict.fromkeys(sources):
        numbers = [number for number, one in enumerate(sources) if one == source]
        drawn.append(choose(numbers, count, seed, key=ids.__getitem__))
    # one of each source first, so that a look never misses the own data
    in_turn = [number for group in zip_longest(*drawn) for number in group if number is not None]
    encoder = _encoder(settings.model, settings.image_splitting, settings.max_length)
    shown: list[Row] = table.take(in_turn[:count]).to_pylist()
    for row in shown:
        row["picture"] = next(iter(row["images"]), None)
        row["text"] = _marked(encoder.encode(row), encoder.processor)
    return shown


def _marked(encoded: Encoded, processor: Any) -> str:
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
