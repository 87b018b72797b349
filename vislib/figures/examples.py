"""Example panels (VisCon-100K, figures 1 and 8): a page with its captions, and samples with their
conversations.

A seeded choice picks the samples, so that nobody picks the pretty ones. Panels are drawn on a
`new_sheet`.
"""

import json
import re
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

from matplotlib.patches import Rectangle

from vislib.figures.statistics import overlap, query
from vislib.figures.style import ASIDE, GREY
from vislib.figures.text import NOTHING, Column, drawable
from vislib.media.stems import added_stems, source_stems
from vislib.media.tokenization import sentences
from vislib.runs import InputError

SAMPLES = """
SELECT samples.sample_id, doc_id, image_id, page_url, alt_text, context, contextual, non_contextual,
    beside_images() || path AS path, conversations, sources,
    '' NOT IN (context, contextual, non_contextual) AS rich
FROM samples JOIN images USING (image_url)
JOIN (SELECT sample_id, coalesce(max(caption) FILTER (kind = 'contextual'), '') AS contextual,
    coalesce(max(caption) FILTER (kind = 'non_contextual'), '') AS non_contextual
    FROM captions WHERE status = 'ok' GROUP BY sample_id) USING (sample_id)
JOIN (SELECT sample_id, conversations, sources FROM conversations) USING (sample_id)
WHERE status = 'ok' AND contextual || non_contextual <> ''
"""
NO_PAGE = "Not drawn: this needs the text of the page and captions with and without it."
KINDS = ("contextual", "non_contextual")
_POOL = 40  # candidates looked at for each example that is wanted
NONE = "No sample can be shown: each lacks an image, a caption, or a script that the font can set."
Example = dict[str, Any]


def choose(
    sql: str,
    inputs: Mapping[str, Path],
    *,
    ids: Sequence[str],
    n: int,
    seed: int,
) -> list[Example]:
    """Rows of a query of samples: `ids`, or for none a seeded choice of `n` of different pages and
    images, `rich` ones first.

    Samples with a text that the font cannot set are passed over, perhaps all. Raises InputError
    when one of `ids` is.
    """
    among = list(ids) or "[sample_id]"
    # more than are wanted, as some cannot be set; the whole table would be too many
    pool = f"ORDER BY rich DESC, seeded({seed}, sample_id) LIMIT {len(ids) or n * _POOL}"
    found = query(f"FROM ({sql}) WHERE sample_id IN {among} {pool}", **inputs)
    # a box of a missing glyph would pass for the text
    as_text = partial(json.dumps, ensure_ascii=False, default=list)
    shown = found.loc[[drawable(as_text(row)) for row in found.to_dict("records")]]
    if lacking := sorted(set(ids) - set(shown["sample_id"])):
        raise InputError(
            f"{lacking} lacks an image, a caption, or a script that the font can set; mend"
            " sample_ids, or leave this figure out of the set"
        )
    if ids:
        shown = shown.set_index("sample_id", drop=False).loc[list(ids)]
    else:
        # pages with many pictures would fill the figure
        shown = shown.drop_duplicates("doc_id").drop_duplicates("image_id").head(n)
    return list(shown.to_dict("records"))


def plot_page(sheet: Column, example: Example, *, words_around: int) -> None:
    """Figure 1: an image with up to `words_around` words of its page before and after it,
    its captions beside.
    """
    # page and captions side by side, as in the paper
    half = sheet.width / 2 - 8
    page = sheet.column(7, half - 14)
    beside = sheet.column(half + 16, half - 8)
    page.y += 3
    _write_page(page, example, words_around)
    frame = Rectangle((1, 1), half, page.y + 5, fill=False, edgecolor="0.6", linewidth=0.6)
    sheet.axes.add_patch(frame)
    said = "{matched} of {content_words} words, stop words apart, stand on the page too"
    sources = {
        "contextual": added_stems(example),
        "non_contextual": NOTHING,
    }
    for kind, source in sources.items():
        title = f"{kind.replace('_', '-').capitalize()} caption"
        beside.write(title, size=7.5, weight="bold")
        counts = overlap(example[kind], source_stems(example))
        beside.write(said.format_map(counts), **ASIDE)
        beside.y += 2
        beside.write(example[kind], source=source, max_lines=30)
        beside.y += 12
    sheet.y = max(page.y, beside.y) + 8


def _write_page(page: Column, example: Example, words_around: int) -> None:
    before, _, after = example["context"].replace("<another-image>", "[image]").partition("<image>")
    page.write(example["page_url"], max_lines=1, **ASIDE)
    page.y += 3
    page.axes.plot([1, page.width + 15], [page.y] * 2, color="0.6", linewidth=0.6)
    page.y += 6
    # paler than the captions, which are what the figure is about
    page.write(_around(before, words_around, end=True), color="0.25")
    page.y += 4
    page.draw(example["path"], height=130)
    page.y += 3
    if alt := example["alt_text"]:
        page.write(f"Alt text: {alt}", max_lines=2, style="italic")
        page.y += 4
    page.write(_around(after, words_around, end=False), color="0.25")


def _around(text: str, words: int, *, end: bool) -> str:
    """Whole sentences at the end or the beginning of a text, of at most `words` words; words of a
    longer one.
    """
    parts: list[str] = []
    for part in sentences(text):
        # one long sentence is cut by words, else nothing would be shown
        parts += [part] if len(part.split()) <= words else re.findall(r"\S+\s*", part)
    nearest_first = parts[::-1] if end else parts
    sizes = accumulate(len(part.split()) for part in nearest_first)
    kept = nearest_first[: sum(size <= words for size in sizes)]
    said = "".join(kept[::-1] if end else kept).strip()
    if len(kept) == len(parts):
        return said
    return f"… {said}" if end else f"{said} …"


def plot_samples(sheet: Column, examples: Sequence[Example], *, rounds: int) -> None:
    """Figure 8: images, and of their conversations the caption and the first other rounds, in their
    own order.
    """
    for example in examples:
        image = sheet.column(0, 118)
        talk = sheet.column(168, sheet.width - 175)
        image.draw(example["path"], height=150)
        image.y += 2
        image.write(example["page_url"], size=5, max_lines=1, color=GREY)
        said = [turn["value"].removeprefix("<image>\n") for turn in example["conversations"]]
        spoken = list(zip(example["sources"], said[::2], said[1::2], strict=True))
        others = [one for one in spoken if one[0] != "caption"]
        left_out = others[rounds - 1 :]
        # answers alone are marked: questions hold fixed phrases
        added = added_stems(example)
        for one in spoken:
            # in the order of the conversation, the caption wherever it stands
            if one not in left_out:
                talk.hang("Human", 38)
                talk.write(one[1], max_lines=12)
                talk.hang("Assistant", 38)
                talk.write(one[2], source=added, max_lines=12)
                talk.y += 3
        if left_out:
            talk.write(f"and {len(left_out)} more rounds", **ASIDE)
        sheet.y = max(image.y, talk.y) + 10
