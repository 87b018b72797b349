"""What a server's reply means: an answer, a failure worth another try, a failure to keep, or the
end of the run.

Servers of this protocol, and proxies before them, send what they like: HTML or an error with status
200, choices that are no list. Nothing here trusts a type. An error counts the same whether its HTTP
status says so or its body alone.
"""

import email.utils
import json
import os
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, NamedTuple

from vislib.engines import Answer, Json
from vislib.engines.completions import as_dict, choice, failure, read_completion, short, used
from vislib.engines.limits import seconds
from vislib.runs import InputError

# These may be billed all the same.
DOUBTFUL = frozenset({"disconnected", "timeout", "not_json", "no_choices"})
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
# What the provider calls lines of a batch that never came to the model; it bills none of them.
NEVER_RUN = ("batch_expired", "batch_cancelled", "request_timeout")
SILENT = {
    "unreachable": "no connection ({}). Start the server, or mend base_url or OPENAI_BASE_URL",
    "rate_limited": "nothing but refusals ({}). Wait until the limit is over",
}
_KEPT = "Then run again; all answers so far are kept"


class Reply(NamedTuple):
    """What came of one attempt: the answer, and the headers that came with it."""

    answer: Answer
    headers: Mapping[str, str] = {}

    @property
    def wait(self) -> float | None:
        """Seconds that the server asks to wait, in retry-after-ms or Retry-After (a number, a
        duration, a date), at most ten minutes.
        """
        value = self.headers.get("retry-after", "")
        wait = seconds(f"{self.headers.get('retry-after-ms', '')}ms") or seconds(value)
        if wait is None and re.search(r"\d\d:\d\d", value):
            with suppress(ValueError):
                wait = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        return min(wait, _LONGEST_WAIT_S) if wait is not None and wait >= 0 else None


class ServerError(Exception):
    """An error that a server told: the status it stands for, and all that was said with it."""

    def __init__(self, status: int, said: Any, tokens: Mapping[str, Any] = {}) -> None:
        super().__init__(str(as_dict(said).get("message") or said))
        self.status = status
        self.code = as_dict(said).get("code")
        self.said = json.dumps(said, default=str)[:10_000]
        self.tokens = tokens  # half an answer is billed


def _fits(pattern: str, text: str) -> bool:
    return re.search(pattern, text, re.IGNORECASE) is not None


def told_error(body: Any) -> ServerError | None:
    """The error that a reply holds, whatever its HTTP status said; None if it holds none.

    The code in the body is the status. It stands in place of choices, or beside one that was cut.
    """
    body = as_dict(body)
    if not (error := body.get("error") or as_dict(choice(body)).get("error")):
        return None
    return ServerError(_status(error), error, used(body.get("usage")))


def _status(error: Any) -> int:
    """The HTTP status that an error in a body stands for."""
    said = as_dict(error) or {"message": error}
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


def read_body(content: bytes) -> Answer:
    """The answer in the bytes of a reply with status 200. Raises ServerError for one that is told
    in it.
    """
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):  # half a body, HTML, a million brackets
        return failure("not_json", content[:1000].decode("utf-8", "replace"))
    if error := told_error(body):
        raise error
    return read_completion(body)


def read_result(result: Json, *, url: str, model: str) -> Answer:
    """The answer in a line of the provider's results, or of `vllm run-batch`; its failures are
    named as the live engine names them.

    Raises InputError, as that does, for what no other request would survive.
    """
    response = as_dict(result.get("response"))
    status = response.get("status_code")
    body = response.get("body")
    # a failure may be told in a whole reply, as live servers do
    error = told_error(body) if status == 200 else None
    if status == 200 and body and not error:
        return read_completion(body)
    # vLLM's error is a text beside a body that is none
    said = as_dict(body).get("error") or body or result.get("error") or "no word why"
    if not error and isinstance(status, int) and status >= 400:
        error = ServerError(status, said)
    if not error:  # it never came to the model
        code = as_dict(said).get("code")
        return failure(code if code in NEVER_RUN else "server_error", ServerError(0, said))
    return read_error(error, url=url, model=model)


