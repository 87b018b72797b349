"""Prompt caching, against a server that keeps and bills its cache as the provider publishes."""

from dataclasses import replace

import pytest
from PIL import Image

from tests import openai_server as scripted_server
from tests.openai_server import completion, openai_server
from tests.test_budget import Ground, _environment, asking  # noqa: F401
from vislib import priors, prompts
from vislib.engines import Request, openai
from vislib.engines.ask import ask_all
from vislib.engines.budget import marks_cache
from vislib.engines.openai import OpenAIChat, chat_messages
from vislib.media.tokenization import count_tokens, load_tokenizer
from vislib.prompts.captions import KINDS

TEMPLATES = (*(f"{kind}_caption" for kind in KINDS), "free_form", "multiple_choice")
MODEL = "gpt-6-sol"


class Provider:
    """Counts four characters as a token, reuses beginnings up to a breakpoint, and writes what it
    has not.
    """

    def __init__(self):
        self.kept, self.server = set(), None

    def __call__(self, prompt, times):
        body = self.server.bodies[-1]
        parts = body["messages"][-1]["content"]
        texts = [part.get("text", "") for part in parts]
        ends = [
            "".join(texts[: n + 1])
            for n, part in enumerate(parts)
            if "prompt_cache_breakpoint" in part
        ]
        if body.get("prompt_cache_options", {}).get("mode") != "explicit":
            ends.append("".join(texts))
        ends = [end for end in ends if len(end) >= 4 * 1024]
        found = max((end for end in ends if end in self.kept), key=len, default="")
        written = max((end for end in ends if end not in self.kept), key=len, default="")
        self.kept.update(ends)
        details = {
            "cached_tokens": len(found) // 4,
            "cache_write_tokens": max(0, len(written) - len(found)) // 4,
        }
        usage = {
            "prompt_tokens": len("".join(texts)) // 4,
            "completion_tokens": 20,
            "prompt_tokens_details": details,
        }
        return 200, completion("An answer.") | {"usage": usage}, {}


@pytest.fixture
def provider(monkeypatch):
    monkeypatch.setattr(scripted_server, "MODEL", MODEL)
    script = Provider()
    with openai_server(script=script) as server:
        script.server = server
        yield server


def requests(n, head, folder):
    Image.new("RGB", (8, 8)).save(folder / "a.png")
    more = {"prompt_sha": "t", "shared": len(head), "image_id": "i", "image_path": folder / "a.png"}
    return [Request(id=f"{i}", prompt=f"{head}\n{i} " + "page " * 400, **more) for i in range(n)]


def at(monkeypatch, server):
    """Take the server for the provider itself."""
    monkeypatch.setattr(openai, "PROVIDER", server.url)


def paid(tmp_path, server, asked):
    ground = Ground(
        tmp_path,
        model=MODEL,
        base_url=server.url,
        max_in_flight=1,
        usd_per_million_cached_tokens=0.2,
    )
    ask_all(ground, OpenAIChat(ground.params), lambda: iter(asked))
    return ground.used


def test_instructions_are_written_once_and_read_from_then_on(tmp_path, provider, monkeypatch):
    at(monkeypatch, provider)
    used = paid(tmp_path, provider, requests(20, "Do so. " * 700, tmp_path))
    assert used["tokens_cached"] == 19 * 1225
    assert used["usd"] == pytest.approx(
        (19 * 1225 * 0.2 + 1225 * 2.5 + (used["tokens_in"] - 20 * 1225) * 2 + 400 * 10) / 1e6
    )


def test_the_providers_own_breakpoint_would_cost_a_quarter_more(tmp_path, provider, monkeypatch):
    head = "Do so. " * 300  # too few tokens to be cached
    implicit = paid(tmp_path / "implicit", provider, requests(10, head, tmp_path))
    assert (
        "prompt_cache_options" not in provider.bodies[0]
    )  # not the provider: servers refuse fields they do not know
    at(monkeypatch, provider)
    explicit = paid(tmp_path / "explicit", provider, requests(10, head, tmp_path))
    assert implicit["tokens_in"] == explicit["tokens_in"]
    assert implicit["usd"] - explicit["usd"] == pytest.approx(implicit["tokens_in"] * 0.5e-6)


@pytest.mark.parametrize(
    ("model", "marked"),
    [("gpt-6-sol", True), ("openai/gpt-5.6-luna", True), ("gpt-5.5", False), ("qwen3-vl", False)],
)
def test_the_models_whose_provider_wants_a_breakpoint(model, marked):
    assert marks_cache(model) == marked


def test_what_our_prompts_share_is_long_enough_to_be_cached():
    shared = [prompts.load(name).text[: prompts.load(name).shared] for name in TEMPLATES]
    assert min(count_tokens(load_tokenizer("mistral-common"), shared)) >= 1024


def test_the_prompt_is_cut_where_the_samples_own_text_begins(tmp_path):
    values = dict.fromkeys(
        ("caption", "page_url", "context", "alt_text", *priors.FIELDS), "A mast."
    )
    for name in TEMPLATES:
        template = prompts.load(name)
        prompt = template.render(**values)
        request = replace(asking(1)[0], prompt=prompt, shared=template.shared)
        Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
        for image in ({}, {"image_id": "i", "image_path": tmp_path / "a.png"}):
            (message,) = chat_messages(replace(request, **image), marked=True)
            texts = [part for part in message["content"] if part["type"] == "text"]
            assert "".join(part["text"] for part in texts) == prompt
            assert "A mast." not in texts[0]["text"]
            assert len(message["content"]) == len(texts) + bool(image)
            marked = [part for part in message["content"] if "prompt_cache_breakpoint" in part]
            assert marked == texts[:1]
