"""Prompt templates, and the fence that keeps web text from speaking as the prompt (VisCon-100K,
sections 3.2, 3.3).

A template is a text file with fields such as `{{caption}}`: ours lie beside this module, any other
is a path. What fills a field comes from the web, so `render` fences every value; our templates say
that orders inside a fence are to be ignored, and begin with what all samples share, so that servers
reuse the prefix.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from vislib.runs.errors import InputError
from vislib.runs.seeding import short_hash

_HERE = Path(__file__).parent
# The words that begin a part of a round, in every form that models give them; bounded repeats only:
# the time stays linear in the length of any text.
IDENTIFIER = re.compile(
    r"(?P<bold>[*_]{0,3})\\?[<＜][ \t]{0,2}(?P<close>/?)[ \t]{0,2}"
    r"(?P<name>human|assistant|option)s?"
    r"[ _]?\d{0,2}[ \t]{0,2}[:：]?[ \t]{0,2}\\?[>＞]",
    re.IGNORECASE,
)
_FIELD = re.compile(r"\{\{[ \t]{0,3}(\w+)[ \t]{0,3}\}\}")
# What marks pictures and rounds in our data: in a page's own words it would move pixels, or end a
# question.
_IMAGE = r"<[ \t]{0,2}/?[ \t]{0,2}(?:another[-_ ]?)?image[ \t]{0,2}/?[ \t]{0,2}>"
_RESERVED = re.compile(f"{IDENTIFIER.pattern}|{_IMAGE}", re.IGNORECASE)
_HARMLESS = str.maketrans("<>＜＞", "‹›‹›")
# White space, soft hyphens and characters without width: a reader does not see them in `</data`.
_GAP = r"[\s\u00ad\u200b-\u200f\u2060\ufeff]{0,3}"
_LIKE_FENCE = re.compile(
    rf"[<＜﹤]({_GAP}[/／]?{_GAP}[dｄ]{_GAP}[aａ]{_GAP}[tｔ]{_GAP}[aａ](?!\w))", re.IGNORECASE
)


@dataclass(frozen=True)
class Template:
    """A prompt with named fields; `name` is one of ours or the path of the file."""

    name: str
    text: str

    @property
    def sha(self) -> str:
        """The id that records carry as `prompt_sha`."""
        return short_hash(self.text)

    @property
    def shared(self) -> int:
        """Characters before the first field: every rendered prompt begins with them."""
        first = _FIELD.search(self.text)
        return first.start() if first else len(self.text)

    @property
    def fields(self) -> frozenset[str]:
        """Names of the fields in the text."""
        return frozenset(_FIELD.findall(self.text))

    def render(self, **values: str) -> str:
        """Fill every field with its fenced value; values without a field are left out.

        Raises InputError for a field that has no value.
        """
        if unknown := sorted(self.fields - set(values)):
            known = ", ".join(f"{{{{{name}}}}}" for name in values) or "none"
            raise InputError(
                f"{self.name}: unknown field {{{{{unknown[0]}}}}}; the fields of this prompt:"
                f" {known}"
            )
        # In one pass: a value that holds a field's name is not filled in its turn.
        return _FIELD.sub(lambda match: fence(values[match[1]]), self.text)


def load(name_or_path: str, *, needs: Collection[str] = ()) -> Template:
    """The template of that name, or of a UTF-8 file.

    Raises InputError if it cannot be read, is empty, or lacks one of the fields in `needs`.
    """
    path = Path(name_or_path).expanduser()
    if name_or_path in _ours():
        path = _HERE / f"{name_or_path}.txt"
    try:
        # An editor's byte order mark would be part of the prompt, and of its hash.
        text = path.read_text(encoding="utf-8-sig").strip()
    except (OSError, ValueError) as error:
        raise InputError(
            f"prompt {name_or_path!r}: no readable UTF-8 file ({error}); ours: {', '.join(_ours())}"
        ) from error
    template = Template(name_or_path, text)
    if not text:
        raise InputError(f"prompt {name_or_path}: the file is empty")
    if lacking := sorted(set(needs) - template.fields):
        raise InputError(
            f"prompt {name_or_path}: lacks the field {{{{{lacking[0]}}}}}; put it where the text is"
            " to go"
        )
    return template


def _ours() -> list[str]:
    return sorted(file.stem for file in _HERE.glob("*.txt"))


def fence(text: str) -> str:
    """`text` between marks that cannot stand in it; an empty one becomes the words `(none)`.

    The marks carry a number made from the text, and every look-alike in it is written with ‹, so
    that neither a page nor a caption can end its own fence.
    """
    inside = _LIKE_FENCE.sub(r"‹\1", text).strip()
    if not inside:
        return "(none)"
    number = short_hash("fence", inside)[:8]
    return f"<data-{number}>\n{inside}\n</data-{number}>"


def neutralise(text: str) -> tuple[str, int]:
    """Write the words that our formats reserve (`<image>`, `<another-image>`, `<Human>`, ...) with
    ‹ ›.

    Takes them in any case and in every form that the parser would read as an identifier. Returns
    the text and how many were found.
    """
    # Most texts hold no mark, and every cell of a page passes here.
    if "<" not in text and "＜" not in text:
        return text, 0
    return _RESERVED.subn(lambda match: match[0].translate(_HARMLESS), text)
