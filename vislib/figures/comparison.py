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
from itertools import groupby
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from vislib.figures.plots import EDGE, FILL, INK
from vislib.figures.statistics import even_edges, histogram, model_names
from vislib.media.pixels import ImageError, read_image, scaled
from vislib.media.words import count_words
from vislib.qa_format import as_text
from vislib.runs import InputError, Run, seeded, short_hash, tables
from vislib.runs.stage import read_record
from vislib.runs.tables import Output, Row

SIDES = ("left", "right")
CHOICES = (*SIDES, "tie", "both_bad")
_FORMAT = "vislib votes 1"
_BARS: Sequence[Any] = (
    {"color": FILL, "edgecolor": EDGE},
    {"color": "white", "edgecolor": INK, "hatch": "//////"},
)


def read_sides(run: Run) -> dict[str, Any]:
    """Both sides by what tells them apart (kind, models, else stage): tables by sample_id of text,
    reason ("": usable), model, and counts."""
    sources = [(run.table(name), str(getattr(run.params, f"{name}_kind"))) for name in SIDES]
    texts = [_texts(*source) for source in sources]
    if sources[0] == sources[1] or texts[0].attrs["task"] != texts[1].attrs["task"]:
        raise InputError(
            f"left is {sources[0][1]} of {sources[0][0]}, right {sources[1][1]} of {sources[1][0]};"
            " name two tables of captions, or two of questions, or two kinds of one table"
        )
    facts = [
        (
            kind.replace("_", "-"),
            model_names(side["model"]),
            "/".join(table.parts[-4:-2]),
            str(table),
        )
        for (table, kind), side in zip(sources, texts, strict=True)
    ]
    apart = [n for n in range(4) if facts[0][n] != facts[1][n]]
    labels = [" · ".join(fact[n] for n in apart[: 1 + (apart[:2] == [0, 1])]) for fact in facts]
    return dict(zip(labels, texts, strict=True))


def _texts(table: Path, kind: str) -> Any:
    import pandas

    rows, texts, asked = (row for row in tables.read_rows(table) if row["kind"] == kind), [], False
    for name, group in groupby(rows, key=lambda row: str(row["sample_id"])):
        found = list(group)
        asked = "question" in found[0]
        good = [as_text(row) if asked else row["caption"] for row in found if row["status"] == "ok"]
        texts.append(
            {
                "sample_id": name,
                "text": "\n\n".join(good),
                "reason": "" if good else found[0]["reason"],
                "model": found[0]["model"],
                "words": sum(map(count_words, good)),
                "rounds set aside": len(found) - len(good) if asked else 0,
                **{
                    f"tokens {way}": sum(row.get(f"tokens_{way}", 0) for row in found)
                    for way in ("in", "out")
                },
            }
        )
    if not texts:
        kinds = sorted({row["kind"] for row in tables.read_rows(table, ["kind"])})
        raise InputError(
            f"{table}: no text of kind {kind!r}; it has {', '.join(kinds) or 'no rows'}"
        )
    side = pandas.DataFrame(texts).set_index("sample_id")
    side.attrs["task"] = "questions" if asked else "captions"
    return side


def side_table(sides: Mapping[str, Any]) -> Any:
    """What is known without a vote, a column per side: samples usable or lost by reason, then means
    per sample.
    """
    import pandas

    columns = {}
    for label, side in sides.items():
        states = (
            side["reason"]
            .map(lambda reason: f"lost: {reason}" if reason else "usable")
            .value_counts()
        )
        means = side.loc[
            side["reason"] == "", ["words", "rounds set aside", "tokens in", "tokens out"]
        ].mean()
        columns[label] = pandas.concat([states, means])
    table = pandas.DataFrame(columns).fillna(0).round(1)
    counts = sorted(name for name in table.index if name.startswith("lost: "))
    return table.reindex(
        ["usable", *counts, "words", "rounds set aside", "tokens in", "tokens out"], fill_value=0
    )


def stage_costs(run: Run, sides: Mapping[str, Any]) -> Any:
    """Tokens and USD of all answers of the stage that each side comes from, all its kinds, as its
    record tells.
    """
    import pandas

    names = [f"{name}_of_answers" for name in ("tokens_in", "tokens_out", "usd")]
    told = [read_record(run.table(name).parent.parent).get("metrics", {}) for name in SIDES]
    return pandas.DataFrame(
        {label: [float(r.get(n, 0)) for n in names] for label, r in zip(sides, told, strict=True)},
        names,
    )


