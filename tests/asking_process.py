"""A process that asks, for tests that stop it: `python -m tests.asking_process FOLDER REQUESTS
SETTINGS`.
"""

import json
import logging
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.engine_ground import Ground, chat, questions
from tests.openai_server import KEY
from vislib.engines.ask import ask_all
from vislib.engines.openai import OpenAIChat


def start(folder: Path, n: int, **settings: Any) -> subprocess.Popen[str]:
    """Ask `n` requests in a process of its own; it says `begun` when it starts to ask and `done` at
    its end.
    """
    command = [
        sys.executable,
        "-m",
        "tests.asking_process",
        str(folder),
        str(n),
        json.dumps(settings),
    ]
    root, environment = Path(__file__).resolve().parents[1], {**os.environ, "OPENAI_API_KEY": KEY}
    return subprocess.Popen(command, cwd=root, env=environment, stdout=subprocess.PIPE, text=True)


def wait_for(process: subprocess.Popen[str], word: str) -> None:
    """Read the process's lines until one begins with `word`."""
    assert process.stdout
    for line in process.stdout:
        if line.startswith(word):
            return
    raise AssertionError(f"the process ended before it said {word}")


if __name__ == "__main__":
    import openai  # noqa: F401

    logging.getLogger("vislib.runs.interrupts").addHandler(logging.StreamHandler(sys.stdout))
    logging.getLogger("vislib.runs.interrupts").setLevel(logging.INFO)
    OpenAIChat.backoff_s = 0.02
    ground = Ground(Path(sys.argv[1]), max_failure_rate=1.0)
    print("begun", flush=True)
    ask_all(ground, chat(**json.loads(sys.argv[3])), lambda: questions(int(sys.argv[2])))
    print("done", flush=True)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)  # MiB at most
