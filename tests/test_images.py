"""`vislib.images`: every address is accounted for, and files are stored once."""

import io
import os
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from vislib import images
from vislib.runs import InputError, Run, short_hash, start_run, tables
from vislib.runs.contract import SAMPLES

HOST = "http://pictures.example"


def png(shade: int, size: tuple[int, int] = (40, 30)) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, (shade, shade, 255 - shade)).save(stream, "PNG")
    return stream.getvalue()


def put(root: Path, name: str, data: bytes) -> bytes:
    file = root / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    return data


def begin(
    folder: Path, urls: list[str], monkeypatch: pytest.MonkeyPatch, **parameters: object
) -> Run:
    """Stage 03 on samples with these addresses, in a run folder of its own."""
    monkeypatch.setenv("VISLIB_RUNS", str(folder / "runs"))
    samples = folder / "runs" / "demo" / "02_filtering" / "data" / "samples"
    if not samples.exists():
        writer = tables.TableWriter(samples, SAMPLES)
        for number, url in enumerate(urls):
            given = {"sample_id": short_hash(str(number)), "image_url": url, "image_index": number}
            writer.write(dict.fromkeys(SAMPLES.names) | given)
        writer.close()
    return start_run("03_images", {"run_dir": "runs/demo", **parameters})


def collect_images(run: Run) -> None:
    """As the notebook has it."""
    p = run.params
    query = images.addresses(limit=p.limit, seed=p.seed)
    links = run.sql(
        query, into="links", rows_per_part=images.URLS_PER_PART, samples=run.table("samples")
    )
    limits = {"max_bytes": p.max_bytes, "max_pixels": p.max_pixels, "min_side": p.min_side}
    source = images.open_source(run, links)
    terms = images.licences_of(run)
    rule = partial(images.describe, source=source, folder=run.data, licences=terms, **limits)
    run.map(rule, links, unit="link", id="image_url", workers=p.workers)
    run.account("image_url", taken="SELECT image_url FROM links", kept=images.USABLE, links=links)
    images.check_left(run)


def contents(run: Run) -> dict[str, bytes]:
    return {
        str(p.relative_to(run.data)): p.read_bytes()
        for p in sorted(run.data.rglob("*"))
        if p.is_file()
    }


def test_every_address_ends_in_the_ledger(tmp_path, monkeypatch):
    mirror = tmp_path / "mirror"
    data = put(mirror, "a/one.png", png(1))
    put(mirror, "b/same.png", data)
    put(mirror, "small.png", png(3, (40, 4)))
    put(mirror, "large.png", png(4, (400, 300)))
    put(mirror, "text.png", b"<!DOCTYPE html><title>gone</title>")
    put(mirror, "cut.png", png(5, (90, 90))[:150])
    names = [
        "a/one.png",
        "small.png",
        "a/one.png",
        "b/same.png",
        "large.png",
        "text.png",
        "cut.png",
        "none.png",
    ]
    urls = [f"{HOST}/{name}" for name in names]
    limits = {"min_side": 10, "max_pixels": 50_000}
    run = begin(tmp_path, urls, monkeypatch, images_root=str(mirror), **limits)
    collect_images(run)
    ledger = list(tables.read_rows(run.data / "images"))
    assert [row["image_url"] for row in ledger] == list(dict.fromkeys(urls))  # once each, in order
    failed = {
        row["image_url"].rsplit("/")[-1]: row["reason"]
        for row in ledger
        if row["status"] == "failed"
    }
    assert failed.pop("cut.png") in {"truncated", "broken"}
    assert failed == {
        "small.png": "too_small",
        "large.png": "too_many_pixels",
        "text.png": "not_an_image",
        "none.png": "not_found",
    }
    one, same = (row for row in ledger if row["status"] == "ok")
    assert one["image_id"] == same["image_id"] == short_hash(data)
    assert one["path"] == same["path"] == f"files/{short_hash(data)[:2]}/{short_hash(data)}.png"
    assert (run.data / one["path"]).read_bytes() == data
    assert (one["width"], one["height"], one["format"], one["reason"]) == (40, 30, "PNG", "")
    assert len(list((run.data / "files").rglob("*.*"))) == 1
    dropped = {row["id"]: row for row in tables.read_rows(run.data / "dropped")}
    assert set(dropped) == {row["image_url"] for row in ledger if row["status"] == "failed"}
    assert dropped[f"{HOST}/large.png"]["detail"] == "400 x 300, at most 50000"
    assert run.counts()["image_url"]["taken"] == 7
    run.finish()


def test_the_embedded_pictures_answer(tmp_path, monkeypatch):
    urls = [
        "https://photos.example/collins-portrait.jpg",
        "https://photos.example/nobody-knows-this.png",
    ]
    run = begin(tmp_path, urls, monkeypatch)
    collect_images(run)
    assert [row["status"] for row in tables.read_rows(run.data / "images")] == ["ok", "failed"]
    assert run.counts()["image_url"]["dropped"] == {"not_found": 1}
    run.close()


def test_workers_and_shards_change_no_byte(tmp_path, monkeypatch):
    mirror = tmp_path / "mirror"
    for number in range(7):
        put(mirror, f"{number}.png", png(number))
    urls = [f"{HOST}/{number}.png" for number in range(8)]
    monkeypatch.setattr(images, "URLS_PER_PART", 3)
    found = []
    for workers in (1, 2):
        folder = tmp_path / str(workers)
        run = begin(folder, urls, monkeypatch, images_root=str(mirror), workers=workers)
        collect_images(run)
        found.append(contents(run))
        run.close()
    assert found[0] == found[1]
    assert len([name for name in found[0] if name.startswith("images/")]) == 3


