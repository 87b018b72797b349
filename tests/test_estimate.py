"""What asking will take, held against what it then took on a loopback server; the dry run, which
writes nothing.
"""

import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from tests.openai_server import completion
from tests.sets import ROOT, variation
from tests.test_budget import SETTINGS, Ground, _environment, ask, server  # noqa: F401
from vislib.engines import Request
from vislib.engines.asking import _Asking
from vislib.engines.budget import Budget
from vislib.engines.estimate import Estimate, estimate_for
from vislib.engines.extractive import Extractive
from vislib.engines.openai_chat import OpenAIChat
from vislib.media.tokenization import count_tokens, load_tokenizer
from vislib.runs.contract import SCHEMAS
from vislib.runs.journal import Journal
from vislib.runs.runner import main
from vislib.runs.tables import Output

WORDS = Path(__file__).read_text().split()


def asking(n, sha="t", **settings):
    texts = [f"{sha} {i} " + " ".join(WORDS[i % 50 : 20 + i * 7 % 300]) for i in range(n)]
    return [
        Request(id=f"s{i}", prompt=t, prompt_sha=sha, max_tokens=800, **settings)
        for i, t in enumerate(texts)
    ]


def surveyed(ground, requests, **settings):
    engine = OpenAIChat(SimpleNamespace(**{**vars(ground.params), **settings}))
    survey = _Asking(ground, engine)
    survey.survey(iter(requests))
    return survey.estimate


def test_without_an_answer_a_tokenizer_counts_and_the_guess_is_said(tmp_path):
    requests = asking(600)
    estimate = surveyed(Ground(tmp_path), requests + requests[:100])  # twins are one request
    figures = estimate.figures()
    true = sum(
        count_tokens(load_tokenizer("mistral-common"), [request.prompt for request in requests])
    )
    assert figures["tokens_in"] == pytest.approx(true, rel=0.05)
    assert (figures["requests"], figures["tokens_out"], figures["hours"]) == (600, 600 * 400, 0)
    assert figures["usd"] == pytest.approx((2 * figures["tokens_in"] + 10 * 240_000) / 1e6)
    assert figures["most_usd"] == pytest.approx((2 * figures["tokens_in"] + 10 * 600 * 800) / 1e6)
    assert figures == surveyed(Ground(tmp_path), requests[::-1]).figures()
    for said in (
        "600 requests",
        "240 K out",
        "no answer yet",
        "prices of 2026-11-21",
        "hours unknown",
        "limit: 20",
    ):
        assert said in estimate.line()


def test_images_are_billed_by_the_rule_at_the_size_sent(tmp_path):
    with_image = {"image_id": "i", "image_size": (2000, 1000), "image_side": 768}
    texts, images = (
        surveyed(Ground(tmp_path, image_billing="gpt-6"), asking(50, **more)).figures()["tokens_in"]
        for more in ({}, with_image)
    )
    assert images - texts == 50 * 346  # 768 x 384: 24 x 12 cells at 1.2
    assert "the tokens of an image" in surveyed(Ground(tmp_path), asking(3, **with_image)).line()


def test_after_a_trial_its_answers_tell(tmp_path, server, capsys):  # noqa: F811
    used = {
        "prompt_tokens": 900,
        "completion_tokens": 37,
        "prompt_tokens_details": {"cached_tokens": 600},
    }
    server.script = lambda prompt, times: (200, completion("An answer.") | {"usage": used}, {})
    ground, requests = (
        Ground(tmp_path, usd_per_million_cached_tokens=0.2),
        [*asking(30), *asking(40, "other")],
    )
    server.latency_s = 0.05
    ask(ground, server, requests[:20])
    assert re.search(
        r"^to ask: 20 requests · .*no answer yet", capsys.readouterr().out, re.MULTILINE
    )
    estimate = surveyed(ground, requests)
    trial = sum(len(r.prompt.encode()) for r in requests[:20])
    first = sum(len(r.prompt.encode()) for r in requests[20:30])
    figures = estimate.figures()
    assert figures["answers"] == 20
    assert figures["tokens_out"] == 10 * 37 + 40 * 400
    assert figures["tokens_cached"] == pytest.approx(20 * 900 * first / trial * 2 / 3, rel=0.01)
    assert 0.05 * 50 / 8 < figures["hours"] * 3600 < 20 * 0.05 * 50 / 8
    assert "% of it cached" in estimate.line()
    assert "as in 20 answers; no answer yet" in estimate.line()
    ask(ground, server, requests)
    assert surveyed(ground, requests).lacking == {}
    elsewhere = surveyed(ground, asking(50))  # 30 answered, of this prompt: 20 to go, and no guess
    assert "guess" not in elsewhere.line()


