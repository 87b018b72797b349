"""What may be spent: a ceiling that counts what is under way and what may have been billed.

Providers bill per token, images included. What a request takes is known when its answer is there;
until then its upper bound counts.
"""

from datetime import date
from threading import Lock
from typing import Any

from vislib.engines import Answer, Request
from vislib.engines.billing import caching_of, rule_of, scaled_size
from vislib.runs.errors import InputError

_FRAME_TOKENS = 256  # that a server's chat template may add
_IMAGE_TOKENS = (
    1500  # of the first image, if no rule is known; from then on the largest input that was seen
)


class Budget:
    """The prices in `params` times `share`, and a hard ceiling in USD (0: none).

    Below the ceiling stay what is spent, what is reserved for answers under way, and what may have
    been billed.
    """

    def __init__(self, params: Any, *, share: float = 1.0) -> None:
        ceiling, usd_in = params.max_spend_usd, params.usd_per_million_input_tokens
        usd_cached, usd_out = (
            params.usd_per_million_cached_tokens,
            params.usd_per_million_output_tokens,
        )
        self.priced, self.prices_of = bool(usd_in + usd_out), _day(getattr(params, "prices_of", ""))
        if ceiling and not (usd_in and usd_out):
            raise InputError(
                f"max_spend_usd is {ceiling:g}, but the prices are {usd_in:g} and {usd_out:g}; set"
                " both usd_per_million_input_tokens and usd_per_million_output_tokens to the"
                " model's"
            )
        usd_written = usd_in * caching_of(params.model).get("write", 1.0)
        prices = (usd_in, usd_in if usd_cached < 0 else usd_cached, usd_written, usd_out)
        self.ceiling, self._prices = (
            float(ceiling),
            tuple(share * float(price) / 1e6 for price in prices),
        )
        self.spent = self.reserved = self.doubtful = 0.0
        self._lock = Lock()  # reserving and risking happen in two threads
        self.proven = not ceiling  # whether an answer has shown what a request costs
        self.rule, self._image_tokens, self._dearest = rule_of(params), _IMAGE_TOKENS, 0.0

    def cost(
        self, tokens_in: int, tokens_out: int, tokens_cached: int = 0, tokens_written: int = 0
    ) -> float:
        """USD of so many tokens; those read from the server's cache and those written to it are
        part of `tokens_in`.
        """
        amounts = (
            tokens_in - tokens_cached - tokens_written,
            tokens_cached,
            tokens_written,
            tokens_out,
        )
        return sum(amount * price for amount, price in zip(amounts, self._prices, strict=True))

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
        return max(
            self._dearest,
            *(self.cost(tokens, request.max_tokens, 0, written) for written in (0, tokens)),
        )

    def reserve(self, usd: float) -> bool:
        """Set `usd` aside, unless that could pass the ceiling."""
        with self._lock:
            if self.ceiling and self.spent + self.reserved + self.doubtful + usd > self.ceiling:
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
            self.spent += usd if answer.status == "ok" and not answer.tokens_in else answer.usd
            self._image_tokens = max(self._image_tokens, answer.tokens_in)
            self._dearest = max(self._dearest, answer.usd if answer.usd > usd else 0.0)
            self.proven = True

    def risk(self, usd: float) -> bool:
        """Count an attempt that failed after it was sent, as billed; whether another stays within
        the ceiling.
        """
        with self._lock:
            self.doubtful += usd
            return not self.ceiling or self.spent + self.reserved + self.doubtful <= self.ceiling

    def exhausted(self, usd: float) -> InputError:
        """The error when `usd` more could pass the ceiling."""
        return InputError(
            f"max_spend_usd is {self.ceiling:g}: {self.spent + self.doubtful:.4f} is spent and the"
            f" next request may cost up to {usd:.4f}. Raise max_spend_usd to go on; all answers so"
            " far are kept"
        )


def text_bytes(request: Request) -> int:
    """Bytes of the text that a request sends."""
    return len(request.system.encode()) + len(request.prompt.encode())


def _day(text: str) -> str:
    try:
        return date.fromisoformat(text).isoformat() if text else ""
    except ValueError:
        raise InputError(
            f"prices_of is {text!r}; write the day on which you read the prices, as 2026-11-21"
        ) from None
