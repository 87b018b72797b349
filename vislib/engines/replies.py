"""What a server's reply means: an answer, a failure worth another try, a failure to keep, or the end of the run.

Servers of this protocol, and proxies before them, send what they like: HTML with status 200, choices that are no
list, usage that is no number. Nothing here trusts a type. The official client raises a class per HTTP status.
"""

import email.utils
import json
import re
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from vislib.engines import Answer
from vislib.engines.limits import seconds
from vislib.runs.errors import InputError
from vislib.runs.redaction import redact

DOUBTFUL = frozenset({"disconnected", "timeout", "not_json", "no_choices", "oversized"})  # may be billed all the same
RETRIED = DOUBTFUL | {"unreachable", "rate_limited", "server_error", "empty"}
_LONGEST_WAIT_S = 600.0
_MOST_TOKENS = 10**9  # a usage above is no number of tokens
_FILTERED = ("content_filter", "content_policy_violation")
_NO_SCHEMA = r"response_format|json_schema|schema|structured"
_KEPT = "Then run again; all answers so far are kept"


class Oversized(Exception):
    """A reply longer than any answer."""


class Reply(NamedTuple):
    """What came of one attempt: the answer, the seconds that the server asks to wait, its headers."""

    answer: Answer
    wait: float | None
    headers: Mapping[str, str]


def read_completion(completion: Any) -> Answer:
    """The answer in a chat completion (its JSON, or the client's object); failed with a reason if unusable."""
    body = completion.model_dump() if hasattr(completion, "model_dump") else completion
    if not isinstance(body, dict):
        return _failure("not_json", body)
    used, model = _used(body.get("usage")), _clean(body.get("model"))
    choices = body.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(choice, dict):
        return Answer(status="failed", reason="no_choices", model=model, detail=_short(body.get("error") or ""), **used)
    message: Any = choice.get("message")
    message = message if isinstance(message, dict) else {}
    finish, refusal = _clean(choice.get("finish_reason")), _clean(message.get("refusal"))
    text = _text(message.get("content"))
    reason = finish if finish in ("content_filter", "length") else ""
    reason = reason or ("content_filter" if refusal else "" if text else "empty")
    return Answer(
        text="" if reason else text, model=model, finish_reason=finish, **used,
        status="failed" if reason else "ok", reason=reason, detail=_short(refusal or text) if reason else "",
    )  # fmt: skip


def read_body(content: bytes) -> Answer:
    """The answer in the bytes of a reply with status 200."""
    try:
        return read_completion(json.loads(content))
    except (ValueError, RecursionError):  # half a body, HTML, a million brackets
        return _failure("not_json", content[:1000].decode("utf-8", "replace"))


def read_error(error: Exception, *, url: str, model: str, heard: bool = False) -> tuple[Answer, float | None]:
    """The failure that an exception stands for, and the seconds that the server asks to wait.

    Raises InputError for what no other request would survive: a wrong key, an unknown model, an empty account. A
    server that has answered before (`heard`) means one request alone with its 403 or 404.
    """
    import openai

    if isinstance(error, openai.APIStatusError):
        passing = heard and error.status_code in (403, 404)
        if not passing and (mend := _final(error, url, model)):
            raise InputError(f"{url}: {error.status_code}, {_short(error)}. {mend}. {_KEPT}")
        return _failure(_status_reason(error), error, f"{error.status_code} "), _retry_after(error.response.headers)
    cause = error.__cause__ or error
    if type(cause).__name__ in ("ConnectError", "ConnectTimeout"):
        return _failure("unreachable", cause), None
    if isinstance(error, TimeoutError | openai.APITimeoutError):
        return _failure("timeout", "no whole reply within timeout_s"), None
    if isinstance(cause, Oversized):
        return _failure("oversized", cause), None
    if isinstance(error, openai.APIConnectionError):
        return _failure("disconnected", cause), None
    if isinstance(error, ValueError | openai.APIError):
        return _failure("not_json", error), None
    raise error