def test_a_rerun_after_a_kill_repeats_no_shard_and_ends_the_same(tmp_path, monkeypatch):
    mirror = tmp_path / "mirror"
    for number in range(6):
        put(mirror, f"{number}.png", png(number))
    urls = [f"{HOST}/{number}.png" for number in range(6)]
    monkeypatch.setattr(images, "URLS_PER_PART", 2)
    asked: list[str] = []

    def counted(url: str, *, root: Path, max_bytes: int) -> bytes:
        asked.append(url)
        if len(asked) == 4:
            raise KeyboardInterrupt
        return original(url, root=root, max_bytes=max_bytes)

    original = images.from_folder
    monkeypatch.setattr(images, "from_folder", counted)
    run = begin(tmp_path / "killed", urls, monkeypatch, images_root=str(mirror))
    with pytest.raises(KeyboardInterrupt):
        collect_images(run)
    run.close()
    run = begin(tmp_path / "killed", urls, monkeypatch, images_root=str(mirror))
    collect_images(run)
    assert asked[4:] == urls[2:]  # the first shard was done
    assert run.counts()["image_url"] == {"taken": 6, "kept": 6, "dropped": {}}
    resumed = contents(run)
    run.close()
    monkeypatch.setattr(images, "from_folder", original)
    run = begin(tmp_path / "undisturbed", urls, monkeypatch, images_root=str(mirror))
    collect_images(run)
    assert contents(run) == resumed
    run.close()


def test_a_limit_is_a_seeded_choice_of_addresses(tmp_path, monkeypatch):
    mirror = tmp_path / "mirror"
    urls = [f"{HOST}/{number % 20}.png" for number in range(60)]  # each address thrice
    for number in range(20):
        put(mirror, f"{number}.png", png(number))
    chosen = []
    for parameters in (
        {"limit": 6},
        {"limit": 6, "seed": 1},
        {"limit": 6},
        {"limit": 12},
        {"limit": 99},
    ):
        run = begin(tmp_path, urls, monkeypatch, images_root=str(mirror), **parameters)
        collect_images(run)
        chosen.append([row["image_url"] for row in tables.read_rows(run.data / "images")])
        run.finish()
    assert [len(urls) for urls in chosen] == [6, 6, 6, 12, 20]
    assert all(found == [url for url in urls[:20] if url in found] for found in chosen)  # in order
    assert chosen[0] == chosen[2] != chosen[1]
    assert set(chosen[0]) < set(chosen[3])


@pytest.mark.parametrize(
    ("urls", "root", "message"),
    [
        (
            ["/1.png", "/2.png", "/text.png"],
            "mirror",
            (
                "all 3 .* 2 as 'not_found' .*/1.png: no file 1.png below mirror/; .* name a folder"
                " with host/path"
            ),
        ),
        ([], "mirror", "holds no row"),
        (["/1.png"], "no-such-folder", "no-such-folder"),
    ],
)
def test_bad_input_stops_with_one_message(tmp_path, monkeypatch, urls, root, message):
    put(tmp_path / "mirror", "text.png", b"no picture")
    place = str(tmp_path / root) if root == "mirror" else root
    run = begin(tmp_path, [HOST + url for url in urls], monkeypatch, images_root=place)
    with pytest.raises(InputError, match=message):
        collect_images(run)
    run.close()


def test_real_pages(tmp_path, monkeypatch):
    if not os.environ.get("VISLIB_WEBDOCS"):
        pytest.skip("VISLIB_WEBDOCS names no folder with documents.parquet and images/")
    folder = Path(os.environ["VISLIB_WEBDOCS"])
    rows = tables.read_rows(folder / "documents.parquet", ["images"])
    urls = [url for row in rows for url in row["images"] if url]
    run = begin(tmp_path, urls, monkeypatch, images_root=str(folder / "images"), workers=2)
    collect_images(run)
    account = run.counts()["image_url"]
    assert account["taken"] == len(set(urls)) == tables.count_rows(run.data / "images")
    assert account["kept"] >= 0.95 * account["taken"]
    run.finish()


def test_a_licence_of_a_host_is_noted_where_no_reply_named_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / "root", "pictures.example/a.png", png(1))
    put(tmp_path / "root", "other.example/b.png", png(2))
    file = tmp_path / "licences.csv"
    file.write_text("host,licence,attribution\npictures.example,CC BY 4.0,Jo Doe\nx,CC0-1.0,\n")
    urls = [f"{HOST}/a.png", "http://other.example/b.png"]
    parameters = {"images_root": str(tmp_path / "root"), "licences": str(file)}
    run = begin(tmp_path, urls, monkeypatch, **parameters)
    collect_images(run)
    (row,) = tables.read_rows(run.data / "consent")
    assert {name: value for name, value in row.items() if value} == {
        "image_url": urls[0],
        "licence": "CC BY 4.0, Jo Doe",
    }
    file.write_text("site,terms\na,b\n")
    with pytest.raises(InputError, match=r"host.*licences\.csv"):
        images.licences_of(run)
    run.close()
