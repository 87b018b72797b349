"""Rows to learn from: LLaVA's JSON, The Cauldron's Parquet and the conversations of stage 08, good
rows and bad.
"""

import json
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from vislib.media.pixels import read_image
from vislib.runs import InputError, short_hash, tables
from vislib.runs.contract import CONVERSATIONS, IMAGES
from vislib.training import sources
from vislib.training.sources import caption_first, contract_rows, own_rows

ROOT = Path(__file__).resolve().parents[1]
EMPTY = {
    "sample_id": "",
    "n_left_out": 0,
    "n_mended": 0,
    "sealed": False,
    "reason": "",
    "detail": "",
}


def turns(*values: str) -> list[dict]:
    return [
        {"from": ("human", "gpt")[number % 2], "value": value}
        for number, value in enumerate(values)
    ]


def read(
    *places: Path,
    images: Path | None = None,
    fraction: float = 1.0,
    seed: int = 0,
    store: Path = Path(),
) -> list:
    return list(own_rows(places, images=images, fraction=fraction, seed=seed, store=store))


def llava(file: Path, *rows: object) -> Path:
    file.write_text(json.dumps(rows, ensure_ascii=False))
    return file


def png(path: Path, colour: str = "red") -> bytes:
    Image.new("RGB", (20, 10), colour).save(path, "PNG")
    return path.read_bytes()


def cauldron(file: Path, *rows: tuple[list, list]) -> Path:
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    text = pa.struct([("user", pa.string()), ("assistant", pa.string()), ("source", pa.string())])
    schema = pa.schema([("images", pa.list_(image)), ("texts", pa.list_(text))])
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(
        pa.Table.from_pylist([{"images": i, "texts": t} for i, t in rows], schema=schema), file
    )
    return file


def contract(folder: Path, rows: list[tuple[str, str, list[str]]], split: str = "train") -> Path:
    """Rows (id, sample_id, image ids) of a configuration; images a, b have files, c failed."""
    writer = tables.TableWriter(folder / "leaky_mix", CONVERSATIONS, stem=split)
    for name, sample, images in rows:
        talk = turns("<image>\nWhat is it?" if images else "Hello?", f"Answer {name}.")
        writer.write(
            {
                "id": name,
                "images": images,
                "conversations": talk,
                "sample_id": sample,
                "doc_id": "d",
                "sources": [],
            }
        )
    writer.close()
    return folder / "leaky_mix"


def ledger(folder: Path) -> Path:
    writer = tables.TableWriter(folder / "images", IMAGES)
    for name in ("a", "b", ""):
        path = f"files/{name}.png" if name else ""
        empty = dict.fromkeys(IMAGES.names) | {"image_url": f"http://i.example/{name}"}
        writer.write(empty | {"image_id": name or None, "path": path or None})
    writer.close()
    return folder / "images"


def test_llava_rows_keep_their_form_and_marks_stand_where_the_row_or_nobody_says(tmp_path):
    file = llava(
        tmp_path / "mix.json",
        {
            "id": "one",
            "image": "a.png",
            "conversations": turns("What is it?\n<image>", "A square.", "Sure?", "Yes."),
        },
        {"id": 7, "image": ["a.png", "sub/b.png"], "conversations": turns("Compare.", "Alike.")},
        {"conversations": turns("Hello? Grüße, 猫", "Hello.")},
        {
            "id": "x",
            "image": [],
            "conversations": [{"from": "human", "value": "Hm?", "weight": 1}, turns("", "A.")[1]],
        },
    )
    first, second, third, fourth = read(file)
    assert first == EMPTY | {
        "id": "one",
        "source": "own",
        "images": [str(tmp_path / "a.png")],
        "conversations": turns("What is it?\n<image>", "A square.", "Sure?", "Yes."),
    }
    assert (second["id"], second["images"]) == (
        "7",
        [str(tmp_path / "a.png"), str(tmp_path / "sub/b.png")],
    )
    assert second["conversations"][0]["value"] == "<image>\n<image>\nCompare."
    assert (third["id"], third["images"], third["conversations"][0]["value"]) == (
        "mix/2",
        [],
        "Hello? Grüße, 猫",
    )
    assert fourth["conversations"] == turns("Hm?", "A.")  # further fields do not reach the training
    assert read(file, images=tmp_path / "elsewhere")[0]["images"] == [
        str(tmp_path / "elsewhere/a.png")
    ]


