"""Two models or prompts side by side over the same samples, judged blind (VisCon-100K, sections 3.2
and 3.3).

The paper chose its captioner and its Q&A model by reading 100 samples. Here a page shows the
picture, the web page and both texts of a sample, sides swapped by seed, and takes votes; which text
is whose stands in the table `pairs` alone. The votes come back as a file and are tallied. A sample
that one side lacks is counted, never passed over. Sides are tables of texts by their label, the
left one first; both are held in memory.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from vislib.answering import evidence
from vislib.figures.statistics import clustered, model_names, query
from vislib.media.pixels import encode_data_uri
from vislib.media.words import count_words
from vislib.qa_format import as_text
from vislib.runs import InputError, Run, short_hash, tables
from vislib.runs.tables import Row

SIDES = ("left", "right")
CHOICES = (*SIDES, "tie", "both_bad")
# A sample with one good round is usable, whatever its other rounds: what failed a check is no part
# of what a reader votes on.
_SIDE = """
SELECT sample_id, first(model ORDER BY n) AS model,
    string_agg(text, chr(10) || chr(10) ORDER BY n) FILTER (status = 'ok') AS text,
    if(bool_or(status = 'ok'), '', first(reason ORDER BY n)) AS reason,
    count(*) FILTER (status <> 'ok') AS set_aside
FROM rows GROUP BY sample_id ORDER BY sample_id
"""
_KNOWN = """
WITH both_sides AS (SELECT true AS of_left, reason, words, set_aside FROM left_side
    UNION ALL SELECT false, reason, words, set_aside FROM right_side),
facts AS (SELECT 1 AS place, of_left, if(reason = '', 'usable', 'lost: ' || reason) AS fact,
        count(*) AS number FROM both_sides GROUP BY ALL
    UNION ALL SELECT 2, of_left, 'words', avg(words) FROM both_sides WHERE reason = '' GROUP BY ALL
    UNION ALL SELECT 3, of_left, 'rounds set aside', avg(set_aside) FROM both_sides
        WHERE reason = '' GROUP BY ALL)
SELECT fact, coalesce(round(sum(number) FILTER (of_left), 1), 0),
    coalesce(round(sum(number) FILTER (NOT of_left), 1), 0)
FROM facts GROUP BY place, fact ORDER BY place, fact DESC
"""
_BOTH = """
WITH sides AS (SELECT sample_id, coalesce(l.reason, 'not there') AS reason_left,
        coalesce(r.reason, 'not there') AS reason_right, l.text AS "left", r.text AS "right",
        l.model AS left_model, r.model AS right_model
    FROM left_side l FULL JOIN right_side r USING (sample_id))
SELECT *, CASE WHEN reason_left <> '' AND reason_right <> '' THEN 'both_lost'
        WHEN reason_left <> '' THEN 'left_lost' WHEN reason_right <> '' THEN 'right_lost'
        ELSE '' END AS lost,
    concat_ws(', ', 'left: ' || nullif(reason_left, ''), 'right: ' || nullif(reason_right, ''))
        AS detail
FROM sides ORDER BY sample_id
"""
# Chosen by hash of the sample, so that a longer table keeps its pairs; in a seeded order, so that
# the first few are a fair sample too. Exactly half are swapped: a coin for each could put one side
# left too often. The page marks where the picture stands in its context; others are named.
_PAIRS = """
WITH chosen AS (FROM usable ORDER BY seeded({seed}, 'pair' || chr(0) || sample_id) LIMIT {count})
SELECT chosen.*, seeded({seed}, sample_id) AS pair_id,
    row_number() OVER (ORDER BY seeded({seed}, 'pair' || chr(0) || sample_id)) AS position,
    row_number() OVER (ORDER BY seeded({seed}, 'swap' || chr(0) || sample_id)) % 2 = 1 AS swapped,
    if(swapped, 'right', 'left') AS shown_left,
    if(swapped, ["right", "left"], ["left", "right"]) AS texts,
    page_url AS url, coalesce(alt_text, '') AS alt, string_split(replace(
        coalesce(context, ''), '<another-image>', '[another picture]'), '<image>') AS around,
    {{'id': pair_id, 'url': url, 'alt': alt, 'context': around, 'texts': texts}} AS shown,
    coalesce(beside_images() || path, '') AS picture
