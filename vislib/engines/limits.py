"""What may be sent and spent: pacing that holds in every minute, and a ceiling that counts what is under way.

Providers limit requests and tokens per minute and bill per token, images included. What a request takes is known
when its answer is there; until then its upper bound counts.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable

from vislib.engines import Answer, Request
from vislib.runs.errors import InputError

_MINUTE = 60.0
_FRAME_TOKENS = 256  # that a server's chat template may add
_IMAGE_TOKENS = 1500  # of the first image; from then on the largest input that was seen


class Pace:
    """Holds requests back so that no minute sees more requests or tokens than allowed (0: no limit)."""

    def __init__(self, *, requests: int, tokens: int) -> None:
        self._interval, self._tokens = _MINUTE / requests if requests else 0.0, tokens
        self._sent: deque[list[float]] = deque()  # [when, tokens] of the last minute
        self._largest = math.inf  # tokens that one request took so far
        self._free_at = 0.0
        self._turn = asyncio.Lock()

    async def turn(self, tokens: int, given_up: Callable[[], bool]) -> list[float]:
        """Wait until a request of at most `tokens` may go, or is given up; return its entry, for `settle`."""
        async with self._turn:
            while (wait := self._wait(min(tokens, self._largest))) > 0 and not given_up():
                await asyncio.sleep(min(wait, 0.05))  # an answer that took less than expected frees room early
            entry = [time.monotonic(), min(tokens, self._largest)]
            self._free_at = entry[0] + self._interval
            if self._tokens:
                self._sent.append(entry)
            return entry

    def settle(self, entry: list[float], tokens: int) -> None:
        """Put what a request really took in the place of what was expected."""
        entry[1] = tokens
        self._largest = tokens if self._largest == math.inf else max(tokens, self._largest)

    def hold(self, seconds: float) -> None:
        """Send nothing for so long: the server asked for it."""
        self._free_at = max(self._free_at, time.monotonic() + seconds)

    def _wait(self, tokens: float) -> float:
        now = time.monotonic()
        while self._sent and self._sent[0][0] <= now - _MINUTE:
            self._sent.popleft()
        full = self._sent and sum(entry[1] for entry in self._sent) + tokens > self._tokens
        return max(self._free_at - now, self._sent[0][0] + _MINUTE - now if full else 0.0)


class Budget:
    """A hard ceiling in USD (0: none) on what is spent, reserved for answers under way, and perhaps billed."""

    def __init__(self, ceiling: float, usd_per_million_in: float, usd_per_million_out: float) -> None:
        if ceiling and not usd_per_million_in + usd_per_million_out:
            raise InputError(
                f"max_spend_usd is {ceiling:g}, but both prices are 0; set usd_per_million_input_tokens and "
                "usd_per_million_output_tokens to the model's"
            )
        self.ceiling, self._prices = ceiling, (usd_per_million_in / 1e6, usd_per_million_out / 1e6)
        self.spent = self.reserved = self.doubtful = 0.0
        self.proven = not ceiling  # whether an answer has shown what an image costs
        self._image_tokens = _IMAGE_TOKENS

    def cost(self, tokens_in: int, tokens_out: int) -> float:
        """USD of so many tokens."""
        return tokens_in * self._prices[0] + tokens_out * self._prices[1]

    def tokens(self, request: Request) -> int:
        """Upper bound of a request's input tokens: no tokenizer makes more tokens than there are bytes."""
        text = len(request.system.encode()) + len(request.prompt.encode())
        return text + _FRAME_TOKENS + (self._image_tokens if request.image_id else 0)

    def bound(self, request: Request) -> float:
        """Upper bound of a request's cost in USD."""
        return self.cost(self.tokens(request), request.max_tokens)

    def reserve(self, usd: float) -> bool:
        """Set `usd` aside, unless that could pass the ceiling."""
        if self.ceiling and self.spent + self.reserved + self.doubtful + usd > self.ceiling:
            return False
        self.reserved += usd
        return True

    def settle(self, usd: float, answer: Answer | None) -> None:
        """Replace a reservation by what the answer cost; by itself if the server reports no tokens."""
        self.reserved -= usd
        if answer is not None:
            self.spent += usd if answer.status == "ok" and not answer.tokens_in else answer.usd
            self._image_tokens = max(self._image_tokens, answer.tokens_in)
            self.proven = True

    def risk(self, usd: float) -> bool:
        """Count an attempt that failed after it was sent, as billed; whether another stays within the ceiling."""
        self.doubtful += usd
        return not self.ceiling or self.spent + self.reserved + self.doubtful <= self.ceiling

    def exhausted(self, usd: float) -> InputError:
        """The error when `usd` more could pass the ceiling."""
        return InputError(
            f"max_spend_usd is {self.ceiling:g}: {self.spent + self.doubtful:.4f} is spent and the next request may "
            f"cost up to {usd:.4f}. Raise max_spend_usd to go on; all answers so far are kept"
        )