def test_bad_rows_are_refused_with_reason_and_id_and_the_others_stay(tmp_path):
    file = llava(
        tmp_path / "mix.json",
        "text",
        {"id": "a"},
        {"id": "b", "conversations": []},
        {"id": "c", "conversations": [{"from": "human", "value": None}]},
        {"id": "d", "image": 3, "conversations": []},
        {"id": "good", "conversations": turns("A?", "B.")},
    )
    *bad, good = read(file)
    assert [(row["id"], row["source"], row["reason"]) for row in bad] == [
        (name, "own", "malformed") for name in ("mix/0", "a", "b", "c", "d")
    ]
    assert bad[3]["detail"] == "turn 0 is not {from, value}"
    assert bad[4]["detail"] == "images are '3', not paths"
    assert (good["id"], good["reason"]) == ("good", "")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"id": "a"}', "no JSON list of rows, row 0: it begins with '{\"id"),
        (
            (
                '[{"conversations": [{"from": "human", "value": "A?"}, {"from": "gpt", "value":'
                ' "B"}]}, {"id": '
            ),
            "row 1",
        ),
        ("", "row 0"),
        (b"\xff\xfe[\x00]\x00", "it begins with"),
        (
            '[{"id": "a", "messages": []}, {"id": "b"}]',
            "no row has the form; row a: no list of turns. LLaVA's JSON is",
        ),
    ],
)
def test_a_file_of_another_form_is_an_error_that_names_file_and_row(tmp_path, content, said):
    (tmp_path / "mix.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError) as error:
        read(tmp_path / "mix.json")
    assert str(tmp_path / "mix.json") in str(error.value)
    assert said in str(error.value)


def test_what_is_no_character_costs_no_more_than_itself(tmp_path):
    rows = [
        {"id": f"r{number}", "conversations": turns("A?", f"Wall {number}.")} for number in range(3)
    ]
    text = (
        json.dumps(rows)
        .replace("Wall 1.", "Wall \\ud83d 1 \\ude00\\ud83d\\ude00.")
        .replace("r2", "\\udfffr2")
    )
    (tmp_path / "mix.json").write_bytes(text.encode().replace(b"Wall 2", b"Caf\xe9 2"))
    zero, one, two = read(tmp_path / "mix.json")
    assert zero["n_mended"] == 0
    assert (one["conversations"][1]["value"], one["n_mended"]) == ("Wall \ufffd 1 \ufffd😀.", 2)
    assert (two["id"], two["conversations"][1]["value"]) == ("\ufffdr2", "Caf\ufffd 2.")
    assert two["n_mended"] == 2


def test_a_row_of_parquet_that_is_no_utf8_costs_itself(tmp_path):
    said = [[{"user": "A?", "assistant": word}] for word in ("one", "caf\u00e9", "three")]
    column = pa.array(
        [[]] * 3, pa.list_(pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    )
    file = tmp_path / "cauldron.parquet"
    table = pa.table({"images": column, "texts": said})
    pq.write_table(table, file, compression="none", use_dictionary=False)
    file.write_bytes(file.read_bytes().replace("caf\u00e9".encode(), b"caf\xe9!"))
    one, bad, three = read(file)
    assert (bad["reason"], bad["detail"]) == ("malformed", "turn 0 is not {from, value}")
    assert [row["conversations"][1]["value"] for row in (one, three)] == ["one", "three"]


SPEAKERS = {"h": "human", "g": "gpt", "s": "system"}


@pytest.mark.parametrize(
    ("speakers", "left_out"),
    [("hg", 0), ("ghg", 1), ("shg", 1), ("sghghg", 2), ("gghg", 2)],
)
def test_turns_before_the_first_human_one_are_left_out_and_counted(tmp_path, speakers, left_out):
    talk = [
        {"from": SPEAKERS[who], "value": f"Turn {number}"} for number, who in enumerate(speakers)
    ]
    (found,) = read(
        llava(tmp_path / "mix.json", {"id": "r", "image": "a.png", "conversations": talk})
    )
    assert found["n_left_out"] == left_out
    first, *others = found["conversations"]
    assert first == {"from": "human", "value": f"<image>\nTurn {left_out}"}
    assert others == talk[left_out + 1 :]


def test_other_files_are_refused_and_folders_are_searched(tmp_path):
    (tmp_path / "notes.txt").write_text("no data")
    with pytest.raises(InputError, match=r"notes\.txt; it takes \.json"):
        read(tmp_path / "notes.txt")
    with pytest.raises(InputError, match=r"where no \.json or \.parquet is"):
        read(tmp_path)
    llava(tmp_path / "b.json", {"id": "b", "conversations": turns("A?", "B.")})
    cauldron(tmp_path / "a.parquet", ([], [{"user": "A?", "assistant": "B."}]))
    assert [row["id"] for row in read(tmp_path)] == [f"{tmp_path.name}/a/0", "b"]
    pq.write_table(pa.table({"id": ["a"]}), tmp_path / "c.parquet")
    with pytest.raises(InputError, match=r"c\.parquet: lacks the columns \['images', 'texts'\]"):
        read(tmp_path)


def test_a_long_list_is_streamed_in_bounded_memory(tmp_path):
    with (tmp_path / "mix.json").open("w") as file:
        file.write(" [\n")
        for number in range(3000):
            size = (
                2_500_000 if number == 1500 else 8000
            )  # one row is longer than what is read at once
            row = {"id": str(number), "conversations": turns('A "quoted" [word],', "é" * size)}
            file.write(
                json.dumps(row, ensure_ascii=False) + (" ,\n" if number < 2999 else "\n ]\n")
            )
    tracemalloc.start()
    sizes = [
        len(row["conversations"][1]["value"])
        for row in own_rows(
            [tmp_path / "mix.json"], images=None, fraction=1.0, seed=0, store=tmp_path
        )
    ]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sizes == [2_500_000 if number == 1500 else 8000 for number in range(3000)]
    assert peak < 40_000_000  # the file has 53 MB, its text in memory would take more


def test_the_cauldrons_images_are_written_once_and_stand_first(tmp_path):
    red, blue = png(tmp_path / "red.png"), png(tmp_path / "blue.png", "blue")
    file = cauldron(
        tmp_path / "nlvr2" / "train-0.parquet",
        (
            [{"bytes": red}, {"bytes": blue}],
            [{"user": "Alike?", "assistant": "No."}, {"user": "Why?", "assistant": "Hue."}],
        ),
        ([{"bytes": red}], [{"user": "Which colour?", "assistant": "Red."}]),
        ([], [{"user": "Hello?", "assistant": "Hello."}]),
        ([{"path": "../red.png"}], [{"user": "Which colour?", "assistant": "Red."}]),
        ([{"bytes": None, "path": None}], [{"user": "Which colour?", "assistant": "Red."}]),
        ([{"bytes": red}], [{"user": None, "assistant": "Red."}]),
        ([{"bytes": red}], []),
    )
    rows = read(file, store=tmp_path / "store")
    two, one, none, path, missing, half, empty = rows
    assert two["id"] == "nlvr2/train-0/0"
    assert two["conversations"] == turns("<image>\n<image>\nAlike?", "No.", "Why?", "Hue.")
    assert [Path(image).name for image in two["images"]] == [short_hash(red), short_hash(blue)]
    assert read_image(two["images"][1]).getpixel((0, 0)) == (0, 0, 255)
    assert one["images"] == two["images"][:1]
    assert none["images"] == []
    assert read_image(path["images"][0]).getpixel((0, 0)) == (255, 0, 0)
    assert [(row["id"], row["reason"]) for row in (missing, half, empty)] == [
        ("nlvr2/train-0/4", "image_missing"),
        ("nlvr2/train-0/5", "malformed"),
        ("nlvr2/train-0/6", "malformed"),
    ]
    assert len([p for p in (tmp_path / "store").rglob("*") if p.is_file()]) == 2
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "store").rglob("*")}
    assert read(file, store=tmp_path / "store") == rows
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "store").rglob("*")} == before


