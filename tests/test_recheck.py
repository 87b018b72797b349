"""`python -m vislib.links recheck`: what has become of a set's links, by a server."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.test_fetching import allowing
from tests.test_images import begin, collect_images
from tests.web_server import answer, png, web_server
from vislib import links, removals
from vislib.runs.yaml_files import write_parameters

NAMES = ("fine", "gone", "changed", "noai", "shut", "held", "known", "busy")
LATER = {
    "/robots.txt": answer(body=b"User-agent: *\nDisallow: /shut\nDisallow: /known\n"),
    "/gone.png": answer(404),
    "/changed.png": answer(body=png(77)),
    "/noai.png": answer(body=png(5), headers={"X-Robots-Tag": "noai"}),
    "/held.png": answer(body=png(9), headers={"TDM-Reservation": "1"}),
    "/busy.png": answer(503),
}
EARLIER = {"/robots.txt": answer(body=b"User-agent: *\nDisallow: /known\n")}


def test_what_is_gone_changed_or_newly_opted_out_becomes_a_removal_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pages = dict(EARLIER)
    with web_server(script=lambda path, n: pages.get(path)) as server:
        urls = [f"{server.url}/{name}.png" for name in NAMES]
        parameters = {"images_root": "", "retries": 0, "timeout_s": 3.0, **allowing(server)}
        run = begin(tmp_path, urls, monkeypatch, **parameters)
        collect_images(run)
        run.finish()
        write_parameters(run.stage.folder / "params.yaml", run.stage.values)
        assert run.counts()["image_url"]["kept"] == len(NAMES)
        assert links.main(["recheck", "demo"]) == 0
        assert "ok 7, opted_out_before 1" in capsys.readouterr().out
        server.asked.clear()
        assert links.main(["recheck", "demo"]) == 0
        assert not server.asked  # once a day
        pages = LATER
        monkeypatch.setattr(links, "date", SimpleNamespace(today=lambda: "tomorrow"))
        assert links.main(["recheck", "params/demo", "--into", str(tmp_path / "list.jsonl")]) == 1
        assert not server.asked["/shut.png"]  # who opted out is left alone
    entries = list(removals.read([tmp_path / "list.jsonl"]))
    assert {entry["unit"] for entry in entries} == {"link"}
    found = {entry["id"].rsplit("/")[-1]: (entry["reason"], entry["note"]) for entry in entries}
    assert {name: reason for name, (reason, _) in found.items()} == {
        "gone.png": "not_found",
        "changed.png": "changed",
        "noai.png": "opted_out",
        "shut.png": "opted_out",
        "held.png": "opted_out",
    }
    assert found["held.png"][1] == "tdm: 1"
    assert "server_error 1" in capsys.readouterr().out


def test_embedded_pictures_have_no_links_to_ask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VISLIB_RUNS", str(tmp_path / "runs"))
    (tmp_path / "runs/sample/03_images").mkdir(parents=True)
    write_parameters(tmp_path / "runs/sample/03_images/params.yaml", {"images_root": "sample"})
    assert links.main(["recheck", "sample"]) == 2
    assert "its pictures are embedded" in capsys.readouterr().err
    assert links.main(["recheck", "nothing"]) == 2
