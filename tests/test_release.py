"""Releases: opened by `datasets` as a stranger would, their rows those of the stages before."""

import hashlib
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet as pq
import pytest
import yaml

from tests.releases import KINDS, TEST, N, publish, turns, write_tables
from tests.web_server import png
from vislib import removals
from vislib.runs import InputError, tables


def opened(folder: Path, cache: Path, config: str = "") -> Any:
    return datasets.load_dataset(str(folder), config or None, cache_dir=str(cache))


def test_datasets_opens_both_releases_with_every_configuration_and_split(tmp_path: Path) -> None:
    data = publish(tmp_path).data
    names = [f"{kind}-{name}" for name in ("leaky_mix", "captions") for kind in KINDS]
    for release in ("with_images", "links_only"):
        assert sorted(datasets.get_dataset_config_names(str(data / release))) == sorted(names)
        for name in names:
            found = opened(data / release, tmp_path / "cache", name)
            sizes = {"train": N - len(TEST), "test": len(TEST)}
            assert {split: len(rows) for split, rows in found.items()} == (
                sizes if name.endswith("leaky_mix") else {"train": N}
            )
    default = opened(data / "with_images", tmp_path / "cache")["train"]
    assert isinstance(default.features["image"], datasets.Image)
    for n, row in enumerate(default):
        assert (row["kind"], row["configuration"]) == ("contextual", "leaky_mix")
        assert row["conversations"] == turns(n, "leaky_mix")
        assert row["image"].size == (row["width"], row["height"]) == (24, 16)
        assert row["image"].getpixel((0, 0))[0] == n


def test_a_row_tells_where_it_comes_from(tmp_path: Path) -> None:
    data = publish(tmp_path).data / "links_only/data"
    rows = list(tables.read_rows(data / "non_contextual-leaky_mix"))
    row = next(row for row in rows if row["id"] == "s3")
    assert row["sha256"] == hashlib.sha256(png(3)).hexdigest()
    assert row["image_id"] == row["sha256"][:16]
    assert (row["image_url"], row["page_url"], row["alt_text"]) == (
        "http://x/3.png",
        "http://p/3",
        "alt 3",
    )
    assert (row["caption_model"], row["caption_prompt_sha"]) == ("writer", "p-non_contextual")
    assert (row["question_models"], row["question_request_shas"]) == (
        ["asker a", "asker b"],
        ["q3"],
    )
    assert "image" not in row
    assert "context" not in row
    captions = next(tables.read_rows(data / "contextual-captions"))
    assert (captions["caption_model"], captions["question_models"]) == ("writer", [])


def test_files_are_named_as_on_the_hub_and_their_sums_hold(tmp_path: Path) -> None:
    data = publish(tmp_path).data
    for release in ("with_images", "links_only"):
        folder = data / release
        shards = sorted(path.name for path in (folder / "data/contextual-captions").iterdir())
        assert shards == [f"train-{n:05d}-of-{len(shards):05d}.parquet" for n in range(len(shards))]
        assert len(shards) == 3
        header = yaml.safe_load((folder / "README.md").read_text().split("---")[1])
        assert [c["config_name"] for c in header["configs"] if c.get("default")] == [
            "contextual-leaky_mix"
        ]
        assert all(re.fullmatch(r"[\w.-]+", config["config_name"]) for config in header["configs"])
        checked = subprocess.run(
            ["sha256sum", "--check", "--strict", "SHA256SUMS"],
            cwd=folder,
            check=True,
            capture_output=True,
        )
        assert (
            checked.stdout.count(b": OK") == len([p for p in folder.rglob("*") if p.is_file()]) - 1
        )
    with_images = data / "with_images/data/contextual-captions" / shards[0]
    assert pq.ParquetFile(with_images).metadata.row_group(0).column(0).compression == "ZSTD"


def test_context_is_published_only_when_asked_for(tmp_path: Path) -> None:
    data = publish(tmp_path, with_context=True, releases=["links_only"]).data
    assert not (data / "with_images").exists()
    rows = opened(data / "links_only", tmp_path / "cache")["train"]
    assert rows["context"] == [f"page {n}" for n in range(N) if n not in TEST]


