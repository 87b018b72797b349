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


class Estimate:
    """Tokens, USD and hours of the requests that were `add`ed, in the light of the answers it was
    told to `learn`.
    """

    def __init__(self, engine: Any) -> None:
        self.engine, self.params, self.budget = engine, engine.params, engine.budget
        self.lacking: defaultdict[str, Counter[str]] = defaultdict(Counter)  # by prompt_sha
        self.known: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._texts: list[tuple[str, str]] = []

    def add(self, request: Request) -> None:
        """Count a request that is to be asked."""
        text = request.system + request.prompt
        self._texts.append(
            (short_hash(text), text)
        )  # a choice that the order of requests does not change
        if len(self._texts) > 4 * _SAMPLED:
            self._texts = heapq.nsmallest(_SAMPLED, self._texts)
        self.lacking[request.prompt_sha].update(
            self._sizes(request) | {"most_out": request.max_tokens}
        )

    def learn(self, request: Request, answer: Mapping[str, Any]) -> None:
        """Take account of a journalled answer."""
        if answer["tokens_in"]:
            names = ("tokens_in", "tokens_cached", "tokens_out", "seconds")
            told = {name: answer.get(name, 0) for name in names}
            self.known[request.prompt_sha].update(
                self._sizes(request) | told | {"timed": told["seconds"] > 0}
            )

    def figures(self) -> dict[str, float]:
        """requests, tokens_in, tokens_cached, tokens_out, usd, most_usd, hours (0: unknown);
        answers it rests on.
        """
        total: Counter[str] = Counter()
        per_byte = 0.0
        for sha, group in self.lacking.items():
            told, known = self.known[sha], self.known[sha]["requests"] >= _ENOUGH
            if not known:
                per_byte = per_byte or self._tokens_per_byte()
            rate = (told["tokens_in"] - told["image"]) / told["bytes"] if known else per_byte
            used = {
                "tokens_in": group["image"] + rate * group["bytes"],
                "tokens_out": group["requests"] * _GUESS,
            }
            if known:
                used["tokens_cached"] = (
                    used["tokens_in"] * told["tokens_cached"] / told["tokens_in"]
                )
                used["tokens_out"] = group["requests"] * told["tokens_out"] / told["requests"]
            used["tokens_out"] = min(used["tokens_out"], group["most_out"])
            whole = {name: round(tokens) for name, tokens in used.items()}
            most = self.budget.cost(whole["tokens_in"], group["most_out"])
            total.update(
                whole
                | {
                    "requests": group["requests"],
                    "usd": self.budget.cost(**whole),
                    "most_usd": most,
                }
            )
            total["answers"] += told["requests"] * known
            total["guessed"] += group["requests"] * (not known)
            total["unruled"] += group["unruled"] * (not known)
        return {**total, "hours": self._hours(total)}

    def line(self) -> str:
        """The figures as one line for people."""
        is_ = Counter(self.figures())
        cached = (
            f" ({is_['tokens_cached'] / is_['tokens_in']:.0%} of it cached)"
            if is_["tokens_cached"]
            else ""
        )
        tokens = f"{_short(is_['tokens_in'])} tokens in{cached}, {_short(is_['tokens_out'])} out"
        basis = f"as in {is_['answers']:.0f} answers" if is_["answers"] else ""
        images = " and the tokens of an image (no rule of image_billing)" if is_["unruled"] else ""
        guess = f"no answer yet: {_GUESS} out each{images} is a guess" if is_["guessed"] else ""
        basis = "; ".join(filter(None, (basis, guess)))
        return (
            f"{is_['requests']:,.0f} requests · {tokens} ({basis}) · {self._money(is_)} ·"
            f" {self._time(is_['hours'])}"
        )

    def _money(self, is_: Mapping[str, float]) -> str:
        if not self.budget.priced:
            return (
                "no prices: set usd_per_million_input_tokens and usd_per_million_output_tokens"
                " unless it is free"
            )
        date = (
            f"prices of {self.budget.prices_of}"
            if self.budget.prices_of
            else "prices without a date: set prices_of"
        )
        most = f"{is_['most_usd']:,.2f} at most, if every answer fills max_answer_tokens"
        return f"{is_['usd']:,.2f} USD expected, {most} ({date})"

    def _time(self, hours: float) -> str:
        if self.engine.name == "openai_batch":
            return (
                "answered elsewhere"
                if self.params.batch_folder
                else "answered within the provider's 24 h"
            )
        if not hours:
            return "hours unknown: no answer timed yet; try limit: 20"
        if hours >= 1:
            return f"{hours:.1f} h"
        return f"{60 * hours:.0f} min" if hours >= 1 / 60 else f"{math.ceil(3600 * hours)} s"

    def _hours(self, total: Mapping[str, float]) -> float:
        """By the slowest of the limits and of the answers so far."""
        servers = len(self.engine.urls)
        rates = {
            "requests": self.params.requests_per_minute,
            "tokens": self.params.tokens_per_minute,
        }
        amounts = {
            "requests": total["requests"],
            "tokens": total["tokens_in"] + total["tokens_out"],
        }
        minutes = [amounts[name] / (rate * servers) for name, rate in rates.items() if rate]
        timed = sum((self.known[sha] for sha in self.lacking), Counter())
        if timed["timed"]:
            minutes += [
                total["requests"]
                * timed["seconds"]
                / timed["timed"]
                / self.params.max_in_flight
                / 60
            ]
        return max(minutes, default=0.0) / 60

    def _sizes(self, request: Request) -> dict[str, float]:
        sizes = {
            "requests": 1,
            "bytes": text_bytes(request),
            "image": self.budget.image_tokens(request),
        }
        return sizes | {"unruled": bool(request.image_id) and self.budget.rule is None}

    def _tokens_per_byte(self) -> float:
        from vislib.media.tokenization import count_tokens

        texts = [text for _, text in heapq.nsmallest(_SAMPLED, self._texts)]
        return sum(count_tokens(_tokenizer(), texts)) / sum(len(text.encode()) for text in texts)


@cache
def _tokenizer() -> Any:
    from vislib.media.tokenization import load_tokenizer

    return load_tokenizer("mistral-common")


def estimate_for(engine: Engine) -> Estimate | None:
    """An empty estimate for an engine that is paid or served; None for one that needs no model."""
    return Estimate(engine) if isinstance(getattr(engine, "budget", None), Budget) else None


def _short(number: float) -> str:
    unit, size = next(
        (u, s) for u, s in (("G", 1e9), ("M", 1e6), ("K", 1e3), ("", 1.0)) if number >= s or s == 1
    )
    return f"{number / size:.3g} {unit}".strip()
