"""Pages short enough to be read whole, and one sample per image with the text around it
(VisCon-100K, 3.1, 3.2).

A page is kept when its text has at most `max_tokens` tokens. Each of its images becomes a sample
whose context is the page with `<image>` where the image stands and `<another-image>` for every
other one: the nearest ones, where text and placeholders together would pass the cap. The words that
later formats reserve are written with ‹ › first, so that a page cannot place an image by itself.
Images that the page itself says are too small never have their link fetched. Time and memory grow
with what is kept of a page, not with what it is made of.
"""

import json
import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache, partial
from itertools import accumulate
from pathlib import Path
from typing import Any

from vislib import prompts
from vislib.fetching.urls import tidied
from vislib.media.tokenization import (
    batched_by_length,
    count_tokens,
    load_tokenizer,
    sentences,
    tokens_beyond,
)
from vislib.runs import InputError, Run, short_hash, tables
from vislib.sizes import stated_size

IMAGE, OTHER = "<image>", "<another-image>"
_COLUMNS = ["doc_id", "images", "texts", "metadata", "general_metadata"]
ABOVE_CAP = "above_cap"  # the reason; its detail is the number of tokens, or "over" so many
Count = Callable[[Iterable[str]], list[int]]
_tokenizer = cache(load_tokenizer)


def filter_documents(run: Run) -> None:
    """Stage 02: count, filter and write documents and samples, one shard of documents at a time.

    Raises InputError if the context is to be shorter than its placeholder, or if no sample is left.
    """
    parameters = run.params
    least = count_tokens(_tokenizer(parameters.tokenizer), [IMAGE])[0]
    if 0 < parameters.context_tokens < least:
        raise InputError(
            f"context_tokens = {parameters.context_tokens}: {IMAGE} alone takes {least}; 0 keeps"
            " the page"
        )
    names = ("tokenizer", "max_tokens", "context_tokens", "images_per_page", "min_side")
    options = {name: getattr(parameters, name) for name in names}
    run.map_shards(
        partial(filter_part, **options),
        tables.parts(run.table("documents")),
        workers=parameters.workers,
    )
    counts = run.counts()
    pages, images = counts.get("document", {}), counts.get("image", {})
    if not pages.get("kept"):
        dropped = tables.read_rows(run.data / "dropped")
        tokens = [int(row["detail"].split()[-1]) for row in dropped if row["reason"] == ABOVE_CAP]
        broken = pages.get("taken", 0) - len(tokens)
        raise InputError(
            f"no document is left: all {len(tokens)} have more than max_tokens ="
            f" {parameters.max_tokens} tokens, the shortest {min(tokens, default=0)}; raise"
            " max_tokens" + (f"; {broken} more are not what 01 writes" if broken else "")
        )
    if not images.get("kept"):
        dropped = (
            row
            for row in tables.read_rows(run.data / "dropped")
            if row["reason"] in images.get("dropped", {})
        )
        raise InputError(
            f"no sample is left: {_no_sample(pages['kept'], images, next(dropped, None))}"
        )
    run.metrics["share_within_cap"] = round(pages["kept"] / pages["taken"], 4)


def _no_sample(documents: int, images: Mapping[str, Any], dropped: Mapping[str, Any] | None) -> str:
    """Why no image of the documents within the cap can be asked for, by the first that was
    `dropped`.
    """
    if dropped is None:
        return (
            f"the {documents} documents within max_tokens hold no image; raise max_tokens or choose"
            " other pages"
        )
    reason, detail = dropped["reason"], dropped["detail"]
    mend = (
        "lower min_side"
        if reason == "too_small"
        else (
            "the column images must hold addresses such as https://host/folder/name.jpg; 03 then"
            " takes host/folder/name.jpg or folder/name.jpg from images_root, if that names a"
            " folder, and nothing from the web"
        )
    )
    counted = ", ".join(f"{count} {name}" for name, count in sorted(images["dropped"].items()))
    return (
        f"of {images['taken']} images none can be used ({counted}), the first is {reason}:"
        f" {detail!r}; {mend}"
    )


