"""The tables of the sample sets as text that git can show: what the house makes, row by row.

One JSON Lines file per table: its columns with their types, then a list per row. Left out are the
columns that name code or models (`model`, `prompt_sha`, `request_sha`); floats have four digits,
ids eight, long vectors their first eight numbers, long texts their beginning, length and a hash.
`python -m tests.golden` writes the files anew.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

FOLDER = Path(__file__).parent / "sample"
# What tiny models of `params/sample-models` learn, step by step, in the base arm and three others,
# and what 11 writes and scores.
MODELS = FOLDER.with_name("sample-models")
_ARMS = ("base", "captions", "free_form", "multiple_choice")
TRAINED = (*(f"10_finetuning.{arm}" for arm in _ARMS), "11_captioner")
RELEASE = ["links_only", "data", "contextual-leaky_mix"]
LEFT_OUT = {"model", "prompt_sha", "request_sha", "left_model", "right_model", "signature"}
LEFT_OUT |= {"caption_model", "caption_prompt_sha", "caption_request_sha"}
LEFT_OUT |= {"question_models", "question_prompt_shas", "question_request_shas"}
LONG_TEXT, LONG_LIST, LONG_VECTOR = 60, 30, 32
ID = re.compile("[0-9a-f]{16}")


def read_run(run: Path) -> dict[str, list[Any]]:
    """Tables of a run folder by name, as `08_merging.contextual.captions.train`: columns, rows."""
    found: dict[str, list[Any]] = {}
    for part in sorted(run.glob("[0-9][0-9]_*/data/**/*.parquet")):
        stage, _, *folders = part.relative_to(run).parent.parts
        if stage.endswith((".partial", ".previous")):
            continue
        # releases repeat the rows of 08, which `test_release` compares: one stands for all
        if stage == "09_publishing" and folders[0] != "dropped" and folders != RELEASE:
            continue
        stem = part.stem.split("-")[0]
        name = ".".join([stage, *folders, *([stem] if stem != "part" else [])])
        table = pq.read_table(part)
        kept = [column for column in table.column_names if column not in LEFT_OUT]
        columns = {column: str(table.schema.field(column).type) for column in kept}
        rows = [[shortened(row[column]) for column in kept] for row in table.to_pylist()]
        found.setdefault(name, [columns]).extend(rows)
    return found


def read_golden(folder: Path = FOLDER) -> dict[str, list[Any]]:
    """The tables that stand in git, in the form of `read_run`."""
    return {
        file.stem: [json.loads(line) for line in file.read_text().splitlines()]
        for file in sorted(folder.glob("*.jsonl"))
    }


def write_golden(tables: dict[str, list[Any]], folder: Path = FOLDER) -> None:
    """Write the files anew; a table that is no more loses its file."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in folder.glob("*.jsonl"):
        file.unlink()
    for name, lines in tables.items():
        text = "".join(
            json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n" for line in lines
        )
        (folder / f"{name}.jsonl").write_text(text)


def shortened(value: Any) -> Any:
    """A cell's value in few characters."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, str):
        return value[:8] if ID.fullmatch(value) else beginning(value, LONG_TEXT)
    if isinstance(value, list) and len(value) > LONG_VECTOR and isinstance(value[0], float):
        return [shortened(number) for number in value[:8]] + [f"… {len(value)} numbers"]
    if isinstance(value, list) and not has_float(value):
        # Whole conversations and pages would make megabytes, and what is new in them stands in
        # the tables that they are made of.
        text = json.dumps(value, ensure_ascii=False)
        if len(text) > LONG_LIST:
            return beginning(text, LONG_LIST)
    if isinstance(value, list):
        return [shortened(item) for item in value]
    if isinstance(value, dict):
        return {name: shortened(item) for name, item in value.items()}
    return value


def beginning(text: str, most: int) -> str:
    """`text`, or the beginning of one over `most` characters with its length and a hash of all."""
    if len(text) <= most:
        return text
    return f"{text[: most * 2 // 3]}… {len(text)}:{hashlib.sha256(text.encode()).hexdigest()[:6]}"


def has_float(value: Any) -> bool:
    """Whether a number that may differ between machines stands at any depth of `value`."""
    if isinstance(value, dict):
        value = list(value.values())
    return isinstance(value, float) or (isinstance(value, list) and any(map(has_float, value)))


def differences(name: str, golden: list[Any], made: list[Any]) -> Iterator[str]:
    """A line for each value of a table that is another one, with table, row, column and both."""
    columns = list(golden[0])
    if golden[0] != made[0]:
        yield f"{name}: columns are {made[0]}, were {golden[0]}"
        return
    if len(golden) != len(made):
        yield f"{name}: has {len(made) - 1} rows, had {len(golden) - 1}"
    for number, (old, new) in enumerate(zip(golden[1:], made[1:], strict=False)):
        for column, was, now in zip(columns, old, new, strict=True):
            if not alike(was, now):
                yield f"{name}, row {number}, {column}: is {now!r}, was {was!r}"


def alike(was: Any, now: Any) -> bool:
    """Equal, floats within what processors and libraries differ by."""
    if isinstance(was, float) and isinstance(now, float):
        return math.isclose(was, now, rel_tol=2e-3, abs_tol=2e-3)
    if isinstance(was, list) and isinstance(now, list):
        return len(was) == len(now) and all(map(alike, was, now))
    if isinstance(was, dict) and isinstance(now, dict):
        return was.keys() == now.keys() and all(alike(was[key], now[key]) for key in was)
    return bool(was == now)


def assert_same_rows(table: str, golden: dict[str, list[Any]], made: dict[str, list[Any]]) -> None:
    """Fail with the first differences between the rows of a table as they stand and as made."""
    found = list(differences(table, golden[table], made.get(table, [{}])))
    assert not found, "\n".join([f"{len(found)} differences", *found[:20]])
