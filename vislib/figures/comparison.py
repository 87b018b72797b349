"""Two models or prompts side by side over the same samples, judged blind (VisCon-100K, sections 3.2
and 3.3).

The paper chose its captioner and its Q&A model by reading 100 samples. Here a page shows the
picture, the web page and both texts of a sample, sides swapped by seed, and takes votes; which text
is whose stands in the table `pairs` alone. The votes come back as a file and are tallied. A sample
that one side lacks is counted, never passed over. Sides are tables of texts by their label, the
left one first; both are held in memory.
"""

import base64
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from vislib.figures.sql import query
from vislib.figures.statistics import model_names
from vislib.media.pixels import ImageError, read_image, scaled
from vislib.media.words import count_words
from vislib.qa_format import as_text
from vislib.runs import InputError, Run, seeded, short_hash, tables
from vislib.runs.tables import Output, Row

SIDES = ("left", "right")
CHOICES = (*SIDES, "tie", "both_bad")
FACTS = ["words", "rounds set aside", "tokens in", "tokens out"]
_FORMAT = "vislib votes 1"
_PAGES = """
SELECT sample_id, page_url AS url, coalesce(alt_text, '') AS alt,
    coalesce(context, '') AS context, path
FROM samples LEFT JOIN images USING (image_url)
WHERE sample_id IN (SELECT sample_id FROM chosen)
"""


def read_sides(run: Run) -> dict[str, Any]:
    """Both sides by what tells them apart (kind, models, else stage): tables by sample_id of text,
    reason ("": usable), model, and counts."""
    # kinds are parameters of their own: two kinds of one table compare too
    sources = [(run.table(name), str(getattr(run.params, f"{name}_kind"))) for name in SIDES]
    texts = [_texts(*source) for source in sources]
    if sources[0] == sources[1] or texts[0].attrs != texts[1].attrs:
        raise InputError(
            f"left is {sources[0][1]} of {sources[0][0]}, right {sources[1][1]} of {sources[1][0]};"
            " name two tables of captions, or two of questions, or two kinds of one table"
        )
    # from what tells most to what tells least
    facts = []
    for (table, kind), side in zip(sources, texts, strict=True):
        stage = "/".join(table.parts[-4:-2])
        facts.append(
            [
                kind.replace("_", "-"),
                model_names(side["model"]),
                stage,
                str(table),
            ]
        )
    apart = [pair for pair in zip(*facts, strict=True) if pair[0] != pair[1]]
    # of two kinds by two models both are said; else the first that differs is enough
    named = apart[:2] if facts[0][0] != facts[1][0] and facts[0][1] != facts[1][1] else apart[:1]
    labels = [" · ".join(pair[n] for pair in named) for n in (0, 1)]
    return dict(zip(labels, texts, strict=True))


def _texts(table: Path, kind: str) -> Any:
    # read whole: a table of answers is small beside its pages
    every = list(tables.read_rows(table))
    rows = pd.DataFrame([row for row in every if row["kind"] == kind])
    if rows.empty:
        kinds = ", ".join(sorted({row["kind"] for row in every})) or "no rows"
        raise InputError(f"{table}: no text of kind {kind!r}; it has {kinds}")
    # captions are one row a sample, questions several
    asked, good = "question" in rows, rows["status"] == "ok"
    rows["text"] = [as_text(row) for row in rows.to_dict("records")] if asked else rows["caption"]
    rows["rounds set aside"] = ~good if asked else 0
    for way in ("in", "out"):
        rows[f"tokens {way}"] = rows.get(f"tokens_{way}", 0)
    rows["words"] = rows["text"].where(good, "").map(count_words)
    samples = rows.groupby("sample_id", sort=False)
    side = samples[["reason", "model"]].first().join(samples[FACTS].sum())
    # what failed a check is no part of what a reader votes on
    side["text"] = rows[good].groupby("sample_id")["text"].agg("\n\n".join)
    # a sample with one good round is usable, whatever its other rounds
    side["reason"] = side["reason"].where(side["text"].isna(), "")
    side.attrs["task"] = "questions" if asked else "captions"
    return side