def filter_part(
    part: Path,
    output: tables.Output,
    *,
    tokenizer: str,
    max_tokens: int,
    context_tokens: int,
    images_per_page: int,
    min_side: int,
) -> None:
    """Filter one part of the documents table into `output`."""
    counter = _tokenizer(tokenizer)
    count = partial(count_tokens, counter)
    one, two = count([f"\n\n{OTHER}", f"\n\n{OTHER}" * 2])
    unit = max(1, two - one)  # tokens of one more placeholder
    for rows in tables.read_batches(part, _COLUMNS):
        for row, (n_tokens, exact) in zip(
            rows, _page_lengths(rows, counter, max_tokens), strict=True
        ):
            output.take("document")
            if n_tokens > max_tokens:
                detail = str(n_tokens) if exact else f"over {n_tokens}"
                output.drop("document", row["doc_id"], ABOVE_CAP, detail)
                continue
            try:
                samples = list(page_samples(row))
            except (
                Exception
            ) as error:  # of a table that 01 did not make: costs its page, not the stage
                output.drop(
                    "document",
                    row["doc_id"],
                    "unexpected",
                    f"{type(error).__name__}: {error}"[:300],
                )
                continue
            output.keep("document")
            output.write("documents", row | {"n_tokens": n_tokens})
            samples = _usable(samples, output, images_per_page, min_side)
            others = max(0, (max_tokens - n_tokens) // unit - 1)  # the image's own takes one
            contexts = _contexts(
                _neutral(row["texts"], output), samples, others, context_tokens, count
            )
            for batch in batched_by_length(contexts, lambda sample: len(sample["context"])):
                for sample, length in zip(batch, count(s["context"] for s in batch), strict=True):
                    output.keep("image")
                    output.write("samples", sample | {"n_context_tokens": length})


def _page_lengths(rows: list[tables.Row], tokenizer: Any, most: int) -> list[tuple[int, bool]]:
    """Tokens of each page, and whether that is all of them: beyond `most` nobody counts to the
    end.
    """
    texts = list(map(page_text, rows))
    beyond = [tokens_beyond(tokenizer, text, most) for text in texts]
    short = (text for text, tokens in zip(texts, beyond, strict=True) if not tokens)
    counted = iter(count_tokens(tokenizer, short))
    return [(tokens, False) if tokens else (next(counted), True) for tokens in beyond]


def _usable(
    samples: list[dict[str, Any]], output: tables.Output, images_per_page: int, min_side: int
) -> list[dict[str, Any]]:
    """The samples worth asking for; the others are dropped with their reason."""
    usable: list[dict[str, Any]] = []
    for sample in samples:
        output.take("image")
        width, height = sample["width"], sample["height"]
        if fault := url_fault(sample["image_url"]):
            output.drop("image", sample["sample_id"], fault, sample["image_url"][:200])
        elif 0 < min(width, height) < min_side:  # an unknown size is 0: only the file can tell
            output.drop("image", sample["sample_id"], "too_small", f"{width}x{height}")
        elif 0 < images_per_page <= len(usable):
            output.drop("image", sample["sample_id"], "above_images_per_page", str(len(samples)))
        else:
            usable.append(sample)
    return usable


def _neutral(texts: Iterable[str | None], output: tables.Output) -> list[str | None]:
    neutral: list[str | None] = []
    for text in texts:
        kept, replaced = (None, 0) if text is None else prompts.neutralise(text)
        output.note("reserved_words_rewritten", replaced)
        neutral.append(kept)
    return neutral


def _contexts(
    texts: list[str | None], samples: list[dict[str, Any]], others: int, limit: int, count: Count
) -> Iterator[dict[str, Any]]:
    around_image = surroundings(texts, others)
    for sample in samples:
        before, after = around_image(sample["image_index"])
        yield sample | {"context": nearest(before, after, limit, count)}


def page_text(row: Mapping[str, Any]) -> str:
    """What the cap counts: the texts of the page, joined by blank lines."""
    return "\n\n".join(text for text in row["texts"] if text is not None)


def page_samples(row: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The samples of a page in page order, without context: one per image position."""
    metadata = json.loads(
        row["metadata"], parse_int=float
    )  # as 01 reads it: a size may have any digits
    general = json.loads(row["general_metadata"])
    for index, (url, entry) in enumerate(zip(row["images"], metadata, strict=True)):
        if url is not None:
            yield {
                "sample_id": short_hash(row["doc_id"], str(index)),
                "doc_id": row["doc_id"],
                "image_index": index,
                "image_url": url,
                "alt_text": _alt_text(entry.get("alt_text")),
                "page_url": general.get("url") or entry["document_url"],
                "width": stated_size(entry.get("original_width")),
                "height": stated_size(entry.get("original_height")),
            }


def _alt_text(value: Any) -> str:
    """The alternative text, "" where there is none; NaN stands for none, half a character as ?."""
    text = value if isinstance(value, str) else ""
    return prompts.neutralise(text.encode(errors="replace").decode())[0]


def url_fault(url: str) -> str:
    """Why nothing can be fetched from `url`; empty for an http address, as browsers read it."""
    text = tidied(url)
    if re.match(r"https?:[/\\]{2}[^/\\?#\s]", text, re.IGNORECASE):
        return ""
    if not text.strip():
        return "empty_url"
    return "data_url" if text[:5].lower() == "data:" else "not_http"


def around(texts: list[str | None], index: int) -> tuple[str, str]:
    """The page before and after the image at `index`, with blank lines and all other images'
    placeholders.
    """
    return surroundings(texts, len(texts))(index)


def surroundings(texts: list[str | None], others: int) -> Callable[[int], tuple[str, str]]:
    """What `around` gives for any image of the page, with the placeholders of the `others` nearest
    alone.

    A gallery of 4,000 images would else put 4,000 placeholders into each of 4,000 contexts.
    """
    images = [index for index, text in enumerate(texts) if text is None]
    written = [index for index, text in enumerate(texts) if text is not None]

    def at(index: int) -> tuple[str, str]:
        first = max(0, min(bisect_left(images, index) - others // 2, len(images) - 1 - others))
        shown = sorted([*written, *images[first : first + others + 1]])  # two sorted runs: linear
        here = bisect_left(shown, index)
        blocks = [OTHER if (text := texts[i]) is None else text for i in shown]
        before = "".join(f"{block}\n\n" for block in blocks[:here])
        return before, "".join(f"\n\n{block}" for block in blocks[here + 1 :])

    return at


def nearest(before: str, after: str, limit: int, count: Count) -> str:
    """The context: `<image>` and the whole sentences nearest to it, at most `limit` tokens in all
    (0: the page).

    Sentences join in order of their distance in characters. When the next one does not fit, its
    side is closed and the other side goes on. What counts is the text as it is returned.
    """
    if not limit:
        return before + IMAGE + after
    left, right = sentences(before)[::-1], sentences(after)
    sides = enumerate((left, right))
    order = sorted(
        (d, side)
        for side, spans in sides
        for d in [0, *accumulate(map(len, spans[:-1]))][: len(spans)]
    )

    def window(n_left: int, n_right: int) -> str:
        return "".join([*left[:n_left][::-1], IMAGE, *right[:n_right]]).strip()

    def fits(n_left: int, n_right: int) -> bool:
        return count([window(n_left, n_right)])[0] <= limit

    def split(k: int) -> tuple[int, int]:
        n_right = sum(side for _, side in order[:k])
        return k - n_right, n_right

    n_left, n_right = split(_largest(len(order), lambda k: fits(*split(k))))
    n_left += _largest(len(left) - n_left, lambda k: fits(n_left + k, n_right))
    n_right += _largest(len(right) - n_right, lambda k: fits(n_left, n_right + k))
    return window(n_left, n_right)


def _largest(n: int, fits: Callable[[int], bool]) -> int:
    """The largest k in 0..n that fits, 0 being known to fit: by doubling, then bisection, so that
    tests stay short.
    """
    high = 1
    while high < n and fits(high):
        high *= 2
    low = high // 2
    return low + bisect_left(range(low + 1, min(high, n) + 1), True, key=lambda k: not fits(k))
