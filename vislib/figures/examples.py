"""Example panels (VisCon-100K, figures 1 and 8): a page with its captions, and samples with their
conversations.

A seeded choice picks the samples, so that nobody picks the pretty ones. Panels are drawn on a
`new_sheet` and return the height that they took, in points.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from vislib.figures.plots import PAPER_GREY
from vislib.figures.statistics import overlap, source_stems, stems
from vislib.figures.typeset import NOTHING, draw_image, draw_text, drawable
from vislib.media.tokenization import sentences
from vislib.media.words import words
from vislib.runs import tables
from vislib.runs.errors import InputError
from vislib.runs.seeding import choose

KINDS = ("contextual", "non_contextual")
_LACKS = "an image, a caption, a conversation, or a script that the font can set"
_POOL = 40  # candidates looked at for each example that is wanted


@dataclass(frozen=True, kw_only=True)
class Example:
    """One sample with its image file, its captions by kind, and its rounds: source, question,
    answer.
    """

    sample: Mapping[str, Any]
    image: Path
    captions: Mapping[str, str]
    rounds: Sequence[tuple[str, str, str]]


def load_examples(
    *,
    samples: Path,
    images: Path,
    captions: Path,
    conversations: Path,
    ids: Sequence[str],
    n: int,
    seed: int,
) -> list[Example]:
    """The samples `ids`, or for none a seeded choice of `n` from different documents, with image
    and both captions.

    Samples whose text the font cannot set are passed over, perhaps all. Raises InputError when one
    of `ids` is.
    """
    states = tables.read_rows(captions, ["sample_id", "kind", "status"])
    both = Counter(
        row["sample_id"] for row in states if row["status"] == "ok" and row["kind"] in KINDS
    )
    talked = {row["sample_id"] for row in tables.read_rows(conversations, ["sample_id"])}
    pool = list(ids) or choose(
        [i for i in sorted(talked) if both[i] == len(KINDS)], n * _POOL, seed
    )
    shown = {
        e.sample["sample_id"]: e
        for e in _join(pool, samples, images, captions, conversations)
        if _settable(e)
    }
    if lacking := sorted(set(ids) - set(shown)):
        raise InputError(
            f"{captions}: {lacking} lacks {_LACKS}; mend sample_ids, or leave this figure out of"
            " the set"
        )
    if ids:
        return [shown[name] for name in ids]
    one_each = {example.sample["doc_id"]: name for name, example in shown.items()}
    return [shown[name] for name in choose(one_each.values(), n, seed)]


def _settable(example: Example) -> bool:
    page = (example.sample[name] or "" for name in ("page_url", "alt_text", "context"))
    said = (text for one_round in example.rounds for text in one_round)
    return all(map(drawable, (*page, *example.captions.values(), *said)))


def _join(
    pool: Sequence[str], samples: Path, images: Path, captions: Path, talks: Path
) -> Iterator[Example]:
    talk = tables.lookup(talks, "sample_id", pool, ["conversations", "sources"])
    rows = tables.lookup(samples, "sample_id", talk)
    files = tables.lookup(images, "image_url", [row["image_url"] for row in rows.values()])
    texts: dict[str, dict[str, str]] = {name: {} for name in rows}
    for row in tables.read_rows(captions, ["sample_id", "kind", "caption", "status"]):
        if row["sample_id"] in texts and row["kind"] in KINDS and row["status"] == "ok":
            texts[row["sample_id"]][row["kind"]] = row["caption"]
    for name, sample in rows.items():
        file = files.get(sample["image_url"])
        if file and file["status"] == "ok" and texts[name]:
            said = [turn["value"].removeprefix("<image>\n") for turn in talk[name]["conversations"]]
            rounds = list(zip(talk[name]["sources"], said[::2], said[1::2], strict=True))
            yield Example(
                sample=sample,
                image=images.parent / file["path"],
                captions=texts[name],
                rounds=rounds,
            )


def example_table(examples: Sequence[Example]) -> Any:
    """Both captions of each example, with the counts of `overlap`: the table behind the figures."""
    import pandas

    rows = [
        (
            e.sample["sample_id"],
            e.sample["page_url"],
            kind,
            *overlap(e.captions[kind], source_stems(e.sample)).values(),
            e.captions[kind],
        )
        for e in examples
        for kind in KINDS
        if kind in e.captions
    ]
    names = ["sample_id", "page_url", "kind", "all_words", "content_words", "matched", "caption"]
    return pandas.DataFrame(rows, columns=names)


def added_stems(example: Example) -> frozenset[str]:
    """Stems of what its page adds to an example: what stands there and not in the caption written
    without it.

    A word of both was seen in the picture, or stands on the page by chance: "black", "left".
    """
    control = words(example.captions.get("non_contextual", ""))
    return source_stems(example.sample).difference(stem for word in control for stem in stems(word))


def _plot_nothing(axes: Axes, width: float) -> float:
    return (
        draw_text(axes, f"No sample can be shown: each lacks {_LACKS}.", x=8, y=8, width=width - 16)
        + 8
    )


def plot_page(axes: Axes, examples: Sequence[Example], *, width: float, words_around: int) -> float:
    """Figure 1: the first image with up to `words_around` words of its page before and after it,
    its captions beside.

    Without an example it says so, as does figure 8.
    """
    if not examples:
        return _plot_nothing(axes, width)
    example = examples[0]
    half = width / 2 - 8
    page = _plot_excerpt(axes, example, width=half, words_around=words_around)
    axes.add_patch(
        Rectangle((1, 1), half - 1, page - 1, fill=False, edgecolor="0.6", linewidth=0.6)
    )
    x, y = half + 16, 4.0
    for kind in filter(example.captions.__contains__, KINDS):
        added = added_stems(example) if kind == "contextual" else NOTHING
        counts = overlap(example.captions[kind], source_stems(example.sample))
        share = (
            f"{counts['matched']} of {counts['content_words']} words, stop words apart, stand on"
            " the page too"
        )
        title = f"{kind.replace('_', '-').capitalize()} caption"
        y = draw_text(axes, title, x=x, y=y, width=half, size=7.5, weight="bold")
        y = draw_text(axes, share, x=x, y=y, width=half, size=5.5, color=PAPER_GREY) + 2
        y = (
            draw_text(
                axes, example.captions[kind], x=x, y=y, width=half - 8, source=added, max_lines=30
            )
            + 12
        )
    return max(page, y) + 4


def _plot_excerpt(axes: Axes, example: Example, *, width: float, words_around: int) -> float:
    sample = example.sample
    place: dict[str, Any] = {"x": 8, "width": width - 16}
    before, _, after = sample["context"].replace("<another-image>", "[image]").partition("<image>")
    lead, tail = _around(before, words_around, end=True), _around(after, words_around, end=False)
    y = draw_text(axes, sample["page_url"], y=5, max_lines=1, size=5.5, color=PAPER_GREY, **place)
    axes.plot([1, width], [y + 3] * 2, color="0.6", linewidth=0.6)
    y = draw_text(axes, lead, y=y + 9, color="0.25", **place) + 4
    y = draw_image(axes, example.image, y=y, height=130, **place) + 3
    if sample["alt_text"]:
        y = draw_text(
            axes, f"Alt text: {sample['alt_text']}", y=y, max_lines=2, style="italic", **place
        )
    return draw_text(axes, tail, y=y + 4, color="0.25", **place) + 6


def _around(text: str, words: int, *, end: bool) -> str:
    """Whole sentences at the end or the beginning of a text, of at most `words` words; words of a
    longer one.
    """
    parts, tokens = sentences(text), re.findall(r"\S+\s*", text)
    sizes = accumulate(len(part.split()) for part in (parts[::-1] if end else parts))
    whole = sum(size <= words for size in sizes)
    kept = parts[len(parts) - whole :] if end else parts[:whole]
    if not "".join(kept).strip():
        kept = tokens[max(0, len(tokens) - words) :] if end else tokens[:words]
    said = "".join(kept).strip()
    if len(said.split()) == len(tokens):
        return said
    return f"… {said}" if end else f"{said} …"


def plot_samples(axes: Axes, examples: Sequence[Example], *, width: float, rounds: int) -> float:
    """Figure 8: images, and of their conversations the caption and the first other rounds, in their
    own order.

    What the page adds is marked in the answers alone, because questions hold fixed phrases.
    """
    y = 2.0 if examples else _plot_nothing(axes, width)
    for example in examples:
        y = _plot_sample(axes, example, y=y, width=width, rounds=rounds) + 10
    return y


def _plot_sample(axes: Axes, example: Example, *, y: float, width: float, rounds: int) -> float:
    added, column, x = added_stems(example), 118.0, 131.0
    small: dict[str, Any] = {"max_lines": 1, "color": PAPER_GREY}
    below = draw_image(axes, example.image, x=1, y=y, width=column, height=150) + 2
    below = draw_text(axes, example.sample["page_url"], x=1, y=below, width=column, size=5, **small)
    others = [r for r in example.rounds if r[0] != "caption"][: rounds - 1]
    shown = [r for r in example.rounds if r[0] == "caption" or r in others]
    for _, question, answer in shown:
        for speaker, text, style in (
            ("Human", question, "italic"),
            ("Assistant", answer, "normal"),
        ):
            draw_text(axes, speaker, x=x, y=y + 0.7, width=50, size=5.5, weight="bold", **small)
            marked = NOTHING if speaker == "Human" else added
            y = draw_text(
                axes,
                text,
                x=x + 38,
                y=y,
                width=width - x - 46,
                source=marked,
                max_lines=12,
                style=style,
            )
        y += 3
    if more := len(example.rounds) - len(shown):
        y = draw_text(
            axes, f"and {more} more rounds", x=x + 38, y=y, width=width, size=5.5, **small
        )
    return max(below, y)
