"""What the lines of a batch's results say: the provider's, or those of `vllm run-batch`
(VisCon-100K, section 3.2).
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vislib.engines import Answer
from vislib.engines.completions import read_completion
from vislib.engines.replies import read_error, status_error, told_error

_NEVER_RUN = ("batch_expired", "batch_cancelled", "request_timeout")


def read_results(path: Path, odd: list[str]) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Number, custom_id and result of each line; nothing from a file of requests. What is no result
    goes to `odd`.
    """
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                result = json.loads(line)
                key, is_request = str(result["custom_id"]), "method" in result
            except (ValueError, TypeError, KeyError, RecursionError):
                odd.append(f"{path.name} line {number} is no result")
                continue
            if is_request:
                return
            yield number, key, result


def read_result(result: dict[str, Any], *, url: str, model: str) -> Answer:
    """The answer in a result, its failures named as the live engine names them.

    Raises InputError, as that does, for what no other request would survive.
    """
    response, error = result.get("response"), result.get("error")
    response = response if isinstance(response, dict) else {}
    status, body = response.get("status_code"), response.get("body")
    if status == 200 and body:
        told = told_error(body, url)
        return read_error(told, url=url, model=model)[0] if told else read_completion(body)
    parts = [part.get("error") or part for part in (body, error) if isinstance(part, dict)]
    said = next(
        (part for part in parts if isinstance(part, dict)),
        {"message": str(error or body or "no word why")},
    )
    if not isinstance(status, int) or status < 400:  # it never came to the model
        reason = said["code"] if said.get("code") in _NEVER_RUN else "server_error"
        return Answer(
            status="failed", reason=reason, detail=str(said.get("message") or reason)[:200]
        )
    return read_error(status_error(status, said, url), url=url, model=model)[0]
