"""The work of a notebook without its kernel: to see what it would ask, and for tests.

Cells tagged `work` make a stage's data from parameters, `run` and imports alone (see `keys`), so
that they can be run by themselves.
"""

import ast
import json
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from vislib.runs.code import parse
from vislib.runs.stage import Stage

if TYPE_CHECKING:
    from vislib.runs.record import Run


def do_work(run: "Run") -> dict[str, Any]:
    """Run the work cells of the stage's notebook with the parameters of `run`; their names."""
    book = json.loads(Stage.notebook_file(run.stage.notebook).read_text(encoding="utf-8"))
    code = [cell for cell in book["cells"] if cell["cell_type"] == "code"]
    # As in a kernel: functions of cells travel to other processes by value only from `__main__`.
    names: dict[str, Any] = {"__name__": "__main__", **run.stage.values, "run": run}
    for cell in code:
        tree = parse("".join(cell["source"]))
        tags = cell["metadata"].get("tags", [])
        if tree is None or "parameters" in tags:
            continue
        if "work" not in tags:  # of a look, the imports alone
            kinds = ast.Import | ast.ImportFrom
            tree.body = [node for node in tree.body if isinstance(node, kinds)]
        exec(compile(tree, run.stage.notebook, "exec"), names)
    return names


class _Asked(Exception):
    """The work has come to `run.ask`; says what it would ask."""


def preview(run: "Run") -> str:
    """What a stage would ask of its engine, and what that would take; nothing is sent or kept."""
    from vislib.engines.ask import preview as told
    from vislib.engines.rows import requests_of

    def ask(build: Any, table: Path, **options: Any) -> Path:
        raise _Asked(told(run, partial(requests_of, build, run.place(table))))

    # Joins write as they do in a run, but elsewhere: a look leaves nothing behind.
    with TemporaryDirectory(prefix="vislib-") as folder:
        run.data, run.scratch = Path(folder) / "data", Path(folder) / "scratch"
        run.ask = ask  # type: ignore[method-assign, assignment]
        try:
            do_work(run)
        except _Asked as asked:
            return str(asked)
    return "asks nothing"