def write_pairs(run: Run, sides: Mapping[str, Any]) -> list[Row]:
    """Write `pairs`, `votes`, `dropped` and `page.html`; returns the pairs as the page shows them.

    Pairs stand in a seeded order, so that the first few are a fair sample too; half of them are
    swapped.
    """
    left, right = sides.values()
    with run.output() as output:
        ids = sorted(_usable(output, sides), key=lambda name: seeded(run.seed, "pair", name))[
            : run.params.count
        ]
        swapped = set(
            sorted(ids, key=lambda name: seeded(run.seed, "swap", name))[::2]
            if run.params.blind
            else ()
        )
        pairs = []
        for position, sample_id in enumerate(ids, 1):
            rows = dict(zip(SIDES, (left.loc[sample_id], right.loc[sample_id]), strict=True))
            order = ("right", "left") if sample_id in swapped else SIDES
            pair: Row = {"pair_id": short_hash(str(run.seed), sample_id), "sample_id": sample_id}
            texts = {name: row["text"] for name, row in rows.items()}
            models = {f"{name}_model": row["model"] for name, row in rows.items()}
            output.write(
                "pairs", {**pair, "position": position, "shown_left": order[0], **texts, **models}
            )
            aside = [
                f"{n} more failed a check" if (n := rows[name]["rounds set aside"]) else ""
                for name in order
            ]
            pairs.append(
                {**pair, "order": order, "texts": [texts[name] for name in order], "notes": aside}
            )
        page = short_hash(*(text for pair in pairs for text in (pair["pair_id"], *pair["texts"])))
        for pair, choice, remark in _read_votes(
            run.input("votes"), page, {pair["pair_id"]: pair for pair in pairs}
        ):
            whose = pair["order"][SIDES.index(choice)] if choice in SIDES else choice
            ids_of_pair = {name: pair[name] for name in ("pair_id", "sample_id")}
            output.write("votes", {**ids_of_pair, "choice": whose, "remark": remark})
    _write_page(
        run, page, pairs, names=None if run.params.blind else list(sides), task=left.attrs["task"]
    )
    return pairs


def _usable(output: Output, sides: Mapping[str, Any]) -> list[str]:
    """Samples that can be read on both sides; of the others, what each side says of them."""
    import pandas

    reasons = pandas.concat([side["reason"] for side in sides.values()], axis=1, keys=SIDES).fillna(
        "not there"
    )
    for name, row in reasons.sort_index().iterrows():
        output.take("sample")
        if lost := [side for side in SIDES if row[side]]:
            reason = "both_lost" if len(lost) == 2 else f"{lost[0]}_lost"
            output.drop(
                "sample", str(name), reason, ", ".join(f"{side}: {row[side]}" for side in lost)
            )
        else:
            output.keep("sample")
    usable = [str(name) for name in reasons.index[(reasons == "").all(axis=1)]]
    if not usable:
        raise InputError(
            "no sample has a usable text on both sides; take both from the same samples, and see"
            " `dropped`"
        )
    return usable


