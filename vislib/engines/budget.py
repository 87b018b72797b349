"""What asking costs: its ceiling, and what it will take, said before anything is asked
(VisCon-100K, sections 3.2 and 3.3: 200 K and 400 K requests).

Providers bill per token, images included. What a request takes is known when its answer is there;
until then its upper bound counts. For an estimate, requests without an answer are counted by
prompt: answers to the same prompt tell tokens and seconds; where there are none, a tokenizer counts
some of the texts, and guesses, said to be some, stand for images and answers.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from datetime import date
from functools import cache
from typing import Any

from vislib.engines import Answer, Json, Request
from vislib.engines.replies import DOUBTFUL
from vislib.runs import InputError

_FRAME_TOKENS = 256  # that a server's chat template may add
# Of an image that make a token: providers bill one for 650 to 1,050, some the same for any image.
_PIXELS = 750
_IMAGE_TOKENS = 1500  # of an image of unknown size
# Since gpt-5.6 OpenAI charges a quarter more for what it writes to its cache, and finds it again up
# to a breakpoint in the request (developers.openai.com/api/docs/guides/prompt-caching, 2026-11).
_MARKED = re.compile(r"(.*/)?gpt-(5\.[6-9]|[6-9])")
_WRITTEN = 1.25
_SAMPLED = 64  # texts that are counted by the tokenizer
_ENOUGH = 10  # answers that say more than the tokenizer and the guess
_TOLD = ("tokens_in", "tokens_cached", "tokens_out")
_GUESS = 400  # tokens of an answer: between a caption (250) and three to five rounds (600)


class Budget:
    """The prices in `params` times `share`, and a hard ceiling in USD (0: none).

    Below the ceiling stay what is spent, or may have been billed, and what is reserved for answers
    under way.
    """

    def __init__(self, params: Any, *, share: float = 1.0) -> None:
        self.ceiling = params.max_spend_usd
        usd_in = params.usd_per_million_input_tokens
        usd_out = params.usd_per_million_output_tokens
        if self.ceiling and not (usd_in and usd_out):
            raise InputError(
                f"max_spend_usd is {self.ceiling:g}, but the prices are {usd_in:g} and"
                f" {usd_out:g}; set both usd_per_million_input_tokens and"
                " usd_per_million_output_tokens to the model's"
            )
        self.priced = bool(usd_in + usd_out)
        self.prices_of = _day(params.prices_of)
        usd_cached = params.usd_per_million_cached_tokens
        usd_written = usd_in * (_WRITTEN if marks_cache(params.model) else 1.0)
        # below 0: no price of its own; what is read from a cache then costs as other input
        prices = (usd_in, usd_in if usd_cached < 0 else usd_cached, usd_written, usd_out)
        self._prices = [share * float(price) / 1e6 for price in prices]
        # Each is written in one thread alone: `reserved` where requests are admitted, `spent` where
        # they are paid, which is before their reservation ends. So their sum is never too small.
        self.spent = self.reserved = 0.0
        self.proven = not self.ceiling  # whether an answer has shown what a request costs
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

    def bound(self, request: Request) -> float:
        """Upper bound of a request's cost in USD."""
        tokens = most_tokens(request)
        # a write to the cache may cost more than plain input, or less
        plain = self.cost(tokens, request.max_tokens)
        return max(self._dearest, plain, self.cost(tokens, request.max_tokens, 0, tokens))

    def reserve(self, usd: float) -> bool:
        """Set `usd` aside, unless that could pass the ceiling; `reserved -= usd` ends it."""
        room = self.has_room(usd)
        self.reserved += usd if room else 0.0
        return room

    def pay(self, answer: Answer, bound: float) -> float:
        """Count one attempt at a request whose cost was thought to be at most `bound`; its USD.

        An attempt that cost more is from then on the least that any request is thought to cost.
        """
        usd = self.cost(**answer.used)
        # who tells nothing must not pass the ceiling unseen; what was cut off may be billed
        if not answer.tokens_in and (answer.status == "ok" or answer.reason in DOUBTFUL):
            usd = bound
        self.spent += usd
        self._dearest = max(self._dearest, usd if usd > bound else 0.0)
        self.proven = self.proven or answer.status == "ok" or answer.tokens_in > 0
        return usd

    def has_room(self, usd: float = 0.0) -> bool:
        """Whether `usd` more stay below the ceiling."""
        return not self.ceiling or self.spent + self.reserved + usd <= self.ceiling

    def exhausted(self, usd: float) -> InputError:
        """The error when `usd` more could pass the ceiling."""
        return InputError(
            f"max_spend_usd is {self.ceiling:g}: {self.spent:.4f} is spent and the next request"
            f" may cost up to {usd:.4f}. Raise max_spend_usd to go on; all answers so far are kept"
        )


