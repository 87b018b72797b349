"""What asking will take, said before anything is asked (VisCon-100K, sections 3.2 and 3.3: 200 K
and 400 K requests).

Requests without an answer are counted by prompt. Where the journal has answers to the same prompt
by the same model, they tell tokens, cached share and seconds; where it has none, a tokenizer counts
a sample of the texts, the model's billing rule the images, and a guess, said to be one, stands for
the answers.
"""

import heapq
import math
from collections import Counter, defaultdict
from collections.abc import Mapping
from functools import cache
from typing import Any

from vislib.engines import Engine, Request
from vislib.engines.budget import Budget, text_bytes
from vislib.runs.seeding import short_hash

_SAMPLED = 64  # texts that are counted by the tokenizer
_ENOUGH = 10  # answers that say more than the tokenizer and the guess
_GUESS = 400  # tokens of an answer: between a caption (250) and three to five rounds (600)
_TOLD = ("tokens_in", "tokens_cached", "tokens_out", "seconds")


class Estimate:
    """Tokens, USD and hours of the requests that were `add`ed, in the light of the answers it was
    told to `learn`.
    """

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        self.params = engine.params
        self.budget = engine.budget
        # sums of sizes by prompt_sha: of requests without an answer, and with one
        self.lacking: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self.known: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._texts: list[tuple[str, str]] = []  # the least hashes, whatever the order of requests

    def add(self, request: Request) -> None:
        """Count a request that is to be asked."""
        text = request.system + request.prompt
        self._texts.append((short_hash(text), text))
        # now and then, so that memory stays small and adding stays cheap
        if len(self._texts) > 4 * _SAMPLED:
            self._texts = heapq.nsmallest(_SAMPLED, self._texts)
        self.lacking[request.prompt_sha].update(self._sizes(request))

    def learn(self, request: Request, answer: Mapping[str, Any]) -> None:
        """Take account of a journalled answer."""
        # a server that tells no tokens teaches nothing
        if answer["tokens_in"]:
            told = {name: answer.get(name, 0) for name in _TOLD}
            told["timed"] = told["seconds"] > 0
            self.known[request.prompt_sha].update(self._sizes(request) | told)

    def figures(self) -> dict[str, float]:
        """requests, tokens_in, tokens_cached, tokens_out, usd, most_usd, hours (0: unknown);
        answers it rests on.
        """
        total: Counter[str] = Counter()
        for sha, group in self.lacking.items():
            told = self.known[sha]
            n = group["requests"]
            cached = 0.0
            if told["requests"] >= _ENOUGH:
                total["answers"] += told["requests"]
                # images are known by their rule; what is left of the tokens is text
                per_byte = (told["tokens_in"] - told["image"]) / told["bytes"]
                cached = told["tokens_cached"] / told["tokens_in"]
                tokens_out = n * told["tokens_out"] / told["requests"]
            else:
                total["guessed"] += n
                total["unruled"] += group["unruled"]
                per_byte = self._tokens_per_byte()
                tokens_out = n * _GUESS
            tokens_in = group["image"] + per_byte * group["bytes"]
            used = {
                "tokens_in": round(tokens_in),
                "tokens_cached": round(tokens_in * cached),
                "tokens_out": round(min(tokens_out, group["most_out"])),
            }
            total.update(used)
            total["requests"] += n
            total["usd"] += self.budget.cost(**used)
            # the ceiling to plan with: nothing cached, and every answer as long as it may be
            total["most_usd"] += self.budget.cost(used["tokens_in"], group["most_out"])
        return {**total, "hours": self._hours(total)}

    def line(self) -> str:
        """The figures as one line for people."""
        is_ = Counter(self.figures())
        basis = []
        cached = ""
        if is_["tokens_cached"]:
            cached = f" ({is_['tokens_cached'] / is_['tokens_in']:.0%} of it cached)"
        if is_["answers"]:
            basis.append(f"as in {is_['answers']:.0f} answers")
        if is_["guessed"]:
            rule = " and the tokens of an image (no rule of image_billing)"
            images = rule if is_["unruled"] else ""
            basis.append(f"no answer yet: {_GUESS} out each{images} is a guess")
        tokens = f"{_short(is_['tokens_in'])} tokens in{cached}, {_short(is_['tokens_out'])} out"
        said = f"{is_['requests']:,.0f} requests · {tokens} ({'; '.join(basis)})"
        return f"{said} · {self._money(is_)} · {self._time(is_['hours'])}"

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

    def _time(self, hours: float) -> str:
        if self.engine.name == "openai_batch":
            here = not self.params.batch_folder
            return "answered within the provider's 24 h" if here else "answered elsewhere"
        if not hours:
            return "hours unknown: no answer timed yet; try limit: 20"
        if hours >= 1:
            return f"{hours:.1f} h"
        return f"{60 * hours:.0f} min" if hours >= 1 / 60 else f"{math.ceil(3600 * hours)} s"

    def _hours(self, total: Mapping[str, float]) -> float:
        """By the slowest of the limits, which hold at each server, and of the answers so far."""
        servers = len(self.engine.urls)
        n = total["requests"]
        tokens = total["tokens_in"] + total["tokens_out"]
        limits = ((n, self.params.requests_per_minute), (tokens, self.params.tokens_per_minute))
        minutes = [amount / (rate * servers) for amount, rate in limits if rate]
        # answers of earlier versions have no time
        timed = sum((self.known[sha] for sha in self.lacking), Counter())
        if timed["timed"]:
            seconds = n * timed["seconds"] / timed["timed"] / self.params.max_in_flight
            minutes.append(seconds / 60)
        return max(minutes, default=0.0) / 60

    def _sizes(self, request: Request) -> dict[str, float]:
        return {
            "requests": 1,
            "bytes": text_bytes(request),
            "image": self.budget.image_tokens(request),
            "unruled": bool(request.image_id) and self.budget.rule is None,
            "most_out": request.max_tokens,
        }

    def _tokens_per_byte(self) -> float:
        from vislib.media.tokenization import count_tokens

        texts = [text for _, text in heapq.nsmallest(_SAMPLED, self._texts)]
        return sum(count_tokens(_tokenizer(), texts)) / sum(len(text.encode()) for text in texts)


@cache
def _tokenizer() -> Any:
    from vislib.media.tokenization import load_tokenizer

    # in the package, so that no dry run needs the network; others are within some per cent
    return load_tokenizer("mistral-common")


def estimate_for(engine: Engine) -> Estimate | None:
    """An empty estimate for an engine that is paid or served; None for one that needs no model."""
    return Estimate(engine) if isinstance(getattr(engine, "budget", None), Budget) else None


def _short(number: float) -> str:
    for unit, size in ((" G", 1e9), (" M", 1e6), (" K", 1e3)):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.3g}"
