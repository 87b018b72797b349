"""What is known of a release and of how it was made, each value with the place where it was read
(after Gebru et al., Datasheets for Datasets, whose answers both papers give from memory).

Followed from the inputs of 09: each names a table of a stage, whose record names its own inputs,
back to 01. So sizes, writers, prompts, costs and reasons of drops are those of the very runs that
made the rows, also where these are several. What no record holds only a person can say: that is
read from a file of answers, and what stands open is listed.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from vislib.checks import foreign
from vislib.publishing.release import configs_of
from vislib.publishing.templates import TEMPLATES, form, sections
from vislib.runs import InputError, sql, tables
from vislib.runs.keys import in_order, table_reference
from vislib.runs.stage import read_record

_WORDS = r"len(regexp_extract_all({}, '\S+'))"
_TURNS = "list_filter(conversations, lambda turn: turn['from'] = 'gpt')"
# a few hundred rows, drawn by hash, tell the languages: to identify one takes milliseconds
_TEXTS = f"""SELECT list_reduce(list_transform({_TURNS}, lambda turn: turn['value']),
    lambda said, more: said || ' ' || more) FROM release ORDER BY sha256(id) LIMIT 500"""

# Of rows of the release: one JSON-like row each, so that every value has a name.
OF_RELEASE = {
    "totals": """SELECT {'samples': count(DISTINCT sample_id), 'pages': count(DISTINCT doc_id),
        'images': count(DISTINCT image_id), 'rows': count(*), 'rounds': sum(len(sources))::BIGINT,
        'without_alt_text': count(*) FILTER (coalesce(alt_text, '') = '')} FROM release""",
    # as JSON, a line each: no text of a page or a model can leave its line
    "example": """SELECT {'turns': list_transform(conversations[:4],
        lambda turn: to_json(turn)::VARCHAR)} FROM release ORDER BY sha256(id) LIMIT 1""",
    "sites": r"""SELECT {'site': site, 'images': count(*), 'sites': count(*) OVER ()} FROM
        (SELECT regexp_extract(page_url, '^\w+://([^/?#|<\s]+)', 1) AS site FROM release)
        GROUP BY site QUALIFY row_number() OVER (ORDER BY count(*) DESC, site)
            <= least(1000, greatest(10, ceil(0.1 * count(*) OVER ())))
        ORDER BY count(*) DESC, site""",
    "rounds": f"""SELECT {{'source': source, 'rounds': count(*), 'median_words': median(words),
        'words': sum(words)::BIGINT}} FROM (SELECT unnest(sources) AS source, unnest(list_transform(
        {_TURNS}, lambda turn: {_WORDS.format("turn.value")})) AS words FROM release)
        GROUP BY source ORDER BY source""",
}
# Of tables of the stages behind it, by notebook and table; they may ask about rows of the release.
OF_STAGES = {
    "contexts": (
        "02_filtering",
        "samples",
        """SELECT {'median_tokens': median(n_context_tokens),
        'most_tokens': max(n_context_tokens)} FROM samples""",
    ),
    "formats": (
        "03_images",
        "images",
        """SELECT {'format': format,
        'files': count(DISTINCT image_id)} FROM images SEMI JOIN release USING (image_id)
        GROUP BY format ORDER BY count(DISTINCT image_id) DESC, format""",
    ),
    "reservations": (
        "03_images",
        "consent",
        """SELECT {'robots': count(*) FILTER (robots <> ''),
        'headers': count(*) FILTER (x_robots <> ''), 'tdm': count(*) FILTER (tdm = '1'),
        'usage': count(*) FILTER (consent.usage <> '')} FROM consent
        SEMI JOIN release USING (image_url)""",
    ),
    "licences": (
        "03_images",
        "consent",
        """SELECT {'licence': licence, 'links': count(*)}
        FROM consent SEMI JOIN release USING (image_url) WHERE licence <> '' GROUP BY licence
        ORDER BY count(*) DESC, licence LIMIT 100""",
    ),
    "experts": (
        "05_experts",
        "experts",
        """SELECT {'expert': expert, 'model': model,
        'revision': revision} FROM experts GROUP BY expert, model, revision ORDER BY min(row)""",
    ),
    "captions": (
        "06_captioning",
        "captions",
        """SELECT {'kind': kind, 'model': model,
        'prompt': prompt_sha, 'captions': count(*)} FROM captions
        WHERE status = 'ok' GROUP BY kind, model, prompt_sha ORDER BY min(row)""",
    ),
    "questions": (
        "07_qa_generation",
        "questions",
        """SELECT {'type': question_type,
        'model': model, 'prompt': prompt_sha, 'questions': count(*)} FROM questions
        WHERE status = 'ok' GROUP BY question_type, model, prompt_sha ORDER BY min(row)""",
    ),
}


class Fact:
    """A value and the `place` where it was read: a file, and names down to the value.

    What is taken from it knows its own place; a sum names those of its parts.
    """

    def __init__(self, value: Any, place: str) -> None:
        self.value, self.place = value, place

    def __getitem__(self, name: Any) -> Any:
        if isinstance(name, slice):  # the first ten of a date
            return Fact(self.value[name], self.place)
        return Fact(self.value[name], f"{self.place} > {name}")

    def __bool__(self) -> bool:
        return bool(self.value)

    def __add__(self, other: "Fact") -> "Fact":
        return Fact(self.value + other.value, f"{self.place} + {other.place}")

    def __str__(self) -> str:
        if isinstance(self.value, float):
            return f"{self.value:,.4f}".rstrip("0").rstrip(".")
        # as prose has them: 1,296 and 0.9, not 1296 and 0.9000
        if isinstance(self.value, list):
            return ", ".join(map(str, self.value))
        return f"{self.value:,}" if type(self.value) is int else str(self.value)

    def items(self) -> list[tuple[str, "Fact"]]:
        """Name and fact of each entry of a mapping."""
        return [(name, self[name]) for name in self.value]


def total(facts: Iterable[Fact]) -> Fact:
    """Their sum."""
    return reduce(add, facts)


@dataclass(frozen=True, kw_only=True)
class Facts:
    """All that is known of one release folder; its fields are the names that templates use."""

    folder: Path
    records: list[Fact]  # run.json of every stage behind it, in order of the pipeline
    lost: list[str]  # inputs whose stage left no record
    splits: dict[str, dict[str, Fact]]  # rows by configuration and split
    columns: list[str]
    files: dict[str, Fact]  # bytes of each Parquet file, by its path in the release
    found: dict[str, list[Fact]]  # what `OF_RELEASE` and `OF_STAGES` select, and `languages`
    answers: dict[str, str]  # a person's, by name of the question
    open: list[str]  # names of the questions that nobody answered

    def of(self, notebook: str) -> list[Fact]:
        """The records of a notebook's stages: several where variants made the rows."""
        return [r for r in self.records if r.value["stage"].partition(".")[0] == notebook]

    def render(self, template: str, tell: Callable[[Any], Any] = str, **more: Any) -> str:
        """A template of this room, filled; `tell` sees every value that is printed."""
        # a name that no fact has must not print as nothing
        room = Environment(
            loader=FileSystemLoader(TEMPLATES),
            undefined=StrictUndefined,
            finalize=tell,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
        )
        room.globals |= {"total": total, "of": self.of, "source": source(self.records)}
        text = room.get_template(template).render(vars(self) | self.found | more)
        return re.sub(r"\n{3,}", "\n\n", text)  # what a condition left out leaves no gap


