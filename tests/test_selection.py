"""`vislib.selection`: known duplicates and clusters are found, in any order of rows, and every
sample is told.
"""

import io
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageEnhance

from vislib import selection
from vislib.media import pixels
from vislib.runs import InputError, Run, short_hash, start_run, tables
from vislib.runs.contract import IMAGES, SAMPLES

Pictures = dict[str, bytes]


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, quality=80)
    return stream.getvalue()


def picture(family: str, number: int) -> Image.Image:
    """A picture of one of three families: a red disc, blue bars, or a green field of dots on a
    light ground.
    """
    chance = random.Random(f"{family} {number}")
    image = Image.new(
        "RGB", (320, 240), {"disc": "black", "bars": "white", "field": "#d0f0c0"}[family]
    )
    draw = ImageDraw.Draw(image)
    if family == "disc":
        x, y, r = (
            160 + chance.randint(-40, 40),
            120 + chance.randint(-20, 20),
            chance.randint(50, 90),
        )
        draw.ellipse((x - r, y - r, x + r, y + r), fill=(220, chance.randint(0, 60), 20))
    for place in range(9):
        if family == "bars":
            draw.rectangle(
                (place * 36, 240 - chance.randint(20, 230), place * 36 + 24, 240),
                fill=(20, 40, 200),
            )
        elif family == "field":
            for _ in range(12):
                x, y = chance.randint(0, 320), chance.randint(0, 240)
                draw.ellipse((x, y, x + 18, y + 18), fill=(10, 130, 30))
    return image


def known() -> Pictures:
    """Three families of eight; of each, copies of its first: as JPEG, smaller, and slightly
    brightened.
    """
    found = {
        f"{family}/{n}.png": encoded(picture(family, n))
        for family in ("disc", "bars", "field")
        for n in range(8)
    }
    for family in ("disc", "bars", "field"):
        first = picture(family, 0)
        found[f"{family}/jpeg.jpg"] = encoded(first, "JPEG")
        found[f"{family}/smaller.png"] = encoded(first.resize((280, 210), Image.Resampling.LANCZOS))
        found[f"{family}/brighter.png"] = encoded(ImageEnhance.Brightness(first).enhance(1.06))
    return found


def begin(
    folder: Path,
    pictures: Pictures,
    monkeypatch: pytest.MonkeyPatch,
    *,
    shuffle: int = 0,
    **given: object,
) -> Run:
    """Stage 04 on one sample per picture, tables shuffled by `shuffle`; a picture without bytes
    failed in 03.
    """
    monkeypatch.setenv("VISLIB_RUNS", str(folder / "runs"))
    data, samples, ledger = folder / "runs/demo/03_images/data", [], []
    for name, content in pictures.items():
        url = f"http://pictures.example/{name}"
        sample = {
            "sample_id": short_hash(url),
            "image_url": url,
            "alt_text": name,
            "context": f"<image> of {name}",
        }
        samples.append(dict.fromkeys(SAMPLES.names) | sample)
        row = dict.fromkeys(IMAGES.names) | {
            "image_url": url,
            "status": "failed",
            "reason": "not_found",
        }
        if content:
            facts = vars(pixels.verify(content, max_bytes=10**8, max_pixels=10**8))
            row |= {
                "image_id": short_hash(content),
                "status": "ok",
                "reason": "",
                "path": f"files/{short_hash(content)}",
            }
            (data / "files").mkdir(parents=True, exist_ok=True)
            (data / row["path"]).write_bytes(content)
            row |= facts
        ledger.append(row)
    for number, (table, schema, rows) in enumerate(
        (
            (folder / "runs/demo/02_filtering/data/samples", SAMPLES, samples),
            (data / "images", IMAGES, ledger),
        )
    ):
        random.Random(shuffle + number).shuffle(rows)
        writer = tables.TableWriter(table, schema, rows_per_part=10)
        for row in rows:
            writer.write(row)
        writer.close()
    least = {
        "min_side": 100,
        "clusters": 3,
        "top_k": 0,
        "epsilon": 0.0,
        "hash_distance": -1,
        "batch_size": 5,
    }
    return start_run("04_selection", {"run_dir": "runs/demo", **least, **given})


