"""What the selected images are: tags, sizes, and how many hold text (DenseFusion-1M, which finds
more than 70 %).
"""

from collections import Counter
from collections.abc import Mapping
from math import ceil
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from vislib.figures import head
from vislib.figures.plots import CONTRAST, EDGE, FILL, INK, PAPER_GREY
from vislib.figures.statistics import histogram
from vislib.figures.typeset import shortened
from vislib.runs import tables

PAPER_TEXT_SHARE = 0.7  # more than that
LAYOUT: dict[int, Any] = {  # by columns: tags, sizes, share with text, texts
    1: {"layout": "a;b;c;d", "height_ratios": (3.5, 3, 0.5, 2)},
    2: {"layout": "ab;ac;ad", "height_ratios": (3, 0.5, 2)},
}
_STEPS = 4  # bins of sizes in a doubling
_DOT = 42.0  # points², of the bin with most images
_BARS = 20  # of the histogram of texts, about
_SOME: dict[str, Any] = {"facecolor": FILL, "edgecolor": EDGE}
_NONE: dict[str, Any] = {"facecolor": "white", "edgecolor": INK, "hatch": "//////"}


def image_table(inputs: Mapping[str, Path]) -> Any:
    """A row per distinct usable image of `samples`: image_id, width, height (px), texts.

    `inputs` has the folders of samples, images, priors and experts. `texts` is NaN without priors,
    or where no expert reads text; images on which that one failed have 0.
    """
    import pandas

    urls = {row["image_url"] for row in tables.read_rows(inputs["samples"], ["image_url"])}
    files = tables.lookup(
        inputs["images"], "image_url", urls, ["image_id", "width", "height", "status"]
    )
    rows = {row["image_id"]: row for row in files.values() if row["status"] == "ok"}
    priors = (
        tables.read_rows(inputs["priors"], ["image_id", "texts"])
        if "ocr" in _models(inputs["experts"])
        else ()
    )
    found = {row["image_id"]: len(row["texts"]) for row in priors}
    table = pandas.DataFrame(rows.values(), columns=["image_id", "width", "height"])
    return table.assign(texts=table["image_id"].map(found).astype(float)).sort_values(
        "image_id", ignore_index=True
    )


def tag_table(priors: Path, images: Any, *, score: float, most: int) -> Any:
    """The `most` frequent tags of at least `score`: label, images, share (of those of `images` that
    have priors).
    """
    import pandas

    wanted, counts, seen = set(images["image_id"]), Counter[str](), 0
    for row in tables.read_rows(priors, ["image_id", "tags"]):
        if row["image_id"] in wanted:
            seen += 1
            counts.update({tag["label"] for tag in row["tags"] if tag["score"] >= score})
    rows = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:most]
    table = pandas.DataFrame(rows, columns=["label", "images"])
    return table.assign(share=table["images"] / max(seen, 1))


def size_table(images: Any) -> Any:
    """Images by size, in bins of a quarter of a doubling: width, height (means, px), images."""
    import numpy

    sides = images[["width", "height"]]
    bins = numpy.floor(numpy.log2(sides) * _STEPS)
    groups = sides.groupby([bins["width"], bins["height"]])
    return groups.mean().assign(images=groups.size()).reset_index(drop=True)


def text_table(images: Any) -> Any:
    """Images by number of texts, as from, to (not included) and count; those without text are the
    first row.
    """
    texts = images["texts"].dropna()
    most = max(int(texts.max()), 1) if len(texts) else 1
    step = ceil(most / _BARS)
    return histogram(texts, [0, *range(1, most + step + 1, step)]).astype(int)


def _models(experts: Path) -> dict[str, str]:
    return {row["expert"]: row["model"] for row in tables.read_rows(experts)}


def experts_note(experts: Path) -> str:
    """Small print: what tagged the images, and what read their text."""
    models = _models(experts)
    tagger = models.get("tagger", "none")
    measured = ", which measures properties and knows no categories of meaning" * tagger.startswith(
        "measured"
    )
    return f"Tags: {tagger}{measured}. Text: {models.get('ocr', 'none')}."


def _say(axes: Axes, text: str) -> None:
    """Words in place of a plot that has nothing to show."""
    axes.axis("off")
    axes.text(0.5, 0.5, text, ha="center", va="center", transform=axes.transAxes, color=PAPER_GREY)


