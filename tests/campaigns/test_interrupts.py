"""Ctrl-C and SIGTERM given to the runner: what is in flight is finished and journalled, however
long it takes.
"""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.openai_server import KEY, MODEL, openai_server
from tests.sets import ROOT, variation

pytestmark = pytest.mark.campaign
LATENCY_S, AT_ONCE = 8.0, 4


def answers(runs: Path) -> int:
    file = runs / "journal/openai.sqlite"
    return (
        sqlite3.connect(file).execute("SELECT count(*) FROM answers").fetchone()[0]
        if file.exists()
        else 0
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_has_paid_for_nothing_in_vain(tmp_path, number):
    with openai_server(latency_s=LATENCY_S) as server:
        asks = {
            "engine": "openai",
            "model": MODEL,
            "base_url": server.url,
            "max_in_flight": AT_ONCE,
            "limit": 20,
        }
        folder = variation(tmp_path / "slow", only="01 02 03 06", **{"06_captioning": asks})
        process = subprocess.Popen(
            [sys.executable, "-m", "vislib.run", str(folder)],
            cwd=ROOT,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=os.environ | {"VISLIB_RUNS": str(tmp_path / "runs"), "OPENAI_API_KEY": KEY},
        )
        while len(server.bodies) < AT_ONCE:
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.1)
        time.sleep(1.0)
        process.send_signal(number)
        said, _ = process.communicate(timeout=60)
        assert process.returncode != 0
        assert answers(tmp_path / "runs") == len(server.bodies) == AT_ONCE, said
        assert "what is in flight is finished" in said
