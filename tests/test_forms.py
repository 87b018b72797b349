"""Further forms: read by the loaders that they are made for, with the conversations released."""

import json
from pathlib import Path
from typing import Any

import datasets
import pytest
import webdataset
from PIL import Image

from tests.releases import TEST, N, publish, turns
from tests.web_server import png
from vislib.publishing import forms
from vislib.runs import InputError
from vislib.training.sources import own_rows

CONFIG = "contextual-leaky_mix"
TRAIN = [n for n in range(N) if n not in TEST]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("forms")
    data = publish(root).data
    forms.write_forms(data / "with_images", root / "made", list(forms.FORMS), [CONFIG])
    return root / "made"


def test_llava_json_is_what_training_takes_as_own_data(made: Path, tmp_path: Path) -> None:
    file = made / f"llava/{CONFIG}-train.json"
    rows = list(own_rows([file], images=None, fraction=1.0, seed=0, store=tmp_path))
    assert [row["reason"] for row in rows] == [""] * len(TRAIN)
    assert [row["conversations"] for row in rows] == [turns(n, "leaky_mix") for n in TRAIN]
    assert [Path(row["images"][0]).read_bytes() for row in rows] == [png(n) for n in TRAIN]
    row = json.loads(file.read_text())[0]
    assert (row["image_url"], row["caption_model"]) == ("http://x/0.png", "writer")
    assert "grün" in file.read_text(encoding="utf-8")  # as people read it, and no escapes


def sharegpt(folder: Path, name: str, cache: Path) -> list[dict[str, Any]]:
    """The rows of a dataset as LLaMA-Factory's `sharegpt` converter takes them by
    dataset_info.json: roles alternate, user first, paths from the dataset's folder, as many
    `<image>` as images.
    """
    entry = json.loads((folder / "dataset_info.json").read_text())[name]
    assert entry["formatting"] == "sharegpt"
    file, tags = str(folder / entry["file_name"]), entry["tags"]
    rows = datasets.load_dataset("json", data_files=file, split="train", cache_dir=str(cache))
    speakers = {tags["user_tag"]: "human", tags["assistant_tag"]: "gpt"}
    found = []
    for row in rows:
        said = row[entry["columns"]["messages"]]
        images = [folder / path for path in row[entry["columns"]["images"]]]
        roles = [message[tags["role_tag"]] for message in said]
        assert roles == [tags["user_tag"], tags["assistant_tag"]] * (len(said) // 2)
        texts = [message[tags["content_tag"]] for message in said]
        assert "".join(texts).count("<image>") == len(images)
        pairs = zip(roles, texts, strict=True)
        turns = [{"from": speakers[role], "value": text} for role, text in pairs]
        found.append({"turns": turns, "images": images, "id": row["id"]})
    return found


def test_messages_are_read_by_their_entry_in_dataset_info(made: Path, tmp_path: Path) -> None:
    folder = made / "messages"
    for split, numbers in (("train", TRAIN), ("test", TEST)):
        rows = sharegpt(folder, f"{CONFIG}-{split}", tmp_path)
        assert [row["turns"] for row in rows] == [turns(n, "leaky_mix") for n in numbers]
        assert [row["images"][0].read_bytes() for row in rows] == [png(n) for n in numbers]


def test_webdataset_decodes_pictures_and_rows(made: Path) -> None:
    shards = sorted(map(str, made.glob(f"webdataset/{CONFIG}-train-*.tar")))
    rows = list(webdataset.WebDataset(shards, shardshuffle=False).decode("pil"))
    assert [row["__key__"] for row in rows] == [f"s{n}" for n in TRAIN]
    assert [row["json"]["conversations"] for row in rows] == [turns(n, "leaky_mix") for n in TRAIN]
    assert all(isinstance(row["png"], Image.Image) for row in rows)
    assert [row["png"].getpixel((0, 0))[0] for row in rows] == TRAIN


def test_forms_made_twice_are_equal_and_leave_nothing_of_before(made: Path, tmp_path: Path) -> None:
    data = publish(tmp_path).data / "with_images"
    (tmp_path / "made/llava").mkdir(parents=True)
    (tmp_path / "made/llava/of-before.json").touch()
    forms.write_forms(data, tmp_path / "made", list(forms.FORMS), [CONFIG])
    first, second = (
        {p.relative_to(root): p.read_bytes() for p in root.rglob("*") if p.is_file()}
        for root in (made, tmp_path / "made")
    )
    assert first == second


def test_a_configuration_that_is_not_there_is_refused(tmp_path: Path) -> None:
    data = publish(tmp_path).data
    with pytest.raises(InputError, match=r"'fused-leaky_mix'; it has contextual-leaky_mix, "):
        forms.write_forms(data / "with_images", tmp_path, ["llava"], ["fused-leaky_mix"])
    with pytest.raises(InputError, match="holds no images"):
        forms.write_forms(data / "links_only", tmp_path, ["llava"], [CONFIG])


def test_where_links_alone_are_published_no_form_is_made(tmp_path: Path) -> None:
    forms.write_forms(tmp_path / "with_images", tmp_path, [], ["contextual-leaky_mix"])
    assert not list(tmp_path.iterdir())
