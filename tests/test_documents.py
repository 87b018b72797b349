"""Every row is a valid document or in quarantine with its reason, from each source."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vislib import documents, sample
from vislib.documents import BrokenRow, read_document
from vislib.runs import InputError, Run, short_hash, start_run, tables

COMMIT = "f616da269bbecc70234f3914d01c97eaf62816a3"
ENTRY = {
    "document_url": "https://a.org/p",
    "unformatted_src": "b.png",
    "src": "https://a.org/b.png",
    "original_width": 640,
    "original_height": 480,
    "format": "png",
}


def page(number: int = 0, **changes: object) -> dict:
    """A valid row: text, image, text."""
    row = {
        "images": [None, ENTRY["src"], None],
        "texts": [f"Page {number}.", None, "The end."],
        "metadata": json.dumps([None, ENTRY, None]),
        "general_metadata": json.dumps({"url": f"https://a.org/{number}"}),
    }
    return row | changes


ODD_SIZES = (None, 640.0, "640", "100%", math.nan, math.inf, 10**20, 1e30, -1, 0.5, True, [640])


def entries(**changes: object) -> dict:
    """`page` with a changed image entry; None takes the key away."""
    entry = {key: value for key, value in (ENTRY | changes).items() if value is not None}
    return page(metadata=json.dumps([None, entry, None]))


def test_a_valid_row_keeps_its_columns_and_gets_an_id():
    document = read_document(page())
    assert document == {"doc_id": short_hash("https://a.org/0", "Page 0.", "The end."), **page()}
    in_bytes = {
        k: [v and v.encode() for v in c] if isinstance(c, list) else c.encode()
        for k, c in page().items()
    }
    assert read_document(in_bytes) == document


@pytest.mark.parametrize(
    "row",
    [
        page(images=[None], texts=["Only text."], metadata="[null]"),
        page(images=[ENTRY["src"]], texts=[None], metadata=json.dumps([ENTRY])),
        page(images=[None, "", None]),
        page(texts=["", None, " "]),
        entries(
            alt_text="A bridge", formatted_filename="b", rendered_width="100%", rendered_height=20.5
        ),
        entries(
            alt_text="\N{BRIDGE AT NIGHT}"
        ),  # json spells it as two halves that belong together
        page(general_metadata='{"url": "https://a.org/", "warc_filename": 3}'),
        # What nobody needs is unknown where it is odd, and costs nobody the page.
        *(entries(original_width=size, original_height=size) for size in ODD_SIZES),
        entries(alt_text=math.nan, format=math.nan, rendered_width=[3]),
        entries(format=None),
        page(metadata=json.dumps([None, ENTRY, None]).replace("640", "9" * 5000)),
    ],
)
def test_what_the_form_allows_is_kept(row):
    assert read_document(row)["texts"] == row["texts"]


@pytest.mark.parametrize(
    ("row", "reason", "detail"),
    [
        (page(texts=["One."]), "unequal_lengths", "images 3, texts 1, metadata 3"),
        (page(metadata="[null]"), "unequal_lengths", "metadata 1"),
        (page(images=[], texts=[], metadata="[]"), "empty", "neither"),
        (page(images=[None] * 3), "both_or_neither", "index 1 holds neither"),
        (page(texts=["a", "b", "c"]), "both_or_neither", "index 1 holds both"),
        (
            page(metadata=json.dumps([ENTRY, ENTRY, None])),
            "bad_metadata",
            r"metadata\[0\] stands beside a text",
        ),
        (page(metadata="[null, null, null]"), "bad_metadata", r"metadata\[1\] is NoneType"),
        (entries(src=None), "bad_metadata", "lacks a valid src"),
        (entries(alt_text=["A bridge"]), "bad_metadata", "alt_text"),
        (page(general_metadata="{}"), "no_page_url", "None"),
        (page(general_metadata='{"url": ""}'), "no_page_url", "''"),
        (page(metadata="[null,"), "bad_json", "metadata"),
        (page(metadata="[" * 99_999), "bad_json", "metadata"),
        (page(general_metadata='{"url": ' + "9" * 5000 + "}"), "bad_json", "general_metadata"),
        (page(general_metadata="[]"), "wrong_type", "general_metadata holds list, not dict"),
        (page(metadata="{}"), "wrong_type", "metadata holds dict, not list"),
        (page(metadata=None), "wrong_type", "metadata is NoneType"),
        (page(texts="Page"), "wrong_type", "texts is str, not a list"),
        (page(texts=[1, None, "c"]), "wrong_type", r"texts\[0\] is int"),
        (
            page(texts=["a\udced", None, "c"]),
            "undecodable_text",
            r"texts\[0\]: surrogates not allowed at 1",
        ),
        (
            page(texts=[b"caf\xe9 ", None, b"c"]),
            "undecodable_text",
            r"texts\[0\]: invalid continuation byte at 3",
        ),
        (entries(alt_text="\ud83d"), "undecodable_text", "metadata: surrogates"),
        (
            page(general_metadata='{"url": "https://a.org/\\uDFFF"}'),
            "undecodable_text",
            "general_metadata",
        ),
        ({k: v for k, v in page().items() if k != "texts"}, "wrong_type", "texts is NoneType"),
    ],
)
def test_a_broken_row_says_what_and_where(row, reason, detail):
    with pytest.raises(BrokenRow, match=detail) as caught:
        read_document(row)
    assert caught.value.args[0] == reason


@pytest.fixture(autouse=True)
def _runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VISLIB_RUNS", str(tmp_path / "runs"))


def load(**parameters: object) -> Run:
    run = start_run("01_documents", {"run_dir": "runs/demo", **parameters})
    try:
        documents.load_documents(run)
        run.finish()
    finally:
        run.close()
    return run


def table(run: Run, name: str) -> list[dict]:
    return list(tables.read_rows(run.stage.folder / "data" / name))


def shard(file: Path, rows: list[dict], **schema: pa.DataType) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    texts = pa.list_(pa.string())
    types = {
        "images": texts,
        "texts": texts,
        "metadata": pa.string(),
        "general_metadata": pa.string(),
    } | schema
    pq.write_table(
        pa.Table.from_pylist(rows, pa.schema(list(types.items()))), file, row_group_size=4
    )
    return file


def urls(run: Run) -> list[str]:
    return [
        json.loads(row["general_metadata"])["url"].rpartition("/")[2]
        for row in table(run, "documents")
    ]


def test_the_sample_is_read_whole_and_its_damaged_rows_are_found():
    run = load()
    rows = list(sample.rows())
    quarantine = table(run, "quarantine")
    assert len(table(run, "documents")) + len(quarantine) == len(rows)
    assert {"duplicate", "bad_json", "undecodable_text"} <= {
        row["reason"].partition(":")[0] for row in quarantine
    }
    assert run.counts()["row"]["taken"] == len(rows)
    dropped = {row["id"]: f"{row['reason']}: {row['detail']}" for row in table(run, "dropped")}
    assert dropped == {f"{row['source']}:{row['row']}": row["reason"] for row in quarantine}


def test_the_limit_is_a_seeded_choice_in_order():
    whole = [row["doc_id"] for row in table(load(), "documents")]
    some = [row["doc_id"] for row in table(load(limit=20), "documents")]
    assert 10 < len(some) <= 20
    assert some == [doc_id for doc_id in whole if doc_id in some]
    assert some == [row["doc_id"] for row in table(load(limit=20), "documents")]
    assert some != [row["doc_id"] for row in table(load(limit=20, seed=1), "documents")]


def test_files_folders_and_globs_of_shards(tmp_path):
    shard(tmp_path / "in/a/0.parquet", [page(n) for n in range(10)])
    shard(tmp_path / "in/a/1.parquet", [page(n) for n in range(10, 15)])
    shard(tmp_path / "in/b/x-2.parquet", [page(0), page(15, metadata="["), page(16)])
    (tmp_path / "in/a/README.md").write_text("no shard")
    run = load(source="parquet", paths=[str(tmp_path / "in/a"), str(tmp_path / "in/b/x-*.parquet")])
    assert urls(run) == [str(n) for n in (*range(15), 16)]
    found = [
        (Path(row["source"]).name, row["row"], row["reason"].partition(":")[0])
        for row in table(run, "quarantine")
    ]
    assert found == [("x-2.parquet", 0, "duplicate"), ("x-2.parquet", 1, "bad_json")]


def test_a_limit_over_shards_reads_the_chosen_rows_alone(tmp_path):
    files = [
        shard(tmp_path / f"{k}.parquet", [page(10 * k + n) for n in range(10)]) for k in range(4)
    ]
    found = [
        urls(load(source="parquet", paths=[str(f) for f in files], limit=9, seed=seed))
        for seed in (0, 0, 1)
    ]
    assert [len(chosen) for chosen in found] == [9, 9, 9]
    assert found[0] == found[1] == sorted(found[0], key=int) != found[2]
    assert len({int(n) // 10 for n in found[0]}) > 1


def test_one_undecodable_row_does_not_take_others_with_it(tmp_path):
    broken = {"texts": [b"caf\xe9", None, b"c"], "general_metadata": b"\xff"}
    rows = [page(1), page(2) | broken, page(3)]
    for name, column in (
        ("string", pa.string()),
        ("binary", pa.binary()),
        ("large", pa.large_binary()),
    ):
        as_bytes = [
            {
                **row,
                "texts": [t and (t if isinstance(t, bytes) else t.encode()) for t in row["texts"]],
            }
            for row in rows
        ]
        as_bytes = [
            {
                **r,
                "general_metadata": (
                    g if isinstance(g := r["general_metadata"], bytes) else g.encode()
                ),
            }
            for r in as_bytes
        ]
        file = shard(
            tmp_path / f"{name}.parquet",
            as_bytes,
            texts=pa.list_(pa.binary()),
            general_metadata=pa.binary(),
        )
        if name != "binary":
            whole = pq.read_table(file)
            kinds = {"texts": pa.list_(column), "general_metadata": column}
            changed = [
                unchecked(whole[c], kinds[c]) if c in kinds else whole[c]
                for c in whole.column_names
            ]
            pq.write_table(pa.table(dict(zip(whole.column_names, changed, strict=True))), file)
        run = load(source="parquet", paths=[str(file)])
        assert urls(run) == ["1", "3"]
        assert [row["reason"] for row in table(run, "quarantine")] == [
            "undecodable_text: texts[0]: unexpected end of data at 3"
        ]


def as_polars_writes(rows: list[dict]) -> dict[str, pa.Array]:
    """Columns of the types that polars, pandas and others write."""
    texts = [[text and text.encode() for text in row["texts"]] for row in rows]
    return {
        "images": pa.array([row["images"] for row in rows], pa.large_list(pa.string_view())),
        "texts": pa.array(texts, pa.list_view(pa.binary_view())),
        "metadata": pa.array([row["metadata"] for row in rows], pa.string_view()),
        "general_metadata": pa.array([row["general_metadata"] for row in rows]).dictionary_encode(),
    }


def test_types_of_other_writers_are_read_as_the_plain_ones(tmp_path):
    rows = [page(n) for n in range(5)]
    pq.write_table(pa.table(as_polars_writes(rows)), tmp_path / "views.parquet", row_group_size=3)
    found = table(
        load(source="parquet", paths=[str(tmp_path / "views.parquet")], limit=4), "documents"
    )
    assert [row["texts"] for row in found] == [
        rows[int(json.loads(row["general_metadata"])["url"][-1])]["texts"] for row in found
    ]
    assert len(found) == 4


def test_a_fault_that_nobody_thought_of_costs_its_row(tmp_path, monkeypatch):
    def read(row: dict) -> dict:
        if b"Page 1." in row["texts"]:
            raise ZeroDivisionError("by zero")
        return read_document(row)

    monkeypatch.setattr(documents, "read_document", read)
    run = load(
        source="parquet", paths=[str(shard(tmp_path / "0.parquet", [page(n) for n in range(3)]))]
    )
    assert urls(run) == ["0", "2"]
    assert [row["reason"] for row in table(run, "quarantine")] == [
        "unexpected: ZeroDivisionError: by zero"
    ]


def unchecked(column: pa.ChunkedArray, kind: pa.DataType) -> pa.Array:
    """Bytes as `kind` without a look at them, as a careless writer does."""
    array = column.combine_chunks()
    if pa.types.is_list(kind):
        return pa.ListArray.from_arrays(
            array.offsets, unchecked(pa.chunked_array([array.values]), kind.value_type)
        )
    return array.view(kind) if kind == pa.string() else array.cast(kind)


def fault(tmp_path: Path, name: str) -> tuple[list[str], str]:
    """Paths that cannot be used, and what the message must say."""
    file = tmp_path / f"{name}.parquet"
    if name == "truncated":
        shard(file, [page()])
        file.write_bytes(file.read_bytes()[:-50])
        return [str(file)], "not a readable Parquet file"
    if name == "damaged":
        shard(file, [page(n, texts=[os.urandom(400).hex(), None, "b"]) for n in range(50)])
        content = bytearray(file.read_bytes())
        content[4:9000] = bytes(8996)
        file.write_bytes(content)
        return [str(file)], "cannot be read to its end"
    if name == "column":
        pq.write_table(pa.table({"images": [["a"]], "texts": [[None]]}), file)
        return [str(file)], "not an OBELICS shard .*metadata"
    if name == "type":
        shard(file, [page(metadata=3)], metadata=pa.int64())
        return [str(file)], "not an OBELICS shard .*metadata: int64"
    if name == "items":
        shard(file, [page(texts=[1, None, 2])], texts=pa.list_(pa.int64()))
        return [str(file)], "not an OBELICS shard"
    if name == "empty":
        return [str(shard(file, []))], "no valid document in 0 rows"
    if name == "broken":
        return [
            str(shard(file, [page(metadata="[")] * 3))
        ], r"no valid document in 3 rows; .*row 0: bad_json"
    (tmp_path / "folder").mkdir()
    return [str(tmp_path / "folder")] * (name == "folder"), "no .parquet file there"


@pytest.mark.parametrize(
    "name",
    ["truncated", "damaged", "column", "type", "items", "empty", "broken", "folder", "nothing"],
)
def test_a_source_that_cannot_be_used_is_named_with_the_mend(tmp_path, name):
    paths, message = fault(tmp_path, name)
    with pytest.raises(InputError, match=message) as caught:
        load(source="parquet", paths=paths)
    assert not paths or Path(paths[0]).name in str(caught.value) or name in ("empty", "broken")
    assert not (tmp_path / "runs/demo/01_documents").exists()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of shards in the hub dataset's place: `datasets` streams it by the same code."""
    from datasets import config

    monkeypatch.setattr(
        config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0.3
    )  # 5 s, for threads of real downloads
    for k in range(3):
        shard(
            tmp_path / f"hub/data/train-{k:05d}-of-00003.parquet",
            [page(10 * k + n) for n in range(10)],
        )
    monkeypatch.setattr(documents, "HUB", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_the_hub_is_streamed_at_a_commit(hub):
    run = load(source="hub", revision=COMMIT)
    assert urls(run) == [str(n) for n in range(30)]
    some = [urls(load(source="hub", revision=COMMIT, limit=12, seed=seed)) for seed in (0, 0, 1)]
    assert some[0] == some[1] != some[2]
    assert [len(set(chosen)) for chosen in some] == [12, 12, 12]
    assert len({int(n) // 10 for n in some[0]}) > 1


def test_bad_rows_of_the_hub_are_quarantined(hub):
    shard(hub / "data/train-00001-of-00003.parquet", [page(10), page(11, metadata="["), page(10)])
    run = load(source="hub", revision=COMMIT)
    assert [(row["source"], row["row"]) for row in table(run, "quarantine")] == [
        (f"{hub}@{COMMIT}", n) for n in (11, 12)
    ]


@pytest.mark.parametrize("revision", ["", "main", COMMIT[:39], COMMIT.upper()])
def test_the_hub_needs_a_whole_commit(revision):
    with pytest.raises(
        InputError, match=rf"revision = '{revision}': source hub needs the 40 hex digits"
    ):
        load(source="hub", revision=revision)


def test_a_hub_that_fails_is_named_with_the_mend(hub, monkeypatch):
    monkeypatch.setattr(documents, "HUB", str(hub / "nowhere"))
    with pytest.raises(InputError, match=r"nowhere@.*failed after 0 rows .*set source to parquet"):
        load(source="hub", revision=COMMIT)


def test_ids_are_remembered_and_begin_anew():
    ids = [short_hash(str(n)) for n in range(5000)] + ["0" * 16, "f" * 16]
    is_new = documents.unseen()
    assert all(is_new(i) for i in ids)
    assert not any(is_new(i) for i in ids)
    assert documents.unseen()(ids[0])


@pytest.mark.skipif("VISLIB_WEBDOCS" not in os.environ, reason="VISLIB_WEBDOCS is unset")
def test_real_documents_are_all_valid():
    run = load(
        source="parquet", paths=[str(Path(os.environ["VISLIB_WEBDOCS"]) / "documents.parquet")]
    )
    assert run.counts()["row"] == {"taken": 186, "kept": 186, "dropped": {}}


@pytest.mark.campaign
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
def test_memory_does_not_grow_with_the_rows(tmp_path):
    """Peak memory of a child that reads 4 times the rows: less than 1.15 times."""
    script = (
        "import sys; from vislib import documents; from vislib.runs import start_run;"
        "run = start_run('01_documents', {'run_dir': sys.argv[2], 'source': 'parquet', 'paths':"
        " [sys.argv[1]]});"
        "documents.load_documents(run);"
        "print(open('/proc/self/status').read().partition('VmHWM:')[2].split()[0])"
    )
    peaks = []
    for size in (20_000, 80_000):
        rows = [
            page(n, texts=[f"{n} " + "The bridge was opened in 1932. " * 40, None, "The end."])
            for n in range(size)
        ]
        file = tmp_path / f"{size}.parquet"
        types = pq.read_schema(shard(tmp_path / "small.parquet", rows[:1]))
        pq.write_table(pa.Table.from_pylist(rows, types), file, row_group_size=1000)
        command = [sys.executable, "-c", script, str(file), f"runs/{size}"]
        peaks.append(
            int(
                subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[
                    -1
                ]
            )
        )
    assert peaks[1] < 1.15 * peaks[0], peaks
