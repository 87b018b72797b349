"""The one exception that is the user's to mend: its message names the value, the place and the
mend.
"""

from collections.abc import Mapping
from typing import Any


class InputError(ValueError):
    """Bad input or setting; shown as one message, without a traceback."""

    # the name that IPython looks for on an exception
    def _render_traceback_(self) -> list[str]:
        """What IPython prints in a notebook."""
        return [f"InputError: {self}"]


def check_kept(counts: Mapping[str, Mapping[str, Any]], unit: str, mend: str) -> None:
    """Raise InputError, with the reasons and a `mend`, where nothing of a unit is left in
    `Run.counts`.
    """
    entry = counts.get(unit, {"taken": 0, "kept": 0, "dropped": {}})
    if not entry["kept"]:
        reasons = ", ".join(f"{reason} {n}" for reason, n in entry["dropped"].items())
        raise InputError(
            f"no {unit} is left of {entry['taken']} ({reasons or 'none came'}); {mend}"
        )