def _read_votes(
    file: Path | None, page: str, pairs: Mapping[str, Row]
) -> list[tuple[Row, str, str]]:
    """Pair, choice on the page, and remark of each vote. Raises InputError for a file that the page
    did not save.
    """
    if file is None:
        return []
    try:
        saved = json.loads(file.read_text(encoding="utf-8"))
        if (saved["format"], saved["page"]) != (_FORMAT, page):
            raise InputError(
                f"{file}: votes on another page; take the one saved from the page of these"
                " parameters"
            )
        votes = [(pairs[v["pair_id"]], str(v["choice"]), str(v["remark"])) for v in saved["votes"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{file}: not a file of votes ({type(error).__name__} {error}); save it again"
        ) from error
    if wrong := {choice for _, choice, _ in votes} - set(CHOICES):
        raise InputError(f"{file}: {wrong} is no vote; allowed: {', '.join(CHOICES)}")
    return list(
        {pair["pair_id"]: (pair, choice, remark) for pair, choice, remark in votes}.values()
    )


def _write_page(
    run: Run, page: str, pairs: Sequence[Row], *, names: list[str] | None, task: str
) -> None:
    """One file that needs nothing else, and while it is blind says nothing of who wrote what."""
    samples = tables.lookup(
        run.table("samples"), "sample_id", [pair["sample_id"] for pair in pairs]
    )
    if lacking := [pair["sample_id"] for pair in pairs if pair["sample_id"] not in samples]:
        raise InputError(
            f"{run.table('samples')}: lacks sample {lacking[0]}; take all tables from one run"
        )
    ledger = tables.lookup(
        run.table("images"), "image_url", [row["image_url"] for row in samples.values()]
    )
    for pair in pairs:
        sample = samples[pair["sample_id"]]
        path = ledger.get(sample["image_url"], {}).get("path")
        pair |= {
            "url": sample["page_url"],
            "alt": sample["alt_text"],
            "context": sample["context"] or "",
        }
        pair["picture"] = run.table("images").parent / path if path else None
    shown = [
        {
            "id": pair["pair_id"],
            "image": _thumbnail(pair["picture"], run.params.image_side),
            "context": (
                pair["context"].replace("<another-image>", "[another picture]").split("<image>")
            ),
            **{name: pair[name] for name in ("url", "alt", "texts", "notes")},
        }
        for pair in pairs
    ]
    title = f"Which {'caption is' if task == 'captions' else 'questions are'} better?"
    data = json.dumps(
        {"page": page, "title": title, "names": names, "pairs": shown}, ensure_ascii=False
    )
    html = Path(__file__).with_suffix(".html").read_text(encoding="utf-8")
    html = html.replace(
        "{{data}}", data.replace("<", "\\u003c")
    )  # no text can end the script that holds it
    (run.data / "page.html").write_text(html, encoding="utf-8")


def _thumbnail(path: Path | None, side: int) -> str:
    """A data URI of at most `side` px; empty if there is no picture to show."""
    stream = io.BytesIO()
    try:
        if path:
            scaled(read_image(path), side).save(stream, "WEBP", quality=80)
    except (ImageError, OSError):
        return ""
    return (
        f"data:image/webp;base64,{base64.b64encode(stream.getvalue()).decode('ascii')}"
        if path
        else ""
    )


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
    interval = {"from": float(low), "to": float(high)}
    return {**counts, "left_share": won / n, **interval, "sign_test_p": float(test.pvalue)}


def plot_words(axes: Axes, sides: Mapping[str, Any], *, title: str = "") -> None:
    """Usable texts by their number of words, both sides over one another."""
    lengths = {label: side.loc[side["reason"] == "", "words"] for label, side in sides.items()}
    edges = even_edges(1 + max(values.max() for values in lengths.values()), bins=24)
    looks: Sequence[Any] = (
        {"fill": True, **_BARS[0]},
        {"edgecolor": INK, "linewidth": 1.0, "linestyle": (0, (2, 1))},
    )
    for (label, values), look in zip(lengths.items(), looks, strict=True):
        axes.stairs(histogram(values, edges)["count"], edges, label=label, **look)
    axes.set(xlabel="Words of a text", ylabel="Samples", ylim=(0, None))
    _finish(axes, title)


def plot_counts(axes: Axes, table: Any, title: str = "") -> None:
    """A group of bars per row of `table`, a bar per column, numbers written out."""
    height = 0.8 / len(table.columns)
    for n, (name, look) in enumerate(zip(table.columns, _BARS, strict=False)):
        bars = axes.barh(
            [y + n * height for y in range(len(table))], table[name], height, label=name, **look
        )
        axes.bar_label(bars, padding=2, fontsize=6)
    axes.set_yticks([y + 0.4 - height / 2 for y in range(len(table))], labels=list(table.index))
    axes.set_ylim(max(len(table), 4) - 0.5, -0.5)  # one bar alone stays slim
    axes.margins(x=0.15)
    _finish(axes, title)


def _finish(axes: Axes, title: str) -> None:
    labels = axes.get_legend_handles_labels()[1]
    if labels[1:]:
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0)).set_in_layout(False)
    axes.set_title(title, pad=6 + 9.4 * len(labels[1:] and labels))
