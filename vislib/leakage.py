"""Stage 14: which texts and pictures answer a question (ours; VisCon-100K, section 3.4, names its
mix *leaky* and tests no leak).

07 reads the caption alone, so that most questions can be answered from it; where the caption stands
before them in a conversation, a model can learn to read it instead of the picture. `text evidence`
asks no model (`answering`); a picture it cannot see. Models see one source at a time, and their
answers are compared with the recorded one.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from vislib.answering import evidence, new_stems
from vislib.engines import Request
from vislib.media.stems import text_stems
from vislib.prompts import Template
from vislib.qa_options import lettered, meant
from vislib.runs import Drop, Note, To, sql
from vislib.runs.contract import ANSWERABLE
from vislib.runs.tables import Row
from vislib.runs.verbs import Said

TEXT_EVIDENCE = "text evidence"  # the engine that asks nobody
SOURCES = ("caption", "context", "image")
# SQL: all answers to a question, one a source.
GROUPED = """
    SELECT of.question.question_id AS question_id, list(row ORDER BY row) AS replies
    FROM answers GROUP BY question_id ORDER BY min(row)
"""


def join(kind: str, *, with_conversations: bool, limit: int, seed: int) -> str:
    """SQL: a row per good question of a kind, with what may answer it, a caption of another page
    (`swapped`, a control) and its sample's conversation; with a `limit`, so many, drawn by hash.
    """
    chosen = f"ORDER BY {sql.drawn('question_id', seed)} LIMIT {limit}" if limit else ""
    talks = "LEFT JOIN conversations USING (sample_id)" if with_conversations else ""
    return f"""
    WITH told AS (
        SELECT sample_id, row AS caption, row_number() OVER (ORDER BY row) - 1 AS place,
            count(*) OVER () AS captions
        FROM captions WHERE kind = '{kind}' AND status = 'ok'
    ), asked AS (
        SELECT * FROM questions WHERE kind = '{kind}' AND status = 'ok' {chosen}
    )
    SELECT asked.row AS question, told.caption AS caption, other.caption AS swapped,
        samples.row AS sample, images.row AS image,
        {"conversations.row" if talks else "NULL"} AS conversation
    FROM asked LEFT JOIN told USING (sample_id) LEFT JOIN samples USING (sample_id)
        LEFT JOIN images ON images.image_url = samples.image_url AND path IS NOT NULL {talks}
        -- half the table away: images of one page stand side by side
        LEFT JOIN told AS other
            ON other.place = (told.place + told.captions // 2) % told.captions
    ORDER BY asked.row
    """


def texts_of(row: Row) -> dict[str, str]:
    """What a joined row's question may be answered from, as text; "" for what is not there."""
    sample = row["sample"] or {}
    page = "\n".join(sample.get(name) or "" for name in ("context", "alt_text"))
    texts = {name: (row[name] or {}).get("caption", "") for name in ("caption", "swapped")}
    # the marks of pictures are no words of the page
    return texts | {"context": page.replace("<another-image>", " ").replace("<image>", " ")}


def by_text(rows: Iterable[Row], *, least_margin: float, least_share: float) -> Iterator[Said]:
    """Rows of `answerable` from words alone: what is `least_margin` for options and `least_share`
    for free answers suffices.
    """
    for row in rows:
        question = row["question"]
        found = {name: evidence(question, text) for name, text in texts_of(row).items()}
        least = least_margin if question["options"] else least_share
        suffices = {name: value >= least for name, value in found.items()}
        yield _judged(row, TEXT_EVIDENCE, suffices, found)


def _judged(row: Row, judge: str, suffices: Mapping[str, bool], found: Mapping[str, float]) -> Said:
    if row["caption"] is None or row["sample"] is None:
        return Drop("no_caption", "it failed, or is of another run")
    enough = [name for name in SOURCES if suffices.get(name)]
    told: Row = row["question"] | row["sample"] | {"judge": judge}
    told["verdict"] = "several" if len(enough) > 1 else (enough or ["none"])[0]
    told["after_caption"] = after_caption(row)
    for name in (*SOURCES, "nothing", "swapped"):
        told[name] = suffices.get(name)
        told[f"{name}_evidence"] = found.get(name)
    return To("answerable", {name: told[name] for name in ANSWERABLE.names})


def after_caption(row: Row) -> bool | None:
    """Whether the question follows the caption in its conversation; None if it is in none."""
    question, talk = row["question"], row["conversation"] or {"sources": []}
    first = question["question"].partition("\n")[0]
    for place, source in enumerate(talk["sources"]):
        said = talk["conversations"][2 * place]["value"].removeprefix("<image>\n")
        # options follow on lines of their own
        if source == question["question_type"] and said.partition("\n")[0] == first:
            return "caption" in talk["sources"][:place]
    return None


# ---- models


def request(row: Row, *, params: Any, template: Template, root: Path) -> Request | Drop:
    """What a model is asked about the joined row `of` and one `source`; image files lie below
    `root`.
    """
    of, source = row["of"], row["source"]
    question, image = of["question"], of["image"] if source == "image" else {"image_id": ""}
    if image is None:
        return Drop("no_image")
    asked = "\n".join([question["question"], *lettered(question["options"])])
    return Request(
        id=question["question_id"],
        prompt=template.render(question=asked, given=texts_of(of).get(source, "")),
        prompt_sha=template.sha,
        shared=template.shared,
        image_id=image["image_id"],
        image_path=root / image["path"] if source == "image" else None,
        temperature=params.temperature,
        max_tokens=params.max_answer_tokens,
        image_side=params.image_side,
    )


def is_right(question: Row, reply: str, *, least_share: float) -> bool:
    """Whether a reply is the recorded answer: its letter, or `least_share` of its new words."""
    if question["options"]:
        return meant(reply, question["options"]).letters == {question["answer"]}
    wanted = new_stems(question["answer"], text_stems(question["question"]))
    return len(wanted & text_stems(reply)) >= least_share * max(1, len(wanted))


def by_model(rows: Iterable[Row], *, least_share: float) -> Iterator[Said]:
    """Rows of `answerable` from what a model replied to each source; without any reply, a Drop."""
    for row in rows:
        suffices, judge, of = dict[str, bool](), "", row["replies"][0]["of"]
        for reply in row["replies"]:
            source, answer = reply["source"], reply["answer"]
            if answer["status"] != "ok":  # asked again by the next run
                yield Note(f"failed_{source}_{answer['reason']}")
                continue
            judge = answer["model"]
            suffices[source] = is_right(of["question"], answer["text"], least_share=least_share)
        yield _judged(of, judge, suffices, {}) if judge else Drop("no_answer")
