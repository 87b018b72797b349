"""Stage 00: a published dataset as the tables that figures and training read (VisCon-100K, section
3.4; DenseFusion-1M's release).

A release holds conversations and little else. Which round is a caption, which a question and of
which type is read from its words: a request to describe the whole picture, a list of options and a
letter, or neither. Turns that answer nothing, or that nothing answers, are left out and counted, as
LLaVA's recipe does. What a release does not tell (the page, the kind of caption) is not made up.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from vislib.media.pixels import ImageError
from vislib.published_rows import MARK, TOLD
from vislib.qa_options import meant, options_in
from vislib.runs import Drop, Note, To, short_hash, sql
from vislib.runs.contract import SCHEMAS
from vislib.runs.tables import Row
from vislib.runs.verbs import Said

CAPTION, FREE_FORM, MULTIPLE_CHOICE = "caption", "free_form", "multiple_choice"
# A request for the whole picture: to describe "the dog in the image" asks for less.
_ASKS = (
    r"describ|descri|depict|caption|account|explain|explan|elaborat|detail|comprehensive|rundown"
    r"|going on|happening|tell me|walk (?:me )?through|summar|narrat|portray|illustrat"
    r"|characteri[sz]e|analy[sz]|say what|put into words|break down|clarify|report what"
    r"|do you see|can be seen"
)
_WHOLE = r"\b(?:image|picture|photo(?:graph)?|scene|visual(?: content)?|here|shown)\b"
_REQUEST = re.compile(f"(?=.*(?:{_ASKS}))(?=.*(?:{_WHOLE}))", re.IGNORECASE | re.DOTALL)
# What stands before it is the question.
_FIRST_OPTION = re.compile(r"^[ \t]*A\.[ \t]", re.MULTILINE)
FACTS = (*TOLD, "kind", "sources", "images", "split")  # what a row may tell: counted in the record
LONG_ANSWER = 25  # words from which an answer may be a caption
SourceOf = Callable[[str, str], str]  # (human turn, answer) -> caption, free_form, multiple_choice


def source_of(prompt: str, answer: str) -> str:
    """What a round is, by its words: `caption`, `free_form` or `multiple_choice`."""
    asked = prompt.replace(MARK, "").strip()
    options = options_in(asked)
    if options and len(meant(answer, options).letters) == 1:
        return MULTIPLE_CHOICE
    # a short answer to "describe" is an answer; an image with nothing asked is all that is asked
    long = len(answer.split()) >= LONG_ANSWER
    return CAPTION if not asked or (long and _REQUEST.match(asked)) else FREE_FORM


def rounds_of(turns: Iterable[Mapping[str, str]]) -> tuple[list[tuple[str, str]], list[str]]:
    """Human turns with their answers, and why each turn that is in none of them was left out."""
    rounds, left_out = list[tuple[str, str]](), list[str]()
    asked = ""
    for turn in turns:
        speaker, said = turn["from"], turn["value"]
        if speaker == "system":
            left_out.append("system_turns")
        elif not said.strip():
            left_out.append("empty_turns")
            # an answer of no words answers: what follows it is not about that question
            asked = asked if speaker == "human" else ""
        elif speaker == "human":
            left_out += ["unanswered_turns"] if asked else []
            asked = said
        elif asked:
            rounds.append((asked, said))
            asked = ""
        else:
            left_out.append("answers_to_nothing")
    return rounds, left_out + (["unanswered_turns"] if asked else [])


def sources_of(rounds: Sequence[tuple[str, str]], told: Sequence[str], rule: SourceOf) -> list[str]:
    """The source of each round: as the row tells, else by the rule, the longest answer alone being
    the caption.
    """
    # a column of that name may hold something else, such as names of data sets
    if len(told) == len(rounds) and {*told} <= {CAPTION, FREE_FORM, MULTIPLE_CHOICE}:
        return list(told)
    sources = [rule(*one) for one in rounds]
    captions = [n for n, source in enumerate(sources) if source == CAPTION]
    # "describe the man, then the scene" asks twice: one caption a sample, as 06 writes them
    longest = max(captions, key=lambda n: len(rounds[n][1]), default=-1)
    return [FREE_FORM if n in captions and n != longest else s for n, s in enumerate(sources)]


# ---- images

# Each address once, in order; two files under one are told, as neither is surely the right one.
LINKS = """
SELECT image.address AS image_url, min(image.file) AS file, count(DISTINCT image.file) AS files
FROM (SELECT row, unnest(images) AS image FROM published)
GROUP BY image.address ORDER BY min(row)
"""


WEB = "SELECT image_url FROM links WHERE file = ''"


def picture(link: Row) -> Path:
    """The file of a row of `LINKS`; raises ImageError where it has none."""
    if link["files"] > 1:
        raise ImageError("unreadable", f"{link['files']} pictures under one address")
    if not link["file"]:
        raise ImageError("not_asked", "a link, and the parameter fetch is false")
    file = Path(link["file"])
    if not file.is_file():
        raise ImageError("not_found", str(file))
    return file


# ---- tables


def join(*, kind: str, seed: int, test_fraction: float) -> str:
    """SQL: one row per published row with the ids of its images, its own id, sample, page and
    split.

    `kind`: of captions whose row tells none. An id that comes again with other content gets a
    number. Pages (their images, where rows tell no page) are split by hash where the data are not.
    """
    return f"""
    WITH shown AS (
        SELECT row, unnest(images) AS image, generate_subscripts(images, 1) AS position
        FROM published
    ), pictures AS (
        SELECT shown.row, list(coalesce(
            image_id, nullif(image.image_id, ''), left(sha256(image.address), 16)
        ) ORDER BY position) AS ids
        FROM shown LEFT JOIN images ON image_url = image.address GROUP BY shown.row
    ), told AS (
        SELECT published.row, coalesce(ids, []) AS ids, content, sample_id, split,
            coalesce(nullif(kind, ''), '{kind}') AS kind, nullif(page_url, '') AS page_url,
            nullif(doc_id, '') AS doc_id, coalesce(nullif(configuration, ''), 'leaky_mix')
            AS configuration, id, len(conversations) AS turns
        FROM published LEFT JOIN pictures USING (row)
    ), numbered AS (
        SELECT *, row_number() OVER (PARTITION BY kind, configuration, id ORDER BY row) AS nth,
            row_number() OVER (PARTITION BY kind, configuration, id, content ORDER BY row) AS again,
        FROM told
    ), named AS (
        SELECT * REPLACE (if(nth > 1, id || '#' || nth, id) AS id, coalesce(nullif(sample_id, ''),
            left(sha256(id || '#' || nth), 16)) AS sample_id) FROM numbered
    ), placed AS (
        SELECT * REPLACE (coalesce(doc_id, left(sha256(coalesce(page_url, ids[1], sample_id)), 16))
            AS doc_id) FROM named
    ), fullest AS (
        SELECT kind, arg_max(configuration, turns) AS best FROM
            (SELECT kind, configuration, avg(turns) AS turns FROM told GROUP BY ALL) GROUP BY kind
    )
    SELECT placed.row AS published, id, ids AS images, sample_id, doc_id, kind, configuration,
        coalesce(nullif(split, ''), {sql.split(seed, test_fraction)}) AS split, again > 1 AS again,
        configuration = best AS is_fullest,
        row_number() OVER (PARTITION BY sample_id ORDER BY placed.row) = 1 AS is_first
    FROM placed JOIN fullest USING (kind) ORDER BY published
    """


def rows(joined: Iterable[Row], *, rule: SourceOf) -> Iterator[Said]:
    """Rows of all tables for joined rows; captions and questions of each kind come from the
    configuration with the longest conversations, since the others repeat its rounds.
    """
    for row in joined:
        said = row["published"]
        rounds, left_out = rounds_of(said["conversations"])
        marks = sum(prompt.count(MARK) for prompt, _ in rounds)
        reason, detail = _fault(row, marks, bool(rounds))
        if reason:
            yield Drop(reason, f"{said['place']}: {detail}")
            continue
        yield Note("mended_characters", said["mended"])
        for name in [*left_out, *(f"rows_with_{name}" for name in FACTS if said[name])]:
            yield Note(name)
        if row["images"] and not marks:  # as LLaVA's rows have it
            first, answer = rounds[0]
            rounds[0] = f"{MARK}\n" * len(row["images"]) + first, answer
        sources = sources_of(rounds, said["sources"], rule)
        turns = [
            {"from": speaker, "value": text}
            for one in rounds
            for speaker, text in zip(("human", "gpt"), one, strict=True)
        ]
        talk = {name: row[name] for name in ("id", "images", "sample_id", "doc_id")}
        talk |= {"conversations": turns, "sources": sources}
        place = f"{row['kind']}/{row['configuration']}"
        yield To("conversations", talk, path=place, stem=row["split"])
        if row["is_first"]:
            address = said["images"][0]["address"] if said["images"] else ""
            # numbers that a release does not tell
            yield _filled("samples", said | row | {"image_url": address}, 0)
        if not row["is_fullest"]:
            continue
        for number, (source, one) in enumerate(zip(sources, rounds, strict=True), start=1):
            if source == CAPTION:
                own = {"caption": one[1], "status": "ok", "reason": ""}
                yield _filled("captions", said | row | own, None)
            else:
                yield _question(row, source, number, *one)


def _fault(row: Row, marks: int, has_rounds: bool) -> tuple[str, str]:
    """Why a row can stand in no table, reason and detail; two empty texts if it can."""
    said, shown = row["published"], len(row["images"])
    if said["fault"]:
        return "malformed", said["fault"]
    # by content: other rows share an id, as LLaVA's mix has one for each image
    if row["again"]:
        return "duplicate", f"{said['id']} stands there before, word for word"
    if not has_rounds:
        return "no_round", "no human turn with an answer"
    if marks not in (0, shown):
        return "image_marks", f"{marks} marks, {shown} images"
    return "", ""


def _filled(table: str, known: Row, other: object) -> To:
    """A row of a table; `other` stands in each column of which nothing is known."""
    names = SCHEMAS["00_published"][table].names
    return To(table, {name: known.get(name, other) for name in names})


def _question(row: Row, source: str, number: int, prompt: str, answer: str) -> To:
    asked = prompt.replace(MARK, "").strip()
    options = options_in(asked) if source == MULTIPLE_CHOICE else []
    letters = meant(answer, options).letters
    question = _FIRST_OPTION.split(asked)[0].strip() if options else asked
    known = row | {
        "question_id": short_hash(row["sample_id"], row["kind"], source, str(number), question),
        "question_type": source,
        "round": number,
        "question": question,
        "options": options,
        "answer": min(letters) if len(letters) == 1 else answer,
        "status": "ok",
        "model": row["published"]["question_model"],
    }
    return _filled("questions", known, "")
