"""What asking costs: spent, reserved for answers under way, and what may have been billed; and what
is sent so that a provider's cache makes it cheaper (VisCon-100K, section 3.3).

Providers bill per token, images included. What a request takes is known when its answer is there;
until then its upper bound counts.
"""

from collections.abc import Sequence
from datetime import date
from threading import Lock
from typing import Any

from vislib.engines import Answer, Request
from vislib.engines.billing import caching_of, rule_of, scaled_size
from vislib.runs.errors import InputError

_FRAME_TOKENS = 256  # that a server's chat template may add
# Of the first image, if no rule is known; from then on the largest input that was seen.
_IMAGE_TOKENS = 1500


class Budget:
    """The prices in `params` times `share`, and a hard ceiling in USD (0: none).

    Below the ceiling stay what is spent, what is reserved for answers under way, and what may have
    been billed.
    """

    def __init__(self, params: Any, *, share: float = 1.0) -> None:
        self.ceiling = float(params.max_spend_usd)
        usd_in = params.usd_per_million_input_tokens
        usd_out = params.usd_per_million_output_tokens
        if self.ceiling and not (usd_in and usd_out):
            raise InputError(
                f"max_spend_usd is {self.ceiling:g}, but the prices are {usd_in:g} and"
                f" {usd_out:g}; set both usd_per_million_input_tokens and"
                " usd_per_million_output_tokens to the model's"
            )
        self.priced = bool(usd_in + usd_out)
        self.prices_of = _day(getattr(params, "prices_of", ""))
        usd_cached = params.usd_per_million_cached_tokens
        usd_written = usd_in * caching_of(params.model).get("write", 1.0)
        # below 0: no price of its own; what is read from a cache then costs as other input
        prices = (usd_in, usd_in if usd_cached < 0 else usd_cached, usd_written, usd_out)
        self._prices = [share * float(price) / 1e6 for price in prices]
        self.spent = self.reserved = self.doubtful = 0.0
        self._lock = Lock()  # reserving and risking happen in two threads
        self.proven = not self.ceiling  # whether an answer has shown what a request costs
        self.rule = rule_of(params)
        self._image_tokens = _IMAGE_TOKENS
        self._dearest = 0.0

    def cost(
        self, tokens_in: int, tokens_out: int, tokens_cached: int = 0, tokens_written: int = 0
    ) -> float:
        """USD of so many tokens; those read from the server's cache and those written to it are
        part of `tokens_in`.
        """
        plain = tokens_in - tokens_cached - tokens_written
        of_in, of_cached, of_written, of_out = self._prices
        cached = tokens_cached * of_cached + tokens_written * of_written
        return plain * of_in + cached + tokens_out * of_out

    def image_tokens(self, request: Request) -> int:
        """What the request's image is billed: by the model's rule, else the largest input that was
        seen.
        """
        if not request.image_id:
            return 0
        if self.rule is None or min(request.image_size) < 1:
            return self._image_tokens
        return self.rule.tokens(*scaled_size(*request.image_size, request.image_side))

    def tokens(self, request: Request) -> int:
        """Upper bound of a request's input tokens: no tokenizer makes more tokens than there are
        bytes.
        """
        return text_bytes(request) + _FRAME_TOKENS + self.image_tokens(request)

    def bound(self, request: Request) -> float:
        """Upper bound of a request's cost in USD."""
        tokens = self.tokens(request)
        # a write to the cache may cost more than plain input, or less
        plain = self.cost(tokens, request.max_tokens)
        written = self.cost(tokens, request.max_tokens, 0, tokens)
        return max(self._dearest, plain, written)

    def reserve(self, usd: float) -> bool:
        """Set `usd` aside, unless that could pass the ceiling."""
        with self._lock:
            if not self._allows(usd):
                return False
            self.reserved += usd
            return True

    def settle(self, usd: float, answer: Answer | None) -> None:
        """Replace a reservation by what the answer cost; by itself if the server reports no tokens.

        An answer that cost more than was reserved is from then on the least that any request is
        thought to cost.
        """
        self.reserved -= usd
        if answer is not None:
            # counted as its bound: a server that tells nothing must not pass the ceiling unseen
            self.spent += usd if answer.status == "ok" and not answer.tokens_in else answer.usd
            # no rule is known for it: the dearest input so far is the safest guess of the next
            self._image_tokens = max(self._image_tokens, answer.tokens_in)
            self._dearest = max(self._dearest, answer.usd if answer.usd > usd else 0.0)
            self.proven = True

    def risk(self, usd: float) -> bool:
        """Count an attempt that failed after it was sent, as billed; whether another stays within
        the ceiling.
        """
        with self._lock:
            self.doubtful += usd
            return self._allows(0.0)

    def exhausted(self, usd: float) -> InputError:
        """The error when `usd` more could pass the ceiling."""
        return InputError(
            f"max_spend_usd is {self.ceiling:g}: {self.spent + self.doubtful:.4f} is spent and the"
            f" next request may cost up to {usd:.4f}. Raise max_spend_usd to go on; all answers so"
            " far are kept"
        )

    def _allows(self, usd: float) -> bool:
        taken = self.spent + self.reserved + self.doubtful
        return not self.ceiling or taken + usd <= self.ceiling


def text_bytes(request: Request) -> int:
    """Bytes of the text that a request sends."""
    return len(request.system.encode()) + len(request.prompt.encode())


def with_breakpoint(
    body: dict[str, Any], request: Request, *, urls: Sequence[str]
) -> dict[str, Any]:
    """`body` with a breakpoint behind what all requests share and nowhere else; as it is for any
    other provider.

    Since gpt-5.6 OpenAI finds the beginning of a prompt again only up to a breakpoint, and charges
    a quarter more for what is written to its cache. Left to itself it sets the breakpoint behind
    the last message, where each of our requests differs: all is written, and nothing is ever read.
    """
    if [*urls] != [caching_of(body["model"]).get("marked_at")]:
        return body
    *before, last = body["messages"]
    text = {"type": "text", "text": request.prompt}
    # the text comes first, see `chat_messages`; what follows is left as it is
    _, *images = last["content"] if isinstance(last["content"], list) else [text]
    head = request.prompt[: request.shared]
    tail = request.prompt[request.shared :]
    texts: list[dict[str, Any]] = [{"type": "text", "text": part} for part in (head, tail) if part]
    if head:
        texts[0]["prompt_cache_breakpoint"] = {"mode": "explicit"}
    message = last | {"content": [*texts, *images]}
    options = {"prompt_cache_options": {"mode": "explicit"}}
    return body | {"messages": [*before, message]} | options


def _day(text: str) -> str:
    try:
        return date.fromisoformat(text).isoformat() if text else ""
    except ValueError:
        raise InputError(
            f"prices_of is {text!r}; write the day on which you read the prices, as 2026-11-21"
        ) from None
