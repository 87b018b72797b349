"""The card: its header is true to the files, and its text says what a reader must know."""

import re
from pathlib import Path

import pytest
from datasets import load_dataset
from datasets.exceptions import DatasetGenerationError
from datasets.utils.info_utils import NonMatchingSplitsSizesError
from huggingface_hub import DatasetCard

from tests.papers_ground import RELEASES, known
from vislib.publishing import card
from vislib.publishing.facts import Facts


@pytest.fixture(scope="module")
def both(sample_run: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Facts]:
    return known(sample_run, tmp_path_factory.mktemp("scratch"))


@pytest.mark.parametrize("release", [0, 1], ids=RELEASES)
def test_datasets_takes_the_header_at_its_word(
    release: int, both: list[Facts], tmp_path: Path
) -> None:
    facts = both[release]
    data = DatasetCard.load(facts.folder / "README.md").data.to_dict()
    assert [c["config_name"] for c in data["configs"]] == list(facts.splits)
    loaded = load_dataset(str(facts.folder), cache_dir=str(tmp_path))  # the default configuration
    info = data["dataset_info"][0]
    assert {split: rows.num_rows for split, rows in loaded.items()} == {
        split["name"]: split["num_examples"] for split in info["splits"]
    }
    assert list(loaded["train"].features) == [feature["name"] for feature in info["features"]]
    last = list(facts.splits)[-1]
    assert load_dataset(str(facts.folder), last, split="train", cache_dir=str(tmp_path)).num_rows


def test_a_header_that_counts_wrong_is_found_out(both: list[Facts], tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    folder.mkdir()
    (folder / "data").symlink_to(both[1].folder / "data")
    text = (both[1].folder / "README.md").read_text()
    wrong = re.sub(r"num_examples: (\d+)", lambda m: f"num_examples: {int(m[1]) + 1}", text)
    (folder / "README.md").write_text(wrong)
    with pytest.raises((NonMatchingSplitsSizesError, DatasetGenerationError)):
        load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))


def test_the_header_names_licence_language_size_and_tasks(both: list[Facts]) -> None:
    data = DatasetCard.load(both[0].folder / "README.md").data.to_dict()
    assert data["license"] == "other"
    assert data["license_link"] == "README.md"
    assert data["language"] == ["en"]
    assert data["size_categories"] == ["n<1K"]
    assert data["pretty_name"] == "Pages of the vislib sample"
    assert "visual-question-answering" in data["task_categories"]
    nobody = known(both[0].folder.parents[2], both[0].folder.parents[3], Path("/dev/null"))[0]
    assert DatasetCard(f"---\n{card.header(nobody)}\n---\n").data.license == "unknown"


def test_the_samples_card_says_who_wrote_it_and_when(both: list[Facts]) -> None:
    for facts in both:
        text = (facts.folder / "README.md").read_text()
        warning = text.split("> **Not the papers' data")[1].split("\n\n")[0]
        assert "Claude (Anthropic), 2026-11-30" in warning
        assert "written" in warning


def test_what_the_card_points_to_is_there(both: list[Facts]) -> None:
    for facts in both:
        text = (facts.folder / "README.md").read_text()
        links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
        assert {"figures/conversations.png", "datasheet.md", "croissant.json"} <= set(links)
        assert all((facts.folder / link).is_file() for link in links)
        assert "\n\n\n" not in text


def test_the_picture_is_the_same_each_time(both: list[Facts]) -> None:
    assert card.draw(both[0]) == card.draw(both[1]) == (both[0].folder / card.PICTURE).read_bytes()
