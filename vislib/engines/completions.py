"""What a chat completion holds: the answer alone if it ended well, else the reason why it is none.

Servers send what they like, so that nothing here trusts a type. An answer is one only if its end is
known to be good: whatever else a server calls it, and a new name too, means half an answer.
"""

import re
import unicodedata
from dataclasses import replace
from typing import Any

from vislib.engines import Answer, Json
from vislib.engines.thoughts import without_thoughts
from vislib.runs.redaction import redact

_MOST_TOKENS = 10**9  # a usage above is no number of tokens
# Reasons by the ends that servers give, "" for a whole answer, which may call tools if it has a
# text. The first that fits counts.
_ENDS = {
    "": r"|stop|eos|eos_token|stop_sequence|stop_str|end_turn|completed?"
    r"|tool_calls|function_call|tool_use",
    "length": r"length|max_tokens|max_output_tokens|max_length|model_length",
    "content_filter": r"(?s:.*)(filter|safety|recitation|prohibited|blocklist|spii|refus|guardrail"
    r"|sensitive)(?s:.*)",
    "server_error": r"error|abort|aborted|cancelled|canceled|timeout",
}
_MEND = "raise max_answer_tokens, lower reasoning_effort, or mend the server's reasoning parser"


def read_completion(body: Any) -> Answer:
    """The answer in the JSON of a chat completion; failed with a reason if unusable.

    Its text is the answer alone, without thoughts. An error in it is for `told_error` to find
    first.
    """
    if not isinstance(body, dict):
        return failure("not_json", body)
    # a failure is billed as an answer is: its tokens are kept too
    told: Json = {"model": clean(body.get("model")), **used(body.get("usage"))}
    if (first := choice(body)) is None:
        return replace(failure("no_choices", body.get("error") or ""), **told)
    message = as_dict(first.get("message"))
    finish = clean(first.get("finish_reason"))
    refusal = clean(message.get("refusal"))
    # servers without a reasoning parser leave the thoughts in the text
    raw = _text(message.get("content"))
    text = without_thoughts(raw)
    reason = bad_end(finish) or ("content_filter" if refusal else "")
    detail = f"finish_reason {finish}: {refusal or raw}"
    if not reason and not text:
        reason, detail = _why_empty(raw, message)
    answer = failure(reason, detail) if reason else Answer(text=text)
    return replace(answer, finish_reason=finish, **told)


def read_again(body: Json) -> Answer:
    """A journalled answer without thoughts: more of their marks may be known by now."""
    answer = Answer(**body)
    if text := without_thoughts(answer.text):
        return replace(answer, text=text)
    return failure("no_text", answer.text).plus(answer)


def bad_end(finish: str) -> str:
    """Why an answer that ended so is none: `length`, `content_filter`, `server_error`,
    `unfinished`; "" if it is.
    """
    end = finish.casefold()
    reasons = (reason for reason, ends in _ENDS.items() if re.fullmatch(ends, end))
    return next(reasons, "unfinished")


def _why_empty(raw: str, message: Json) -> tuple[str, str]:
    """Reason and detail of an answer without text: what else came would come again, silence may
    pass.
    """
    # names of the field by vLLM and DeepSeek, and by OpenRouter
    thoughts = _text(message.get("reasoning_content")) or _text(message.get("reasoning")) or raw
    if thoughts:
        return "no_text", f"nothing but reasoning; {_MEND}: {thoughts}"
    if message.get("tool_calls") or message.get("function_call"):
        return "no_text", "nothing but a call of a tool; serve the model without tools"
    return "empty", ""


def choice(body: Json) -> Json | None:
    """The first of a completion's choices, if it has one."""
    choices = body.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    return first if isinstance(first, dict) else None


def used(usage: Any) -> dict[str, int]:
    """Tokens of a reply's usage; what is no number of tokens counts 0."""
    usage = as_dict(usage)
    details = as_dict(usage.get("prompt_tokens_details"))
    tokens_in = _tokens(usage, "prompt_tokens")
    # servers that count anew at each turn have said more cached than sent
    cached = min(_tokens(details, "cached_tokens"), tokens_in)
    return {
        "tokens_in": tokens_in,
        "tokens_cached": cached,
        "tokens_written": min(_tokens(details, "cache_write_tokens"), tokens_in - cached),
        "tokens_out": _tokens(usage, "completion_tokens"),
    }


def _tokens(counts: Json, name: str) -> int:
    n = counts.get(name)
    return int(n) if isinstance(n, int | float) and 0 < n < _MOST_TOKENS else 0


def as_dict(value: Any) -> Json:
    """`value` if it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def _text(content: Any) -> str:
    """A message's text; some servers send it in parts, some of them thoughts."""
    if isinstance(content, list):
        # parts of type thinking or reasoning are no part of the answer
        kinds = ("text", "output_text")
        parts = (part for part in map(as_dict, content) if part.get("type", "text") in kinds)
        content = "".join(clean(part.get("text")) for part in parts)
    return clean(content).strip()


def clean(value: Any) -> str:
    """`value` if it is text, in composed form (NFC); half characters (an emoji cut in two) cannot
    be stored.
    """
    whole = value.encode("utf-8", "replace").decode() if isinstance(value, str) else ""
    return unicodedata.normalize("NFC", whole)


def failure(reason: str, value: Any) -> Answer:
    """A failed answer with what `value` (a text, an error) says as its detail."""
    return Answer(status="failed", reason=reason, detail=short(value))


def short(value: Any) -> str:
    """One line of at most 200 characters, without the pixels or the key that some servers send
    back.
    """
    # cut before the patterns run: an error page may have megabytes
    text = re.sub(r"data:image[^\s\"']*", "data:image…", str(value)[:20_000])
    return redact(" ".join(clean(text).split()))[:200]
