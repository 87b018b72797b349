"""What a chat completion holds: the answer alone if it ended well, else the reason why it is none.

Servers send what they like, so that nothing here trusts a type. An answer is one only if its end is
known to be good: whatever else a server calls it, and a new name too, means half an answer.
"""

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from vislib.engines import Answer
from vislib.engines.thoughts import without_thoughts
from vislib.runs.redaction import redact

_MOST_TOKENS = 10**9  # a usage above is no number of tokens
# Ends of a whole answer, as servers call them; any other, and no end is a new one, cuts it.
_GOOD_ENDS = frozenset(
    (
        "",
        "stop",
        "eos",
        "eos_token",
        "stop_sequence",
        "stop_str",
        "end_turn",
        "complete",
        "completed",
    )
)
_TOOL_ENDS = frozenset(("tool_calls", "function_call", "tool_use"))  # good where there is a text
_CUT_ENDS = frozenset(("length", "max_tokens", "max_output_tokens", "max_length", "model_length"))
_BROKEN_ENDS = frozenset(("error", "abort", "aborted", "cancelled", "canceled", "timeout"))
_FILTER_ENDS = r"filter|safety|recitation|prohibited|blocklist|spii|refus|guardrail|sensitive"


def read_completion(body: Any) -> Answer:
    """The answer in the JSON of a chat completion; failed with a reason if unusable.

    Its text is the answer alone, without thoughts. An error in it is for `told_error` to find
    first.
    """
    if not isinstance(body, dict):
        return failure("not_json", body)
    taken, model = used(body.get("usage")), clean(body.get("model"))
    if (first := choice(body)) is None:
        return Answer(
            status="failed",
            reason="no_choices",
            model=model,
            detail=short(body.get("error") or ""),
            **taken,
        )
    message: Any = first.get("message")
    message = message if isinstance(message, dict) else {}
    finish, refusal = clean(first.get("finish_reason")), clean(message.get("refusal"))
    raw = _text(message.get("content"))
    text = without_thoughts(raw)[0].strip()
    reason, detail = bad_end(finish), refusal or raw
    if not reason and refusal:
        reason = "content_filter"
    elif not reason and not text:
        reason, detail = _why_empty(raw, message)
    detail = (
        f"finish_reason {finish}: {detail}"
        if reason not in ("", "empty", "no_text") and finish
        else detail
    )
    return Answer(
        text="" if reason else text,
        model=model,
        finish_reason=finish,
        **taken,
        status="failed" if reason else "ok",
        reason=reason,
        detail=short(detail) if reason else "",
    )


def read_again(body: Mapping[str, Any]) -> Answer:
    """A journalled answer by the rules above: they may have come after it."""
    answer = Answer(**body)
    text = without_thoughts(answer.text)[0].strip()
    reason = bad_end(answer.finish_reason) or ("" if text else "no_text")
    if not reason:
        return replace(answer, text=text)
    detail = f"finish_reason {answer.finish_reason}: {short(answer.text)}"
    return replace(answer, text="", status="failed", reason=reason, detail=detail)


def bad_end(finish: str) -> str:
    """Why an answer that ended so is none: `length`, `content_filter`, `server_error`,
    `unfinished`; "" if it is.
    """
    end = finish.casefold()
    if end in _GOOD_ENDS | _TOOL_ENDS:
        return ""
    if end in _CUT_ENDS:
        return "length"
    if re.search(_FILTER_ENDS, end):
        return "content_filter"
    return "server_error" if end in _BROKEN_ENDS else "unfinished"


def _why_empty(raw: str, message: Mapping[str, Any]) -> tuple[str, str]:
    """Reason and detail of an answer without text: what else came would come again, silence may
    pass.
    """
    thoughts = next(
        (t for n in ("reasoning_content", "reasoning") if (t := _text(message.get(n)))), raw
    )
    if thoughts:
        mend = (
            "raise max_answer_tokens, lower reasoning_effort, or mend the server's reasoning parser"
        )
        return "no_text", f"nothing but reasoning; {mend}: {thoughts}"
    if message.get("tool_calls") or message.get("function_call"):
        return "no_text", "nothing but a call of a tool; serve the model without tools"
    return "empty", ""


def choice(body: Mapping[str, Any]) -> dict[str, Any] | None:
    """The first of a completion's choices, if it has one."""
    choices = body.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    return first if isinstance(first, dict) else None


def used(usage: Any) -> dict[str, Any]:
    """Tokens of a reply's usage; what is no number of tokens counts 0."""
    usage = usage if isinstance(usage, dict) else {}
    details = usage.get("prompt_tokens_details")
    details = details if isinstance(details, dict) else {}
    values = {
        "tokens_in": usage.get("prompt_tokens"),
        "tokens_out": usage.get("completion_tokens"),
        "tokens_cached": details.get("cached_tokens"),
        "tokens_written": details.get("cache_write_tokens"),
    }
    counted = {
        to: int(n) if isinstance(n, int | float) and 0 < n < _MOST_TOKENS else 0
        for to, n in values.items()
    }
    cached = min(counted["tokens_cached"], counted["tokens_in"])
    written = min(counted["tokens_written"], counted["tokens_in"] - cached)
    return counted | {"tokens_cached": cached, "tokens_written": written}


def _text(content: Any) -> str:
    """A message's text; some servers send it in parts, some of them thoughts."""
    if isinstance(content, list):
        parts = [part for part in content if isinstance(part, dict)]
        content = "".join(
            clean(part.get("text"))
            for part in parts
            if part.get("type", "text") in ("text", "output_text")
        )
    return clean(content).strip()


def clean(value: Any) -> str:
    """`value` if it is text, in composed form (NFC); half characters (an emoji cut in two) cannot
    be stored.
    """
    whole = value.encode("utf-8", "replace").decode() if isinstance(value, str) else ""
    return unicodedata.normalize("NFC", whole)


def failure(reason: str, value: Any, prefix: str = "") -> Answer:
    """A failed answer with what `value` (a text, an error) says as its detail."""
    return Answer(status="failed", reason=reason, detail=prefix + short(value))


def short(value: Any) -> str:
    """One line of at most 200 characters, without the pixels or the key that some servers send
    back.
    """
    body = getattr(value, "body", None)
    said = body.get("message") if isinstance(body, dict) else None
    text = re.sub(
        r"data:image[^\s\"']*",
        "data:image…",
        str(said or getattr(value, "message", value))[:20_000],
    )
    return redact(" ".join(clean(text).split()))[:200]
