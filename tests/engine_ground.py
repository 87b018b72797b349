"""What tests of engines stand on: the part of a run that asking uses, parameters, requests."""

from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.openai_server import KEY, MODEL, openai_server
from vislib.engines import Request, answer_of
from vislib.engines.ask import ask_all
from vislib.engines.openai import OpenAIChat
from vislib.runs.journal import Journal
from vislib.runs.progress import Progress

SETTINGS = {
    "engine": "openai",
    "model": MODEL,
    "max_in_flight": 8,
    "requests_per_minute": 0,
    "tokens_per_minute": 0,
    "timeout_s": 20.0,
    "max_spend_usd": 0.0,
    "usd_per_million_input_tokens": 0.0,
    "usd_per_million_output_tokens": 0.0,
    "usd_per_million_cached_tokens": -1.0,
    "prices_of": "",
    "reasoning_effort": "default",
    "model_revision": "",
    "same_model": False,
    "max_drop_rate": 1.0,
}


class Ground:
    """The part of a run that engines use: parameters, journal, usage."""

    def __init__(self, folder: Path, max_failure_rate: float = 0.0) -> None:
        self.folder, self.used, self.metrics = folder, Counter(), {}
        self.params = SimpleNamespace(
            max_failure_rate=max_failure_rate, max_drop_rate=1.0, replay=False, engine="openai"
        )

    def journal(self, name):
        return Journal(self.folder / f"{name}.sqlite")

    def progress(self, total, unit):
        return Progress(total, unit)

    def usage(self, **amounts):
        self.used.update(amounts)


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.setattr(OpenAIChat, "backoff_s", 0.002)


@pytest.fixture
def ground(tmp_path):
    return Ground(tmp_path)


@pytest.fixture
def server():
    with openai_server() as scripted:
        yield scripted


def chat(server=None, **settings):
    url = {"base_url": server.url} if server else {}
    return OpenAIChat(SimpleNamespace(**SETTINGS | url | settings))


def questions(n, **settings):
    """Requests, one at a time."""
    return (
        Request(id=f"s{i}", prompt=f"question {i}", prompt_sha="t", **settings) for i in range(n)
    )


def asking(n, **settings):
    return list(questions(n, **settings))


def ask(ground, engine, requests):
    ask_all(ground, engine, lambda: iter(requests))
    journal = ground.journal(engine.journal)
    return [answer_of(journal, engine, request) for request in requests]
