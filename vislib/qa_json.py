"""The JSON form of rounds, for servers that hold an answer to a schema (VisCon-100K, section 3.3).

The schemas keep to what strict modes take: every property required, no others, no bounds on
lengths. Four options are four required properties, since strict modes differ on `minItems`. Answers
are read one round at a time, so that fences, prose around them, a bare list, or an end cut at the
token limit lose no complete round. What models write without a schema is read as it is meant:
trailing commas, Python's quotes, escapes that JSON does not know.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from vislib.qa_options import LETTERS, check_options, read_options, unescaped, without_letters


def _object(properties: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties),
        "additionalProperties": False,
    }


_STRING = {"type": "string"}
_ROUNDS = {
    "free_form": {"question": _STRING, "answer": _STRING},
    "multiple_choice": {
        "question": _STRING,
        "options": _object(dict.fromkeys(LETTERS, _STRING)),
        "answer": {"type": "string", "enum": list(LETTERS)},
    },
}
SCHEMAS: dict[str, dict[str, Any]] = {
    name: _object({"rounds": {"type": "array", "items": _object(properties)}})
    for name, properties in _ROUNDS.items()
}
JsonRound = tuple[
    int, int, dict[str, Any] | None
]  # start, end, fields; None for one that is cut short or broken
_MOST, _LONGEST = 100, 20_000  # objects looked at in a text; characters of one
_QUESTION = re.compile(r"[\"'“]question[\"'”]\s{0,4}:", re.IGNORECASE)
# An object that may be a round begins with a field of one, or with a number or a name of the
# model's own.
_OBJECT = re.compile(
    r"\{\s{0,40}[\"'“](?:(?:question|answer|options|choices)[\"'”]\s{0,4}:"
    r"|\w{1,20}[\"'”]\s{0,4}:\s{0,4}(?:\"[^\"\\]{0,40}\"|'[^'\\]{0,40}'|\d{1,4}))",
    re.IGNORECASE,
)
_TOKEN = re.compile(  # a string ends at a quote before a sign of JSON: others stand in it unescaped
    r"(?P<string>\"(?:[^\"\\]|\\.|\"(?!\s{0,40}[,:}\]]))*+\"|'(?:[^'\\]|\\.|'(?!\s{0,40}[,:}\]]))*+'|“[^”]*+”)"
    r"|(?P<trailing>,(?=\s{0,40}[}\]]))|(?P<open>[{\[])|(?P<shut>[}\]])|(?P<name>\b(?:None|True|False)\b)|[^\"'“{}\[\]]",
    re.DOTALL,
)
_ESCAPE = re.compile(r"\\(.)|\"", re.DOTALL)
_NAMES = {"None": "null", "True": "true", "False": "false"}
_ALIASES = {"choices": "options", "correctanswer": "answer", "correctoption": "answer"}
_DECODER = json.JSONDecoder(strict=False)  # models write line breaks into strings


def json_rounds(text: str) -> list[JsonRound]:
    """The rounds of a text in their order: objects that hold a question."""
    rounds: list[JsonRound] = []
    begin = 0
    for _ in range(_MOST):
        if not (mark := _OBJECT.search(text, begin)):
            break
        fields, end = _read(text[mark.start() : mark.start() + _LONGEST])
        begin = mark.end()  # a round may lie within
        if fields is None:
            after = _OBJECT.search(text, mark.end())
            end = after.start() if after else len(text)
            if _QUESTION.search(text, mark.start(), end):
                rounds.append((mark.start(), end, None))
                begin = end
        elif "question" in fields:
            begin = mark.start() + end
            rounds.append((mark.start(), begin, fields))
    return rounds


def _read(text: str) -> tuple[dict[str, Any] | None, int]:
    """The object that a text begins with, its keys in lower case, and its end."""
    try:
        value, end = _DECODER.raw_decode(text)
    except (ValueError, RecursionError):
        try:
            repaired, end = _repaired(text)
            value = _DECODER.decode(repaired)
        except (ValueError, RecursionError):
            return None, 0
    keys = {re.sub(r"[\W_]", "", key).lower(): item for key, item in value.items()}
    return {_ALIASES[key]: keys[key] for key in _ALIASES if key in keys} | keys, end


def _repaired(text: str) -> tuple[str, int]:
    """An object in strict JSON, and where it ends in the text; "" if it does not end."""
    pieces, depth, at = list[str](), 0, 0
    while token := _TOKEN.match(text, at):
        at = token.end()
        depth += bool(token["open"]) - bool(token["shut"])
        if token["string"]:
            pieces.append(f'"{_ESCAPE.sub(_strict, token[0][1:-1])}"')
        elif not token["trailing"]:
            pieces.append(_NAMES.get(token[0], token[0]))
        if depth == 0:
            return "".join(pieces), at
    return "", at


def _strict(match: re.Match[str]) -> str:
    """An escape of JSON as it stands, another one without its backslash, a bare quote with one."""
    if not match[1]:
        return '\\"'
    return match[0] if match[1] in '"\\/bfnrtu' else match[1]


def as_words(value: Any) -> str:
    """A field's text, half of a surrogate pair replaced; "" if it holds none."""
    text = value if isinstance(value, str) else str(value) if isinstance(value, int | float) else ""
    return text.encode("utf-8", "replace").decode().strip()


def options_of(fields: Mapping[str, Any]) -> tuple[tuple[str, ...], str]:
    """The options of a round and what is wrong with them: an object by letters, a list, a text, or
    fields A to D.
    """
    given = fields.get("options") or {name: fields[name] for name in "abcd" if name in fields}
    if not given:
        return (), "missing_options"
    if isinstance(given, str):
        return read_options(given)
    if isinstance(given, Mapping):
        by_letter = {name.strip().upper(): as_words(item) for name, item in given.items()}
        given = (
            [by_letter[name] for name in sorted(by_letter)]
            if sorted(by_letter) == list(LETTERS)
            else []
        )
    texts = [as_words(item) for item in given] if isinstance(given, list) else []
    return check_options([unescaped(text) for text in without_letters(texts)])