def test_a_share_of_the_own_data_is_the_same_rows_in_any_order(tmp_path):
    rows = [{"id": str(number), "conversations": turns("A?", "B.")} for number in range(400)]
    file, turned = llava(tmp_path / "a.json", *rows), llava(tmp_path / "b.json", *rows[::-1])
    half = [row["id"] for row in read(file, fraction=0.5)]
    assert 160 < len(half) < 240
    assert [row["id"] for row in read(turned, fraction=0.5)] == half[::-1]
    assert set(half) < {row["id"] for row in read(file, fraction=0.6)}
    assert half != [row["id"] for row in read(file, fraction=0.5, seed=1)]
    assert read(file, fraction=0.0) == []


def test_conversations_come_from_the_train_split_with_files_of_the_ledger(tmp_path):
    images, table = ledger(tmp_path), contract(tmp_path, [("s1", "s1", ["a"]), ("s2", "s2", ["c"])])
    contract(tmp_path, [("s3", "s3", ["b"])], split="test")
    row, refused = contract_rows(table, images, max_samples=0, seed=0)
    assert row == EMPTY | {
        "id": "s1",
        "sample_id": "s1",
        "source": "visual",
        "images": [str(tmp_path / "files/a.png")],
        "conversations": turns("<image>\nWhat is it?", "Answer s1."),
    }
    assert (refused["id"], refused["source"], refused["reason"]) == (
        "s2",
        "visual",
        "image_missing",
    )
    assert refused["detail"] == "image 0 was not fetched, or has no file"
    (tmp_path / "leaky_mix/train-00000.parquet").unlink()
    with pytest.raises(InputError, match=r"leaky_mix: no train-\*\.parquet"):
        list(contract_rows(table, images, max_samples=0, seed=0))


