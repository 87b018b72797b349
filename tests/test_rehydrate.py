"""`python -m vislib.links rehydrate`: links become pictures again, from a server that has lost some
and changed others.
"""

import csv
from pathlib import Path

import datasets
import pytest

from tests.releases import KINDS, TEST, N, publish, turns
from tests.web_server import answer, png, web_server
from vislib import links
from vislib.publishing.forms import write_forms

LOST, CHANGED, OPTED_OUT = 2, 4, 7


def script(path: str, _: int) -> bytes:
    number = int(path.strip("/").removesuffix(".png"))
    if number == LOST:
        return answer(404)
    headers = {"X-Robots-Tag": "noai"} if number == OPTED_OUT else {}
    return answer(body=png(99 if number == CHANGED else number), headers=headers)


@pytest.fixture(autouse=True)
def _journal_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VISLIB_RUNS", str(tmp_path / "runs"))


def test_links_become_pictures_again_and_what_is_gone_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with web_server(script=script) as server:
        data = publish(tmp_path, server.url, with_context=True).data
        command = ["rehydrate", str(data / "links_only"), "--into", str(tmp_path / "made")]
        command += ["--set", f"allow_hosts=[{server.host}]", "--set", "retries=0"]
        assert links.main(command) == 1
        said = capsys.readouterr().out
        assert "ok 24" in said
        assert all(f"{reason} 4" in said for reason in ("not_found", "changed", "opted_out"))
        assert set(server.asked.values()) == {1}
        before = read(tmp_path / "made")
        assert links.main(command) == 1
        assert set(server.asked.values()) == {1}  # the journal has all
        assert read(tmp_path / "made") == before
    gone = list(csv.DictReader((tmp_path / "made/gone.csv").open()))
    assert {row["image_url"].rsplit("/")[-1]: row["reason"] for row in gone} == {
        f"{LOST}.png": "not_found",
        f"{CHANGED}.png": "changed",
        f"{OPTED_OUT}.png": "opted_out",
    }
    for kind in KINDS:
        name = f"{kind}-leaky_mix"
        found = datasets.load_dataset(str(tmp_path / "made"), name, cache_dir=str(tmp_path / "c"))
        whole = {int(row["id"][1:]): row for split in found.values() for row in split}
        assert set(whole) == set(range(N)) - {LOST, CHANGED, OPTED_OUT}
        assert {int(row["id"][1:]) for row in found["test"]} == set(TEST) - {OPTED_OUT}
        for n, row in whole.items():
            assert row["image"].getpixel((0, 0))[0] == n
            assert (row["conversations"], row["context"]) == (turns(n, "leaky_mix"), f"page {n}")


def test_with_every_picture_there_it_is_the_release_with_images(tmp_path: Path) -> None:
    with web_server(script=lambda path, _: answer(body=png(int(path[1:-4])))) as server:
        data = publish(tmp_path, server.url).data
        into = tmp_path / "made"
        assert links.rehydrate(data / "links_only", into, [f"allow_hosts=[{server.host}]"]) == {
            "ok": 4 * N
        }
    for config in ("contextual-captions", "non_contextual-leaky_mix"):
        for split in ("train", "test"):
            glob = f"data/{config}/{split}-*.parquet"
            assert rows(into, glob) == rows(data / "with_images", glob)
    write_forms(into, tmp_path / "forms", ["llava"], ["contextual-captions"])
    assert len(list((tmp_path / "forms/llava/images").rglob("*.png"))) == N


def test_a_link_that_failed_is_asked_again_when_it_is_due(tmp_path: Path) -> None:
    alive: set[int] = set(range(1, N))

    def mending(path: str, _: int) -> bytes:
        number = int(path[1:-4])
        return answer(body=png(number)) if number in alive else answer(404)

    with web_server(script=mending) as server:
        folder = publish(tmp_path, server.url).data / "links_only"
        settings = [f"allow_hosts=[{server.host}]", "retry_days=0"]
        assert links.rehydrate(folder, tmp_path / "made", settings)["not_found"] == 4
        alive.add(0)
        assert links.rehydrate(folder, tmp_path / "made", settings) == {"ok": 4 * N}
        assert server.asked["/0.png"] == 2
        assert server.asked["/1.png"] == 1


def test_other_folders_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert links.main(["rehydrate", str(tmp_path / "nowhere")]) == 2
    assert "nowhere" in capsys.readouterr().err
    data = publish(tmp_path).data
    assert links.main(["rehydrate", str(data / "links_only"), "--set", "pace=1"]) == 2
    assert "unknown parameter 'pace'; allowed: samples, images_root" in capsys.readouterr().err


def read(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def rows(folder: Path, glob: str) -> list[dict[str, object]]:
    files = sorted(map(str, folder.glob(glob)))
    if not files:
        return []
    found = datasets.Dataset.from_parquet(files, cache_dir=str(folder / "cache"))
    return list(found.cast_column("image", datasets.Image(decode=False)))
