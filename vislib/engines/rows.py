"""`run.ask` from the side of the engines: a request made of each row, answers beside the rows."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from vislib.engines import Engine, Request, answer_of, open_engine
from vislib.engines.ask import Check, ask_all
from vislib.runs import Drop, Run, To
from vislib.runs.tables import open_part, parts, read_rows
from vislib.runs.verbs import RowFunction, Said

Build = Callable[[Mapping[str, Any]], Request | Drop]

_TEXTS = ("text", "status", "reason", "detail", "model", "prompt_sha", "request_sha")
ANSWER = pa.struct(
    [(name, pa.string()) for name in _TEXTS]  # status: ok or failed
    + [(name, pa.int64()) for name in ("tokens_in", "tokens_out")]
)


def requests_of(build: Build, table: Path) -> Iterator[Request]:
    """The request of every row that has one, in order."""
    # Made anew each time it is asked for, so that a million requests take no memory.
    rows = (row for part in parts(table) for row in read_rows(part))
    return (request for request in map(build, rows) if isinstance(request, Request))


def ask_rows(
    run: Run, build: Build, table: Path, into: Path, check: Check | None
) -> tuple[RowFunction, pa.Schema]:
    """Ask what the journal lacks. A function that writes answers beside rows, and their columns."""
    engine = open_engine(run)
    ask_all(run, engine, partial(requests_of, build, table), check)
    with open_part(parts(table)[0]) as file:
        schema = file.schema_arrow.append(pa.field("answer", ANSWER))
    journal = run.journal(engine.journal)
    return partial(_beside, build=build, engine=engine, journal=journal, into=str(into)), schema


def _beside(
    rows: Sequence[Mapping[str, Any]], *, build: Build, engine: Engine, journal: Any, into: str
) -> Iterator[Said]:
    for row in rows:
        request = build(row)
        if isinstance(request, Drop):
            yield request
            continue
        # From the journal alone, whoever paid: so a rerun and a replay write the same bytes.
        answer = answer_of(journal, engine, request)
        values = {name: getattr(answer, name, "") for name in ANSWER.names}
        yield To(into, {**row, "answer": values | {"prompt_sha": request.prompt_sha}})