def collect(
    releases: Sequence[Path],
    inputs: Sequence[str],
    run: Path,
    scratch: Path,
    answers: Path | None = None,
) -> list[Facts]:
    """The facts of each of the `releases` (folders of the same rows), made from `inputs` (values of
    [input] parameters) of the run in `run`; `answers` is a person's.

    Raises InputError for a release without rows, and for answers to questions that nobody asked.
    """
    behind, lost = _records(inputs, run)
    records = list(behind.values())
    # for the embedded pages and what stands written about them, their authors have answered
    engines = {record.value["hashes"]["parameters"].get("engine") for record in records}
    if answers is None and source(records) == "sample" and engines <= {None, "recorded"}:
        answers = TEMPLATES / "sample.md"
    said = read_answers(answers) if answers else {}
    sizes = [_sizes(folder) for folder in releases]
    # measured on one configuration: all hold the same images, and this one all rounds
    main = releases[0] / "data" / next(iter(sizes[0]["splits"]))
    shared: dict[str, Any] = {
        "records": records,
        "lost": lost,
        "answers": said,
        "open": [name for name in form() if name not in said],
        "found": _found(main, behind, scratch),
    }
    return [
        Facts(folder=folder, **size, **shared) for folder, size in zip(releases, sizes, strict=True)
    ]


