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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache, partial
from typing import Any

from vislib import prompts
from vislib.fetching.urls import tidied
from vislib.media.tokenization import count_tokens, load_tokenizer, sentences, tokens_beyond
from vislib.runs import Drop, InputError, Note, Run, To, short_hash
from vislib.runs.errors import check_kept
from vislib.runs.tables import Row
from vislib.runs.verbs import Said
from vislib.sizes import stated_size

IMAGE, OTHER = "<image>", "<another-image>"
ABOVE_CAP = "above_cap"  # the reason; its detail is the number of tokens, or "over" so many
# every image position of the pages that stay, by the id that its sample has
IMAGES = """
SELECT left(sha256(doc_id || chr(0) || (position - 1)), 16)
FROM (SELECT doc_id, unnest(images) AS url, unnest(range(1, len(images) + 1)) AS position
      FROM documents)
WHERE url IS NOT NULL
"""
Count = Callable[[str], int]
_tokenizer = cache(load_tokenizer)  # once in each process


def filter_pages(
    pages: Sequence[Row],
    *,
    tokenizer: str,
    max_tokens: int,
    context_tokens: int = 0,
    images_per_page: int = 0,
    min_side: int = 0,
) -> Iterator[Said]:
    """The pages of at most `max_tokens` tokens, and a sample for each of their usable images.

    Raises InputError if the context is to be shorter than its placeholder.
    """
    count = partial(n_tokens_of, tokenizer=tokenizer)
    least = count(IMAGE)
    another = f"\n\n{OTHER}"
    each = count(another * 2) - count(another)
    if 0 < context_tokens < least:
        raise InputError(
            f"context_tokens = {context_tokens}: {IMAGE} alone takes {least}; 0 keeps the page"
        )
    for page in pages:
        n_tokens, exact = page_length(page, tokenizer, max_tokens)
        if n_tokens > max_tokens:
            yield Drop(ABOVE_CAP, str(n_tokens) if exact else f"over {n_tokens}")
            continue
        try:
            samples = list(page_samples(page))
        except Exception as error:  # of a table that 01 did not make: costs its page, not the stage
            yield Drop("unexpected", f"{type(error).__name__}: {error}"[:300])
            continue
        yield To("documents", page | {"n_tokens": n_tokens})
        usable, drops = usable_images(samples, images_per_page, min_side)
        yield from drops
        texts, n_reserved = neutral(page["texts"])
        yield Note("reserved_words_rewritten", n_reserved)
        # so many placeholders of other images fit under the cap; the image's own takes one
        room = max_tokens - n_tokens
        others = max(0, room // max(1, each) - 1)
        for sample in usable:
            before, after = around(texts, sample["image_index"], others)
            context = nearest(before, after, context_tokens, count)
            yield To("samples", sample | {"context": context, "n_context_tokens": count(context)})


def n_tokens_of(text: str, tokenizer: str) -> int:
    """Tokens of a text."""
    (n_tokens,) = count_tokens(_tokenizer(tokenizer), [text])
    return n_tokens


def page_length(page: Row, tokenizer: str, most: int) -> tuple[int, bool]:
    """Tokens of a page, and whether that is all of them: beyond `most` nobody counts on."""
    text = page_text(page)
    # A page of a megabyte takes minutes to tokenize; that it is too long shows at its beginning.
    beyond = tokens_beyond(_tokenizer(tokenizer), text, most)
    return (beyond, False) if beyond else (n_tokens_of(text, tokenizer), True)


def usable_images(samples: Sequence[Row], most: int, min_side: int) -> tuple[list[Row], list[Drop]]:
    """The samples of a page whose image is worth asking for, `most` of them (0: all), and the
    others.
    """
    usable: list[Row] = []
    drops = []
    for sample in samples:
        fault = sample_fault(sample, min_side)
        # In page order: the bound of a gallery keeps its first images, whatever comes later.
        if not fault and 0 < most <= len(usable):
            fault = "above_images_per_page", str(len(samples))
        if fault:
            drops.append(Drop(*fault, id=sample["sample_id"], unit="image"))
        else:
            usable.append(sample)
    return usable, drops


def sample_fault(sample: Mapping[str, Any], min_side: int) -> tuple[str, str] | None:
    """Why an image is not worth asking for, with a detail; None if it is."""
    width, height = sample["width"], sample["height"]
    url = sample["image_url"]
    if fault := url_fault(url):
        return fault, url[:200]
    if 0 < min(width, height) < min_side:  # an unknown size is 0: only the file can tell
        return "too_small", f"{width}x{height}"
    return None


def neutral(texts: Iterable[str | None]) -> tuple[list[str | None], int]:
    """Texts with the reserved words rewritten, and how many there were."""
    rewritten: list[str | None] = []
    n_words = 0
    for text in texts:
        if text is not None:
            text, n = prompts.neutralise(text)
            n_words += n
        rewritten.append(text)
    return rewritten, n_words


def check_left(run: Run) -> None:
    """Raise InputError, with what to change, if no page or no sample is left."""
    check_kept(run.counts(), "document", f"raise max_tokens, now {run.params.max_tokens}")
    check_kept(
        run.counts(),
        "image",
        "raise max_tokens or choose other pages if they hold none; the column images must hold"
        " addresses such as https://host/folder/name.jpg (03 then takes host/folder/name.jpg or"
        " folder/name.jpg from images_root, if that names a folder, and nothing from the web), and"
        " those that are too_small need a lower min_side",
    )


def page_text(row: Mapping[str, Any]) -> str:
    """What the cap counts: the texts of the page, joined by blank lines."""
    return "\n\n".join(text for text in row["texts"] if text is not None)


def page_samples(row: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The samples of a page in page order, without context: one per image position."""
    # As 01 reads it: a size may have any digits.
    metadata = json.loads(row["metadata"], parse_int=float)
    general = json.loads(row["general_metadata"])
    for index, (url, entry) in enumerate(zip(row["images"], metadata, strict=True)):
        if url is None:
            continue
        alt_text = entry.get("alt_text")
        if not isinstance(alt_text, str):  # NaN, a float, stands for none
            alt_text = ""
        yield {
            "sample_id": short_hash(row["doc_id"], str(index)),
            "doc_id": row["doc_id"],
            "image_index": index,
            "image_url": url,
            "alt_text": prompts.neutralise(alt_text.encode(errors="replace").decode())[0],
            "page_url": general.get("url") or entry["document_url"],
            "width": stated_size(entry.get("original_width")),
            "height": stated_size(entry.get("original_height")),
        }


def url_fault(url: str) -> str:
    """Why nothing can be fetched from `url`; empty for an http address, as browsers read it."""
    text = tidied(url)
    if re.match(r"https?:[/\\]{2}[^/\\?#\s]", text, re.IGNORECASE):
        return ""
    if not text.strip():
        return "empty_url"
    return "data_url" if text[:5].lower() == "data:" else "not_http"


def around(texts: Sequence[str | None], index: int, others: int) -> tuple[str, str]:
    """The page before and after the image at `index`, with blank lines and the placeholders of the
    `others` nearest images.

    A gallery of 4,000 images would else put 4,000 placeholders into each of 4,000 contexts.
    """
    images = [place for place, text in enumerate(texts) if text is None]
    half = images.index(index) - others // 2
    last = len(images) - 1 - others
    first = max(0, min(half, last))
    shown = set(images[first : first + others + 1])
    before = []
    after = []
    for place, text in enumerate(texts):
        block = OTHER if text is None and place in shown else text
        if block is None or place == index:
            continue
        if place < index:
            before.append(f"{block}\n\n")
        else:
            after.append(f"\n\n{block}")
    return "".join(before), "".join(after)


def nearest(before: str, after: str, limit: int, count: Count) -> str:
    """The context: `<image>` and the whole sentences nearest to it, at most `limit` tokens in all
    (0: the page).

    Sentences join in order of their distance in characters. When the next one does not fit, its
    side is closed and the other side goes on. What counts is the text as it is returned.
    """
    if not limit:  # the paper's own: the whole page
        return before + IMAGE + after
    left, right = "", ""
    earlier = sentences(before)
    later = sentences(after)[::-1]  # the nearest last
    while earlier or later:
        if earlier and (len(left) <= len(right) or not later):
            side = earlier
            tried = side.pop() + left, right
        else:
            side = later
            tried = left, right + side.pop()
        if count(IMAGE.join(tried).strip()) > limit:
            side.clear()
        else:
            left, right = tried
    return IMAGE.join((left, right)).strip()