class Estimate:
    """Tokens, USD and hours of the requests that were `add`ed to it, in the light of the answers
    that it was told to `learn`.
    """

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self.budget: Budget = engine.budget
        # sums by prompt_sha: of requests without an answer, and of those with one
        self._lacking: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._known: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._texts: list[str] = []

    def add(self, request: Request) -> None:
        """Count a request that is to be asked."""
        if len(self._texts) < _SAMPLED:
            self._texts.append(request.system + request.prompt)
        self._lacking[request.prompt_sha].update(
            requests=1,
            bytes=_bytes(request),
            image=_image_tokens(request),
            most_out=request.max_tokens,
        )

    def learn(self, request: Request, answer: Json) -> None:
        """Take account of a journalled answer."""
        # a server that tells no tokens teaches nothing
        if answer["tokens_in"]:
            told = {name: answer.get(name, 0) for name in (*_TOLD, "seconds")}
            self._known[request.prompt_sha].update(told, requests=1)

    def figures(self) -> Any:
        """requests, tokens_in, tokens_cached, tokens_out, usd, most_usd, hours (0: unknown);
        answers that it rests on, requests that are guessed.
        """
        total: Any = Counter()  # of tokens, hours and USD
        for sha, group in self._lacking.items():
            n = group["requests"]
            known = self._known[sha]
            if known["requests"] >= _ENOUGH:
                total["answers"] += known["requests"]
                used = {name: round(n * known[name] / known["requests"]) for name in _TOLD}
            else:
                total["guessed"] += n
                total["image"] += group["image"]
                text = _tokens_per_byte(tuple(self._texts)) * group["bytes"]
                used = {
                    "tokens_in": round(group["image"] + text),
                    "tokens_out": min(n * _GUESS, group["most_out"]),
                }
            # the ceiling to plan with: nothing cached, and every answer as long as it may be
            most = self.budget.cost(used["tokens_in"], group["most_out"])
            total.update(used | {"requests": n, "usd": self.budget.cost(**used), "most_usd": most})
        total["hours"] = self._hours(total)
        return total

    def _hours(self, total: Mapping[str, float]) -> float:
        """By the slowest of the limits, which hold at each server, and of the answers so far."""
        params = self._engine.params
        tokens = total["tokens_in"] + total["tokens_out"]
        limits = (
            (total["requests"], params.requests_per_minute),
            (tokens, params.tokens_per_minute),
        )
        hours = [n / rate / len(self._engine.urls) / 60 for n, rate in limits if rate]
        known: Any = sum(self._known.values(), Counter())
        seconds = total["requests"] * known["seconds"] / max(known["requests"], 1)
        return float(max([*hours, seconds / params.max_in_flight / 3600]))

    def line(self) -> str:
        """The figures as one line for people."""
        is_ = self.figures()
        basis = [f"as in {is_['answers']:.0f} answers"] if is_["answers"] else []
        if is_["guessed"]:
            images = f" and a token per {_PIXELS} px of an image" if is_["image"] else ""
            basis.append(f"no answer yet: {_GUESS} out each{images} is a guess")
        cached = is_["tokens_cached"] / max(is_["tokens_in"], 1)
        share = f" ({cached:.0%} of it cached)" if cached else ""
        tokens = f"{is_['tokens_in']:,} tokens in{share}, {is_['tokens_out']:,} out"
        tokens += f" ({'; '.join(basis)})"
        return f"{is_['requests']:,} requests · {tokens} · {self._money(is_)} · {self._time(is_)}"

    def _money(self, is_: Mapping[str, float]) -> str:
        if not self.budget.priced:
            return (
                "no prices: set usd_per_million_input_tokens and usd_per_million_output_tokens"
                " unless it is free"
            )
        day = self.budget.prices_of
        date = f"prices of {day}" if day else "prices without a date: set prices_of"
        most = f"{is_['most_usd']:,.2f} at most, if every answer fills max_answer_tokens"
        return f"{is_['usd']:,.2f} USD expected, {most} ({date})"

    def _time(self, is_: Mapping[str, float]) -> str:
        if self._engine.name == "openai_batch":
            elsewhere = self._engine.params.batch_folder
            return "answered elsewhere" if elsewhere else "answered within the provider's 24 h"
        if not (hours := is_["hours"]):
            return "hours unknown: no answer timed yet; try limit: 20"
        return f"{hours:.1f} h" if hours >= 1 else f"{math.ceil(60 * hours)} min"


@cache
def _tokens_per_byte(texts: tuple[str, ...]) -> float:
    from vislib.media.tokenization import count_tokens, load_tokenizer

    # in the package, so that no dry run needs the network; others are within some per cent
    tokenizer = load_tokenizer("mistral-common")
    return sum(count_tokens(tokenizer, list(texts))) / sum(len(text.encode()) for text in texts)


def marks_cache(model: str) -> bool:
    """Whether its provider reuses the beginning of a prompt only up to a breakpoint."""
    return _MARKED.match(model) is not None


def most_tokens(request: Request) -> int:
    """Input tokens of a request, at most: no tokenizer makes more tokens than there are bytes."""
    return _bytes(request) + _FRAME_TOKENS + _image_tokens(request)


def _image_tokens(request: Request) -> int:
    """What the request's image is likely to be billed."""
    if not request.image_id:
        return 0
    width, height = request.image_size
    longest = max(width, height)
    scale = min(1.0, request.image_side / longest) if request.image_side and longest else 1.0
    return math.ceil(scale**2 * width * height / _PIXELS) or _IMAGE_TOKENS


def _bytes(request: Request) -> int:
    """Bytes of the text that a request sends."""
    return len(request.system.encode()) + len(request.prompt.encode())


def _day(text: str) -> str:
    try:
        return date.fromisoformat(text).isoformat() if text else ""
    except ValueError:
        raise InputError(
            f"prices_of is {text!r}; write the day on which you read the prices, as 2026-11-21"
        ) from None
