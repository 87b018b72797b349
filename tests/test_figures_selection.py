"""The map of clusters, the funnel and the sheet of duplicates, over tables whose clusters are
known.
"""

import json
import random
from collections import Counter
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
            {"image_id": name(*p), "cluster": p[0], "distance": 0.1, "vector": vectors[p].tolist()}
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


def draw(table: Any, thumbnails: int = 12) -> tuple[Figure, Axes, list[str]]:
    figure, (axes, _) = figures.new_figure("(a)", "(b)", columns=2)
    return figure, axes, selection.plot_map(axes, table, thumbnails=thumbnails)


def legend(axes: Axes) -> list[str]:
    found = axes.get_legend()
    return [text.get_text() for text in found.get_texts()] if found else []


def test_the_map_keeps_clusters_apart_and_says_what_became_of_each_image(inputs: Inputs) -> None:
    table = selection.map_table(inputs, points=100, seed=0)
    assert Counter(table["state"]) == {"kept": 20, "semantic duplicate": 12, "below the top k": 4}
    assert set(table.loc[table["state"] != "kept", "rank"]) == {-1}
    middles = table.groupby("cluster")[["x", "y"]].mean().to_numpy()
    spread = table.groupby("cluster")[["x", "y"]].std().to_numpy().max()
    apart = [
        np.linalg.norm(a - b) for a in middles for b in middles if a is not b and (a != b).any()
    ]
    assert min(apart) > 3 * spread
    assert 0.3 < sum(table.attrs["explained"]) <= 1


def test_the_map_does_not_depend_on_the_order_of_rows(inputs: Inputs, tmp_path: Path) -> None:
    other = make(tmp_path, shuffled=1)
    mine, theirs = (
        selection.map_table(i, points=20, seed=3).drop(columns="path") for i in (inputs, other)
    )
    assert mine.equals(theirs)
    assert len(mine) == 20
    assert set(mine["image_id"]) != set(selection.map_table(inputs, points=20, seed=4)["image_id"])
    pairs = [pairs_of(i, count=3, seed=1)["image_id"].tolist() for i in (inputs, other)]
    assert pairs[0] == pairs[1]


def test_thumbnails_take_each_cell_once_and_stand_near_their_point() -> None:
    points = [(0.5, 0.5), (0.6, 0.5), (9.5, 0.5), (3.4, 1.6)]
    cells = selection.snapped(points, across=4, down=2)
    assert cells == {0: (0, 0), 1: (1, 0), 3: (3, 1)}  # the third has none near
    assert len(selection.snapped([(1, 1)] * 9, across=2, down=2)) == 4  # no cell is left


def test_every_cluster_shows_its_middle_and_no_picture_hides_another(inputs: Inputs) -> None:
    table = selection.map_table(inputs, points=100, seed=0)
    _, axes, shown = draw(table, thumbnails=CLUSTERS)
    assert set(shown) == {name(cluster, 0) for cluster in range(CLUSTERS)}
    assert legend(axes) == [
        "kept, without thumbnail (16)",
        "semantic duplicate (12)",
        "below the top k (4)",
    ]
    _, axes, shown = draw(table)
    assert len(shown) == len(axes.images) == 12
    # left, right, bottom, top: downwards
    boxes = [image.get_extent() for image in axes.images]
    right, down = axes.get_xlim()[1], axes.get_ylim()[0]
    assert all(0 <= x1 < x2 <= right and 0 <= y2 < y1 <= down for x1, x2, y1, y2 in boxes)
    assert not any(
        a[0] < b[1] and b[0] < a[1] and a[3] < b[2] and b[3] < a[2]
        for a in boxes
        for b in boxes
        if a is not b
    )
    assert {text.get_text() for text in axes.texts} == {"0", "1", "2", "3"}
    # marks stand below the pictures
    assert max(m.get_zorder() for m in axes.collections) < min(i.get_zorder() for i in axes.images)