def test_what_is_estimated_is_what_it_costs(tmp_path, server):  # noqa: F811
    tokenizer = load_tokenizer("mistral-common")
    server.script = lambda prompt, times: (
        200,
        completion(
            "yes", tokens=(count_tokens(tokenizer, [prompt])[0] + 9, 250 + len(prompt) % 300)
        ),
        {},
    )
    ground, requests = Ground(tmp_path), asking(300)
    before = surveyed(ground, requests, base_url=server.url).figures()["usd"]
    ask(ground, server, requests[::15])
    after_trial = ground.used["usd"] + surveyed(ground, requests).figures()["usd"]
    ask(ground, server, requests)
    assert before == pytest.approx(ground.used["usd"], rel=0.15)
    assert after_trial == pytest.approx(ground.used["usd"], rel=0.08)


def test_hours_follow_the_slowest_limit(tmp_path):
    def hours(**limits):
        return surveyed(Ground(tmp_path), asking(600), **limits).figures()["hours"]

    assert hours(requests_per_minute=100) == pytest.approx(0.1)
    assert hours(requests_per_minute=100, base_url="http://a/v1 http://b/v1") == pytest.approx(0.05)
    assert hours(tokens_per_minute=1000, requests_per_minute=10_000) > 4
    for rate, said in ((5, "2.0 h"), (100, "6 min"), (10_000, "4 s")):
        assert (
            surveyed(Ground(tmp_path), asking(600), requests_per_minute=rate)
            .line()
            .endswith(f" · {said}")
        )


def test_batches_cost_their_share_and_take_the_providers_day(tmp_path):
    lines = []
    for name, share, folder in (
        ("openai", 1.0, ""),
        ("openai_batch", 0.5, ""),
        ("openai_batch", 0.5, "out"),
    ):
        params = SimpleNamespace(**SETTINGS, batch_folder=folder)
        engine = SimpleNamespace(
            name=name, params=params, budget=Budget(params, share=share), urls=["u"]
        )
        estimate = Estimate(engine)
        for request in asking(100):
            estimate.add(request)
        lines.append((estimate.figures()["usd"], estimate.line()))
    assert lines[1][0] == pytest.approx(lines[0][0] / 2)
    assert "within the provider's 24 h" in lines[1][1]
    assert lines[2][1].endswith("answered elsewhere")


def test_without_prices_it_says_which_to_set(tmp_path):
    free = {"usd_per_million_input_tokens": 0.0, "usd_per_million_output_tokens": 0.0}
    line = surveyed(Ground(tmp_path, **free), asking(3)).line()
    assert "no prices: set usd_per_million_input_tokens and usd_per_million_output_tokens" in line
    assert "set prices_of" in surveyed(Ground(tmp_path, prices_of=""), asking(3)).line()
    assert estimate_for(Extractive()) is None


# -- the dry run
@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.setenv("VISLIB_RUNS", str(tmp_path / "runs"))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    return tmp_path / "runs" / "paid"


def paid_set(folder, **changes):
    asks = (
        SETTINGS
        | {"base_url": "http://127.0.0.1:9/v1", "model": "gpt-6-sol", "image_billing": "auto"}
        | changes
    )
    asks = {name: value for name, value in asks.items() if name != "image_billing"}
    both = {"06_captioning": asks | {"image_billing": "auto"}, "07_qa_generation": asks}
    return variation(folder / "paid", only="01 02 03 06 07", **both)


def inputs_of_06(run, n=5):
    samples, images = run / "02_filtering/data", run / "03_images/data"
    row = {
        "alt_text": "A mast.",
        "page_url": "http://h/p",
        "doc_id": "d",
        "image_index": 0,
        "n_context_tokens": 9,
    }
    with Output(samples, SCHEMAS["02_filtering"]) as output:
        for i in range(n):
            url = {"sample_id": f"s{i}", "image_url": f"http://h/{i}.png"}
            output.write(
                "samples", row | url | {"context": f"<image> Mast {i}.", "width": 90, "height": 60}
            )
    (images / "files").mkdir(parents=True)
    Image.new("RGB", (90, 60)).save(images / "files/a.png")
    with Output(images, SCHEMAS["03_images"]) as output:
        for i in range(n):
            output.write(
                "images",
                {
                    "image_url": f"http://h/{i}.png",
                    "image_id": f"i{i}",
                    "status": "ok",
                    "reason": "",
                    "path": "files/a.png",
                    "width": 90,
                    "height": 60,
                    "format": "PNG",
                    "perceptual_hash": "0" * 16,
                },
            )