def refuses_schema(error: Exception, *, named: bool) -> bool:
    """Whether a server may refuse a JSON schema, or this one; `named`: only if it says so."""
    response: Any = getattr(error, "response", None)
    refused = getattr(error, "status_code", 0) in (400, 422)
    return refused and (not named or re.search(_NO_SCHEMA, response.text[:10_000], re.IGNORECASE) is not None)


def unreachable(urls: list[str], detail: str) -> InputError:
    """The error for servers that take no connection."""
    return InputError(
        f"base_url {' '.join(urls)}: no connection ({detail}). Start the server, or mend base_url or "
        f"OPENAI_BASE_URL. {_KEPT}"
    )


def refusing(urls: list[str], detail: str) -> InputError:
    """The error for servers that refuse every request for its rate."""
    return InputError(
        f"base_url {' '.join(urls)}: nothing but refusals ({detail}). Wait until the limit is over. {_KEPT}"
    )


def _used(usage: Any) -> dict[str, Any]:
    """Tokens of a reply's usage; what is no number of tokens counts 0."""
    usage = usage if isinstance(usage, dict) else {}
    details = usage.get("prompt_tokens_details")
    details = details if isinstance(details, dict) else {}
    values = {
        "tokens_in": usage.get("prompt_tokens"), "tokens_out": usage.get("completion_tokens"),
        "tokens_cached": details.get("cached_tokens"), "tokens_written": details.get("cache_write_tokens"),
    }  # fmt: skip
    used = {to: int(n) if isinstance(n, int | float) and 0 < n < _MOST_TOKENS else 0 for to, n in values.items()}
    cached = min(used["tokens_cached"], used["tokens_in"])
    return used | {"tokens_cached": cached, "tokens_written": min(used["tokens_written"], used["tokens_in"] - cached)}


def _text(content: Any) -> str:
    """A message's text; some servers send it in parts."""
    if isinstance(content, list):
        content = "".join(_clean(part.get("text")) for part in content if isinstance(part, dict))
    return _clean(content).strip()


def _clean(value: Any) -> str:
    """`value` if it is text, half characters (an emoji cut in two) replaced: they cannot be stored."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else ""


def _final(error: Any, url: str, model: str) -> str:
    """What the user must mend before any request can succeed; empty if others may."""
    if error.status_code in (401, 403):
        return f"Set OPENAI_API_KEY in the environment to a key that may use {model}"
    if error.status_code == 404:
        return f"Set model, now {model!r}, to one that {url}/models lists, or mend base_url (as a rule it ends in /v1)"
    if error.status_code == 402 or error.code == "insufficient_quota":
        return "The account of OPENAI_API_KEY is used up: add credit"
    if error.code in ("unsupported_parameter", "unsupported_value"):
        return f"{model} refuses a setting: temperature -1, seed 0 and reasoning_effort default leave theirs out"
    return ""


def _status_reason(error: Any) -> str:
    if error.status_code == 429:
        return "rate_limited"
    if error.status_code in (404, 408, 409, 425) or error.status_code >= 500:
        return "server_error"
    return "content_filter" if error.code in _FILTERED else "refused"


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds in a reply's retry-after-ms or Retry-After (a number, a duration, a date), at most ten minutes."""
    value = headers.get("retry-after", "")
    wait = seconds(f"{headers.get('retry-after-ms', '')}ms") or seconds(value)
    if wait is None and re.search(r"\d\d:\d\d", value):
        try:
            wait = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except ValueError:
            return None
    return min(wait, _LONGEST_WAIT_S) if wait is not None and wait >= 0 else None


def _failure(reason: str, value: Any, prefix: str = "") -> Answer:
    return Answer(status="failed", reason=reason, detail=prefix + _short(value))


def _short(value: Any) -> str:
    """One line of at most 200 characters, without the pixels or the key that some servers send back."""
    body = getattr(value, "body", None)
    said = body.get("message") if isinstance(body, dict) else None
    text = re.sub(r"data:image[^\s\"']*", "data:image…", str(said or getattr(value, "message", value))[:20_000])
    return redact(" ".join(_clean(text).split()))[:200]
