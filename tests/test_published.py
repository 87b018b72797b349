"""Published datasets of every form read into the house's tables: what 08 wrote comes back, and odd
rows are kept or said.
"""

import io
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from tests.notebook_cells import NOTEBOOKS
from tests.web_server import answer, web_server
from vislib import evaluation, images, merging, published, published_rows
from vislib.media.pixels import read_image
from vislib.prompts import load
from vislib.runs import InputError, Run, short_hash, start_run, tables
from vislib.runs.errors import check_kept
from vislib.training.sources import contract_rows

F, M = "free_form", "multiple_choice"
KINDS = ("contextual", "non_contextual")
COLOURS = ("red", "green", "blue", "yellow", "black", "white")
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
TURNS = pa.list_(pa.struct([("from", pa.string()), ("value", pa.string())]))
Make = Callable[..., Run]


def png(colour: str, side: int = 24) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (side, side), colour).save(stream, "PNG")
    return stream.getvalue()


def merged() -> list[dict[str, Any]]:
    """Rows as 08 writes them, by 08's own functions: of six samples, two kinds, all
    configurations.
    """
    rows = []
    for colour in COLOURS:
        sample, doc = short_hash(colour), short_hash("page", colour)
        image = short_hash(png(colour))
        for kind in KINDS:
            words = "as the page of the village says, " if kind == "contextual" else ""
            caption = f"A wall that is {colour} all over, {words}" + "with one more word " * 8
            asked = {"question_type": F, "options": [], "question_id": short_hash(kind, colour)}
            free = asked | {"question": f"Describe the {colour} part.", "answer": "It is\n\nplain."}
            choice = asked | {"question_type": M, "question_id": short_hash(kind, colour, "m")}
            choice |= {"question": "Which?\nLook well.", "options": [*"wxyz"], "answer": "C"}
            rounds = merging.shuffled(sample, kind, caption, [free, choice], seed=0)
            for configuration, suffix, chosen in merging.configurations(rounds):
                turns, _ = merging.conversation(chosen)
                told = {"kind": kind, "configuration": configuration, "id": sample + suffix}
                told |= {"images": [image], "conversations": turns, "sample_id": sample}
                told |= {"doc_id": doc, "sources": [one.source for one in chosen]}
                split = "test" if colour == "white" else "train"
                rows.append(told | {"split": split, "colour": colour})
    return rows


