"""Which words of a text its page gave (VisCon-100K, figures 1, 5b and 8): by their stems.

Stop words are wordcloud's 192 English ones: longer common lists hold "top", "side" or "system",
which describe pictures. Stems are NLTK's English Snowball stems. Text of scripts without blanks,
such as Chinese and Thai, is compared by pairs of characters.
"""

import re
from collections.abc import Iterator, Mapping
from functools import cache, lru_cache
from typing import Any

from wordcloud import STOPWORDS

from vislib.media.words import UNSPACED, WORD, words

_PLACEHOLDER = re.compile("<(?:another-)?image>")


@lru_cache(maxsize=1 << 18)
def stems(word: str) -> tuple[str, ...]:
    """The stem of a lower-case word; none of a stop word or a single character; pairs of a run
    without blanks.
    """
    if re.match(f"[{UNSPACED}]", word):
        return tuple(word[i : i + 2] for i in range(max(1, len(word) - 1)))
    return () if len(word) == 1 or word in STOPWORDS else (_stemmer().stem(word),)


@cache
def _stemmer() -> Any:
    from nltk.stem.snowball import SnowballStemmer  # late: it brings all of nltk, two seconds

    return SnowballStemmer("english")


def text_stems(text: str) -> frozenset[str]:
    """The stems of all words of a text."""
    return frozenset(stem for word in words(text) for stem in stems(word))


def source_stems(sample: Mapping[str, Any]) -> frozenset[str]:
    """Stems of what a sample's captioner was given beside the image: page URL, alt text and
    context.
    """
    # the address counts: it often names what the picture shows
    text = "\n".join(sample[name] or "" for name in ("page_url", "alt_text", "context"))
    # the placeholders are no words of the page: "image" in a caption must not match them
    return text_stems(_PLACEHOLDER.sub(" ", text))


def added_stems(sample: Mapping[str, Any]) -> frozenset[str]:
    """Stems of what its page adds to a sample: what stands there and not in the caption written
    without it, `non_contextual`.
    """
    # a word of both was seen in the picture, or stands on the page by chance: "black", "left"
    return source_stems(sample) - text_stems(sample["non_contextual"])


def marked(text: str, source: frozenset[str]) -> Iterator[tuple[str, bool]]:
    """The pieces of a text, and whether each is a word all of whose stems are in `source`."""
    end = 0
    for match in WORD.finditer(text):
        found = stems(words(match[0])[0])
        # a stop word has no stem, and is nobody's addition
        if found and source.issuperset(found):
            yield text[end : match.start()], False
            yield match[0], True
            end = match.end()
    yield text[end:], False