@pytest.mark.parametrize(("clusters", "members"), [(1, 1), (1, 2), (1, MEMBERS)])
def test_one_image_and_one_cluster_are_drawn(tmp_path: Path, clusters: int, members: int) -> None:
    inputs = make(tmp_path, clusters=clusters, members=members)
    table = selection.map_table(inputs, points=100, seed=0)
    figure, axes, shown = draw(table)
    assert len(shown) == min(members, 5)
    assert legend(axes) == ["semantic duplicate (3)", "below the top k (1)"] * (members > 5)
    figures.save_figure(figure, tmp_path, "map")
    _, sheet = figures.new_sheet()
    selection.plot_duplicates(sheet, pairs_of(inputs, count=4, seed=0))
    said = {text.get_text() for text in sheet.axes.texts}
    assert ("No image was set aside as a duplicate." in said) == (members < 6)


def test_equal_vectors_lie_in_one_place(tmp_path: Path) -> None:
    inputs = make(tmp_path, clusters=1, members=4)
    rows = [
        {"image_id": name(0, m), "cluster": 0, "distance": 0.0, "vector": [0.5]} for m in range(4)
    ]
    table = selection.map_table(
        inputs | {"embeddings": write(tmp_path / "flat/embeddings", "04_selection", rows)},
        points=9,
        seed=0,
    )
    assert table.attrs["explained"] == [0.0, 0.0]
    assert not table[["x", "y"]].to_numpy().any()
    assert len(draw(table)[2]) == 4


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
def test_the_notebooks_figure_is_readable(inputs: Inputs, columns: int) -> None:
    held = run_section("30_selection", "## 1", inputs)
    names = {"paths": held["paths"], "funnel": held["funnel"]}
    size = {"columns": columns, "aspect": 0.62, "points": 100, "thumbnails": 12, "seed": 0}
    held = run_section("30_selection", "## 2", inputs, **names, **size)
    chart, bars = held["figure"].axes
    # numbers of clusters lie on the pictures
    assert_readable(held["figure"], may_overlap={text.get_text() for text in chart.texts})
    assert {"36", "20"} <= {text.get_text() for text in bars.texts}
    assert len(held["pictures"]) == 12


def test_the_embeddings_are_named_by_the_record_of_their_stage(tmp_path: Path) -> None:
    table = tmp_path / "04_selection/data/embeddings"
    assert selection.embedding_model(table) == "unknown"
    table.mkdir(parents=True)
    record = {"inputs": {}, "hashes": {"parameters": {"embedding_model": "org/clip@abc"}}}
    (tmp_path / "04_selection/run.json").write_text(json.dumps(record))
    assert selection.embedding_model(table) == "org/clip@abc"


def test_the_figures_are_equal_bytes_and_thumbnails_are_small(
    inputs: Inputs, tmp_path: Path
) -> None:
    written = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        table = selection.map_table(inputs, points=100, seed=0)
        figure, _, _ = draw(table)
        twins, sheet = figures.new_sheet()
        selection.plot_duplicates(sheet, pairs_of(inputs, count=4, seed=0))
        figures.trim_sheet(twins, sheet, note="n")
        files = [*figures.save_figure(figure, folder, "map", table.drop(columns="path"))]
        files += figures.save_figure(twins, folder, "pairs")
        pictures = (*figure.axes[0].images, *sheet.axes.images)
        assert max(image.get_size()[0] for image in pictures) <= 250  # px
        written.append([file.read_bytes() for file in files])
    assert written[0] == written[1]


def test_a_photograph_as_large_as_any_stays_small_in_the_file(tmp_path: Path) -> None:
    inputs = make(tmp_path)
    noise = np.random.default_rng(0).integers(0, 255, (400, 400, 3), np.uint8)
    for file in (tmp_path / "03/files").iterdir():
        Image.fromarray(noise).save(file, compress_level=1)
    figure, _, shown = draw(selection.map_table(inputs, points=100, seed=0), thumbnails=20)
    pdf = figures.save_figure(figure, tmp_path, "map")[0]
    assert len(shown) >= 15
    assert pdf.stat().st_size < 3_000_000
