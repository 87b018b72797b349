"""The sheet of clusters, the funnel and the sheet of duplicates, over tables whose clusters are
known.
"""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from tests.figure_layout import assert_readable
from tests.notebook_cells import run_section
from vislib import figures
from vislib.figures import selection
from vislib.runs.contract import SCHEMAS
from vislib.runs.tables import TableWriter

CLUSTERS, MEMBERS = 4, 9  # of each cluster: 5 kept, 3 semantic duplicates, 1 below the top k
COLOURS = ("red", "green", "navy", "gold")
Inputs = dict[str, Path]


def write(path: Path, stage: str, rows: list[dict[str, Any]]) -> Path:
    schema = SCHEMAS[stage][path.name]
    writer = TableWriter(path, schema, rows_per_part=7)
    for row in rows:
        writer.write(dict.fromkeys(schema.names) | row)
    writer.close()
    return path


def name(cluster: int, member: int) -> str:
    return f"{cluster}{member:015x}"


def make(
    root: Path, *, shuffled: int = 0, members: int = MEMBERS, clusters: int = CLUSTERS
) -> Inputs:
    """Tables of images around `clusters` far middles, with a picture each; the rows in an order of
    chance.
    """
    chance, places = (
        np.random.default_rng(0),
        [(c, m) for c in range(clusters) for m in range(members)],
    )
    middles = np.eye(8)[:clusters] * 4
    vectors = {place: middles[place[0]] + chance.normal(0, 0.1, 8) for place in places}
    random.Random(shuffled).shuffle(places)
    (root / "03/files").mkdir(parents=True)
    for cluster, member in places:
        image = Image.new("RGB", (30 + 20 * member, 90), COLOURS[cluster])
        image.save(root / f"03/files/{name(cluster, member)}.png")
    kept, double = (lambda m: m < 5), (lambda m: 5 <= m < 8)
    tables: dict[str, list[dict[str, Any]]] = {
        "embeddings": [
            {
                "image_id": name(*p),
                "cluster": p[0],
                "distance": 0.1 * p[1],
                "vector": vectors[p].tolist(),
            }
            for p in places
        ],
        "samples": [
            {"image_id": name(*p), "cluster": p[0], "rank": p[1]} for p in places if kept(p[1])
        ],
        "duplicates": [
            {
                "image_id": name(c, m),
                "kept_id": name(c, 0),
                "reason": "semantic_duplicate",
                "distance": 0.1 * m,
            }
            for c, m in places
            if double(m)
        ],
        "dropped": [
            {"id": name(*p), "reason": "semantic_duplicate"} for p in places if double(p[1])
        ]
        + [{"id": name(*p), "reason": "below_top_k"} for p in places if p[1] >= 8],
    }
    inputs = {
        table: write(root / "04/data" / table, "04_selection", rows)
        for table, rows in tables.items()
    }
    ledger = [
        {"image_url": name(*p), "image_id": name(*p), "path": f"files/{name(*p)}.png"}
        for p in places
    ]
    return inputs | {"images": write(root / "03/images", "03_images", ledger)}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return make(tmp_path_factory.mktemp("run") / "o'brien")


def pairs_of(inputs: Inputs, *, count: int, seed: int) -> Any:
    return figures.query(selection.PAIRS.format(count=count, seed=seed), **inputs)


def clusters_of(inputs: Inputs, *, count: int, seed: int) -> Any:
    return figures.query(selection.CLUSTERS.format(count=count, seed=seed), **inputs)


def draw(table: Any) -> tuple[Figure, Axes]:
    figure, sheet = figures.new_sheet()
    selection.plot_groups(sheet, table)
    figures.trim_sheet(figure, sheet, note="n", otherwise="No image was set aside.")
    assert_readable(figure)
    return figure, sheet.axes


def test_clusters_show_the_nearest_first_and_say_what_became_of_each(inputs: Inputs) -> None:
    table = clusters_of(inputs, count=100, seed=0)
    assert table["title"].unique().tolist() == [f"Cluster {c}" for c in range(CLUSTERS)]
    assert set(table["note"]) == {"5 of 9 images kept, nearest to its middle first"}
    for cluster, members in table.groupby("cluster"):
        # the ninth, which is below the top k, is one more than a row holds
        assert members["image_id"].tolist() == [name(cluster, member) for member in range(8)]
        assert members["said"].tolist() == ["kept"] * 5 + ["duplicate"] * 3
    _, axes = draw(table)
    # left, right, bottom, top: downwards
    boxes = [image.get_extent() for image in axes.images]
    assert len(boxes) == CLUSTERS * 8
    assert not any(
        a[0] < b[1] and b[0] < a[1] and a[3] < b[2] and b[3] < a[2]
        for a in boxes
        for b in boxes
        if a is not b
    )
    said = [text.get_text() for text in axes.texts]
    assert said.count("kept") == 20
    assert said.count("duplicate") == 12


