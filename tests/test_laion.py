"""LAION-style rows become documents of one image, and small ones are never fetched."""

import json
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vislib import documents, filtering
from vislib.laion import obelics_rows
from vislib.runs import InputError, Run, short_hash, start_run, tables

NAMES = ("URL", "TEXT", "WIDTH", "HEIGHT")
ROWS = [
    ("https://a.org/0.jpg", "A bridge at night", 640, 480),
    ("https://a.org/1.jpg", None, 200, 900),
    ("https://a.org/2.jpg", 'A "quoted" text\n<image> \x07 Ωμέγα 🌉', None, 20),
    ("https://a.org/0.jpg", "The same address again", 640, 480),
    (None, "No address", 640, 480),
    ("", "No address", 640, 480),
    ("https://a.org/5.jpg", b"caf\xe9", 640, 480),
    (b"https://a.org/\xff.jpg", "An address that is no text", 640, 480),
    ("ftp://a.org/7.jpg", "Another protocol", 640, 480),
    ("https://a.org/8.jpg", "Exactly as large", 448, 448),
]


@pytest.fixture(autouse=True)
def _runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VISLIB_RUNS", str(tmp_path / "runs"))


def shard(
    file: Path,
    rows: list[tuple],
    names: tuple = NAMES,
    size: pa.DataType = pa.int64(),  # noqa: B008
) -> Path:
    """Texts as text, decodable or not, as a careless writer has them; a further column, as LAION
    has several.
    """
    columns = [
        pa.array([v.encode() if isinstance(v, str) else v for v in column], pa.binary()).view(
            pa.string()
        )
        if i < 2
        else pa.array(column, size)
        for i, column in enumerate(zip(*rows, strict=True))
    ]
    pq.write_table(
        pa.table([*columns, pa.array(["?"] * len(rows))], [*names, "LICENSE"]),
        file,
        row_group_size=4,
    )
    return file


def load(*files: Path, **parameters: object) -> Run:
    paths = [str(file) for file in files]
    run = start_run(
        "01_documents", {"run_dir": "runs/demo", "source": "laion", "paths": paths, **parameters}
    )
    try:
        documents.load_documents(run)
        run.finish()
    finally:
        run.close()
    return run


def table(run: Run, name: str) -> list[dict]:
    return list(tables.read_rows(run.stage.folder / "data" / name))


def test_a_row_becomes_a_document_of_one_image(tmp_path):
    first, second, third, *_ = table(load(shard(tmp_path / "0.parquet", ROWS)), "documents")
    url = "https://a.org/0.jpg"
    assert (first["doc_id"], first["images"], first["texts"]) == (short_hash(url), [url], [None])
    assert json.loads(first["general_metadata"]) == {"url": url}
    assert json.loads(first["metadata"]) == [
        {
            "document_url": url,
            "unformatted_src": url,
            "src": url,
            "format": "",
            "original_width": 640,
            "original_height": 480,
            "alt_text": "A bridge at night",
        }
    ]
    assert json.loads(second["metadata"])[0]["alt_text"] is None
    [odd] = json.loads(third["metadata"])
    assert (odd["alt_text"], odd["original_width"], odd["original_height"]) == (ROWS[2][1], 0, 20)


def test_rows_that_are_no_documents_are_quarantined_with_their_reason(tmp_path):
    run = load(shard(tmp_path / "0.parquet", ROWS))
    assert [(row["row"], row["reason"]) for row in table(run, "quarantine")] == [
        (3, f"duplicate: repeats document {short_hash('https://a.org/0.jpg')}"),
        (4, "no_page_url: general_metadata.url is ''"),
        (5, "no_page_url: general_metadata.url is ''"),
        (6, "undecodable_text: metadata: invalid continuation byte at 190"),
        (7, "undecodable_text: images[0]: invalid start byte at 14"),
    ]
    assert run.counts()["row"]["taken"] == len(ROWS) == len(table(run, "documents")) + 5