def test_the_caption_comes_first_and_a_share_of_samples_is_sealed_the_same_ones_at_every_level(
    tmp_path,
):
    names = [f"s{number}" for number in range(100)]
    writer = tables.TableWriter(tmp_path / "mix", CONVERSATIONS, stem="train")
    talk = turns("<image>\nWhere?", "Here.", "Describe it.", "A lamp.", "Why?", "So.")
    for name in names:
        row = {"id": name, "images": ["a"], "conversations": talk, "sample_id": name}
        writer.write(row | {"doc_id": "d", "sources": ["free_form", "caption", "free_form"]})
    writer.close()
    given = {"table": tmp_path / "mix", "ledger": ledger(tmp_path), "max_samples": 0, "seed": 1}
    plain, *levels = (
        list(contract_rows(**given, caption_visible=level)) for level in (-1, 0, 0.5, 1)
    )
    moved = turns("<image>\nDescribe it.", "A lamp.", "Where?", "Here.", "Why?", "So.")
    assert plain[0]["conversations"] == talk
    assert {row["id"] for row in plain if row["sealed"]} == set()
    for rows in levels:  # rows that differ in nothing but the seal
        assert [row | {"sealed": 0} for row in rows] == [
            row | {"conversations": moved, "sealed": 0} for row in plain
        ]
    none, half, whole = ({row["id"] for row in rows if not row["sealed"]} for rows in levels)
    assert none == set() < half < whole == set(names)
    assert 30 < len(half) < 70
    with pytest.raises(InputError, match="caption_visible wants a caption and questions"):
        caption_first(talk[:2], ["caption"])


def test_arms_of_equal_size_hold_the_same_samples_with_all_their_rows(tmp_path):
    names = [f"s{number}" for number in range(50)]
    mixed = contract(tmp_path / "mixed", [(name, name, ["a"]) for name in names])
    apart = contract(
        tmp_path / "apart", [(f"{name}-{end}", name, ["a"]) for name in names for end in "cq"]
    )
    images = ledger(tmp_path)
    chosen = [row["id"] for row in contract_rows(mixed, images, max_samples=10, seed=3)]
    assert len(chosen) == 10
    assert chosen == sorted(chosen, key=names.index)  # in the order of the table
    both = [row["id"] for row in contract_rows(apart, images, max_samples=10, seed=3)]
    assert both == [f"{name}-{end}" for name in chosen for end in "cq"]
    assert chosen != [row["id"] for row in contract_rows(mixed, images, max_samples=10, seed=4)]


def test_the_embedded_mix_has_its_files_text_only_rows_and_little_weight():
    folder = ROOT / "vislib/sample/own_mix"
    rows = read(folder / "mix.json")
    assert len(rows) == len({row["id"] for row in rows}) == 24
    assert sum(not row["images"] for row in rows) >= 8
    assert max(len(row["images"]) for row in rows) == 2
    used = {Path(path).name for row in rows for path in row["images"]}
    assert used == {path.name for path in folder.glob("*.png")}
    assert all(path.stat().st_size <= 2048 and read_image(path) for path in folder.glob("*.png"))
    assert sources.MARK == "<image>"
