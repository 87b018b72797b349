"""Removal lists: what is to leave the data, whoever found it (moderation, a look at the gallery, a
link that has opted out since, a letter).

VisCon-100K names content moderation as future work; DenseFusion-1M's datasheet promises to honour
requests. A list is JSON lines, `{"unit": ..., "id": ..., "reason": ..., "note": ...}`, or a table
with these columns. An entry that meets nothing may be a slip of the pen: it is counted and shown.
"""

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from vislib.prompts import neutralise
from vislib.runs import InputError, Run, sql
from vislib.runs.contract import REMOVALS
from vislib.runs.keys import expand
from vislib.runs.tables import Row, read_rows, write_table

# What an entry may name; the id of a link is its address, as the page writes it.
UNITS = ("sample", "question", "image", "document", "link")
REASON = "removed"
# Of each sample, everything by which a list can name it or one of its questions.
_NAMES = """
    SELECT sample_id, unit, id FROM (
        SELECT sample_id, sample_id AS sample, doc_id AS document, image_id AS image,
            image_url AS link
        FROM samples LEFT JOIN images USING (image_url)
    ) UNPIVOT (id FOR unit IN (sample, document, image, link))
"""
_QUESTIONS = "UNION ALL SELECT sample_id, 'question', question_id FROM questions"
# A sample leaves whole, by whichever of its names: its image and page are in every round.
# The samples that a list names, by whatever unit, each with its entry's reason and note.
_DETAIL = "reason || if(note = '', '', ': ' || note) AS detail"
OF_SAMPLES = f"""
    SELECT sample_id, min(detail) AS detail FROM (
        SELECT sample_id, {_DETAIL} FROM ({_NAMES}) JOIN removals USING (unit, id)
    ) GROUP BY sample_id
"""
OF_QUESTIONS = f"SELECT id AS question_id, {_DETAIL} FROM removals WHERE unit = 'question'"


def read(lists: Iterable[Path]) -> Iterator[Row]:
    """The entries of all lists, the first one of a unit and id alone.

    Raises InputError, which names file and line, for what is no entry.
    """
    seen = set[tuple[str, str]]()
    for path in lists:
        for file in expand(path):
            for place, entry in _entries(file):
                row = _checked(entry, place)
                if (key := (row["unit"], row["id"])) not in seen:
                    seen.add(key)
                    yield row


def _entries(file: Path) -> Iterator[tuple[str, Any]]:
    """What stands in a list, each entry with its place."""
    if file.suffix == ".parquet":
        for number, row in enumerate(read_rows(file)):
            yield f"{file}, row {number}", row
        return
    try:
        lines = file.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: no removal list, which is UTF-8 text ({error})") from error
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                yield f"{file}, line {number}", json.loads(line)
            except ValueError as error:
                raise InputError(
                    f"{file}, line {number}: {line[:80]!r} is no JSON ({error}); {_FORM}"
                ) from error


_FORM = (
    'write one object a line: {"unit": "sample", "id": "…", "reason": "…", "note": "…"}, its unit'
    f" one of {', '.join(UNITS)}"
)


def _checked(entry: Any, place: str) -> Row:
    row = {"note": "", **entry} if isinstance(entry, Mapping) else {}
    for name in REMOVALS.names:
        value = row.get(name)
        fits = isinstance(value, str) and (name == "note" or value.strip() == value != "")
        if not fits or (name == "unit" and value not in UNITS):
            raise InputError(f"{place}: {name} is {value!r}; {_FORM}")
    return {name: row[name] for name in REMOVALS.names}


def without(row: Row, questions: Collection[str]) -> Row:
    """A row of conversations without the rounds that ask one of these questions."""
    turns, start = row["conversations"], "<image>\n"
    asked = tuple(f"{neutralise(question)[0]}\n" for question in questions)
    rounds = [
        (human, answer, source)
        for human, answer, source in zip(turns[::2], turns[1::2], row["sources"], strict=True)
        if source == "caption" or not f"{human['value'].removeprefix(start)}\n".startswith(asked)
    ]
    said = [turn | {"value": turn["value"].removeprefix(start)} for r in rounds for turn in r[:2]]
    for first in said[:1]:  # the image stands before what is now the first question
        first["value"] = start + first["value"]
    return row | {"conversations": said, "sources": [source for *_, source in rounds]}


def table(run: Run) -> Path:
    """All entries of the lists that the run's parameter `removals` names, as a table in scratch."""
    write_table(folder := run.scratch / "removals", REMOVALS, read(run.inputs("removals")))
    return folder


def unmet(run: Run) -> list[Row]:
    """The entries that name nothing in the run's `samples`, `images` and `questions`; the record
    counts them.
    """
    if not run.params.removals:
        return []
    given = {name: run.input(name) for name in ("samples", "images", "questions")}
    tables = {"removals": table(run)} | {name: path for name, path in given.items() if path}
    names = _NAMES + (_QUESTIONS if given["questions"] else "")
    query = f"""
    SELECT {", ".join(REMOVALS.names)} FROM removals ANTI JOIN ({names}) USING (unit, id)
    ORDER BY unit, id
    """
    found = [
        dict(zip(REMOVALS.names, row, strict=True))
        for row in sql.select(query, tables, run.scratch)
    ]
    run.metrics["removals_that_name_nothing"] = len(found)
    return found
