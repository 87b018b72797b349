"""A second real server of the protocol: a LiteLLM proxy in an environment of its own, in front of a
scripted one.

Proxies rewrite errors, headers and usage. This asks whether the engine's answers, faults and limits
survive that.
"""

import subprocess
import sys

import pytest
from PIL import Image

from tests.campaigns.real_servers import serving
from tests.engine_ground import Ground, ask, asking, chat
from tests.openai_server import KEY, completion, error, openai_server
from vislib.runs.errors import InputError

pytestmark = pytest.mark.campaign
VERSION = "litellm[proxy]==1.105.0"
_CONFIG = """
model_list:
  - model_name: proxied
    litellm_params: {model: openai/scripted-vlm, api_base: os.environ/UPSTREAM, api_key: os.environ/UPSTREAM_KEY}
litellm_settings: {num_retries: 0, request_timeout: 30}
router_settings: {disable_cooldowns: true}
"""  # noqa: E501


@pytest.fixture(scope="module")
def upstream():
    with openai_server() as scripted:
        yield scripted


@pytest.fixture(scope="module")
def proxy(upstream, tmp_path_factory) -> str:
    """The base URL of the proxy."""
    folder = tmp_path_factory.mktemp("litellm")
    (folder / "config.yaml").write_text(_CONFIG)
    subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
    subprocess.run([str(folder / "venv/bin/pip"), "install", "--quiet", VERSION], check=True)
    command = [str(folder / "venv/bin/litellm"), "--config", str(folder / "config.yaml")]
    secrets = {"UPSTREAM": upstream.url, "UPSTREAM_KEY": KEY, "LITELLM_MASTER_KEY": KEY}
    with serving(
        command,
        health="/health/liveliness",
        log=folder / "log.txt",
        LITELLM_LOCAL_MODEL_COST_MAP="True",
        **secrets,
    ) as url:
        yield f"{url}/v1"


@pytest.fixture
def ground(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    return Ground(tmp_path, max_failure_rate=1.0)


def test_texts_and_images_are_answered_with_their_tokens(proxy, upstream, ground, tmp_path):
    Image.effect_noise((90, 60), 80).convert("RGB").save(tmp_path / "a.png")
    pictured = asking(20, image_id="i", image_path=tmp_path / "a.png", image_side=32)
    engine = chat(base_url=proxy, model="proxied")
    answers = ask(ground, engine, [*asking(40, system="Be brief."), *pictured])
    assert {(a.status, a.tokens_in, a.tokens_out) for a in answers} == {("ok", 100, 20)}
    assert upstream.images == [(32, 21)] * 20
    assert ask(ground, engine, pictured) == answers[40:]
    assert len(upstream.bodies) == 60


def test_faults_that_pass_are_passed_and_lasting_ones_have_their_reason(proxy, upstream, ground):
    asked_before = len(upstream.bodies)
    passing = [
        error(500, "oops"),
        error(429, "slow down", headers={"Retry-After": "0"}),
        (200, "<html>", {}),
    ]
    lasting = {
        "0": error(400, "too long for the model"),
        "1": (200, completion("cut", finish="length"), {}),
    }

    def script(prompt, times):
        last = prompt[-1]
        return lasting.get(last) or (passing[int(last) % 3] if times == 1 else None)

    upstream.script = script
    upstream.asked.clear()
    answers = ask(ground, chat(base_url=proxy, model="proxied"), asking(10, seed=5))
    upstream.script = None
    assert [a.reason for a in answers] == ["refused", "length"] + [""] * 8
    again = (
        1  # the cut answer had fewer tokens than its bound: once asked by the bound's older name
    )
    assert len(upstream.bodies) - asked_before == 2 + again + 2 * 8


def test_a_wrong_key_and_an_unknown_model_stop_with_one_message(proxy, ground, monkeypatch):
    ground.params.max_failure_rate = 0.0
    with pytest.raises(
        InputError, match="Invalid model name passed in model=unheard-of"
    ):  # a 400 like any other
        ask(ground, chat(base_url=proxy, model="unheard-of"), asking(3, seed=7))
    monkeypatch.setenv("OPENAI_API_KEY", "sk-a-wrong-key-0123456789")
    with pytest.raises(
        InputError, match="No connected db"
    ):  # what this proxy says to a key that it does not know
        ask(ground, chat(base_url=proxy, model="proxied"), asking(3, seed=8))
