"""The dry run: what asking will take, said before anything is fetched or paid, writing nothing."""

import re
import subprocess
import sys

import pytest
from PIL import Image

from tests.sets import ROOT, variation
from tests.test_budget import SETTINGS, _environment, server  # noqa: F401
from vislib.runs.contract import SCHEMAS
from vislib.runs.journal import Journal
from vislib.runs.runner import main
from vislib.runs.tables import Output


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.setenv("VISLIB_RUNS", str(tmp_path / "runs"))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    return tmp_path / "runs" / "paid"


def paid_set(folder, **changes):
    asks = SETTINGS | {"base_url": "http://127.0.0.1:9/v1", "model": "gpt-6-sol"} | changes
    both = {"06_captioning": asks, "07_qa_generation": asks}
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


def test_the_price_is_said_before_key_and_server_are_looked_for(
    runs, tmp_path, capsys, monkeypatch
):
    inputs_of_06(runs)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    for url, lacks in (("http://127.0.0.1:9/v1", "no connection"), ("", "needs a key")):
        folder = paid_set(tmp_path, base_url=url)
        assert main([str(folder), "--dry-run", "--only", "06"]) == 2
        said = capsys.readouterr()
        assert re.search(r"^ +10 requests · .* tokens.* USD expected", said.out, re.MULTILINE)
        assert lacks in said.err


def test_the_dry_run_reads_a_journal_without_touching_it(runs, tmp_path, capsys, server):  # noqa: F811
    folder = paid_set(tmp_path, base_url=server.url)
    inputs_of_06(runs)
    path = runs.parent / "journal/openai.sqlite"
    journal = Journal(path)
    journal.put("0" * 16, {"usd": 0.1, "tokens_in": 5})

    def others():
        return {name: data for name, data in state(tmp_path).items() if str(path) not in name}

    for closed in (False, True):  # beside a run at work, and after one
        if closed:
            journal._db.close()
        before = others()
        assert main([str(folder), "--dry-run", "--only", "06"]) == 0
        assert "10 requests" in capsys.readouterr().out
        assert others() == before
        assert (len(Journal(path)), Journal(path).get("0" * 16)["usd"]) == (1, 0.1)


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
