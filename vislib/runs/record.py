"""What a notebook holds of its run: checked parameters, inputs, outputs, verbs, and the record at
the end.
"""

import logging
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from shutil import rmtree
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from vislib.runs import sql
from vislib.runs.accounts import Accounts, summary
from vislib.runs.contract import DROPPED, SCHEMAS
from vislib.runs.errors import InputError
from vislib.runs.journal import Journal
from vislib.runs.keys import input_path
from vislib.runs.locking import RUNNER_VARIABLE, FolderLock
from vislib.runs.progress import Progress
from vislib.runs.provenance import peak_memory_mib, relative_to_root
from vislib.runs.stage import Stage, output_facts, write_record
from vislib.runs.tables import ROWS_PER_PART, Output, read_rows, write_table
from vislib.runs.verbs import PARTS_PER_VERB, Mapped, RowFunction, name_of

if TYPE_CHECKING:
    import pandas as pd

    from vislib.engines.ask import Check
    from vislib.engines.rows import Build


class Run:
    """One stage at work. Made by `start_run`; `finish` in the last cell makes its result count."""

    def __init__(self, stage: Stage, record: dict[str, Any], locks: Sequence[FolderLock]) -> None:
        self.stage = stage
        self.params = SimpleNamespace(**stage.values)
        self.folder = stage.partial
        self.data, self.figures, self.scratch = (
            self.folder / name for name in ("data", "figures", "scratch")
        )
        self.seed: int = stage.values.get("seed", 0)
        self.metrics: dict[str, Any] = {}
        self._record, self._locks = record, locks
        self.accounts = Accounts()
        self._written_by: dict[str, str] = {}  # a table, and the verb that maps into it
        self._asked: dict[Path, str] = {}  # tables of answers, and the unit of their rows
        self._usage = Counter[str](tokens_in=0, tokens_cached=0, tokens_out=0, usd=0)
        record["usage"] = self._usage
        self._started = time.monotonic()
        self.finished = False

    # -- inputs
    def inputs(self, name: str) -> list[Path]:
        """Resolved paths of an [input] or [model] parameter; an empty value gives none."""
        value = self.stage.values[name]
        return [
            input_path(entry, self.stage.run)
            for entry in (value if isinstance(value, list) else [value])
            if entry
        ]

    def input(self, name: str) -> Path | None:
        """Resolved path of an [input] parameter that names one file, folder or table; None when it
        is empty.
        """
        paths = self.inputs(name)
        return paths[0] if paths else None

    def table(self, name: str) -> Path:
        """As `input`, for a parameter that must not be empty."""
        path = self.input(name)
        if path is None:
            raise InputError(
                f"{self.stage.name}: {name} is empty; name a table such as 02_filtering/samples"
            )
        return path

    # -- outputs
    @property
    def schemas(self) -> Mapping[str, Any]:
        """Contract schemas of this stage's tables."""
        found: Mapping[str, Any] = SCHEMAS.get(self.stage.notebook, {"dropped": DROPPED})
        return found

    @property
    def workers_lock(self) -> Path:
        """The lock that the stage's worker processes hold for as long as they live."""
        return self.stage.lock_file("workers")

    @contextmanager
    def output(self, rows_per_part: int = ROWS_PER_PART) -> Iterator[Output]:
        """One stream of rows over the stage's tables, in parts of `rows_per_part`."""
        first = self._first_part("stream")  # verbs write to it too
        with Output(
            self.data, self.schemas, rows_per_part=rows_per_part, first_dropped=first
        ) as output:
            yield output
        self._count("stream", output.counts)

    # -- verbs
    def place(self, table: Path | str) -> Path:
        """Where a table lies: a path, or an [input] value such as `02_filtering/samples`."""
        return table if isinstance(table, Path) else input_path(table, self.stage.run)

    def map(
        self,
        function: RowFunction,
        table: Path | str,
        *,
        unit: str,
        id: str | Sequence[str],
        batch: int = 1,
        workers: int = 1,
        tables: Mapping[str, Any] | None = None,
        verb: str = "",
    ) -> None:
        """Give the rows of `table`, `batch` at a time, to a function that yields To, Drop and Note.

        `unit` is what a row is (document, image, ...), and `id` the column or columns that name it.
        `tables` are the schemas of what is written, if they are not the stage's; `verb` is a name
        for the record, else the function's. A part that an earlier attempt made is taken as it is,
        if neither its input nor the function has changed.
        """
        verb, source = verb or name_of(function), self.place(table)
        marks, schemas = self.folder / "shards" / verb, tables or self.schemas
        self._claim(schemas, verb)
        # A cell that is run again makes its rows anew.
        if verb in self.accounts.by_verb:
            rmtree(marks, ignore_errors=True)
        mapped = Mapped(
            function=function,
            unit=unit,
            id=(id,) if isinstance(id, str) else tuple(id),
            batch=batch,
            folder=self.data,
            schemas=schemas,
            marks=marks,
            first_dropped=self._first_part(verb),
        )
        self._count(verb, mapped.run(source, workers=workers, lock=self.workers_lock))
        if self._asked.get(source) == unit:
            # these rows were taken, and kept so far, when they were asked about
            counts = self.accounts.by_verb[verb]
            counts[f"{unit}/kept"] -= counts.pop(f"{unit}/taken", 0)

    def _claim(self, schemas: Mapping[str, Any], verb: str) -> None:
        # Each part of each table is written, empty or not: another verb's would be gone.
        for name in schemas:
            writer = self._written_by.get(name, verb)
            if writer != verb and name != "dropped":
                raise InputError(
                    f"{verb}: {name} is written by {writer}; to replace that, run the start cell"
                    " again, and if both are meant, say by `tables` what each one writes"
                )
        self._written_by |= dict.fromkeys(schemas, verb)

    def sql(
        self,
        text: str,
        *,
        into: str,
        one_per: str | Sequence[str] = "",
        rows_per_part: int = ROWS_PER_PART,
        **tables: Path | str,
    ) -> Path:
        """What a query selects from `tables`, as ordered parts in scratch; see `vislib.runs.sql`.

        `one_per` names the column (`sample_id`, or `sample.sample_id` of a whole row) of which no
        value may be lost or doubled. `into` may be a table of this stage, such as `dropped`.
        """
        found = sql.query(
            text,
            self.scratch / into,
            {name: self.place(table) for name, table in tables.items()},
            scratch=self.scratch,
            one_per=one_per,
            rows_per_part=rows_per_part,
        )
        if into not in self.schemas:
            return found
        # Queries of other tables write other parts; one that is run again writes its own anew.
        verb = f"{into} from {', '.join(tables)}"
        rows, first = read_rows(found), self._first_part(verb)
        write_table(self.data / into, self.schemas[into], rows, first_part=first)
        self._count(verb, Counter())
        return self.data / into

    def _first_part(self, name: str) -> int:
        """Number of the first part of a table that several verbs write."""
        verbs = list(self.accounts.by_verb)
        return PARTS_PER_VERB * (verbs.index(name) if name in verbs else len(verbs))

    def ask(
        self,
        build: "Build",
        table: Path | str,
        *,
        into: str,
        unit: str,
        id: str | Sequence[str],
        check: "Check | None" = None,
    ) -> Path:
        """Ask the engine of the parameters what `build` makes of each row; answers beside the rows.

        `build(row)` is a Request or a Drop. The table in scratch has the rows of all requests, with
        a column `answer`; a failed answer says so in its status. When `check(request, text)` finds
        fault with too many answers, asking stops (`max_drop_rate`).
        """
        from vislib.engines.rows import ask_rows

        source, answers = self.place(table), self.scratch / into
        beside, schema = ask_rows(self, build, source, answers, check)
        name = f"answers in {into}"
        # Always written anew, in seconds: what was asked is in the journal, which may hold more.
        for old in (answers, self.folder / "shards" / name):
            rmtree(old, ignore_errors=True)
        self.map(beside, source, unit=unit, id=id, tables={str(answers): schema}, verb=name)
        self._asked[answers] = unit
        return answers

    def _count(self, name: str, counts: Counter[str]) -> None:
        self.accounts.by_verb[name] = counts
        self.metrics |= self.accounts.notes()

    def progress(self, total: int, unit: str) -> Progress:
        """A progress bar, or a line per 30 s headless; use as a context manager."""
        return Progress(total, unit)

    def journal(self, name: str) -> Journal:
        """The journal of that name, shared by all sets."""
        return Journal(self.journal_path(name))

    def journal_path(self, name: str) -> Path:
        """Where that journal lies."""
        return self.stage.run.parent / "journal" / f"{name}.sqlite"

    def usage(self, **amounts: float) -> None:
        """Add what was paid in this run: tokens_in, tokens_cached (of these), tokens_out, usd.

        Goes into the record at once, so that an attempt that fails or is killed tells what it paid.
        """
        # Of failures too: they may have been billed.
        self._usage.update(amounts)
        write_record(self.folder, self._record)

    # -- the end
    def counts(self) -> dict[str, dict[str, Any]]:
        """`{unit: {taken, kept, dropped: {reason: n}}}`."""
        return self.accounts.units()

    def account(
        self, unit: str = "", *, taken: str = "", kept: str = "", **given: Path | str
    ) -> "pd.DataFrame":
        """Every unit's inputs: how many were taken, how many kept, and how many dropped for which
        reason.

        For a `unit` that is no row of a map (images of a page, questions of a sample), `taken` and
        `kept` are queries that give its ids, over this stage's tables and those `given`; without
        `kept` it is what `dropped` does not hold. Raises InputError for an id that is lost, doubled
        or invented.
        """
        if unit:
            own = {path.name: path for path in self.data.iterdir() if any(path.glob("*.parquet"))}
            tables = own | {name: self.place(table) for name, table in given.items()}
            # A cell that is run again counts anew, and keeps its place among the verbs.
            verb = f"account of {unit}"
            self._count(verb, Counter())
            self._count(verb, self.accounts.by_ids(unit, taken, kept, tables, self.scratch))
        return self.accounts.table()

    def finish(self) -> None:
        """Check that accounts close, hash the outputs, write the record; promote unless the runner
        will.
        """
        if self.finished:
            raise InputError(
                f"{self.stage.name} is finished; run its start cell again to begin anew"
            )
        self.accounts.check_closed()
        self._record |= {
            "status": "finished",
            "reason": "",
            "counts": self.counts(),
            "metrics": self.metrics,
            "seconds": round(time.monotonic() - self._started, 2),
            "peak_memory_mib": peak_memory_mib(),
            "files": output_facts(self.folder),
        }
        write_record(self.folder, self._record)
        where = self.stage.folder
        if not os.environ.get(RUNNER_VARIABLE):
            self.stage.promote()
            # Cells that look at results still can.
            self.data, self.figures = where / "data", where / "figures"
        self.close()
        self.finished = True
        print(f"{summary(self._record)}\n{relative_to_root(where)}")

    def close(self) -> None:
        """Give the folder back, finished or not."""
        logging.getLogger("vislib").handlers.clear()
        for lock in self._locks:
            lock.release()