def state(folder):
    """Every file and folder; the digests of inputs are a cache."""
    found = (p for p in sorted(folder.rglob("*")) if not p.name.startswith(".digests"))
    return {str(p): p.read_bytes() if p.is_file() else None for p in found}


def test_the_dry_run_estimates_what_has_its_inputs_and_writes_nothing(
    runs,
    tmp_path,
    capsys,
    server,  # noqa: F811
):
    folder = paid_set(tmp_path, base_url=server.url)
    assert main([str(folder), "--dry-run"]) == 0
    assert not runs.parent.exists()
    assert (
        capsys.readouterr().out.count(
            "no estimate before 02_filtering/samples, 03_images/images is there"
        )
        == 1
    )
    inputs_of_06(runs)
    before = state(tmp_path)
    assert main([str(folder), "--dry-run", "--only", "06"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "requests" in line]
    assert re.search(r"^ +10 requests · .* USD expected, .* at most.*prices of 2026-11-21", line)
    assert main([str(folder), "--dry-run"]) == 0
    assert "no estimate before 06_captioning/captions is there" in capsys.readouterr().out
    assert state(tmp_path) == before


def test_the_dry_run_reads_a_journal_without_touching_it(runs, tmp_path, capsys, server):  # noqa: F811
    folder = paid_set(tmp_path, base_url=server.url)
    inputs_of_06(runs)
    journal = Journal(runs.parent / "journal/openai.sqlite")
    journal.put("0" * 16, {"usd": 0.1, "tokens_in": 5})
    for closed in (False, True):  # beside a run at work, and after one
        if closed:
            journal._db.close()
        before = state(tmp_path)
        assert main([str(folder), "--dry-run", "--only", "06"]) == 0
        assert "10 requests" in capsys.readouterr().out
        assert {k: v for k, v in state(tmp_path).items() if not k.endswith("-shm")} == {
            k: v for k, v in before.items() if not k.endswith("-shm")
        }


def test_the_dry_run_refuses_what_the_run_would_refuse(runs, tmp_path, capsys):
    inputs_of_06(runs)
    for changes, said in (
        ({"prices_of": "today"}, "prices_of is 'today'"),
        ({"model": ""}, "model is empty"),
        ({"language": "xx"}, "language is 'xx'"),
        ({"checks": ["typos"]}, "checks: 'typos'"),
        ({"engine": "openai_batch", "base_url": "http://a/v1 http://b/v1"}, "names 2 servers"),
    ):
        for run in (
            [],
            ["--dry-run"],
        ):  # before anything is fetched or paid, with the name of the file
            assert main([str(paid_set(tmp_path, **changes)), *run]) == 2
            assert said in (told := capsys.readouterr().err)
            assert "06_captioning.yaml: " in told


def test_the_dry_run_says_when_a_journal_cannot_be_used(runs, tmp_path, capsys):
    inputs_of_06(runs)
    assert main([str(paid_set(tmp_path, replay=True)), "--dry-run", "--only", "06"]) == 0
    assert "lacks 10 of 10 answers" in capsys.readouterr().out
    (runs.parent / "journal").mkdir(exist_ok=True)
    (runs.parent / "journal/openai.sqlite").write_bytes(b"no database, surely not")
    assert main([str(paid_set(tmp_path)), "--dry-run", "--only", "06"]) == 2
    assert "not a usable journal" in capsys.readouterr().err


def test_the_dry_run_of_a_set_that_asks_no_model_stays_light(tmp_path):
    folder = variation(tmp_path / "light", only="01 02 03 06 07")
    code = (
        "import sys; from vislib.runs.runner import main; main(sys.argv[1:]);"
        "print({'vislib.captioning', 'torch', 'openai', 'tokenizers', 'pandas'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", code, str(folder), "--dry-run"]
    done = subprocess.run(
        command, cwd=ROOT, env={"VISLIB_RUNS": str(tmp_path)}, capture_output=True, text=True
    )
    assert done.stdout.splitlines()[-1] == "set()", done.stdout + done.stderr
