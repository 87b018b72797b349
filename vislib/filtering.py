"""Pages short enough to be read whole, and one sample per image with the text around it (VisCon-100K, 3.1, 3.2).

A page is kept when its text has at most `max_tokens` tokens. Each of its images becomes a sample whose context is
the page with `<image>` where the image stands and `<another-image>` for every other one. The words that later
formats reserve are written with ‹ › first, so that a page cannot place an image by itself. Images that the page
itself says are too small never have their link fetched.
"""

import json
import re
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from itertools import accumulate, islice
from pathlib import Path
from typing import Any

from vislib import prompts
from vislib.runs import InputError, Run, short_hash, tables
from vislib.tokenization import count_tokens, load_tokenizer, sentences

IMAGE, OTHER = "<image>", "<another-image>"
_COLUMNS = ["doc_id", "images", "texts", "metadata", "general_metadata"]
_BATCH = 256
_tokenizer = cache(load_tokenizer)


def filter_documents(run: Run) -> None:
    """Stage 02: count, filter and write documents and samples, one shard of documents at a time.

    Raises InputError if the context is to be shorter than its placeholder, or if no sample is left.
    """
    parameters = run.params
    least = count_tokens(_tokenizer(parameters.tokenizer), [IMAGE])[0]
    if 0 < parameters.context_tokens < least:
        raise InputError(f"context_tokens = {parameters.context_tokens}: {IMAGE} alone takes {least}; 0 keeps the page")
    names = ("tokenizer", "max_tokens", "context_tokens", "min_side")
    options = {name: getattr(parameters, name) for name in names}
    run.map_shards(partial(filter_part, **options), tables.parts(run.table("documents")), workers=parameters.workers)
    counts = run.counts()
    pages, images = counts.get("document", {}), counts.get("image", {})
    if not pages.get("kept"):
        dropped = tables.read_rows(run.data / "dropped")
        shortest = min((int(row["detail"]) for row in dropped), default=0)
        raise InputError(
            f"no document is left: all {pages.get('taken', 0)} have more than max_tokens = {parameters.max_tokens} "
            f"tokens, the shortest {shortest}; raise max_tokens"
        )
    if not images.get("kept"):
        raise InputError(
            f"no sample is left: the {pages['kept']} documents of at most max_tokens = {parameters.max_tokens} tokens "
            f"hold {images.get('taken', 0)} images, none at an http address and of min_side = {parameters.min_side} "
            "px; raise max_tokens, lower min_side or change documents"
        )
    run.metrics["share_within_cap"] = round(pages["kept"] / pages["taken"], 4)


def filter_part(
    part: Path, output: tables.Output, *, tokenizer: str, max_tokens: int, context_tokens: int, min_side: int
) -> None:
    """Filter one part of the documents table into `output`."""
    count = partial(count_tokens, _tokenizer(tokenizer))
    rows = tables.read_rows(part, _COLUMNS)
    while batch := list(islice(rows, _BATCH)):
        for row, n_tokens in zip(batch, count([page_text(row) for row in batch]), strict=True):
            output.take("document")
            if n_tokens > max_tokens:
                output.drop("document", row["doc_id"], "above_cap", str(n_tokens))
                continue
            output.keep("document")
            output.write("documents", row | {"n_tokens": n_tokens})
            _write_samples(row, output, count, context_tokens, min_side)


def _write_samples(
    row: Mapping[str, Any], output: tables.Output, count: Callable[[list[str]], list[int]], limit: int, min_side: int
) -> None:
    texts = []
    for text in row["texts"]:
        neutral, replaced = (None, 0) if text is None else prompts.neutralise(text)
        output.note("reserved_words_rewritten", replaced)
        texts.append(neutral)
    samples = []
    for sample in page_samples(row):
        output.take("image")
        if fault := url_fault(sample["image_url"]):
            output.drop("image", sample["sample_id"], fault, sample["image_url"][:200])
            continue
        width, height = sample["width"], sample["height"]
        if 0 < min(width, height) < min_side:  # an unknown size is 0: only the file can tell
            output.drop("image", sample["sample_id"], "too_small", f"{width}x{height}")
            continue
        before, after = around(texts, sample["image_index"])
        samples.append(sample | {"context": nearest(before, after, limit, count)})
    for sample, n_tokens in zip(samples, count([sample["context"] for sample in samples]), strict=True):
        output.keep("image")
        output.write("samples", sample | {"n_context_tokens": n_tokens})


def page_text(row: Mapping[str, Any]) -> str:
    """What the cap counts: the texts of the page, joined by blank lines."""
    return "\n\n".join(text for text in row["texts"] if text is not None)


def page_samples(row: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The samples of a page in page order, without context: one per image position."""
    metadata, general = json.loads(row["metadata"]), json.loads(row["general_metadata"])
    for index, (url, entry) in enumerate(zip(row["images"], metadata, strict=True)):
        if url is not None:
            yield {
                "sample_id": short_hash(row["doc_id"], str(index)), "doc_id": row["doc_id"], "image_index": index,
                "image_url": url, "alt_text": prompts.neutralise(entry.get("alt_text") or "")[0],
                "page_url": general.get("url") or entry["document_url"],
                "width": entry.get("original_width") or 0, "height": entry.get("original_height") or 0,
            }  # fmt: skip


def url_fault(url: str) -> str:
    """Why nothing can be fetched from `url`; empty for an http address."""
    if re.match(r"https?://[^/?#\s]", url, re.IGNORECASE):
        return ""
    return "empty_url" if not url.strip() else "data_url" if url[:5].lower() == "data:" else "not_http"


def around(texts: list[str | None], index: int) -> tuple[str, str]:
    """The page before and after the image at `index`, blank lines and the other images' placeholders included."""
    blocks = [OTHER if text is None else text for text in texts]
    return "".join(f"{block}\n\n" for block in blocks[:index]), "".join(f"\n\n{block}" for block in blocks[index + 1 :])


def nearest(before: str, after: str, limit: int, count: Callable[[list[str]], list[int]]) -> str:
    """The context: `<image>` and the whole sentences nearest to it, at most `limit` tokens in all (0: the page).

    Sentences join in order of their distance in characters. When the next one does not fit, its side is closed and
    the other side goes on. What counts is the text as it is returned.
    """
    if not limit:
        return before + IMAGE + after
    left, right = sentences(before)[::-1], sentences(after)
    sides = enumerate((left, right))
    order = sorted((d, side) for side, spans in sides for d in [0, *accumulate(map(len, spans[:-1]))][: len(spans)])

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
    """The largest k in 0..n that fits, 0 being known to fit: by doubling, then bisection, so that tests stay short."""
    high = 1
    while high < n and fits(high):
        high *= 2
    low = high // 2
    return low + bisect_left(range(low + 1, min(high, n) + 1), True, key=lambda k: not fits(k))