def side_table(sides: Mapping[str, Any]) -> Any:
    """What is known without a vote, a column per side: samples usable or lost by reason, then means
    per sample.
    """
    columns = {}
    for label, side in sides.items():
        states = side["reason"].map(lambda reason: f"lost: {reason}" if reason else "usable")
        means = side.loc[side["reason"] == "", FACTS].mean()
        columns[label] = pd.concat([states.value_counts(), means])
    table = pd.DataFrame(columns).fillna(0).round(1)
    lost = sorted(name for name in table.index if name.startswith("lost: "))
    return table.reindex(["usable", *lost, *FACTS], fill_value=0)


def write_pairs(run: Run, sides: Mapping[str, Any]) -> list[Row]:
    """Write `pairs`, `votes`, `dropped` and `page.html`; returns the pairs as the page shows them.

    Pairs stand in a seeded order, so that the first few are a fair sample too; half of them are
    swapped.
    """
    with run.output() as output:
        # chosen by hash of the sample, so that a longer table keeps its pairs
        usable = _usable(output, sides)
        ids = sorted(usable, key=lambda name: seeded(run.seed, "pair", name))[: run.params.count]
        mixed = sorted(ids, key=lambda name: seeded(run.seed, "swap", name))
        # exactly half: a coin for each could put one side left too often
        swapped = mixed[::2] if run.params.blind else []
        pairs: list[Row] = []
        for position, name in enumerate(ids, 1):
            rows = {
                side: table.loc[name] for side, table in zip(SIDES, sides.values(), strict=True)
            }
            order = list(SIDES[::-1] if name in swapped else SIDES)
            pair = {
                "pair_id": short_hash(str(run.seed), name),
                "sample_id": name,
            }
            said = {side: row["text"] for side, row in rows.items()}
            said |= {f"{side}_model": row["model"] for side, row in rows.items()}
            output.write(
                "pairs",
                {
                    **pair,
                    "position": position,
                    "shown_left": order[0],
                    **said,
                },
            )
            aside = [int(rows[side]["rounds set aside"]) for side in order]
            notes = [f"{n} more failed a check" if n else "" for n in aside]
            pairs.append(
                {
                    **pair,
                    "order": order,
                    "texts": [said[s] for s in order],
                    "notes": notes,
                }
            )
        # votes belong to these texts in this order, and to no other page
        page = short_hash(*(text for pair in pairs for text in (pair["pair_id"], *pair["texts"])))
        _write_votes(
            output,
            run.input("votes"),
            page,
            {pair["pair_id"]: pair for pair in pairs},
        )
    # what the page holds, its reader can find: blind pages hold no names
    names = None if run.params.blind else list(sides)
    captions = next(iter(sides.values())).attrs["task"] == "captions"
    title = f"Which {'caption is' if captions else 'questions are'} better?"
    _write_page(run, {"page": page, "title": title, "names": names}, pairs)
    return pairs


def _usable(output: Output, sides: Mapping[str, Any]) -> list[str]:
    """Samples that can be read on both sides; of the others, what each side says of them."""
    reasons = pd.concat(
        [side["reason"] for side in sides.values()],
        axis=1,
        keys=SIDES,
    )
    usable = []
    # "not there" of one side is a reason of its own
    for name, row in reasons.fillna("not there").sort_index().iterrows():
        output.take("sample")
        if lost := [side for side in SIDES if row[side]]:
            reason = "both_lost" if len(lost) == 2 else f"{lost[0]}_lost"
            detail = ", ".join(f"{side}: {row[side]}" for side in lost)
            output.drop("sample", str(name), reason, detail)
        else:
            output.keep("sample")
            usable.append(str(name))
    if not usable:
        raise InputError(
            "no sample has a usable text on both sides; take both from the same samples, and see"
            " `dropped`"
        )
    return usable


