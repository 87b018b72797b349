"""Lines for any terminal: what its encoding lacks is replaced, and a reader that has gone is no
error.
"""

import io
import os
import sys


def any_terminal() -> None:
    """Let no character end a command: an ASCII terminal shows `?` for the dot between two
    counts.
    """
    if isinstance(
        sys.stdout, io.TextIOWrapper
    ):  # None when it is closed, another kind when captured
        sys.stdout.reconfigure(errors="replace")


def reader_has_gone() -> None:
    """After a BrokenPipeError (`| head`): what is still buffered goes nowhere, without a second
    error at exit.
    """
    # closing stdout would flush it, and fail once more
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
