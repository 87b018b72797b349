"""A model in a folder is served while it is asked, and whatever happens nothing is left running.

The server is a small script here, with a child of its own; `campaigns/test_own_engine.py` takes a
real one.
"""

import fcntl
import json
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.engine_ground import SETTINGS, Ground, asking
from vislib.engines import Answer, answer_of, open_engine, request_key, serve
from vislib.engines.ask import ask_all, check_parameters, preview
from vislib.engines.openai import OpenAIChat
from vislib.runs import InputError, keys

ROOT = Path(__file__).resolve().parents[1]
SERVER = """
    import http.server, json, os, subprocess, sys, time
    folder, host, port = sys.argv[1], sys.argv[3], int(sys.argv[5])
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    keys = [name for name, value in os.environ.items() if "API_KEY" in name and value]
    facts = {"pids": [os.getpid(), os.getppid(), child.pid], "host": host, "keys": keys}
    open(os.path.join(folder, "..", "facts.json"), "w").write(json.dumps(facts))
    print("loading the weights", flush=True)
    mood = open(os.path.join(folder, "mood")).read()
    if mood == "broken":
        sys.exit("ValueError: no such architecture")
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(503 if mood == "slow" else 200)
            self.end_headers()
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked = body["messages"][0]["content"]
            if mood == "mortal" and asked.endswith("3"):
                print("CUDA out of memory", flush=True)
                os._exit(7)
            time.sleep(60 if mood == "hanging" else 0)
            message = {"role": "assistant", "content": f"{body['model']} {asked}"}
            reply = {"id": "c", "object": "chat.completion", "created": 1, "model": folder + "@main",
                     "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
                     "usage": {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}}
            data = json.dumps(reply).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
        def log_message(self, *args):
            pass
    http.server.ThreadingHTTPServer((host, port), Handler).serve_forever()
"""  # noqa: E501


@pytest.fixture
def run(tmp_path, monkeypatch):
    """What an engine sees of a run whose `model` is a folder, and whose server is the script."""
    (tmp_path / "model").mkdir()
    (tmp_path / "serve.py").write_text(textwrap.dedent(SERVER))
    monkeypatch.setattr(OpenAIChat, "backoff_s", 0.002)
    monkeypatch.setattr(serve, "_command", lambda: [sys.executable, str(tmp_path / "serve.py")])
    return run_in(tmp_path, "well")


def run_in(folder: Path, mood: str, **settings) -> Ground:
    (folder / "model/mood").write_text(mood)
    (folder / "stage").mkdir(exist_ok=True)
    ground = Ground(folder / "stage")
    given = {
        "model": str(folder / "model"),
        "base_url": "",
        "max_failure_rate": 0.0,
        "replay": False,
        **settings,
    }
    ground.params = SimpleNamespace(**SETTINGS | given)
    ground.workers_lock = folder / "workers.lock"
    ground.inputs = lambda name: [folder / "model"]
    ground.journal_path = lambda name: folder / "stage" / f"{name}.sqlite"
    return ground


def answers(run: Ground, n: int) -> list[Answer]:
    engine = open_engine(run)
    ask_all(run, engine, lambda: iter(asking(n)))
    return [answer_of(run.journal("openai"), engine, request) for request in asking(n)]


def facts(folder: Path) -> dict:
    deadline = time.monotonic() + 120
    while not (folder / "facts.json").exists() or not (folder / "facts.json").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return json.loads((folder / "facts.json").read_text())


def assert_nothing_is_left(folder: Path) -> None:
    """Server, guard and the server's child are gone, and the lock of the run is free."""
    deadline = time.monotonic() + 60
    while any(is_alive(pid) for pid in facts(folder)["pids"]) or not is_free(
        folder / "workers.lock"
    ):
        assert time.monotonic() < deadline, facts(folder)
        time.sleep(0.02)


