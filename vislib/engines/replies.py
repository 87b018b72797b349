"""What a server's reply means: an answer, a failure worth another try, a failure to keep, or the
end of the run.

Servers of this protocol, and proxies before them, send what they like: HTML or an error with status
200, choices that are no list. Nothing here trusts a type. The official client raises a class per
HTTP status; an error that is told in a reply is read like that.
"""

import email.utils
import json
import os
import re
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from vislib.engines import Answer
from vislib.engines.completions import as_dict, choice, failure, read_completion, short, used
from vislib.engines.limits import seconds
from vislib.runs.errors import InputError

# These may be billed all the same.
DOUBTFUL = frozenset({"disconnected", "timeout", "not_json", "no_choices", "oversized"})
RETRIED = DOUBTFUL | {"unreachable", "rate_limited", "server_error", "empty"}
SETTLED = ("content_filter", "length")  # the same request would fail again, and be paid again
_LONGEST_WAIT_S = 600.0
# How servers word it, in any case.
_FILTERED = (
    r"content.?filter|content.?policy|responsible.?ai.?policy|content management policy"
    r"|safety system|moderation|flagged|data_inspection_failed|prohibited.content"
)
_TOO_LONG = (
    r"context.?(?:length|window|size)|prompt is too long|input is too long|too long"
    r"|too many (?:\w+ )?tokens|longer than the m|reduce the length|max_model_len"
)
_NO_SCHEMA = r"response_format|json_schema|schema|structured"
_NOT_TAKEN = (
    r"unsupported|not support|n[o']t support|extra_forbidden|extra inputs|not permitted"
    r"|unrecognized|unknown|unexpected keyword|use '?max_tokens"
)
_LEFT_OUT = {"temperature": -1, "seed": 0, "reasoning_effort": "default"}
_STATUS_OF = {  # what errors without a number are called
    r"insufficient.?quota|billing|credit": 402,
    r"rate.?limit|too.?many.?requests|throttl": 429,
    r"authentication|auth.?error|unauthorized|invalid_api_key|credentials": 401,
    r"not.?found|unexpected endpoint": 404,
    r"invalid_request|bad.?request|context_length|content_filter|unsupported": 400,
}
_KEPT = "Then run again; all answers so far are kept"


class Oversized(Exception):
    """A reply longer than any answer."""


class Reply(NamedTuple):
    """What came of one attempt: the answer, the seconds that the server asks to wait, its
    headers.
    """

    answer: Answer
    wait: float | None
    headers: Mapping[str, str]


def _fits(pattern: str, text: str) -> bool:
    return re.search(pattern, text, re.IGNORECASE) is not None


def told_error(body: Any, url: str, headers: Mapping[str, str] | None = None) -> Any:
    """The client's error for one that a reply holds, whatever its HTTP status said; None if it
    holds none.

    The code in the body is the status. It stands in place of choices, or beside one that was cut.
    """
    body = as_dict(body)
    error = body.get("error") or as_dict(choice(body)).get("error")
    if not error:
        return None
    said = error if isinstance(error, dict) else {"message": str(error)}
    return status_error(_status(said), said, url, headers)


def status_error(
    status: int, said: Mapping[str, Any], url: str, headers: Mapping[str, str] | None = None
) -> Any:
    """The client's error for an HTTP status and what was said with it."""
    import httpx2
    import openai

    kept = ("retry-after", "x-ratelimit")  # the length and coding are those of another body
    told = {n: v for n, v in (headers or {}).items() if n.lower().startswith(kept)}
    request = httpx2.Request("POST", url if "://" in url else "file:///")
    reply = httpx2.Response(status, request=request, headers=told)
    return openai.APIStatusError(str(said.get("message") or said), response=reply, body=dict(said))


def _status(said: Mapping[str, Any]) -> int:
    """The HTTP status that an error in a body stands for."""
    for name in ("code", "status", "status_code"):
        if re.fullmatch(r"[45]\d\d", str(said.get(name))):
            return int(str(said[name]))
    words = " ".join(str(said.get(name) or "") for name in ("code", "type", "message"))[:1000]
    found = (status for sign, status in _STATUS_OF.items() if _fits(sign, words))
    # no sign of what it is: as a bad gateway, it is tried again
    return next(found, 502)


def settles(reason: str, detail: str) -> bool:
    """Whether a failure is about its request: the same one would fail again, and may be paid again.

    All other 400s may be the server's, as one that was started without pictures: it is mended, and
    asked again.
    """
    return reason in SETTLED or (reason == "refused" and _fits(_TOO_LONG, detail))


def read_body(content: bytes, url: str = "", headers: Mapping[str, str] | None = None) -> Answer:
    """The answer in the bytes of a reply with status 200. Raises the client's error for one that is
    told in it.
    """
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):  # half a body, HTML, a million brackets
        return failure("not_json", content[:1000].decode("utf-8", "replace"))
    if error := told_error(body, url, headers):
        error.used = used(body.get("usage"))  # half an answer is billed
        raise error
    return read_completion(body)


