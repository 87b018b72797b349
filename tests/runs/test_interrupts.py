"""A first interrupt asks for an end, which a notebook then shows in one line."""

import signal
import threading

import pytest
from IPython.core.interactiveshell import InteractiveShell

from vislib.runs.interrupts import interrupts

CELL = """
import signal, threading
from vislib.runs.interrupts import interrupts
stop = threading.Event()
with interrupts(stop):
    signal.raise_signal(signal.SIGINT)
    assert stop.is_set()
"""


def test_an_interrupted_cell_prints_one_line(capsys):
    shell = InteractiveShell()
    result = shell.run_cell(CELL)
    assert isinstance(result.error_in_exec, KeyboardInterrupt)
    shown = capsys.readouterr().out.strip().splitlines()
    assert shown == [
        "Interrupted: what was done is kept; run the notebook again to go on from there"
    ]


def twice() -> None:
    with interrupts(threading.Event()):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("never reached")


def test_a_second_interrupt_is_immediate():
    with pytest.raises(KeyboardInterrupt):
        twice()