FROM chosen LEFT JOIN samples USING (sample_id) LEFT JOIN images USING (image_url)
ORDER BY position
"""


def read_sides(run: Run) -> dict[str, Any]:
    """Both sides by what tells them apart (kind, models, run, stage): tables of sample_id, text,
    reason ("": usable), model, words, and set_aside (rounds that failed a check)."""
    # kinds are parameters of their own: two kinds of one table compare too
    left = run.table("left"), run.params.left_kind
    right = run.table("right"), run.params.right_kind
    texts = [_texts(*left), _texts(*right)]
    if left == right or texts[0].attrs != texts[1].attrs:
        raise InputError(
            f"left is {left[1]} of {left[0]}, right {right[1]} of {right[0]}; name two tables of"
            " captions, or two of questions, or two kinds of one table"
        )
    facts = [
        (kind.replace("_", "-"), model_names(side["model"]), *table.parts[-4:-2])
        for (table, kind), side in zip((left, right), texts, strict=True)
    ]
    apart = [pair for pair in zip(*facts, strict=True) if pair[0] != pair[1]]
    labels = list(map(" · ".join, zip(*apart, strict=True))) or SIDES
    return dict(zip(labels, texts, strict=True))


def _texts(table: Path, kind: str) -> Any:
    # read whole: a table of answers is small beside its pages
    every = list(tables.read_rows(table))
    rows = [row for row in every if row["kind"] == kind]
    if not rows:
        kinds = ", ".join(sorted({row["kind"] for row in every})) or "no rows"
        raise InputError(f"{table}: no text of kind {kind!r}; it has {kinds}")
    # captions are one row a sample, questions several
    asked = "question" in rows[0]
    for n, row in enumerate(rows):
        row |= {"n": n, "text": as_text(row) if asked else row["caption"]}
    side = query(_SIDE, rows=pd.DataFrame(rows))
    side["words"] = side["text"].fillna("").map(count_words)
    side.attrs["questions"] = asked
    return side


def side_table(sides: Mapping[str, Any]) -> Any:
    """What is known without a vote, a column per side: samples usable or lost by reason, then means
    per sample.
    """
    left, right = sides.values()
    known = query(_KNOWN, left_side=left, right_side=right).set_index("fact")
    return known.set_axis(list(sides), axis="columns")


def answered(run: Run, sides: Mapping[str, Any]) -> Any:
    """The multiple-choice `questions` about samples that are usable on both sides: sample_id, and
    whether the caption on the `left` and the one on the `right` favour the right option; none
    where sides are questions themselves.
    """
    left, right = (side[side["reason"] == ""] for side in sides.values())
    texts = left.merge(right, on="sample_id").set_index("sample_id")[["text_x", "text_y"]]
    found = []
    # a round about a caption answers itself
    asked = None if left.attrs["questions"] else run.input("questions")
    for row in tables.read_rows(asked) if asked else ():
        if row["status"] == "ok" and row["options"] and row["sample_id"] in texts.index:
            favour = [evidence(row, text) for text in texts.loc[row["sample_id"]]]
            found.append((row["sample_id"], *(one >= run.params.least_margin for one in favour)))
    return pd.DataFrame(found, columns=["sample_id", *SIDES])


def utility(answers: Any) -> dict[str, float]:
    """Shares of questions that each side answers, their `difference` (left minus right) with its
    95 % interval, clustered by sample, and the exact p of McNemar's test.
    """
    if answers.empty:
        return {}
    from statsmodels.stats.contingency_tables import mcnemar  # late: it takes a second

    left, right = answers["left"], answers["right"]
    mean, low, high = clustered(1.0 * left - right, answers["sample_id"])
    table = [[0, (left & ~right).sum()], [(right & ~left).sum(), 0]]
    return {
        "questions": len(answers),
        "left_answers": float(left.mean()),
        "right_answers": float(right.mean()),
        "difference": mean,
        "difference_from": low,
        "difference_to": high,
        "mcnemar_p": float(mcnemar(table, exact=True).pvalue),
    }


def write_pairs(run: Run, sides: Mapping[str, Any]) -> list[Row]:
    """Write `pairs`, `votes`, `dropped` and `page.html`; returns the pairs as the page shows them,
    in a seeded order, half of them swapped.
    """
    left, right = sides.values()
    both = query(_BOTH, left_side=left, right_side=right)
    usable = both[both["lost"] == ""]
    if usable.empty:
        raise InputError(
            "no sample has a usable text on both sides; take both from the same samples"
        )
    samples = run.table("samples")
    images = run.table("images")
    sql = _PAIRS.format(seed=run.seed, count=run.params.count)
    pairs: list[Row] = query(sql, usable=usable, samples=samples, images=images).to_dict("records")
    if lacking := [pair["sample_id"] for pair in pairs if pair["url"] is None]:
        raise InputError(f"{samples}: lacks samples {lacking}; take tables of one run")
    # votes belong to these texts in this order, and to no other page
    page = short_hash(*(text for pair in pairs for text in (pair["pair_id"], *pair["texts"])))
    votes = _read_votes(run.input("votes"), page, {pair["pair_id"]: pair for pair in pairs})
    with run.output() as output:
        output.take("sample", len(both))
        output.keep("sample", len(usable))
        for row in both.drop(usable.index).itertuples():
            output.drop("sample", row.sample_id, row.lost, row.detail)
        for table, rows in (("pairs", pairs), ("votes", votes)):
            for row in rows:
                output.write(table, {name: row[name] for name in run.schemas[table].names})
    _write_page(run, page, pairs)
    return pairs


def _read_votes(file: Path | None, page: str, pairs: Mapping[str, Row]) -> list[Row]:
    """The votes of a file, each for the side that it is for; of several on a pair the last. Raises
    InputError for a file that the page did not save.
    """
    if file is None:
        return []
    try:
        saved = json.loads(file.read_text(encoding="utf-8"))
        if saved["page"] != page:
            raise ValueError("they are of another page")
        votes = {vote["pair_id"]: pairs[vote["pair_id"]] | vote for vote in saved["votes"]}
        for vote in votes.values():
            if (choice := vote["choice"]) not in CHOICES:
                raise ValueError(f"{choice!r} is none of {', '.join(CHOICES)}")
            # left and right of the page become the sides that stood there
            if choice in SIDES and vote["swapped"]:
                vote["choice"] = SIDES[choice == "left"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{file}: no votes on this page ({type(error).__name__}: {error}); take the file that"
            " the page of these parameters saves"
        ) from error
    return list(votes.values())


def _write_page(run: Run, page: str, pairs: Iterable[Row]) -> None:
    """One file that needs nothing else, and that says nothing of who wrote what."""
    shown = []
    for pair in pairs:
        if picture := pair["picture"]:
            picture = encode_data_uri(picture, side=run.params.image_side)
        shown.append(pair["shown"] | {"image": picture})
    source = json.dumps({"page": page, "pairs": shown}, ensure_ascii=False, default=list)
    html = Path(__file__).with_suffix(".html").read_text(encoding="utf-8")
    # no text can end the script that holds it
    html = html.replace("{{data}}", source.replace("<", "\\u003c"))
    (run.data / "page.html").write_text(html, encoding="utf-8")


def tally(votes: Any) -> dict[str, float]:
    """Votes (a table with `choice`) by outcome. Where one side was preferred: the left one's share,
    its Wilson 95 % interval, and the exact two-sided p of the sign test."""
    counts: dict[str, float] = dict.fromkeys(CHOICES, 0) | votes["choice"].value_counts().to_dict()
    won = counts["left"]
    n = counts["left"] + counts["right"]
    if not n:
        return counts
    # late: it takes a second, and most runs have no votes yet
    from statsmodels.stats.proportion import binom_test, proportion_confint

    low, high = proportion_confint(won, n, method="wilson")
    p = float(binom_test(won, n))
    return counts | {"left_share": won / n, "from": low, "to": high, "sign_test_p": p}
