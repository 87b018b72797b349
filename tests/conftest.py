"""Tests reach no network (the hub's client is told so before anything imports it), and hear SIGINT.

A shell starts background jobs with SIGINT ignored, which every process started from here would
inherit.
"""

import os
import signal

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# threads of torch that spin while they wait would take the cores from the other worker's tests: for
# tiny models, that was three quarters of what these took
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def sample_run(tmp_path_factory):
    """The folder of a run of the sample set, made once: about a minute. Tests only read it."""
    from tests.sets import run_sample  # here: vislib must not come before the settings above

    return run_sample(tmp_path_factory.mktemp("sample"))
