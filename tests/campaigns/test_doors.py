"""Two more doors to the same bytes: plain papermill, and Run All in JupyterLab in a real
browser.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sets import result_bytes

pytestmark = pytest.mark.campaign
ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
NOTEBOOKS = sorted(p.stem for p in (ROOT / "notebooks").glob("*.ipynb") if p.stem != "00_tour")
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-sync",
]


def environment(clone: Path, runs: Path) -> dict[str, str]:
    """The clone's library and not the installed one, which somebody may be editing."""
    places = {"VISLIB_RUNS": str(runs), "PYTHONPATH": str(clone)}
    return {**os.environ, **places, "PATH": f"{BIN}:{os.environ['PATH']}"}


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Path:
    """A fresh clone, set up as `make lab` does."""
    folder = tmp_path_factory.mktemp("clone") / "project"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
    subprocess.run(
        [BIN / "nbstripout", "--install", "--attributes", ".git/info/attributes"],
        cwd=folder,
        check=True,
    )
    subprocess.run(
        ["git", "config", "filter.nbstripout.extrakeys", "metadata.language_info"],
        cwd=folder,
        check=True,
    )
    with (folder / ".git/info/attributes").open("a") as attributes:
        attributes.write("notebooks/00_tour.ipynb -filter\n")  # it keeps its outputs
    return folder


@pytest.fixture(scope="module")
def params(tmp_path_factory) -> Path:
    """The sample set, and the notebooks that it leaves out (a model, its evaluation and figures) as
    they stand.
    """
    folder = Path(
        shutil.copytree(ROOT / "params/sample", tmp_path_factory.mktemp("params") / "sample")
    )
    for name in NOTEBOOKS:
        if not (folder / f"{name}.yaml").exists():
            (folder / f"{name}.yaml").write_text('variant: ""\n')
    return folder


@pytest.fixture(scope="module")
def by_runner(clone, params, tmp_path_factory) -> Path:
    """That set as the runner makes it."""
    runs = tmp_path_factory.mktemp("runner")
    done = subprocess.run(
        [sys.executable, "-m", "vislib.run", params, "--jobs", "2"],
        cwd=clone,
        env=environment(clone, runs),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return runs / "sample"


def papermill(clone: Path, stage: Path, tmp_path: Path, folder: str = ".") -> None:
    """Run one stage by papermill alone, with the parameters that the runner recorded."""
    notebook = clone / f"notebooks/{stage.name.partition('.')[0]}.ipynb"
    done = subprocess.run(
        [BIN / "papermill", notebook, tmp_path / "out.ipynb", "-f", stage / "params.yaml"],
        cwd=clone / folder,
        env=environment(clone, tmp_path / "runs"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{stage.name}: {done.stderr[-3000:]}"


@pytest.mark.parametrize("folder", [".", "notebooks"])
def test_plain_papermill(clone, params, by_runner, tmp_path, folder):
    """From the project's root and from the notebooks' folder, with the parameters that the runner
    recorded.
    """
    for file in sorted(params.glob("*.yaml")):
        papermill(clone, by_runner / file.stem, tmp_path, folder)
    assert result_bytes(tmp_path / "runs/sample") == result_bytes(by_runner)


@pytest.fixture
def lab(clone, tmp_path) -> Iterator[str]:
    """Address of a JupyterLab that works on the clone."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [
            BIN / "jupyter",
            "lab",
            "--no-browser",
            "--allow-root",
            f"--port={port}",
            "--IdentityProvider.token=loopback",
        ],
        cwd=clone,
        env=environment(clone, tmp_path / "runs"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    address = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + 60
    while not _answers(f"{address}/api?token=loopback"):
        assert time.monotonic() < deadline, "JupyterLab did not start"
        time.sleep(0.5)
    yield address
    server.terminate()
    server.wait(timeout=30)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False


def test_run_all_in_jupyterlab(clone, by_runner, lab, tmp_path):
    """Every notebook by Run All, then saved: the bytes of the runner, and an empty `git diff`."""
    assert CHROMIUM, "this test needs Chromium: apt-get install chromium"
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        for name in NOTEBOOKS:
            if name == "06_captioning":  # its variant has values that Run All would not know
                papermill(clone, by_runner / "06_captioning.fused", tmp_path)
            page.goto(
                f"{lab}/lab/workspaces/{name}/tree/notebooks/{name}.ipynb?reset&token=loopback"
            )
            page.locator(".jp-NotebookPanel:visible .jp-Cell").first.wait_for(timeout=60_000)
            page.get_by_text("| Idle").first.wait_for(
                timeout=60_000
            )  # before that JupyterLab may forget the click
            page.get_by_role("menuitem", name="Run", exact=True).click()
            page.get_by_text("Run All Cells", exact=True).click()
            _wait_for(tmp_path / "runs/sample" / name / "run.json", name)
            page.keyboard.press("Control+s")
            _wait_saved(clone / f"notebooks/{name}.ipynb")
            _end_kernels(lab)
        browser.close()
    assert result_bytes(tmp_path / "runs/sample") == result_bytes(by_runner)
    assert (
        subprocess.run(
            ["git", "diff", "--stat"], cwd=clone, capture_output=True, text=True, check=True
        ).stdout
        == ""
    )


def _wait_for(record: Path, name: str) -> None:
    deadline = time.monotonic() + 240
    while not (record.exists() and json.loads(record.read_text())["status"] == "finished"):
        assert time.monotonic() < deadline, f"{name} did not finish in JupyterLab"
        time.sleep(0.5)


def _wait_saved(notebook: Path) -> None:
    """The saved file holds outputs: what `git diff` is then asked about is a notebook that was
    really run.
    """
    deadline = time.monotonic() + 60
    while '"output_type"' not in notebook.read_text():  # which is empty while it is written
        assert time.monotonic() < deadline, f"{notebook.name} was not saved with its outputs"
        time.sleep(0.5)


def _end_kernels(lab: str) -> None:
    with urllib.request.urlopen(f"{lab}/api/sessions?token=loopback") as reply:
        sessions = json.load(reply)
    for session in sessions:
        request = urllib.request.Request(
            f"{lab}/api/sessions/{session['id']}?token=loopback", method="DELETE"
        )
        urllib.request.urlopen(request).close()
