"""Croissant: mlcroissant takes it without an error, and reads back what was written."""

import json
from hashlib import sha256
from pathlib import Path

import mlcroissant
import pandas as pd
import pytest

from tests.papers_ground import RELEASES, known
from vislib.publishing.facts import Facts


@pytest.fixture(scope="module")
def both(sample_run: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Facts]:
    return known(sample_run, tmp_path_factory.mktemp("scratch"))


@pytest.mark.parametrize("release", [0, 1], ids=RELEASES)
def test_records_read_back_are_the_rows(release: int, both: list[Facts]) -> None:
    folder = both[release].folder
    dataset = mlcroissant.Dataset(folder / "croissant.json")
    assert not dataset.metadata.ctx.issues.errors
    for config in ("contextual-leaky_mix", "non_contextual-separate"):
        files = sorted((folder / "data" / config).glob("*.parquet"))
        rows = pd.concat([pd.read_parquet(f).assign(split=f.name.split("-")[0]) for f in files])
        read = list(dataset.records(record_set=config))
        assert len(read) == len(rows)
        for record, row in zip(read, rows.to_dict("records"), strict=True):
            for name in ("id", "page_url", "sha256", "caption_model", "split"):
                assert record[f"{config}/{name}"].decode() == row[name]
            assert record[f"{config}/width"] == row["width"]
            turns = record[f"{config}/conversations"]
            assert [t[f"{config}/conversations/value"].decode() for t in turns] == [
                turn["value"] for turn in row["conversations"]
            ]
            assert [s.decode() for s in record[f"{config}/sources"]] == list(row["sources"])
            if release == 0:
                assert record[f"{config}/image"].size == (row["width"], row["height"])


@pytest.mark.parametrize("release", [0, 1], ids=RELEASES)
def test_files_responsible_ai_and_provenance(release: int, both: list[Facts]) -> None:
    folder = both[release].folder
    node = json.loads((folder / "croissant.json").read_text())
    files = [entry for entry in node["distribution"] if entry["@type"] == "cr:FileObject"]
    assert {entry["contentUrl"] for entry in files} == {
        str(path.relative_to(folder)) for path in folder.glob("data/*/*.parquet")
    }
    for entry in files[:3]:
        assert entry["sha256"] == sha256((folder / entry["contentUrl"]).read_bytes()).hexdigest()
    metadata = mlcroissant.Dataset(folder / "croissant.json").metadata
    assert metadata.ctx.conforms_to.name == "V_1_1"
    assert "Claude" in metadata.data_collection
    assert len(metadata.data_annotation_protocol) == 4
    assert len(metadata.data_collection_timeframe) == 2
    assert metadata.data_limitations
    assert metadata.data_biases
    assert metadata.data_social_impact == "Not answered: only a person can say."
    assert metadata.personal_sensitive_information
    assert node["rai:hasSyntheticData"] is True
    used = {entry["prov:label"]: entry for entry in node["prov:wasGeneratedBy"]}
    record = json.loads((folder.parents[2] / "08_merging/run.json").read_text())
    assert used["08_merging"]["prov:startedAtTime"] == record["started_at"]
    hashes = {entry["sha256"] for entry in record["inputs"].values()}
    assert {entry["sha256"] for entry in used["08_merging"]["prov:used"]} == hashes
    assert node["license"] == "other"


def test_without_answers_no_licence_is_made_up(sample_run: Path, tmp_path: Path) -> None:
    from vislib.publishing.croissant import described

    node = described(known(sample_run, tmp_path, Path("/dev/null"))[1])
    assert "license" not in node
    assert "creator" not in node