def _sizes(folder: Path) -> dict[str, Any]:
    """Rows by configuration and split, bytes by file, and columns of a release."""
    splits: dict[str, dict[str, Fact]] = {}
    files = dict[str, Fact]()
    for name, globs in configs_of(folder).items():
        splits[name] = {}
        for split, pattern in globs.items():
            parts = sorted(folder.glob(pattern), key=in_order)
            places = {part: f"{folder.name}/{part.relative_to(folder)}" for part in parts}
            rows = (Fact(tables.count_rows(part), f"{places[part]} > rows") for part in parts)
            splits[name][split] = total(rows)
            for part, place in places.items():
                file = str(part.relative_to(folder))
                files[file] = Fact(part.stat().st_size, f"{place} > bytes")
    if not files:
        raise InputError(f"{folder}: holds no data/<configuration>/*.parquet; write its rows first")
    columns = tables.open_part(folder / next(iter(files))).schema_arrow.names
    return {"splits": splits, "files": files, "columns": columns}


def source(records: Iterable[Fact]) -> str:
    """Where 01 took its pages from (sample, parquet, hub, html or warc); '' if no record says."""
    said = (record.value["hashes"]["parameters"].get("source") for record in records)
    return next((name for name in said if name), "")


def _records(inputs: Sequence[str], run: Path) -> tuple[dict[Path, Fact], list[str]]:
    """Records of the stages behind some inputs, by folder, and the inputs without a record."""
    found, lost = dict[Path, Fact](), set[str]()

    def follow(value: str, of: Path) -> None:
        if not (reference := table_reference(value)):
            return  # files from outside, which the record of the stage that read them names
        stage = (of.parent / reference[0] if reference[0] else of) / reference[1]
        if stage in found:
            return
        if not (record := read_record(stage)):
            lost.add(value)
            return
        for name in record["inputs"]:  # `parameter:entry`
            follow(name.partition(":")[2], stage.parent)
        # after its inputs: the order of the work, whatever the numbers of notebooks
        found[stage] = Fact(record, f"{stage.parent.name}/{stage.name}/run.json")

    for value in inputs:
        follow(value, run)
    return found, sorted(lost)


def _found(main: Path, behind: Mapping[Path, Fact], scratch: Path) -> dict[str, list[Fact]]:
    """What the queries select of the release's first configuration and of the stages' tables."""
    name = "/".join(main.parts[-3:])
    found = {
        title: _select(query, {"release": main}, f"{name} > {title}", scratch)
        for title, query in OF_RELEASE.items()
    }
    found["languages"] = _languages(main, name, scratch)
    for title, (notebook, table, query) in OF_STAGES.items():
        found[title] = []
        for stage, record in behind.items():
            rows = stage / "data" / table
            # a stage of an earlier version may have no such table
            if record.value["stage"].partition(".")[0] == notebook and any(rows.glob("*.parquet")):
                place = f"{stage.parent.name}/{stage.name}/data/{table} > {title}"
                found[title] += _select(query, {table: rows, "release": main}, place, scratch)
    return found


def _select(query: str, given: dict[str, Path], place: str, scratch: Path) -> list[Fact]:
    rows = sql.select(query, given, scratch)
    return [Fact(row, f"{place} > {number}") for number, (row,) in enumerate(rows)]


def _languages(main: Path, place: str, scratch: Path) -> list[Fact]:
    """Rows by the language of their answers: English, or what they surely are instead."""
    texts = sql.select(_TEXTS, {"release": main}, scratch)
    counts = Counter(foreign(text, wanted=("en",)) or "en" for (text,) in texts)
    found = [{"language": language, "rows": n} for language, n in counts.most_common()]
    return [Fact(row, f"{place} > languages > {number}") for number, row in enumerate(found)]


def read_answers(file: Path) -> dict[str, str]:
    """A person's answers: a Markdown file with a heading `## name` for each question of the form
    `templates/answers.md`, and the answer below. Raises InputError for a heading that it lacks.
    """
    try:
        given = sections(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"answers {file}: no readable UTF-8 file ({error})") from error
    if strange := sorted(given.keys() - form()):
        known = ", ".join(form())
        raise InputError(f"{file}: no question is named {strange[0]!r}; the form has {known}")
    return {name: text for name, text in given.items() if text}
