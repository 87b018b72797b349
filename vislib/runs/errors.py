"""The one exception that is the user's to mend: its message names the value, the place and the
mend.
"""


class InputError(ValueError):
    """Bad input or setting; shown as one message, without a traceback."""

    # the name that IPython looks for on an exception
    def _render_traceback_(self) -> list[str]:
        """What IPython prints in a notebook."""
        return [f"InputError: {self}"]