def read_error(
    error: Exception, *, url: str, model: str, heard: bool = False
) -> tuple[Answer, float | None]:
    """The failure that an exception stands for, and the seconds that the server asks to wait.

    Raises InputError for what no other request would survive: a wrong key, an unknown model, an
    empty account. A server that has answered before (`heard`) means one request alone with its 403
    or 404.
    """
    import openai

    if isinstance(error, openai.APIStatusError):
        reason = _status_reason(error)
        if reason != "content_filter" and (mend := _final(error, url, model, heard)):
            raise InputError(f"{url}: {error.status_code}, {short(error)}. {mend}. {_KEPT}")
        failed = failure(reason, error, f"{error.status_code} ")
        return replace(failed, **getattr(error, "used", {})), _retry_after(error.response.headers)
    # the client wraps what the HTTP library says, and only that tells sent from never sent
    cause = error.__cause__ or error
    if type(cause).__name__ in ("ConnectError", "ConnectTimeout"):
        return failure("unreachable", cause), None
    if isinstance(error, TimeoutError | openai.APITimeoutError):
        return failure("timeout", "no whole reply within timeout_s"), None
    if isinstance(cause, Oversized):
        return failure("oversized", cause), None
    if isinstance(error, openai.APIConnectionError):
        return failure("disconnected", cause), None
    if isinstance(error, ValueError | openai.APIError):
        return failure("not_json", error), None
    raise error


def other_words(error: Any, body: Mapping[str, Any], *, heard: bool) -> dict[str, str]:
    """Settings of `body` that a server refuses, and what it may call them instead ("": it does
    without).

    A server that has answered (`heard`) must name the setting; of another any 400 or 422 may be
    about it.
    """
    status = getattr(error, "status_code", 0)
    if status not in (400, 422):
        return {}
    said = _said(error)
    bound = "max_completion_tokens"
    schema = "response_format" in body
    if bound in body and not _fits(_TOO_LONG, said):
        # FastAPI servers name the field in a form that proxies drop
        unnamed = status == 422 and not heard and not schema
        if unnamed or (bound in said and _fits(_NOT_TAKEN, said)):
            return {bound: "max_tokens"}
    return {"response_format": ""} if schema and (not heard or _fits(_NO_SCHEMA, said)) else {}


def _said(error: Any) -> str:
    """All that an error says, of its reply or of its body."""
    return f"{error.response.text[:10_000]} {json.dumps(error.body, default=str)[:10_000]}"


def unreachable(urls: list[str], detail: str) -> InputError:
    """The error for servers that take no connection."""
    return InputError(
        f"base_url {' '.join(urls)}: no connection ({detail}). Start the server, or mend base_url"
        f" or OPENAI_BASE_URL. {_KEPT}"
    )


def refusing(urls: list[str], detail: str) -> InputError:
    """The error for servers that refuse every request for its rate."""
    return InputError(
        f"base_url {' '.join(urls)}: nothing but refusals ({detail}). Wait until the limit is over."
        f" {_KEPT}"
    )


def refused_key(model: str) -> str:
    """What to do where a server takes no request of ours; no key and a wrong one read apart."""
    if os.environ.get("OPENAI_API_KEY"):
        return f"The key in OPENAI_API_KEY is refused: set it to one that may use {model}"
    return (
        "No key was sent, since OPENAI_API_KEY is not set: set it in the environment to a key that"
        f" may use {model}"
    )


def _final(error: Any, url: str, model: str, heard: bool) -> str:
    """What the user must mend before any request can succeed; empty if others may."""
    status = error.status_code
    said = _said(error)
    # the same key and model were good a moment ago
    if status in (403, 404) and heard:
        return ""
    if status in (401, 403):
        return refused_key(model)
    if status == 404:
        return (
            f"Set model, now {model!r}, to one that {url}/models lists, or mend base_url (as a rule"
            " it ends in /v1)"
        )
    if status == 402 or error.code == "insufficient_quota":
        return "The account of OPENAI_API_KEY is used up: add credit"
    # providers name the setting in a code; others only in words
    known = error.code in ("unsupported_parameter", "unsupported_value")
    told = not heard and status in (400, 422) and _fits(_NOT_TAKEN, said)
    named = [name for name in _LEFT_OUT if name in said]
    if known or (told and named):
        mends = ", ".join(f"{name} {_LEFT_OUT[name]}" for name in named or _LEFT_OUT)
        return f"{model} refuses a setting: {mends} leaves it out"
    return ""


def _status_reason(error: Any) -> str:
    if error.status_code == 429:
        return "rate_limited"
    # 404 only of a server that has answered: one of its backends is missing
    if error.status_code in (404, 408, 409, 425) or error.status_code >= 500:
        return "server_error"
    return "content_filter" if _fits(_FILTERED, _said(error)) else "refused"


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds in a reply's retry-after-ms or Retry-After (a number, a duration, a date), at most
    ten minutes.
    """
    value = headers.get("retry-after", "")
    wait = seconds(f"{headers.get('retry-after-ms', '')}ms") or seconds(value)
    if wait is None and re.search(r"\d\d:\d\d", value):
        try:
            wait = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except ValueError:
            return None
    return min(wait, _LONGEST_WAIT_S) if wait is not None and wait >= 0 else None
