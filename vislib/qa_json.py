"""The JSON form of rounds, for servers that hold an answer to a schema (VisCon-100K, section 3.3).

The schemas keep to what strict modes take: every property required, no others, no bounds on lengths. Four options
are four required properties, since strict modes differ on `minItems`. Answers are read one round at a time, so
that fences, prose around them, a bare list, or an end cut at the token limit lose no complete round.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vislib.qa_options import LETTERS, without_letters


def _object(properties: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "object", "properties": dict(properties), "required": list(properties), "additionalProperties": False,
    }  # fmt: skip


_STRING = {"type": "string"}
_ROUNDS = {
    "free_form": {"question": _STRING, "answer": _STRING},
    "multiple_choice": {
        "question": _STRING, "options": _object(dict.fromkeys(LETTERS, _STRING)),
        "answer": {"type": "string", "enum": list(LETTERS)},
    },
}  # fmt: skip
SCHEMAS: dict[str, dict[str, Any]] = {
    name: _object({"rounds": {"type": "array", "items": _object(properties)}}) for name, properties in _ROUNDS.items()
}
# A round may begin with a number or a type of the model's own. Bounded repeats: linear time.
ROUND = re.compile(
    r"\{(?:\s{0,40}\"\w{1,20}\"\s{0,4}:\s{0,4}(?:\"[^\"\\]{0,40}\"|\d{1,4})\s{0,4},){0,3}\s{0,40}\"question\"\s{0,4}:"
)
_DECODER = json.JSONDecoder(strict=False)  # models write line breaks into strings


def json_rounds(text: str, begin: int) -> Iterator[tuple[int, int, dict[str, Any] | None]]:
    """`(start, end, fields)` of every round from `begin` on; None for one that is cut short or broken."""
    while mark := ROUND.search(text, begin):
        fields: dict[str, Any] | None
        try:
            fields, begin = _DECODER.raw_decode(text, mark.start())
        except (ValueError, RecursionError):
            after = ROUND.search(text, mark.end())
            fields, begin = None, after.start() if after else len(text)
        yield mark.start(), begin, fields


def as_words(value: Any) -> str:
    """A field's text, half of a surrogate pair replaced; "" if it holds none."""
    text = value if isinstance(value, str) else str(value) if isinstance(value, int | float) else ""
    return text.encode("utf-8", "replace").decode().strip()


def as_options(value: Any) -> Sequence[str]:
    """The options' texts in the order of their letters, from an object, a list, or a list of lettered texts."""
    if isinstance(value, Mapping):
        return [as_words(value[name]) for name in sorted(value)] if sorted(value) == list(LETTERS) else ()
    return without_letters([as_words(item) for item in value]) if isinstance(value, list) else ()