def test_without_questions_there_are_captions_alone(tmp_path: Path) -> None:
    data = publish(tmp_path, questions="").data / "links_only/data/contextual-captions"
    assert [row["question_models"] for row in tables.read_rows(data)] == [[]] * N


def test_a_limit_takes_the_same_samples_in_every_configuration(tmp_path: Path) -> None:
    data = publish(tmp_path, limit=3).data / "links_only/data"
    found = [{row["id"] for row in tables.read_rows(folder)} for folder in data.iterdir()]
    assert len(found) == 4
    assert all(ids == found[0] and len(ids) == 3 for ids in found)


def test_what_removal_lists_name_is_not_published(tmp_path: Path) -> None:
    entries = [("link", "http://x/3.png"), ("document", "d4"), ("question", "q5cb")]
    entries += [("question", "q6ca"), ("sample", "s99")]
    lines = [{"unit": unit, "id": id, "reason": "asked", "note": ""} for unit, id in entries]
    (file := tmp_path / "removals.jsonl").write_text("\n".join(map(json.dumps, lines)))
    run = publish(tmp_path, removals=[str(file)])
    assert run.counts()["row"]["dropped"] == {"removed": 2 * 4}
    for kind in KINDS:
        rows = tables.read_rows(run.data / f"with_images/data/{kind}-leaky_mix")
        found = {row["id"]: row["conversations"] for row in rows}
        assert set(found) == {f"s{n}" for n in (0, 1, 2, 5, 6, 7, 8)}
        asked = "captions" if kind == "contextual" else "leaky_mix"
        assert found["s5"] == turns(5, asked)
        assert found["s6"] == turns(6, "leaky_mix")  # it asks something else
    assert [row["id"] for row in removals.unmet(run)] == ["s99"]


def test_rows_without_their_picture_are_dropped_with_a_reason(tmp_path: Path) -> None:
    write_tables(tmp_path, "http://x")
    (ledger,) = (tmp_path / "03/images").glob("*.parquet")
    paths = [row["path"] for row in tables.read_rows(ledger)]
    (tmp_path / "03" / paths[2]).write_bytes(png(77))
    (tmp_path / "03" / paths[4]).unlink()
    run = publish(tmp_path)
    counts = run.counts()["row"]
    assert counts["dropped"] == {"image_changed": 8}
    assert counts["taken"] == counts["kept"] + 8 == 4 * N
    for path in paths:
        (tmp_path / "03" / path).unlink(missing_ok=True)
    with pytest.raises(InputError, match="no row has its picture"):
        publish(tmp_path, run_dir=str(tmp_path / "again"))


def test_made_again_and_with_other_shards_left_behind_it_is_the_same(tmp_path: Path) -> None:
    first = publish(tmp_path)
    before = {p: p.read_bytes() for p in first.data.rglob("*") if p.is_file()}
    stale = first.data / "links_only/data/contextual-captions/train-00007-of-00008.parquet"
    stale.write_bytes(b"of another run")
    again = publish(tmp_path)
    assert {p: p.read_bytes() for p in again.data.rglob("*") if p.is_file()} == before


def test_the_samples_releases_hold_the_rows_of_merging(sample_run: Path, tmp_path: Path) -> None:
    data = sample_run / "09_publishing/data"
    for kind in KINDS:
        for folder in (sample_run / "08_merging/data" / kind).iterdir():
            merged = {(r["id"], str(r["conversations"])) for r in tables.read_rows(folder)}
            for release in ("with_images", "links_only"):
                published = data / release / "data" / f"{kind}-{folder.name}"
                found = list(tables.read_rows(published, ["id", "conversations"]))
                assert {(r["id"], str(r["conversations"])) for r in found} == merged
    picture = opened(data / "with_images", tmp_path, "contextual-leaky_mix")["test"][0]["image"]
    assert picture.size[0] > 1
