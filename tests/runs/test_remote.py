"""Inputs named by an address of a store: copied, keyed by content, copied again when changed."""

from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.object_store import bucket
from tests.sets import run_set, variation
from vislib import sample
from vislib.runs import InputError, remote, tables
from vislib.runs.keys import expand, input_path

__all__ = ["bucket"]


@pytest.fixture(autouse=True)
def _nothing_known() -> None:
    remote.local_copy.cache_clear()


def put(url: str, data: bytes) -> None:
    with fsspec.open(url, "wb") as file:
        file.write(data)


def test_files_folders_and_globs_are_copied_and_followed(bucket: str, tmp_path: Path) -> None:
    def read(value: str) -> dict[str, bytes]:
        remote.local_copy.cache_clear()
        found = expand(input_path(value, tmp_path / "runs/demo"))
        assert all(path.is_relative_to(tmp_path / "runs/remote/s3") for path in found)
        return {path.name: path.read_bytes() for path in found}

    for name in ("a.parquet", "b.parquet", "deep/c.txt"):
        put(f"{bucket}/{name}", name.encode())
    assert read(f"{bucket}/a.parquet") == {"a.parquet": b"a.parquet"}
    assert sorted(read(f"{bucket}/*.parquet")) == ["a.parquet", "b.parquet"]
    assert sorted(read(f"{bucket}/")) == ["a.parquet", "b.parquet", "c.txt"]
    put(f"{bucket}/a.parquet", b"another1!")  # as long as before
    store, root = fsspec.core.url_to_fs(bucket)
    store.rm(f"{root}/b.parquet")
    assert read(bucket) == {"a.parquet": b"another1!", "c.txt": b"deep/c.txt"}
    kept = tmp_path / "runs/remote/s3" / root / "a.parquet"
    before = kept.stat().st_mtime_ns
    read(bucket)
    assert kept.stat().st_mtime_ns == before  # not copied again


def test_what_cannot_be_read_says_so(bucket: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no file is there"):
        input_path(f"{bucket}/nothing", tmp_path)
    with pytest.raises(InputError, match=r"nostore://a/b: ValueError: Protocol not known: nostore"):
        input_path("nostore://a/b", tmp_path)


def test_a_set_reads_pages_and_pictures_from_a_store(bucket: str, tmp_path: Path) -> None:
    rows = [next(sample.rows())]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "pages.parquet")
    put(f"{bucket}/pages/0.parquet", (tmp_path / "pages.parquet").read_bytes())
    urls = [url for url in rows[0]["images"] if url]
    for url in urls:
        put(f"{bucket}/pictures/{url.partition('://')[2]}", sample.image_bytes(url) or b"")
    folder = variation(
        tmp_path / "far",
        only="01 02 03",
        **{
            "01_documents": {"source": "parquet", "paths": [f"{bucket}/pages/*.parquet"]},
            "03_images": {"images_root": f"{bucket}/pictures"},
        },
    )
    run_set(folder, tmp_path / "runs")
    ledger = list(tables.read_rows(tmp_path / "runs/far/03_images/data/images"))
    assert {row["image_url"]: row["status"] for row in ledger} == dict.fromkeys(urls, "ok")
    assert run_set(folder, tmp_path / "runs").count("unchanged") == 3
