"""Cells of a notebook, run over tables of a test: what a reader sees there is what is tested."""

import ast
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"


def run_section(
    notebook: str, heading: str, tables: dict[str, Any], **names: Any
) -> dict[str, Any]:
    """All names after the code cells below a heading ("## 1") ran, with the notebook's own imports;
    `run.table` gives the folder of `tables`.
    """
    (path,) = NOTEBOOKS.glob(f"{notebook}*.ipynb")
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    run = SimpleNamespace(table=tables.__getitem__, params=SimpleNamespace(**names), metrics={})
    held: dict[str, Any] = {"run": run, "display": lambda *_: None, **names}
    inside = False
    for cell in cells:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            inside = source.startswith(heading) if source.startswith("## ") else inside
        elif inside:
            exec(source, held)
        else:
            whole = ast.parse(source)
            imports = [n for n in whole.body if isinstance(n, ast.Import | ast.ImportFrom)]
            exec(compile(ast.Module(imports, []), str(path), "exec"), held)
    return held
