"""Progress for people: a bar in JupyterLab, one line per 30 seconds in a headless run."""

import logging
import os
import sys
import time
from typing import Any

from vislib.runs.locking import RUNNER_VARIABLE

_HEADLESS_SECONDS = 30.0


def interactive() -> bool:
    """Whether this kernel belongs to a JupyterLab session (its server sets this variable) and not
    to a runner.
    """
    return "JPY_SESSION_NAME" in os.environ and RUNNER_VARIABLE not in os.environ


class Progress:
    """Counts items of a total, 0 if it is not known; `fields` (cost, failures) are shown beside
    rate and time left.
    """

    def __init__(self, total: int, unit: str) -> None:
        self.total, self.unit = total, unit
        self.done = 0
        self.fields: dict[str, Any] = {}
        self._started = self._said = time.monotonic()
        from tqdm import tqdm  # late: the runner never shows a bar

        # not on stderr, which JupyterLab shows as an error; headless a line is printed instead
        quiet = not interactive()
        self._bar: Any = tqdm(
            total=total or None, unit=f" {unit}", mininterval=0.5, file=sys.stdout, disable=quiet
        )

    def update(self, n: int = 1, **fields: Any) -> None:
        """Count `n` more items."""
        # also without a bar: a log that is read afterwards shows the pace
        self.done += n
        self.fields.update(fields)
        # drawn with the count, not by itself
        self._bar.set_postfix(self.fields, refresh=False)
        self._bar.update(n)
        if self._bar.disable and time.monotonic() - self._said >= _HEADLESS_SECONDS:
            self._said = time.monotonic()
            print(self.line(), flush=True)
            logging.getLogger(__name__).info(self.line())

    def line(self) -> str:
        """One line: done, total, rate per second, time left, fields."""
        # of all items so far: steadier than of the last ones, which may have been quick
        rate = self.done / max(time.monotonic() - self._started, 1e-9)
        rest = "".join(f" · {name} {value}" for name, value in self.fields.items())
        if not self.total:
            return f"{self.done} {self.unit} · {rate:.1f}/s{rest}"
        left = (self.total - self.done) / rate if rate else float("inf")
        return f"{self.done} of {self.total} {self.unit} · {rate:.1f}/s · {left:.0f} s left{rest}"

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
