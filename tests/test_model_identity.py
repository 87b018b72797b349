"""Whose answers the journal holds: another model under an unchanged name is never taken for the one
before.
"""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.engine_ground import Ground, _environment, ask, asking, chat, ground  # noqa: F401
from tests.openai_server import KEY, MODEL, completion
from vislib.engines.ask import ask_all
from vislib.engines.identity import Source, look, same_model
from vislib.runs.errors import InputError


class Told:
    """A server that says of its model what a test wants."""

    def __init__(self, name, entry=None, model=MODEL, models=200):
        self.name, self.entry, self.model, self.models, self.asked = name, entry, model, models, 0


@contextmanager
def serving(told):
    class Handler(BaseHTTPRequestHandler):
        def send(self, status, body):
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def do_GET(self):
            if self.headers["Authorization"] != f"Bearer {KEY}":
                self.send(401, {"error": "no"})
            else:
                self.send(told.models, {"data": [told.entry] if told.entry else []})

        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            told.asked += 1
            self.send(200, {**completion(f"An answer of {told.name}."), "model": told.model})

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    told.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
    ).start()
    try:
        yield told
    finally:
        server.shutdown()
        server.server_close()


def entry(**told):
    return {"id": MODEL, "object": "model", **told}


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        (entry(root="/ckpt/100"), entry(root="/ckpt/200"), "/ckpt/100.*now.*/ckpt/200"),
        (entry(meta={"n_params": 7}), entry(meta={"n_params": 8}), "n_params 7.*now.*n_params 8"),
        (None, None, "says nothing"),
    ],
)
def test_another_server_under_the_same_name_stops_and_both_are_named(ground, first, second, said):  # noqa: F811
    with serving(Told("A", first)) as a, serving(Told("B", second)) as b:
        ask(ground, chat(a), asking(3))
        for n in (3, 5):  # all known, some to ask
            with pytest.raises(
                InputError, match=f"(?s)3 answers in the journal are of {a.url}.*{said}"
            ) as caught:
                ask(ground, chat(b), asking(n))
            assert b.url in str(caught.value)
            assert "model_revision" in str(caught.value)
        assert b.asked == 0
        assert {x.text for x in ask(ground, chat(b, model_revision="200"), asking(3))} == {
            "An answer of B."
        }
        assert {x.text for x in ask(ground, chat(a), asking(3))} == {
            "An answer of A."
        }  # today's keys hold
        assert len(ask(ground, chat(b, same_model=True), asking(4))) == 4
        assert (a.asked, b.asked) == (3, 4)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            entry(root="org/model", created=1, max_model_len=10),
            entry(root="org/model", created=2, max_model_len=20),
        ),
        (entry(owned_by="a"), entry(owned_by="b")),
    ],
)
def test_a_server_that_was_only_started_anew_is_the_same(ground, before, after):  # noqa: F811
    with serving(Told("A", before)) as a:
        ask(ground, chat(a), asking(3))
        a.entry = after
        ask(ground, chat(a), asking(5))
        assert a.asked == 5


def test_the_same_weights_may_move(ground, capsys):  # noqa: F811
    with serving(Told("A", entry(root="org/model"))) as a:
        ask(ground, chat(a), asking(3))
    with serving(Told("B", entry(root="org/model"))) as b:
        ask(ground, chat(b), asking(5))
        assert b.asked == 2
    assert "3 of 5 answers come from the journal, of 20" in capsys.readouterr().out


def test_a_reply_that_names_another_model_stops_and_is_not_kept_for_the_one_before(ground):  # noqa: F811
    with serving(Told("A", model="gpt-6-2026-01-01")) as a:
        ask(ground, chat(a), asking(3))
        a.model = "gpt-6"  # less said is nothing else
        ask(ground, chat(a), asking(4))
        a.model = "gpt-6-2026-09-09"
        for _ in range(2):
            with pytest.raises(InputError, match=r"'gpt-6-2026-09-09'.*gpt-6-2026-01-01"):
                ask(ground, chat(a, max_in_flight=1), asking(8))
        assert len(ground.journal("openai")) == 4
        assert ground.used["tokens_out"] == 20 * a.asked  # it was paid


def test_a_router_that_alternates_is_one(ground):  # noqa: F811
    with serving(Told("A", model="one")) as a:
        ask(ground, chat(a), asking(2))
    assert same_model("m", "m-2026-01-01")
    assert same_model("m@latest", "m")
    assert not same_model("m", "m-large")
    assert not same_model("m-2026-01-01", "m-2026-02-01")


def test_a_list_of_models_that_fails_or_lacks_the_name_is_noted(monkeypatch):
    with serving(Told("A", {"id": "another"})) as a:
        assert "does not list m (but another)" in look([a.url], "m")[0].note
        a.models = 500
        assert "status 500" in look([a.url], "m")[0].note
        monkeypatch.setenv("OPENAI_API_KEY", "wrong")
        with pytest.raises(InputError, match="key in OPENAI_API_KEY is refused"):
            look([a.url], "m")
        monkeypatch.delenv("OPENAI_API_KEY")
        with pytest.raises(InputError, match="No key was sent"):
            look([a.url], "m")
    with pytest.raises(InputError, match="no connection"):
        look(["http://127.0.0.1:9/v1"], "m")


def test_one_machine_has_several_names():
    here, there = (Source((f"http://{host}:8000/v1",), {}) for host in ("localhost", "127.0.0.1"))
    assert not here.differs(there)
    assert here.differs(Source(("http://gpu:8000/v1",), {}))


def test_a_stage_whose_checks_drop_most_stops_early_and_says_which(ground):  # noqa: F811
    ground.params.max_drop_rate = 0.5
    bad = lambda request, text: ("leakage", "<think>") if int(request.id[1:]) % 4 else ("", "")  # noqa: E731
    with serving(Told("A")) as a:
        with pytest.raises(
            InputError, match=r"3\d of 5\d answers fail a check \(leakage 3\d\).*max_drop_rate 0\.5"
        ):
            ask_all(ground, chat(a, max_in_flight=2), lambda: iter(asking(400)), bad)
        asked = a.asked
        assert 50 <= asked < 60
        with pytest.raises(
            InputError, match="leakage"
        ):  # what is known says so, before more is paid
            ask_all(ground, chat(a), lambda: iter(asking(400)), bad)
        assert a.asked == asked
        ground.params.max_drop_rate = 1.0
        ask_all(ground, chat(a), lambda: iter(asking(400)), bad)
        assert a.asked == 400