def select_images(run: Run) -> None:
    """As the notebook has it."""
    p = run.params
    images = selection.distinct_images(run)
    selection.choose_images(images, p.limit, p.seed)
    selection.drop_small(images, p.min_side)
    selection.drop_near_duplicates(images, p.hash_distance)
    vectors = selection.embed_left(run, images)
    selection.cluster_images(images, vectors, p.clusters, p.seed)
    selection.drop_semantic_duplicates(images, vectors, p.epsilon)
    selection.drop_below(images, p.top_k)
    selection.write_tables(run, images, vectors)


def selected(
    folder: Path, pictures: Pictures, monkeypatch: pytest.MonkeyPatch, **given: object
) -> dict:
    """Rows of every table by name, sorted; with the account of samples and the metrics."""
    run = begin(folder, pictures, monkeypatch, **given)
    select_images(run)
    found: dict = {name: list(tables.read_rows(run.data / name)) for name in run.schemas}
    run.finish()
    for rows in found.values():
        rows.sort(key=lambda row: row.get("sample_id") or row.get("image_id") or row["id"])
    account = run.counts()["sample"]
    assert account["taken"] == len(pictures) == len(found["samples"]) + len(found["dropped"])
    return found | {"dropped for": account["dropped"], "metrics": run.metrics}


def names(pictures: Pictures) -> dict[str, str]:
    """Names of pictures by image_id and by sample_id."""
    of_samples = {short_hash(f"http://pictures.example/{name}"): name for name in pictures}
    return of_samples | {short_hash(content): name for name, content in pictures.items()}


def test_copies_go_by_hash_and_the_largest_stays(tmp_path, monkeypatch):
    pictures = known()
    found = selected(tmp_path, pictures, monkeypatch, hash_distance=8)
    name = names(pictures)
    pairs = {(name[row["image_id"]], name[row["kept_id"]]) for row in found["duplicates"]}
    for family in ("disc", "bars", "field"):
        copies = {
            f"{family}/{copy}" for copy in ("0.png", "jpeg.jpg", "smaller.png", "brighter.png")
        }
        mine = [pair for pair in pairs if pair[0] in copies]
        assert len(mine) == 3
        assert len({kept for _, kept in mine}) == 1
        assert f"{family}/smaller.png" in {went for went, _ in mine}
    assert {row["reason"] for row in found["duplicates"]} == {"near_duplicate"}
    assert all(row["distance"] <= 8 for row in found["duplicates"])
    details = {row["id"]: row["detail"] for row in found["dropped"]}
    assert {(name[went], name[kept]) for went, kept in details.items()} == pairs


def test_families_are_clusters_ranked_from_the_centre(tmp_path, monkeypatch):
    pictures = known()
    found = selected(tmp_path, pictures, monkeypatch, top_k=4)
    name = names(pictures)
    families: dict[int, Counter] = {}
    for row in found["embeddings"]:
        families.setdefault(row["cluster"], Counter())[name[row["image_id"]].split("/")[0]] += 1
    assert sorted(map(dict, families.values()), key=str) == [
        {"bars": 11},
        {"disc": 11},
        {"field": 11},
    ]
    for cluster in families:
        inside = sorted(
            (r["distance"], r["image_id"]) for r in found["embeddings"] if r["cluster"] == cluster
        )
        kept = sorted(
            (r["rank"], r["distance"], r["image_id"])
            for r in found["samples"]
            if r["cluster"] == cluster
        )
        assert kept == [(rank, *place) for rank, place in enumerate(inside[:4])]
    assert found["dropped for"] == {"below_top_k": 33 - 12}
    assert found["samples"][0]["context"].startswith("<image> of ")