def client_error(error: Exception) -> Exception:
    """An error of the official client as `ServerError`, if a server told it."""
    import openai

    if not isinstance(error, openai.APIStatusError):
        return error
    return ServerError(error.status_code, error.body)


def read_error(error: Exception, *, url: str, model: str, heard: bool = False) -> Answer:
    """The failure that an exception stands for.

    Raises InputError for what no other request would survive: a wrong key, an unknown model, an
    empty account. A server that has answered before (`heard`) means one request alone with its 403
    or 404.
    """
    import openai

    error = client_error(error)
    if isinstance(error, ServerError):
        reason = _reason(error)
        if reason != "content_filter" and (mend := _final(error, url, model, heard)):
            raise InputError(f"{url}: {error.status}, {short(error)}. {mend}. {_KEPT}")
        return replace(failure(reason, f"{error.status} {error}"), **error.tokens)
    # the client wraps what the HTTP library says, and only that tells sent from never sent
    cause = error.__cause__ or error
    if type(cause).__name__ in ("ConnectError", "ConnectTimeout"):
        return failure("unreachable", cause)
    if isinstance(error, TimeoutError | openai.APITimeoutError):
        return failure("timeout", "no whole reply within timeout_s")
    if isinstance(error, openai.APIConnectionError):
        return failure("disconnected", cause)
    if isinstance(error, ValueError | openai.APIError):
        return failure("not_json", error)
    raise error


def other_words(error: Exception, body: Json, *, heard: bool) -> dict[str, str]:
    """Settings of `body` that a server refuses, and what it may call them instead ("": it does
    without).

    A server that has answered (`heard`) must name the setting; of another any 400 or 422 may be
    about it.
    """
    if not isinstance(error, ServerError) or error.status not in (400, 422):
        return {}
    bound = "max_completion_tokens"
    schema = "response_format" in body
    if bound in body and not _fits(_TOO_LONG, error.said):
        # FastAPI servers name the field in a form that proxies drop
        unnamed = error.status == 422 and not heard and not schema
        if unnamed or (bound in error.said and _fits(_NOT_TAKEN, error.said)):
            return {bound: "max_tokens"}
    named = schema and (not heard or _fits(_NO_SCHEMA, error.said))
    return {"response_format": ""} if named else {}


def silent(reason: str, urls: list[str], detail: str) -> InputError:
    """The error for servers that give no answer at all, for one of the reasons in `SILENT`."""
    return InputError(f"base_url {' '.join(urls)}: {SILENT[reason].format(detail)}. {_KEPT}")


def refused_key(model: str) -> str:
    """What to do where a server takes no request of ours; no key and a wrong one read apart."""
    if os.environ.get("OPENAI_API_KEY"):
        return f"The key in OPENAI_API_KEY is refused: set it to one that may use {model}"
    return (
        "No key was sent, since OPENAI_API_KEY is not set: set it in the environment to a key that"
        f" may use {model}"
    )


def _final(error: ServerError, url: str, model: str, heard: bool) -> str:
    """What the user must mend before any request can succeed; empty if others may."""
    status = error.status
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
    told = not heard and status in (400, 422) and _fits(_NOT_TAKEN, error.said)
    named = [name for name in _LEFT_OUT if name in error.said]
    if known or (told and named):
        mends = ", ".join(f"{name} {_LEFT_OUT[name]}" for name in named or _LEFT_OUT)
        return f"{model} refuses a setting: {mends} leaves it out"
    return ""


def _reason(error: ServerError) -> str:
    if error.status == 429:
        return "rate_limited"
    # 404 only of a server that has answered: one of its backends is missing
    if error.status in (404, 408, 409, 425) or error.status >= 500:
        return "server_error"
    return "content_filter" if _fits(_FILTERED, error.said) else "refused"
