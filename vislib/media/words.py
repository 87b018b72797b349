"""Words of a text, and how many they are: the one counting behind every table and figure.

A word is made of letters, digits and their accents, with apostrophes and the points of numbers
inside: "it's" and "2,228.5" are one each, "well-kept" are two. Chinese, Japanese, Thai, Lao, Khmer
and Burmese set no blanks between words; there each character counts as one, as is usual where no
dictionary cuts them.
"""

import regex

# Inside of a character class: Thai, Lao, Burmese, Khmer, kana, CJK and half-width forms.
UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u3400-\u9fff"
    "\uf900-\ufaff\uff66-\uff9f"
)
_LETTERS = rf"(?:(?![{UNSPACED}])[\p{{L}}\p{{N}}\p{{M}}])+"
# Runs of scripts without blanks first; then words, with points only between digits.
WORD = regex.compile(
    rf"(?P<run>(?:(?=[{UNSPACED}])[\p{{L}}\p{{N}}\p{{M}}])+)|{_LETTERS}(?:(?:['’]|(?<=\p{{N}})[.,](?=\p{{N}})){_LETTERS})*"
)
# Vowel signs and tones stand on a letter, and are none themselves.
_MARKS = regex.compile(r"\p{M}+")


def words(text: str) -> list[str]:
    """Words of a text in lower case; a run of a script without blanks stands as one."""
    return [match[0].replace("’", "'") for match in WORD.finditer(text.lower())]


def count_words(text: str) -> int:
    """The number of words of a text; in scripts without blanks, of characters."""
    return sum(
        len(_MARKS.sub("", match["run"])) if match["run"] else 1 for match in WORD.finditer(text)
    )