def test_small_images_are_dropped_before_their_link_is_fetched(tmp_path):
    """Where both sides are stated; the odd text is made safe, and its page is the image's own
    address.
    """
    run = load(shard(tmp_path / "0.parquet", ROWS))
    run = start_run("02_filtering", {"run_dir": "runs/demo", "min_side": 448})
    names = ("tokenizer", "max_tokens", "min_side")
    rule = partial(filtering.filter_pages, **{name: getattr(run.params, name) for name in names})
    run.map(rule, run.table("documents"), unit="document", id="doc_id")
    run.account("image", taken=filtering.IMAGES, kept="SELECT sample_id FROM samples")
    run.finish()
    run.close()
    samples = table(run, "samples")
    assert [row["image_url"][-5:] for row in samples] == ["0.jpg", "2.jpg", "8.jpg"]
    assert all(
        (row["context"], row["page_url"]) == ("<image>", row["image_url"]) for row in samples
    )
    assert "<image>" not in samples[1]["alt_text"]
    dropped = [(row["reason"], row["detail"]) for row in table(run, "dropped")]
    assert dropped == [("too_small", "200x900"), ("not_http", "ftp://a.org/7.jpg")]


@pytest.mark.parametrize(
    "names", [("url", "caption", "width", "height"), ("Url", "alt", "ORIGINAL_WIDTH", "Height")]
)
def test_names_of_columns_vary_and_sizes_may_be_real_numbers(tmp_path, names):
    rows = [
        *ROWS[:2],
        ("https://a.org/3.jpg", "No size", float("nan"), None),
        ("https://a.org/4.jpg", "", -1, 1e400),
        ("https://a.org/5.jpg", "", 1e30, 480.0),
    ]
    found = table(load(shard(tmp_path / "0.parquet", rows, names, pa.float64())), "documents")
    sizes = [
        (e["original_width"], e["original_height"])
        for row in found
        for e in json.loads(row["metadata"])
    ]
    assert sizes == [(640, 480), (200, 900), (0, 0), (0, 0), (0, 480)]


def test_address_and_text_are_enough():
    rows = obelics_rows(
        pa.table({"Alt_Text": ["A", None], "TEXT": ["B", "C"], "URL": ["http://a", "http://b"]}),
        "here",
    )
    assert [json.loads(row["metadata"])[0]["alt_text"] for row in rows] == ["B", "C"]
    assert json.loads(rows[0]["metadata"])[0]["original_width"] == 0


def test_views_and_whole_numbers_too_large_for_a_real_one_are_read(tmp_path):
    columns = {
        "url": pa.array(["https://a.org/1.jpg", "https://a.org/2.jpg"], pa.string_view()),
        "text": pa.array(["A", None], pa.string_view()),
        "width": pa.array([2**62 + 1, 640]),
    }
    pq.write_table(pa.table(columns), tmp_path / "0.parquet")
    found = [
        json.loads(row["metadata"])[0] for row in table(load(tmp_path / "0.parquet"), "documents")
    ]
    assert [(entry["alt_text"], entry["original_width"]) for entry in found] == [
        ("A", 0),
        (None, 640),
    ]


def test_a_limit_is_a_seeded_choice_over_all_shards(tmp_path):
    def rows(k: int) -> list[tuple]:
        return [(f"https://a.org/{10 * k + n:02}.jpg", "text", 640, 480) for n in range(10)]

    files = [shard(tmp_path / f"{k}.parquet", rows(k)) for k in range(4)]
    found = [
        [row["images"][0] for row in table(load(*files, limit=9, seed=seed), "documents")]
        for seed in (0, 0, 1)
    ]
    assert [len(chosen) for chosen in found] == [9, 9, 9]
    assert found[0] == found[1] == sorted(found[0]) != found[2]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"TEXT": ["a"], "link": ["b"]},
            "no column url.*it holds TEXT: string, link: string",
        ),
        ({"URL": ["a"], "WIDTH": [3]}, "no column text.*it holds URL: string, WIDTH: int64"),
        ({"URL": [1], "TEXT": ["a"]}, "it holds URL: int64"),
        ({"URL": ["a"], "TEXT": ["a"], "WIDTH": [["a"]]}, "WIDTH: list"),
        ({"URL": ["a"], "TEXT": ["a"], "WIDTH": ["wide"]}, "WIDTH: string"),
        ({"images": [["a"]], "texts": [[None]]}, "no column url"),
    ],
)
def test_a_shard_of_another_form_is_named_with_what_it_holds(tmp_path, columns, message):
    pq.write_table(pa.table(columns), tmp_path / "other.parquet")
    with pytest.raises(
        InputError, match=rf"other.parquet: not a LAION shard .*{message}.*must hold url and text"
    ):
        load(tmp_path / "other.parquet")
