"""Where a provider shall cache a prompt: behind the instructions that all requests share
(VisCon-100K, section 3.3).

Since gpt-5.6 OpenAI finds the beginning of a prompt again only up to a breakpoint, and charges a
quarter more for what is written to its cache. Left to itself it sets the breakpoint behind the last
message, where each of our requests differs: all is written, and nothing is ever read.
"""

from collections.abc import Sequence
from typing import Any

from vislib.engines import Request
from vislib.engines.billing import caching_of


def with_breakpoint(
    body: dict[str, Any], request: Request, *, urls: Sequence[str]
) -> dict[str, Any]:
    """`body` with a breakpoint behind what all requests share and nowhere else; as it is for any
    other provider.
    """
    if [*urls] != [caching_of(body["model"]).get("marked_at")]:
        return body
    *before, last = body["messages"]
    parts = (
        last["content"]
        if isinstance(last["content"], list)
        else [{"type": "text", "text": last["content"]}]
    )
    head, tail = request.prompt[: request.shared], request.prompt[request.shared :]
    marked = {"type": "text", "text": head, "prompt_cache_breakpoint": {"mode": "explicit"}}
    texts = [marked, *([{"type": "text", "text": tail}] if tail else [])] if head else parts[:1]
    messages = [*before, last | {"content": [*texts, *parts[1:]]}]
    return body | {"messages": messages, "prompt_cache_options": {"mode": "explicit"}}
