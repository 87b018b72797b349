"""Splits by site and by near copies: what is told apart, and that no side holds the other's."""

from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pytest

from tests.test_merging import _small_encoder, inputs_at, merge  # noqa: F401
from vislib.runs import Run, tables
from vislib.splits import KEYS

HASHES = ("b3c1a55a0f96e81d", "b3c1a55a0f96e81c", "4c3e5aa5f06917e2", "8000000000000000")


@pytest.mark.parametrize(
    ("address", "site"),
    [
        ("https://www.Example.org/a/b", "example.org"),
        ("http://user:word@shop.example.org:8080?x", "shop.example.org"),
        ("urn:page:7", "urn:page:7"),
        ("", "d1"),
    ],
)
def test_a_site_is_a_host_and_a_page_without_one_stands_for_itself(address: str, site: str) -> None:
    frame = pd.DataFrame([{"page_url": address, "doc_id": "d1"}])  # noqa: F841  # DuckDB's
    assert duckdb.sql(f"SELECT {KEYS['site']} FROM frame").fetchall() == [(site,)]


def rows_at(root: Path) -> dict[str, list[dict[str, Any]]]:
    """Thirty pages on six sites; page n and n + 15 show near copies, a chain ties 0 to 4, and two
    pages show a blank picture.
    """
    rows = inputs_at(root, 30)
    for n, (page, image) in enumerate(zip(rows["samples"], rows["images"], strict=True)):
        page["page_url"] = f"http://site{n % 6}.org/{n}"
        value = int(HASHES[0], 16) ^ (0x9E3779B97F4A7C15 * (n % 15 + 1) % 2**64)
        image["perceptual_hash"] = f"{value ^ (n // 15):016x}"
    for n, bits in enumerate((0, 0xF, 0xFF, 0xFFF, 0xFFFF)):  # each 4 from the next, 16 end to end
        rows["images"][n]["perceptual_hash"] = f"{int(HASHES[2], 16) ^ bits:016x}"
    for n in (5, 6):
        rows["images"][n]["perceptual_hash"] = HASHES[3]
    return rows


def sides(run: Run) -> dict[str, str]:
    """The split of each sample that stands in one."""
    folder = run.data / "contextual/leaky_mix"
    parts = sorted(folder.glob("*.parquet"))
    return {r["sample_id"]: p.stem[:-6] for p in parts for r in tables.read_rows(p, ["sample_id"])}


@pytest.mark.parametrize("seed", range(4))
def test_no_site_stands_on_both_sides(tmp_path: Path, seed: int) -> None:
    rows = rows_at(tmp_path)
    found = sides(merge(tmp_path, rows, split_by="site", seed=seed))
    assert len(found) == 30
    by_site = {(int(name[1:]) % 6, side) for name, side in found.items()}
    assert len(by_site) == 6


@pytest.mark.parametrize("seed", range(4))
def test_no_near_copy_stands_on_both_sides(tmp_path: Path, seed: int) -> None:
    rows = rows_at(tmp_path)
    run = merge(tmp_path, rows, split_by="group", seed=seed)
    found = sides(run)
    assert len({found[f"s{n}"] for n in range(5)}) == 1  # the chain, from link to link
    assert all(found[f"s{n}"] == found[f"s{n + 15}"] for n in range(7, 15))
    assert run.metrics["largest_group"] == 5
    groups = {row["page"]: row["group"] for row in tables.read_rows(run.scratch / "groups.parquet")}
    assert {groups[f"http://site{n % 6}.org/{n}"] for n in range(5)} == {"http://site0.org/0"}
    assert "http://site5.org/5" not in groups  # a blank picture ties no pages


def test_the_default_is_the_split_by_page_that_it_was(tmp_path: Path) -> None:
    rows = rows_at(tmp_path)
    assert sides(merge(tmp_path, rows)) != sides(merge(tmp_path, rows, split_by="site"))