def told_rows(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows as 09 publishes them: with provenance, and without the text of the page."""
    return [
        {name: row[name] for name in ("id", "conversations", "sources", "sample_id", "doc_id")}
        | {name: row[name] for name in ("kind", "configuration")}
        | {"image": {"bytes": png(row["colour"]), "path": f"{row['colour']}.png"}}
        | {"image_url": f"https://example.org/{row['colour']}.png", "alt_text": row["colour"]}
        | {"page_url": "https://example.org/", "caption_model": "a model", "sha256": "0" * 64}
        | {"question_models": ["b model"]}
        for row in rows
    ]


def release(folder: Path, *, links: bool = False) -> Path:
    """A folder in the hub's layout as 09 writes it."""
    configs = []
    rows = merged()
    for name in dict.fromkeys(f"{row['kind']}-{row['configuration']}" for row in rows):
        files = []
        for split in ("train", "test"):
            own = [
                r
                for r in rows
                if f"{r['kind']}-{r['configuration']}" == name and r["split"] == split
            ]
            said = told_rows(own)
            if links:
                said = [
                    {k: v for k, v in r.items() if k != "image"}
                    | {"sha256": __import__("hashlib").sha256(r["image"]["bytes"]).hexdigest()}
                    for r in said
                ]
            file = folder / "data" / name / f"{split}-00000-of-00001.parquet"
            write(file, said)
            files.append({"split": split, "path": f"data/{name}/{split}-*"})
        configs.append({"config_name": name, "data_files": files})
    header = yaml.safe_dump({"configs": configs})
    (folder / "README.md").write_text(f"---\n{header}---\n")
    (folder / "croissant.json").write_text("{}")
    return folder


def write(file: Path, rows: list[dict[str, Any]], **types: Any) -> Path:
    """Rows as Parquet; as JSON or JSONL, by the file's ending."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".parquet":
        found = pa.Table.from_pylist(rows)
        for name, kind in ({"conversations": TURNS, "image": IMAGE} | types).items():
            if name in found.column_names and kind is not None:
                column = pa.array([row[name] for row in rows], kind)
                found = found.set_column(found.column_names.index(name), name, column)
        pq.write_table(found, file)
    elif file.suffix == ".jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        file.write_text(json.dumps(rows))
    return file


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """The stage as its notebook runs it: its parameters and its `work` cells."""
    monkeypatch.setenv("VISLIB_RUNS", str(tmp_path / "runs"))
    book = json.loads((NOTEBOOKS / "00_published.ipynb").read_text())
    code = [cell for cell in book["cells"] if cell["cell_type"] == "code"]

    def cells(tag: str) -> str:
        tagged = [cell for cell in code if tag in cell["metadata"].get("tags", [])]
        return "\n".join("".join(cell["source"]) for cell in tagged)

    def stage(*paths: Path, **values: Any) -> Run:
        held: dict[str, Any] = {"__name__": "__main__"}
        exec(cells("parameters"), held)
        given = {
            "paths": list(map(str, paths)),
            "run_dir": "runs/demo",
            "test_fraction": 0.0,
            **values,
        }
        held |= given | {"partial": partial, "published": published, "images": images}
        held["check_kept"] = check_kept
        held["published_rows"] = published_rows
        held["run"] = start_run("00_published", given)
        exec(cells("work"), held)
        held["run"].finish()
        return held["run"]

    return stage


def rows_of(run: Run, table: str) -> list[dict[str, Any]]:
    return list(tables.read_rows(run.data / table))


def talks(run: Run, place: str = "contextual/leaky_mix") -> list[dict[str, Any]]:
    return rows_of(run, place)


def dropped(run: Run) -> list[tuple[str, str]]:
    return [(row["id"], row["reason"]) for row in rows_of(run, "dropped")]


# ---- round trips


def same_as_08(run: Run, *names: str) -> None:
    for name in names:
        kind, configuration = name.split("/")
        own = [r for r in merged() if (r["kind"], r["configuration"]) == (kind, configuration)]
        for split in ("train", "test"):
            columns = ("id", "images", "conversations", "sample_id", "doc_id", "sources")
            expected = [{c: r[c] for c in columns} for r in own if r["split"] == split]
            parts = sorted((run.data / name).glob(f"{split}-*"))
            assert [row for part in parts for row in tables.read_rows(part)] == expected


def test_a_release_with_images_comes_back_as_08_wrote_it(make: Make, tmp_path: Path) -> None:
    run = make(release(tmp_path / "release"))
    same_as_08(run, *(f"{kind}/{name}" for kind in KINDS for name in merging.CONFIGURATIONS))
    assert run.counts()["row"] == {"taken": 84, "kept": 84, "dropped": {}}
    assert run.counts()["image_url"] == {"taken": 6, "kept": 6, "dropped": {}}
    captions, questions = rows_of(run, "captions"), rows_of(run, "questions")
    assert len(captions) == len({(c["sample_id"], c["kind"]) for c in captions}) == 12
    assert {c["model"] for c in captions} == {"a model"}
    assert {q["model"] for q in questions} == {"b model"}
    assert len(questions) == len({q["question_id"] for q in questions}) == 24
    (one,) = {(q["question"], *q["options"], q["answer"]) for q in questions if q["options"]}
    assert one == ("Which?\nLook well.", *"wxyz", "C")
    samples = rows_of(run, "samples")
    assert sorted(s["image_url"] for s in samples) == sorted(
        f"https://example.org/{c}.png" for c in COLOURS
    )
    assert {s["context"] for s in samples} == {""}  # not told, and not made up
    told = run.metrics
    assert told["rows_with_kind"] == told["rows_with_split"] == told["rows_with_sources"] == 84
    assert "rows_with_context" not in told
    assert {read_image(run.data / row["path"]).size for row in rows_of(run, "images")} == {(24, 24)}


def test_links_alone_are_named_by_their_hash_and_fetched_only_if_asked(
    make: Make, tmp_path: Path
) -> None:
    run = make(release(tmp_path / "links", links=True), configurations=["contextual-leaky_mix"])
    same_as_08(run, "contextual/leaky_mix")
    assert run.counts()["row"]["kept"] == 6
    assert run.counts()["image_url"] == {"taken": 6, "kept": 0, "dropped": {"not_asked": 6}}


def test_links_are_fetched_as_03_fetches_them(make: Make, tmp_path: Path) -> None:
    def reply(path: str, _: int) -> bytes:
        return answer(body=png("red")) if path == "/red.png" else answer(404)

    with web_server(script=reply) as server:
        row = {"image_id": "a", "url": f"{server.url}/red.png", "caption": "A red wall."}
        gone = {"image_id": "b", "url": f"{server.url}/gone.png", "caption": "A lost wall."}
        file = write(tmp_path / "fused.jsonl", [row, gone])
        run = make(file, fetch=True, allow_hosts=[server.host], retries=0, kind="fused")
    assert run.counts()["image_url"] == {"taken": 2, "kept": 1, "dropped": {"not_found": 1}}
    assert talks(run, "fused/leaky_mix")[0]["images"] == [short_hash(png("red"))]


@pytest.mark.parametrize("ending", ["json", "jsonl"])
@pytest.mark.parametrize("form", ["llava", "messages"])
def test_llava_and_messages_come_back_by_the_rule_alone(
    make: Make, tmp_path: Path, form: str, ending: str
) -> None:
    mix = tmp_path / "mix"
    mix.mkdir()
    own = [r for r in merged() if (r["kind"], r["configuration"]) == ("contextual", "leaky_mix")]
    for split in ("train", "test"):
        rows: list[dict[str, Any]] = []
        for row in (r for r in own if r["split"] == split):
            (mix / f"{row['colour']}.png").write_bytes(png(row["colour"]))
            if form == "llava":
                said = {"image": f"{row['colour']}.png", "conversations": row["conversations"]}
            else:
                roles = {"human": "user", "gpt": "assistant"}
                turns = [
                    {"role": roles[t["from"]], "content": t["value"]} for t in row["conversations"]
                ]
                said = {"images": [f"{row['colour']}.png"], "messages": turns}
            rows.append({"id": row["id"], **said})
        write(mix / f"contextual-leaky_mix-{split}.{ending}", rows)
    if ending == "jsonl":  # what LLaMA-Factory wants beside it is no data
        (mix / "dataset_info.json").write_text("{}")
    run = make(mix)
    for split in ("train", "test"):
        (part,) = (run.data / "contextual/leaky_mix").glob(f"{split}-*")
        columns = ("id", "images", "conversations", "sources")
        assert [{c: r[c] for c in columns} for r in tables.read_rows(part)] == [
            {c: r[c] for c in columns} for r in own if r["split"] == split
        ]


def test_the_hubs_way_reads_a_folder_of_its_layout_as_files_are_read(tmp_path: Path) -> None:
    folder = release(tmp_path / "release")
    names = ["contextual-leaky_mix", "non_contextual-separate"]
    read = partial(published_rows.as_row, seed=0, store=tmp_path / "store")
    by_hub = [read(one) for one in published_rows.hub_rows(str(folder), "", names)]
    by_file = [read(one) for one in published_rows.file_rows([folder], names, "")]

    def told(row: dict[str, Any]) -> dict[str, Any]:
        return {k: v for k, v in row.items() if k != "place"}

    assert sorted(map(str, map(told, by_hub))) == sorted(map(str, map(told, by_file)))
    assert len(by_hub) == 18
    with pytest.raises(InputError, match="the stream failed"):
        list(published_rows.hub_rows(str(folder), "", ["no such"]))
    with pytest.raises(InputError, match="40 hex digits"):
        list(published_rows.hub_rows("tiiuae/viscon-100k", "main", []))


def test_training_and_evaluation_take_what_was_read(make: Make, tmp_path: Path) -> None:
    run = make(release(tmp_path / "release"))
    table, ledger = run.data / "contextual/leaky_mix", run.data / "images"
    learnt = list(contract_rows(table, ledger, max_samples=0, seed=0))
    assert len(learnt) == 5
    assert not any(row["reason"] for row in learnt)
    from types import SimpleNamespace

    given = {"questions": table, "images": ledger}
    asked, refused = evaluation.load_questions(
        SimpleNamespace(table=given.__getitem__, params=SimpleNamespace(max_questions=0), seed=0)
    )
    assert not refused
    assert {question.type for question in asked} == {F, M}


# ---- the rule


def test_all_our_instructions_ask_for_a_caption() -> None:
    long = "A long account of what is there, with more words. " * 4
    request = load("caption_context_request").text
    for line in merging.instructions():
        assert published.source_of(f"<image>\n{line} {request}", long) == "caption", line


@pytest.mark.parametrize(
    ("prompt", "answer", "source"),
    [
        ("<image>\nWhat is this photo about?", "Rain.", F),
        ("<image>", "word " * 30, "caption"),
        ("Write a terse but informative summary of the picture.", "word " * 30, "caption"),
        ("Can you describe the main features of this image for me?", "word " * 30, "caption"),
        ("What do you see happening in this image?", "word " * 30, "caption"),
        ("Describe this image.", "A dog.", F),
        ("Why is the man in the water?", "word " * 30, F),
        ("Which?\nA. a\nB. b\nAnswer with the letter.", "B", M),
        ("Which?\nA. a\nB. b\nAnswer with the letter.", "(B)", M),
        ("Which?\nA. a\nB. b", "The second, since it is larger.", F),
        ("A. Miller took it. Who?", "A", F),
    ],
)
def test_the_rule(prompt: str, answer: str, source: str) -> None:
    assert published.source_of(prompt, answer) == source


def test_of_several_descriptions_the_longest_is_the_caption() -> None:
    rounds = [("Describe the image.", "word " * n) for n in (30, 50, 40)]
    assert published.sources_of(rounds, [], published.source_of) == [F, "caption", F]
    told = [F, F, "caption"]
    assert published.sources_of(rounds, told, published.source_of) == told


# ---- odd rows


def human(text: str) -> dict[str, str]:
    return {"from": "human", "value": text}


def gpt(text: str) -> dict[str, str]:
    return {"from": "gpt", "value": text}


ASKED = [human("<image>\nWhat?"), gpt("A wall.")]


def odd(tmp_path: Path, *rows: Any) -> Path:
    tmp_path.mkdir(exist_ok=True)
    (tmp_path / "a.png").write_bytes(png("red"))
    (tmp_path / "b.png").write_bytes(png("blue"))
    return write(tmp_path / "mix.json", list(rows))


def test_turns_that_answer_nothing_are_left_out_and_counted(make: Make, tmp_path: Path) -> None:
    first = {"from": "system", "value": "You are kind."}
    rows = [
        {"id": "gpt first", "image": "a.png", "conversations": [gpt("<image>\nHello."), *ASKED[:]]},
        {
            "id": "no mark",
            "image": "a.png",
            "conversations": [gpt("Hi."), human("What?"), gpt("X.")],
        },
        {"id": "system", "image": "a.png", "conversations": [first, *ASKED]},
        {"id": "empty", "image": "a.png", "conversations": [*ASKED, human("And?"), gpt(" ")]},
        {"id": "end", "image": "a.png", "conversations": [*ASKED, human("And?")]},
        {"id": "twice", "image": "a.png", "conversations": [human("Oh."), *ASKED]},
        {"id": "nothing", "image": "a.png", "conversations": [gpt("Hello.")]},
    ]
    run = make(odd(tmp_path, *rows))
    assert dropped(run) == [("nothing", "no_round")]
    assert [row["conversations"] for row in talks(run)] == [
        ASKED,
        [human("<image>\nWhat?"), gpt("X.")],
        *[ASKED] * 4,
    ]
    counts = {"answers_to_nothing": 2, "system_turns": 1, "empty_turns": 1, "unanswered_turns": 2}
    assert {name: run.metrics[name] for name in counts} == counts


def test_images_none_several_wrong_and_missing(make: Make, tmp_path: Path) -> None:
    two = [human("<image>\n<image>\nWhich is red?"), gpt("The first.")]
    rows = [
        {"id": "text", "conversations": [human("Hello?"), gpt("Yes.")]},
        {"id": "two", "image": ["a.png", "b.png"], "conversations": two},
        {
            "id": "unmarked",
            "image": ["a.png", "b.png"],
            "conversations": [human("Hm?"), gpt("Yes.")],
        },
        {"id": "gone", "image": "c.png", "conversations": ASKED},
        {"id": "lost mark", "conversations": ASKED},
        {"id": "out", "image": "../../a.png", "conversations": ASKED},
    ]
    run = make(odd(tmp_path, *rows))
    reasons = dict(dropped(run))
    assert reasons["lost mark"] == "image_marks"
    assert reasons["out"] == "malformed"
    assert sorted(reasons.values()) == ["image_marks", "malformed", "not_found"]
    kept = {row["id"]: row for row in talks(run)}
    red, blue = short_hash(png("red")), short_hash(png("blue"))
    assert kept["text"]["images"] == []
    assert kept["two"]["images"] == kept["unmarked"]["images"] == [red, blue]
    assert kept["unmarked"]["conversations"][0]["value"] == "<image>\n<image>\nHm?"
    (lost,) = kept["gone"]["images"]
    assert lost not in {row["image_id"] for row in rows_of(run, "images")}
    learnt = contract_rows(
        run.data / "contextual/leaky_mix", run.data / "images", max_samples=0, seed=0
    )
    assert {row["id"]: row["reason"] for row in learnt} == {
        "text": "", "two": "", "unmarked": "", "gone": "image_missing"
    }  # fmt: skip


def test_ids_that_come_again(make: Make, tmp_path: Path) -> None:
    other = [human("<image>\nHow?"), gpt("So.")]
    rows = [
        {"id": "a", "image": "a.png", "conversations": turns} for turns in (ASKED, other, ASKED)
    ]
    run = make(odd(tmp_path, *rows, {"image": "a.png", "conversations": ASKED}))
    assert [row["id"] for row in talks(run)] == ["a", "a#2", "mix.json/3"]
    assert len({row["sample_id"] for row in talks(run)}) == len(rows_of(run, "samples")) == 3
    assert dropped(run) == [("a#3", "duplicate")]


def test_rows_of_another_form_cost_themselves_alone(make: Make, tmp_path: Path) -> None:
    rows = [{"id": "a", "image": "a.png", "conversations": ASKED}, 7, {"id": "b"}]
    rows += [
        {"id": "c", "conversations": [{"from": "tool", "value": "x"}]},
        {"id": "d", "conversations": "{"},
    ]
    run = make(odd(tmp_path, *rows))
    assert [row["id"] for row in talks(run)] == ["a"]
    assert run.counts()["row"] == {"taken": 5, "kept": 1, "dropped": {"malformed": 4}}


def test_a_line_that_is_cut_off_costs_itself_alone(make: Make, tmp_path: Path) -> None:
    file = tmp_path / "mix.jsonl"
    good = {"id": "a", "conversations": [human("Hello \ud83d?"), gpt("Yes.")]}
    file.write_text(f'{json.dumps(good)}\n{{"id": "b", "conv\n\n{json.dumps(good | {"id": "c"})}\n')
    run = make(file)
    assert [row["id"] for row in talks(run)] == ["a", "c"]
    assert talks(run)[0]["conversations"][0]["value"] == "Hello \ufffd?"
    assert run.metrics["mended_characters"] == 2
    assert dropped(run) == [("mix.jsonl/1", "malformed")]


def test_forms_of_parquet(make: Make, tmp_path: Path) -> None:
    """Images as bytes, in a list, or as paths; conversations as JSON text, as messages of parts, or
    as a list for each field.
    """
    mix = tmp_path / "mix"
    mix.mkdir()
    (mix / "b.png").write_bytes(png("blue"))
    held = {"bytes": png("red"), "path": None}
    text = json.dumps(ASKED)
    write(
        mix / "1.parquet",
        [{"id": "text", "image": held, "conversations": text}],
        conversations=None,
    )
    write(
        mix / "2.parquet",
        [{"id": "raw", "image": png("red"), "conversations": ASKED}],
        image=None,
    )
    write(mix / "3.parquet", [{"id": "list", "images": [held], "conversations": ASKED}])
    fields = {"from": ["human", "gpt"], "value": [t["value"] for t in ASKED]}
    write(
        mix / "4.parquet",
        [{"id": "fields", "image": {"bytes": None, "path": "b.png"}, "conversations": fields}],
        conversations=None,
    )
    parts = [{"type": "image", "text": None}, {"type": "text", "text": "What?"}]
    answer = [{"type": "text", "text": "A wall."}]
    messages = [{"role": "user", "content": parts}, {"role": "assistant", "content": answer}]
    write(mix / "5.parquet", [{"id": "parts", "images": [held], "messages": messages}])
    run = make(mix)
    assert [row["id"] for row in talks(run)] == ["text", "raw", "list", "fields", "parts"]
    assert [row["conversations"] for row in talks(run)] == [ASKED] * 5
    red, blue = short_hash(png("red")), short_hash(png("blue"))
    assert [row["images"] for row in talks(run)] == [[red], [red], [red], [blue], [red]]


def test_densefusions_rows_are_captions_that_answer_an_instruction(
    make: Make, tmp_path: Path
) -> None:
    rows = [
        {"image_id": str(n), "url": f"https://a.example/{n}.jpg", "caption": f"Wall {n}. " * 20}
        for n in range(40)
    ]
    run = make(write(tmp_path / "densefusion.jsonl", rows), kind="fused", test_fraction=0.3)
    captions = rows_of(run, "captions")
    assert [row["caption"] for row in captions] == [row["caption"] for row in rows]
    assert {row["kind"] for row in captions} == {"fused"}
    prompts = {row["conversations"][0]["value"] for row in talks(run, "fused/leaky_mix")}
    assert 5 < len(prompts) <= len(merging.instructions())
    assert 0 < len(list((run.data / "fused/leaky_mix").glob("test-*"))) == 1
    assert not rows_of(run, "questions")


def test_what_cannot_be_read_is_said_with_its_mend(make: Make, tmp_path: Path) -> None:
    folder = release(tmp_path / "release")
    with pytest.raises(InputError, match=r"there: \['data/contextual-captions"):
        make(folder, configurations=["leaky"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no file"):
        make(tmp_path / "empty")
    with pytest.raises(InputError, match="no row is left of 1"):
        make(write(tmp_path / "other.json", [{"question": "What?"}]))


def test_an_address_of_two_pictures_shows_neither(make: Make, tmp_path: Path) -> None:
    rows = [
        {
            "id": colour,
            "image": {"bytes": png(colour), "path": ""},
            "image_url": "https://a.example/x",
            "conversations": ASKED,
        }
        for colour in ("red", "blue")
    ]
    run = make(write(tmp_path / "x.parquet", rows))
    assert run.counts()["image_url"] == {"taken": 1, "kept": 0, "dropped": {"unreadable": 1}}
    assert len(talks(run)) == 2


def test_columns_of_other_meaning_become_no_folders_and_no_sources(
    make: Make, tmp_path: Path
) -> None:
    others = {"kind": "../vqa", "configuration": "../../x", "sources": ["coco"], "model": ["m"]}
    rows = [
        {"id": "a", "conversations": [human("Hm?"), gpt("Yes.")], **others},
        {"id": "b", "conversations": [human("Hm?"), gpt("Yes.")], "question_models": 7},
    ]
    run = make(odd(tmp_path, *rows))
    assert [row["sources"] for row in talks(run)] == [[F]]
    assert dropped(run) == [("b", "malformed")]
    assert sorted(p.name for p in run.data.iterdir()) == [
        *("captions", "consent", "contextual", "dropped", "images", "questions", "samples")
    ]


def test_a_root_of_images_may_lie_anywhere(make: Make, tmp_path: Path) -> None:
    file = odd(tmp_path / "there", {"id": "a", "image": "there/a.png", "conversations": ASKED})
    (tmp_path / "rows").mkdir()
    file = file.rename(tmp_path / "rows/mix.json")
    run = make(file, images_root=f"{tmp_path}/rows/..")
    assert run.counts()["image_url"]["kept"] == 1
