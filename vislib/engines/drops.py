"""Answers that come whole and are of no use: a paid stage whose checks drop most of them stops, as
for failures.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any

from vislib.engines import Request
from vislib.runs.errors import InputError

# Of a request and its text: the check that drops it, and what that found.
Fault = Callable[[Request, str], tuple[str, str]]
_FEW = 50  # answers before their share means anything
# answers that are judged: a sample that tells a bad prompt or server, at no cost for the rest
_JUDGED = 200


class Drops:
    """Counts what `fault` drops of the first answers; None: of no answer."""

    def __init__(self, params: Any, fault: Fault | None) -> None:
        self._fault = fault
        self._allowed = float(getattr(params, "max_drop_rate", 1.0))
        self.judged = 0
        self.reasons = Counter[str]()
        self.last = ""

    def judge(self, request: Request, text: str) -> None:
        """Take account of one answer."""
        # the first answers are as good a sample as any: requests come in the order of pages
        if self._fault is None or self.judged >= _JUDGED:
            return
        name, found = self._fault(request, text)
        self.judged += 1
        if name:
            self.reasons[name] += 1
            self.last = f"{request.id}: {name} {found[:200]}"

    @property
    def too_many(self) -> bool:
        """Whether more than the allowed share is dropped."""
        return self.reasons.total() > self._allowed * self.judged

    @property
    def surely_too_many(self) -> bool:
        """The same, while more may come."""
        # a bad start of a few answers is no reason to stop a stage of 100 K
        return self.judged >= _FEW and self.too_many

    def error(self, engine: str, journal: str) -> InputError:
        """What stops the stage."""
        reasons = ", ".join(f"{reason} {n}" for reason, n in self.reasons.most_common())
        return InputError(
            f"{engine}: {self.reasons.total()} of {self.judged} answers fail a check ({reasons}),"
            f" more than max_drop_rate {self._allowed:g} allows. The last: {self.last}. Mend the"
            " prompt, or the server (with another model_revision, to ask it anew), leave the check"
            f" out of checks, or raise max_drop_rate, and run again; answers stay in {journal}"
        )