def plot_tags(axes: Axes, table: Any, *, title: str = "") -> None:
    """A bar per tag, most frequent above, with the share of images written out."""
    head(axes, title, legend=False)
    if table.empty:
        _say(axes, "No image has a tag.")
        return
    bars = axes.barh(table.index, table["share"], 0.7, **_SOME)
    axes.bar_label(bars, [f"{share:.0%}" for share in table["share"]], padding=2, fontsize=6)
    axes.set_yticks(table.index, [shortened(label, 80, 6.5) for label in table["label"]])
    axes.tick_params(axis="y", length=0)
    axes.set(
        xlim=(0, 1.12 * table["share"].max()), ylim=(max(len(table), 6) - 0.5, -0.5)
    )  # few bars stay slim
    axes.xaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    axes.set_xlabel("Share of images")


def plot_sizes(axes: Axes, table: Any, *, short_edge: int, title: str = "") -> None:
    """Images by width and height on logarithmic axes, circles by number; a corner marks the
    smallest short edge.
    """
    most, last = int(table["images"].max()), table[["width", "height"]].max(axis=None) * 1.3
    axes.scatter(
        table["width"],
        table["height"],
        s=(table["images"] / most * _DOT).clip(lower=1.5),
        linewidth=0.5,
        label=f"largest: {most:,} image" + "s" * (most > 1),
        **_SOME,
    )
    axes.plot(
        [short_edge, short_edge, last],
        [last, short_edge, short_edge],
        color=INK,
        linewidth=0.8,
        linestyle=(0, (4, 1.2)),
        label=f"short edge ≥ {short_edge:,} px",
    )
    axes.axline((short_edge, short_edge), (last, last), color="0.75", linewidth=0.6, zorder=0)
    ends = (short_edge / 1.3, last)
    axes.set(
        xscale="log", yscale="log", xlim=ends, ylim=ends, xlabel="Width (px)", ylabel="Height (px)"
    )
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(FixedLocator([2.0**n for n in range(20)]))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(lambda px, _: f"{px:,.0f}")
    head(axes, title)


def plot_text_share(axes: Axes, table: Any, *, title: str = "") -> None:
    """One bar of a `text_table`: filled the images with text, hatched those without; a line marks
    the paper's share.
    """
    if not (of := table["count"].sum()):
        head(axes, title)
        _say(axes, "No text was looked for.")
        return
    share = 1 - table["count"].iloc[0] / of
    axes.barh([0], [share], label=f"with text {share:.0%}", **_SOME)
    axes.barh([0], [1 - share], left=[share], **_NONE)
    label = f"paper: more than {PAPER_TEXT_SHARE:.0%}"
    axes.axvline(PAPER_TEXT_SHARE, color=CONTRAST, linestyle=(0, (5, 1, 1, 1)), label=label)
    axes.set(xlim=(0, 1), ylim=(-0.5, 0.5), yticks=[], xticks=[0, 0.25, 0.5, 0.75, 1])
    axes.xaxis.set_major_formatter(lambda part, _: f"{part:.0%}")
    axes.spines["left"].set_visible(False)
    head(axes, title)


def plot_texts(axes: Axes, table: Any, *, title: str = "") -> None:
    """Images of a `text_table` by the number of texts in them; those without stand first,
    hatched.
    """
    step, last = (int(table["to"].iloc[-1] - n) for n in (table["from"].iloc[-1], 0))
    for rows, left, look in (
        (table.iloc[1:], table["from"] - 0.5, _SOME),
        (table.iloc[:1], [0.5 - step], _NONE),
    ):
        axes.bar(left[-len(rows) :], rows["count"], step, align="edge", **look)
    whole = MaxNLocator(nbins=5, steps=[1, 2, 5, 10], integer=True)
    ticks = [tick for tick in whole.tick_values(0, last) if 0 < tick < last]
    axes.set_xticks([0.5 - step / 2, *ticks], ["none", *(f"{tick:,.0f}" for tick in ticks)])
    axes.yaxis.set_major_locator(whole)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.set(xlabel="Texts found in an image", ylabel="Images", title=title)
