"""Stopping well: the first signal asks for an end, the second ends at once."""

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SAID = "Interrupted: what was done is kept; run the notebook again to go on from there"


@contextmanager
def interrupts(stop: threading.Event) -> Iterator[None]:
    """Turn the first SIGINT or SIGTERM into `stop`; deliver it when the block, which heeds `stop`,
    has ended.
    """
    # only the main thread may set handlers; others are stopped by whoever started them
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    caught: list[int] = []

    def ask_to_stop(number: int, frame: FrameType | None) -> None:
        caught.append(number)
        stop.set()
        restore()  # so that a second signal is not asked about again
        said = "interrupted: what is in flight is finished; a second interrupt ends at once"
        logging.getLogger(__name__).info(said)

    before = {
        number: signal.signal(number, ask_to_stop) for number in (signal.SIGINT, signal.SIGTERM)
    }

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    try:
        yield
    finally:
        restore()
    # a notebook shows a traceback of all that was waited for; one line says as much
    if caught and before[signal.Signals(caught[0])] is signal.default_int_handler:
        error = KeyboardInterrupt()
        error._render_traceback_ = lambda: [_SAID]  # type: ignore[attr-defined]  # what IPython prints
        raise error
    if caught:  # whatever handled it before still does
        signal.raise_signal(caught[0])
