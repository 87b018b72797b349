"""The JSON form of rounds, for servers that hold an answer to a schema (VisCon-100K, section 3.3).

Answers are read one round at a time, so that fences, prose around them, a bare list, or an end cut
at the token limit lose no complete round. What models write without a schema is read as it is
meant: trailing commas, Python's quotes, escapes that JSON does not know.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from vislib.qa_options import LETTERS, Options, read_listed, read_options


def _object(**properties: Any) -> dict[str, Any]:
    # What strict modes take: every property required, no others, no bounds on lengths. Four
    # options are four properties, since strict modes differ on `minItems`.
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


_STRING = {"type": "string"}
_OPTIONS = _object(**dict.fromkeys(LETTERS, _STRING))
_LETTER = {"type": "string", "enum": list(LETTERS)}
_ROUNDS = {
    "free_form": _object(question=_STRING, answer=_STRING),
    "multiple_choice": _object(question=_STRING, options=_OPTIONS, answer=_LETTER),
}
SCHEMAS = {
    name: _object(rounds={"type": "array", "items": items}) for name, items in _ROUNDS.items()
}
_MOST, _LONGEST = 100, 20_000  # objects looked at in a text; characters of one
_QUESTION = re.compile(r"[\"'“]question[\"'”]\s{0,4}:", re.IGNORECASE)
# An object that may be a round begins with a field of one, or with a number or a name of the
# model's own.
_OBJECT = re.compile(
    r"\{\s{0,40}[\"'“](?:(?:question|answer|options|choices)[\"'”]\s{0,4}:"
    r"|\w{1,20}[\"'”]\s{0,4}:\s{0,4}(?:\"[^\"\\]{0,40}\"|'[^'\\]{0,40}'|\d{1,4}))",
    re.IGNORECASE,
)
_TOKEN = re.compile(
    # a string ends at a quote before a sign of JSON: others stand in it unescaped
    r"(?P<string>\"(?:[^\"\\]|\\.|\"(?!\s{0,40}[,:}\]]))*+\""
    r"|'(?:[^'\\]|\\.|'(?!\s{0,40}[,:}\]]))*+'|“[^”]*+”)"
    r"|(?P<trailing>,(?=\s{0,40}[}\]]))|(?P<open>[{\[])|(?P<shut>[}\]])"
    r"|(?P<name>\b(?:None|True|False)\b)|[^\"'“{}\[\]]",
    re.DOTALL,
)
_ESCAPE = re.compile(r"\\([^\"\\/bfnrtu])|(\\.)|\"", re.DOTALL)
_NAMES = {"None": "null", "True": "true", "False": "false"}
_ALIASES = {"choices": "options", "correctanswer": "answer", "correctoption": "answer"}
_DECODER = json.JSONDecoder(strict=False)  # models write line breaks into strings


class JsonRound(NamedTuple):
    """Where a round stands in a text, and its fields; none for one that is cut short or broken."""

    start: int
    end: int
    fields: Mapping[str, Any]

    def words(self, name: str) -> str:
        """A field's text; "" if it holds none."""
        return _words(self.fields.get(name))

    def options(self) -> Options:
        """The options: an object by letters, a list, a text, or fields A to D of the round."""
        given = self.fields.get("options") or {
            name: self.fields[name] for name in "abcd" if name in self.fields
        }
        if not given:
            return (), "missing_options"
        if isinstance(given, str):
            return read_options(given)
        if isinstance(given, Mapping):
            by_letter = {name.strip().upper(): text for name, text in given.items()}
            # Five letters, or other ones, are no options of ours: guessing which to leave out
            # would make data of it.
            complete = by_letter.keys() == set(LETTERS)
            given = [by_letter[letter] for letter in LETTERS] if complete else []
        return read_listed(list(map(_words, given)) if isinstance(given, list) else [])


def _words(value: Any) -> str:
    text = str(value) if isinstance(value, str | int | float) else ""
    return text.encode("utf-8", "replace").decode().strip()  # escapes may hold half of a pair


def json_rounds(text: str) -> Iterator[JsonRound]:
    """The rounds of a text in their order: objects that hold a question."""
    begin = 0
    for _ in range(_MOST):
        mark = _OBJECT.search(text, begin)
        if not mark:
            return
        start, begin = mark.start(), mark.end()  # a round may lie within what is none
        fields, length = _read(text[start : start + _LONGEST])
        if "question" in fields:
            begin = start + length
            yield JsonRound(start, begin, fields)
        elif not fields:
            after = _OBJECT.search(text, begin)
            end = after.start() if after else len(text)
            if _QUESTION.search(text, start, end):
                begin = end
                yield JsonRound(start, end, {})


def _read(text: str) -> tuple[dict[str, Any], int]:
    """The object that a text begins with, its keys in lower case, and its length; or nothing."""
    try:
        value, end = _DECODER.raw_decode(text)
    except (ValueError, RecursionError):
        try:
            repaired, end = _repaired(text)
            value = _DECODER.decode(repaired)
        except (ValueError, RecursionError):
            return {}, 0
    fields = {re.sub(r"[\W_]", "", key).lower(): item for key, item in value.items()}
    for alias, name in _ALIASES.items():
        if alias in fields:
            fields.setdefault(name, fields[alias])
    return fields, end


def _repaired(text: str) -> tuple[str, int]:
    """An object in strict JSON, and where it ends in the text; "" if it does not end."""
    pieces, depth, at = list[str](), 0, 0
    while token := _TOKEN.match(text, at):
        at = token.end()
        depth += bool(token["open"]) - bool(token["shut"])
        if token["string"]:
            # A backslash that JSON does not know goes, a bare quote gets one.
            pieces.append(f'"{_ESCAPE.sub(_strict, token[0][1:-1])}"')
        elif not token["trailing"]:
            pieces.append(_NAMES.get(token[0], token[0]))
        if depth == 0:
            return "".join(pieces), at
    return "", at


def _strict(match: re.Match[str]) -> str:
    return match[1] or match[2] or '\\"'
