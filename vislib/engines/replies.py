"""What a server's reply means: an answer, a failure worth another try, a failure to keep, or the end of the run.

The official client raises a class per HTTP status; a reply that is no JSON reaches us as a plain ValueError or
as text, one without choices as an object whose fields are None.
"""

import email.utils
import re
import time
from typing import Any

from vislib.engines import Answer
from vislib.runs.errors import InputError
from vislib.runs.redaction import redact

DOUBTFUL = frozenset({"disconnected", "timeout", "not_json", "no_choices"})  # may be billed all the same
RETRIED = DOUBTFUL | {"unreachable", "rate_limited", "server_error", "empty"}
_LONGEST_WAIT_S = 600.0
_FILTERED = ("content_filter", "content_policy_violation")
_KEPT = "Then run again; all answers so far are kept"


def read_completion(completion: Any) -> Answer:
    """The answer in a chat completion; `status` failed with a reason when it cannot be used."""
    if not hasattr(completion, "choices"):
        return _failure("not_json", completion)
    usage = getattr(completion, "usage", None)
    model = str(getattr(completion, "model", None) or "")
    used = [getattr(usage, name, 0) or 0 for name in ("prompt_tokens", "completion_tokens")]
    if not completion.choices:
        return Answer(status="failed", reason="no_choices", model=model, tokens_in=used[0], tokens_out=used[1])
    choice = completion.choices[0]
    finish, refusal = choice.finish_reason or "", getattr(choice.message, "refusal", None) or ""
    text = (getattr(choice.message, "content", None) or "").strip()
    reason = finish if finish in ("content_filter", "length") else ""
    reason = reason or ("content_filter" if refusal else "" if text else "empty")
    return Answer(
        text="" if reason else text, model=model, finish_reason=finish, tokens_in=used[0], tokens_out=used[1],
        status="failed" if reason else "ok", reason=reason, detail=_short(refusal or text) if reason else "",
    )  # fmt: skip


def read_error(error: Exception, *, url: str, model: str) -> tuple[Answer, float | None]:
    """The failure that an exception stands for, and the seconds that the server asks to wait.

    Raises InputError for what no other request would survive: a wrong key, an unknown model, an empty account.
    """
    import openai

    if isinstance(error, openai.APIStatusError):
        if mend := _final(error, url, model):
            raise InputError(f"{url}: {error.status_code}, {_short(error)}. {mend}. {_KEPT}")
        return _failure(_status_reason(error), error, f"{error.status_code} "), _retry_after(error)
    if isinstance(error, openai.APITimeoutError):
        return _failure("timeout", error), None
    if isinstance(error, openai.APIConnectionError):
        refused = type(error.__cause__).__name__ in ("ConnectError", "ConnectTimeout")
        return _failure("unreachable" if refused else "disconnected", error.__cause__ or error), None
    if isinstance(error, ValueError | openai.APIError):
        return _failure("not_json", error), None
    raise error


def unreachable(urls: list[str], detail: str) -> InputError:
    """The error for servers that take no connection."""
    return InputError(
        f"base_url {' '.join(urls)}: no connection ({detail}). Start the server, or mend base_url or "
        f"OPENAI_BASE_URL. {_KEPT}"
    )


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
    if error.status_code in (408, 409, 425) or error.status_code >= 500:
        return "server_error"
    return "content_filter" if error.code in _FILTERED else "refused"


def _retry_after(error: Any) -> float | None:
    """Seconds in the reply's Retry-After (a number or a date), at most ten minutes."""
    value = error.response.headers.get("retry-after", "")
    try:
        seconds = float(value)
    except ValueError:
        date = email.utils.parsedate_to_datetime(value) if re.search(r"\d\d:\d\d", value) else None
        seconds = date.timestamp() - time.time() if date else -1.0
    return min(seconds, _LONGEST_WAIT_S) if seconds >= 0 else None


def _failure(reason: str, value: Any, prefix: str = "") -> Answer:
    return Answer(status="failed", reason=reason, detail=prefix + _short(value))


def _short(value: Any) -> str:
    """One line of at most 200 characters, without the pixels or the key that some servers send back."""
    body = getattr(value, "body", None)
    said = body.get("message") if isinstance(body, dict) else None
    text = re.sub(r"data:image[^\s\"']*", "data:image…", str(said or getattr(value, "message", value)))
    return redact(" ".join(text.split()))[:200]