def _write_votes(
    output: Output,
    file: Path | None,
    page: str,
    pairs: Mapping[str, Row],
) -> None:
    """Write each vote of a file for the side that it is for. Raises InputError for a file that the
    page did not save.
    """
    if file is None:
        return
    try:
        saved = json.loads(file.read_text(encoding="utf-8"))
        same = (saved["format"], saved["page"]) == (_FORMAT, page)
        # the last vote on a pair counts
        votes = {v["pair_id"]: (str(v["choice"]), str(v["remark"])) for v in saved["votes"]}
        known = {name: pairs[name] for name in votes}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{file}: not a file of votes ({type(error).__name__} {error}); save it again"
        ) from error
    if not same:
        raise InputError(
            f"{file}: votes on another page; take the one saved from the page of these parameters"
        )
    for name, (choice, remark) in votes.items():
        if choice not in CHOICES:
            raise InputError(f"{file}: {choice!r} is no vote; allowed: {', '.join(CHOICES)}")
        # left and right of the page become the sides that stood there
        whose = known[name]["order"][SIDES.index(choice)] if choice in SIDES else choice
        ids = {key: known[name][key] for key in ("pair_id", "sample_id")}
        output.write("votes", {**ids, "choice": whose, "remark": remark})


def _write_page(run: Run, data: Row, pairs: Sequence[Row]) -> None:
    """One file that needs nothing else, and while it is blind says nothing of who wrote what."""
    inputs = {name: run.table(name) for name in ("samples", "images")}
    found = query(_PAGES, **inputs, chosen=pd.DataFrame(pairs)).set_index("sample_id")
    shown = []
    for pair in pairs:
        if pair["sample_id"] not in found.index:
            raise InputError(
                f"{inputs['samples']}: lacks sample {pair['sample_id']}; take all tables from one"
                " run"
            )
        pair |= found.loc[pair["sample_id"]].to_dict()
        path = pair.pop("path")
        pair["picture"] = None if pd.isna(path) else inputs["images"].parent / path
        # the page marks where the picture stands; other pictures are named
        context = pair["context"].replace("<another-image>", "[another picture]")
        facts = {name: pair[name] for name in ("url", "alt", "texts", "notes")}
        facts |= {
            "id": pair["pair_id"],
            "context": context.split("<image>"),
        }
        shown.append(facts | {"image": _thumbnail(pair["picture"], run.params.image_side)})
    source = json.dumps({**data, "pairs": shown}, ensure_ascii=False)
    html = Path(__file__).with_suffix(".html").read_text(encoding="utf-8")
    # no text can end the script that holds it
    html = html.replace("{{data}}", source.replace("<", "\\u003c"))
    (run.data / "page.html").write_text(html, encoding="utf-8")


def _thumbnail(path: Path | None, side: int) -> str:
    """A data URI of at most `side` px; empty if there is no picture to show."""
    if path is None:
        return ""
    stream = io.BytesIO()
    try:
        scaled(read_image(path), side).save(stream, "WEBP", quality=80)
    except (ImageError, OSError):
        return ""
    return f"data:image/webp;base64,{base64.b64encode(stream.getvalue()).decode('ascii')}"


def tally(votes: Any) -> dict[str, float]:
    """Votes (a table with `choice`) by outcome. Where one side was preferred: the left one's share,
    its Wilson 95 % interval, and the exact two-sided p of the sign test."""
    from scipy.stats import binomtest

    counts = {choice: int((votes["choice"] == choice).sum()) for choice in CHOICES}
    won, n = counts["left"], counts["left"] + counts["right"]
    if not n:
        return {**counts}
    test = binomtest(won, n)
    low, high = test.proportion_ci(0.95, method="wilson")
    found = {
        "left_share": won / n,
        "from": low,
        "to": high,
        "sign_test_p": test.pvalue,
    }
    return counts | {name: float(value) for name, value in found.items()}
