"""Real model servers as processes of their own, on a free port of loopback, for as long as a block
runs.
"""

import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def serving(
    command: list[str], *, health: str, log: Path, seconds: float = 120, **environment: str
) -> Iterator[str]:
    """Start `command --host … --port …`, wait until the path `health` answers 200; yields
    `http://host:port`.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with log.open("w") as output:
        server = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)],
            env=os.environ | environment,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + seconds
        while not _is_up(f"http://127.0.0.1:{port}{health}"):
            assert server.poll() is None, log.read_text()[-2000:]
            assert time.monotonic() < deadline, (
                f"not up after {seconds:.0f} s: {log.read_text()[-2000:]}"
            )
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait(30)


def _is_up(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5) as reply:
            return reply.status == 200
    except OSError:
        return False