def is_free(lock: Path) -> bool:
    with lock.open() as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_folder_is_served_while_it_is_asked(run, tmp_path, monkeypatch):
    monkeypatch.setenv("VLLM_API_KEY", "a-secret-of-twelve")
    monkeypatch.setenv(
        "HTTP_PROXY", "http://127.0.0.1:9"
    )  # leads nowhere: what runs here is asked past it
    found = answers(run, 5)
    model = str(tmp_path / "model")
    assert [a.text for a in found] == [f"{model} question {n}" for n in range(5)]
    identity = open_engine(run)._identity
    assert {a.model for a in found} == {f"model@{identity[:8]}"}  # no path of this machine
    assert facts(tmp_path) | {"pids": 0} == {"pids": 0, "host": "127.0.0.1", "keys": []}
    assert "loading the weights" in (run.folder / serve.LOG).read_text()
    assert_nothing_is_left(tmp_path)
    (tmp_path / "facts.json").unlink()
    assert answers(run, 5) == found
    assert not (tmp_path / "facts.json").exists()  # all was journalled: no server was started
    preview(run, lambda: iter(asking(9)))
    assert not (tmp_path / "facts.json").exists()


def test_answers_are_known_by_the_weights_whoever_serves_them(run, tmp_path):
    (request,), own = asking(1), open_engine(run)
    named = run_in(tmp_path, "well", base_url="http://127.0.0.1:1/v1")
    assert type(open_engine(named)) is OpenAIChat
    assert request_key(open_engine(named), request) == request_key(own, request)
    assert request_key(open_engine(run_in(tmp_path, "other weights")), request) != request_key(
        own, request
    )


@pytest.mark.parametrize(
    ("mood", "said"),
    [
        ("broken", "did not come up.*ended with 1.*no such architecture"),
        ("mortal", "ended with 7.*CUDA out of memory"),
    ],
)
def test_a_server_that_ends_is_told_with_its_last_words(run, tmp_path, mood, said):
    with pytest.raises(InputError, match=rf"(?s){said}"):
        answers(run_in(tmp_path, mood, max_in_flight=1), 6)
    assert_nothing_is_left(tmp_path)
    assert len(run.journal("openai")) == (3 if mood == "mortal" else 0)


# while it comes up, while it answers: then an interrupt waits for what is in flight
@pytest.mark.parametrize(
    ("mood", "number"),
    [("slow", signal.SIGKILL), ("slow", signal.SIGINT), ("hanging", signal.SIGKILL)],
)
def test_nothing_outlives_the_one_that_asks(run, tmp_path, mood, number):
    run_in(tmp_path, mood)
    code = "import sys; from tests.test_serve import asker; asker(sys.argv[1], sys.argv[2])"
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path), mood], cwd=ROOT, stderr=subprocess.PIPE
    )
    facts(tmp_path)
    time.sleep(1.0)
    process.send_signal(number)
    process.communicate(timeout=120)
    assert process.returncode != 0
    assert_nothing_is_left(tmp_path)


def asker(folder: str, mood: str) -> None:
    """Ask in a process of its own."""
    serve._command = lambda: [sys.executable, f"{folder}/serve.py"]
    answers(run_in(Path(folder), mood), 3)


def test_bad_settings_are_told_before_anything_is_asked(run, tmp_path, monkeypatch):
    check_parameters(
        SimpleNamespace(**vars(run.params), checks=[], language="en", run_dir="runs/x")
    )
    batch = run_in(tmp_path, "well", engine="openai_batch", batch_price=0.5, batch_folder="")
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(InputError, match="which the provider lacks"):
        open_engine(batch)
    batch.params.batch_folder = str(tmp_path / "files")
    engine = open_engine(batch)
    assert engine._weights == f"{tmp_path / 'model'} --served-model-name {engine.model}"
    (tmp_path / "model/adapter_config.json").touch()
    with pytest.raises(InputError, match="adapters alone; name whole weights"):
        open_engine(run_in(tmp_path, "well"))
    (tmp_path / "model/adapter_config.json").unlink()
    monkeypatch.undo()
    monkeypatch.setattr(serve, "_SERVERS", ("no-such-server",))
    with pytest.raises(InputError, match="neither vllm nor transformers"):
        open_engine(run_in(tmp_path, "well"))


def test_a_model_behind_a_base_url_is_no_input():
    schema = {"model": SimpleNamespace(flags={"model"})}
    served = {"model": "accounts/some/models/name", "base_url": "https://api.example/v1"}
    assert keys.input_values(schema, served) == []
    assert keys.input_values(schema, served | {"base_url": ""}) == [
        ("model", "accounts/some/models/name")
    ]
