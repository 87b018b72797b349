"""Tests reach no network (the hub's client is told so before anything imports it), and hear SIGINT.

A shell starts background jobs with SIGINT ignored, which every process started from here would
inherit.
"""

import os
import signal

os.environ.setdefault("HF_HUB_OFFLINE", "1")
signal.signal(signal.SIGINT, signal.default_int_handler)