def test_what_looks_alike_in_a_cluster_goes_and_nothing_at_epsilon_0(tmp_path, monkeypatch):
    pictures = known()
    found = selected(tmp_path / "on", pictures, monkeypatch, epsilon=0.03)
    vector = {row["image_id"]: np.array(row["vector"]) for row in found["embeddings"]}
    place = {row["image_id"]: row for row in found["embeddings"]}
    stays = {row["image_id"] for row in found["samples"]}
    assert len(found["duplicates"]) >= 9  # the nine copies at least
    for row in found["duplicates"]:
        went, kept = row["image_id"], row["kept_id"]
        assert row["reason"] == "semantic_duplicate"
        assert kept in stays
        assert place[went]["cluster"] == place[kept]["cluster"]
        assert place[went]["distance"] >= place[kept]["distance"]
        assert 1 - vector[went] @ vector[kept] == pytest.approx(row["distance"], abs=1e-5)
        assert row["distance"] < 0.03
    assert selected(tmp_path / "off", pictures, monkeypatch)["duplicates"] == []
    assert len(vector) == 33


def test_the_order_of_rows_changes_nothing_and_a_rerun_neither(tmp_path, monkeypatch):
    pictures = known() | {"disc/same again.png": encoded(picture("disc", 0)), "gone.png": b""}
    rule = {"hash_distance": 4, "epsilon": 0.03, "top_k": 4, "clusters": 5, "limit": 30}
    found = [
        selected(
            tmp_path / str(turn), pictures, monkeypatch, shuffle=shuffle, workers=1 + turn, **rule
        )
        for turn, shuffle in enumerate((1, 1, 2, 3))
    ]
    assert found[0]["samples"]
    assert found[0] == found[1] == found[2] == found[3]


def test_one_sample_stands_for_a_file_the_one_with_an_alt_text(tmp_path, monkeypatch):
    same = encoded(picture("disc", 1))
    pictures = {f"copy {n}.png": same for n in range(5)}
    run = begin(tmp_path, pictures, monkeypatch)
    rows = list(tables.read_rows(run.table("samples")))
    told = sorted(row["sample_id"] for row in rows)[2:4]
    writer = tables.TableWriter(run.table("samples"), SAMPLES)
    for row in rows:
        writer.write(
            row
            | {"alt_text": "told" if row["sample_id"] in told else "" if row is rows[0] else None}
        )
    writer.close()
    select_images(run)
    assert [row["sample_id"] for row in tables.read_rows(run.data / "samples")] == told[:1]
    dropped = list(tables.read_rows(run.data / "dropped"))
    assert {(row["reason"], row["detail"]) for row in dropped} == {("exact_duplicate", told[0])}
    assert run.counts()["sample"] == {"taken": 5, "kept": 1, "dropped": {"exact_duplicate": 4}}
    run.close()


def test_a_limit_is_a_seeded_choice_of_distinct_images(tmp_path, monkeypatch):
    pictures = known()
    twice = pictures | {f"again/{name}": content for name, content in pictures.items()}
    chosen = []
    for seed in (0, 0, 1):
        found = selected(tmp_path / str(len(chosen)), twice, monkeypatch, limit=7, seed=seed)
        assert found["dropped for"] == {"exact_duplicate": 33, "beyond_limit": 26}
        chosen.append({row["image_id"] for row in found["samples"]})
    assert chosen[0] == chosen[1] != chosen[2]
    assert len(chosen[0]) == 7


def test_nothing_left_and_senseless_values_say_what_to_mend(tmp_path, monkeypatch):
    pictures = {"a.png": encoded(picture("disc", 1)), "gone.png": b""}
    for number, (change, words) in enumerate(
        (
            ({"min_side": 500}, "largest short edge is 240 px, min_side 500"),
            ({"hash_distance": 64}, "hash_distance"),
            ({"epsilon": 1.5}, "epsilon"),
            ({"top_k": -1}, "top_k"),
            ({"embedding_model": ""}, "embedding_model"),
            ({"embedding_model": str(tmp_path / "none")}, "embedding_model"),
        )
    ):
        with pytest.raises(InputError, match=words):
            selected(tmp_path / str(number), pictures, monkeypatch, **change)
    with pytest.raises(InputError, match="usable image"):
        selected(tmp_path / "gone", {"gone.png": b""}, monkeypatch)
    run = begin(tmp_path / "lost", {"a.png": pictures["a.png"]}, monkeypatch)
    next((run.table("images").parent / "files").iterdir()).unlink()
    with pytest.raises(
        InputError, match=r"efficientnet-lite0 failed on all, first with .*No such file"
    ):
        select_images(run)
    run.close()