def test_what_is_shown_does_not_depend_on_the_order_of_rows(inputs: Inputs, tmp_path: Path) -> None:
    other = make(tmp_path, shuffled=1)
    mine, theirs = (clusters_of(i, count=2, seed=3).drop(columns="paths") for i in (inputs, other))
    assert mine.equals(theirs)
    assert mine["cluster"].nunique() == 2
    chosen = [set(clusters_of(inputs, count=2, seed=seed)["cluster"]) for seed in range(9)]
    assert len(set(map(frozenset, chosen))) > 1
    pairs = [pairs_of(i, count=3, seed=1)["image_id"].tolist() for i in (inputs, other)]
    assert pairs[0] == pairs[1]


@pytest.mark.parametrize(("clusters", "members"), [(1, 1), (1, MEMBERS)])
def test_one_image_and_one_cluster_are_drawn(tmp_path: Path, clusters: int, members: int) -> None:
    inputs = make(tmp_path, clusters=clusters, members=members)
    assert len(draw(clusters_of(inputs, count=9, seed=0))[1].images) == min(members, 8)
    _, axes = draw(pairs_of(inputs, count=4, seed=0))
    said = {text.get_text() for text in axes.texts}
    assert ("No image was set aside." in said) == (members < 6)


def funnel(reasons: dict[str, int], kept: int) -> Any:
    dropped = [reason for reason, n in reasons.items() for _ in range(n)]
    tables = {
        "dropped": pd.DataFrame({"reason": dropped}),
        "samples": pd.DataFrame({"s": [0] * kept}),
    }
    return figures.query(selection.FUNNEL, **tables)


def test_the_funnel_closes() -> None:
    reasons = {"image_failed": 2, "exact_duplicate": 3, "near_duplicate": 1, "below_top_k": 1}
    table = funnel(reasons, kept=5)
    assert table["left"].tolist() == [12, 10, 7, 7, 6, 6, 5]
    assert table["set_aside"].sum() == sum(reasons.values())
    assert "chosen by limit" not in set(table["step"])
    more = funnel({**reasons, "beyond_limit": 1, "new_reason": 1}, kept=5).set_index("step")
    assert more.loc["chosen by limit", "set_aside"] == 1
    assert more["left"].iloc[-1] == 5  # a step that is not known here is shown, not lost
    assert more.index[-1] == "new_reason"


@pytest.mark.parametrize("columns", [1, 2])
def test_the_notebooks_funnel_is_readable(inputs: Inputs, columns: int) -> None:
    held = run_section("30_selection", "## 1", inputs, columns=columns, aspect=0.85)
    assert_readable(held["figure"])
    assert {"36", "20"} <= {text.get_text() for text in held["bars"].texts}


def test_the_figures_are_equal_bytes_and_pictures_are_small(inputs: Inputs, tmp_path: Path) -> None:
    written = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        table = clusters_of(inputs, count=9, seed=0)
        figure, axes = draw(table)
        twins, pairs = draw(pairs_of(inputs, count=4, seed=0))
        narrow = table.drop(columns="paths")
        files = figures.save_figure(figure, folder, "clusters", narrow)
        files += figures.save_figure(twins, folder, "pairs", narrow)
        assert max(image.get_size()[0] for image in (*axes.images, *pairs.images)) <= 250  # px
        written.append([file.read_bytes() for file in files])
    assert written[0] == written[1]


def test_a_photograph_as_large_as_any_stays_small_in_the_file(tmp_path: Path) -> None:
    inputs = make(tmp_path)
    noise = np.random.default_rng(0).integers(0, 255, (400, 400, 3), np.uint8)
    for file in (tmp_path / "03/files").iterdir():
        Image.fromarray(noise).save(file, compress_level=1)
    table = clusters_of(inputs, count=3, seed=0)
    figure, axes = draw(table)
    pdf = figures.save_figure(figure, tmp_path, "clusters", table)[0]
    # whole, each would take 480 kB
    assert pdf.stat().st_size < 150_000 * len(axes.images)
