"""Merging: the conversations, the splits and the whole stage."""

import json
from collections import Counter
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas
import pytest

from vislib import deduplication, merging, removals, splits
from vislib.deduplication import similar_questions
from vislib.media.embeddings import text_hash
from vislib.merging import (
    CONFIGURATIONS,
    Round,
    caption_prompt,
    configurations,
    conversation,
    instructions,
    question_prompt,
    shuffled,
)
from vislib.prompts import load
from vislib.runs import InputError, seeded, sql, tables
from vislib.runs.contract import CAPTIONS, IMAGES, QUESTIONS, SAMPLES
from vislib.runs.record import Run
from vislib.runs.stage import Stage

F, M = "free_form", "multiple_choice"


# -- conversations
# --------------------------------------------------------------------------------------------

QUESTION = {"question": "How many boats?", "options": [], "answer": "Two.", "question_type": F}
CHOICE = QUESTION | {"question_type": M, "options": ["One", "Two", "Three", "None"], "answer": "B"}
CAPTION_ROUND = Round("caption", "caption", "Describe.", "A bay.")
ROUNDS = [CAPTION_ROUND, Round("f1", F, "Why?", "So."), Round("m1", M, "Which?", "B")]


def test_multiple_choice_asks_with_four_lettered_lines() -> None:
    lines = question_prompt(CHOICE).splitlines()
    assert lines[:5] == ["How many boats?", "A. One", "B. Two", "C. Three", "D. None"]
    assert len(lines) == 6
    assert "letter" in lines[5]
    assert question_prompt(QUESTION) == "How many boats?"


def test_only_contextual_kinds_ask_for_context_and_share_the_instruction() -> None:
    request = load("caption_context_request").text
    for sample_id in ("a", "b", "c", "d"):
        plain = caption_prompt(sample_id, "non_contextual", seed=3)
        assert caption_prompt(sample_id, "contextual", seed=3) == f"{plain} {request}"
        assert caption_prompt(sample_id, "fused", seed=3) == plain
    drawn = {caption_prompt(str(n), "fused", seed=3) for n in range(200)}
    assert drawn == set(instructions())


def test_our_instructions_are_many_and_distinct() -> None:
    lines = instructions()
    assert len(set(lines)) == len(lines) >= 12
    assert all(line.strip() == line and line for line in lines)
    assert len(load("caption_context_request").text.splitlines()) == 1


def order(sample_id: str, rows: list[dict[str, Any]], seed: int) -> list[str]:
    return [r.id for r in shuffled(sample_id, "contextual", "A bay.", rows, seed=seed)]


def test_rounds_are_shuffled_by_seed_and_keep_their_order_when_one_leaves() -> None:
    rows = [QUESTION | {"question_id": "f1"}, CHOICE | {"question_id": "m1"}]
    orders = Counter(tuple(order(str(n), rows, 0)) for n in range(600))
    assert len(orders) == 6
    assert min(orders.values()) > 60
    drawn = order("x", rows, 1)
    assert order("x", rows[::-1], 1) == drawn
    assert order("x", rows[:1], 1) == [name for name in drawn if name != "m1"]


def test_the_image_stands_once_and_strays_are_neutralised() -> None:
    turns, strays = conversation([Round("f1", F, "What is <image>?", "An <image> tag."), ROUNDS[0]])
    assert [turn["from"] for turn in turns] == ["human", "gpt"] * 2
    assert turns[0]["value"] == "<image>\nWhat is ‹image›?"
    assert strays == 2
    assert sum(turn["value"].count("<image>") for turn in turns) == 1


def test_every_configuration_holds_its_sources_in_the_shuffled_order() -> None:
    found = {
        (name, suffix): [r.source for r in rounds]
        for name, suffix, rounds in configurations(ROUNDS[::-1])
    }
    assert found == {
        ("captions", ""): ["caption"],
        ("free_form", ""): [F],
        ("multiple_choice", ""): [M],
        ("questions", ""): [M, F],
        ("separate", "-c"): ["caption"],
        ("separate", "-q"): [M, F],
        ("leaky_mix", ""): [M, F, "caption"],
    }


# -- splits
# ---------------------------------------------------------------------------------------------------  # noqa: E501


def sample(n: int, page: str = "") -> dict[str, Any]:
    numbers = {"image_index": 0, "n_context_tokens": 1, "width": 9, "height": 9}
    return numbers | {
        "sample_id": f"s{n}",
        "doc_id": f"d{n}",
        "image_url": f"http://x/{n}.png",
        "alt_text": "",
        "context": "",
        "page_url": page or f"http://x/page{n}",
    }


def split_of(row: dict[str, Any], *, seed: int, test_fraction: float) -> str:
    """The split of a sample's page, drawn as all else that is drawn."""
    share = seeded(seed, row["page_url"] or row["doc_id"]) / 2**64
    return "test" if share < test_fraction else "train"


@pytest.mark.parametrize(
    ("fraction", "least", "most"), [(0, 0, 0), (0.1, 150, 250), (1, 2001, 2001)]
)
def test_pages_are_split_by_hash(fraction: float, least: int, most: int) -> None:
    rows = [*map(sample, range(2000)), sample(1) | {"page_url": ""}]
    frame = pandas.DataFrame(rows)  # noqa: F841  # which DuckDB finds by its name
    for seed in (0, 1):
        query = f"SELECT {sql.split(seed, fraction)} FROM frame"
        found = [split for (split,) in duckdb.sql(query).fetchall()]
        assert found == [split_of(row, seed=seed, test_fraction=fraction) for row in rows]
        assert least <= found.count("test") <= most


# -- the stage
# ------------------------------------------------------------------------------------------------

KINDS = ("contextual", "non_contextual")


class HashEncoder:
    """Unit vectors by the hash of the text's first word: questions that begin alike are alike."""

    dimension = 64

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, texts: list[str]) -> np.ndarray:
        rows = [np.random.default_rng(text_hash(text.split()[0])).normal(size=64) for text in texts]
        return np.array([row / np.linalg.norm(row) for row in rows], np.float32)


def save(folder: Path, schema: Any, rows: list[dict[str, Any]], rows_per_part: int = 7) -> None:
    writer = tables.TableWriter(folder, schema, rows_per_part=rows_per_part)
    for row in rows:
        writer.write({name: row.get(name) for name in schema.names})
    writer.close()


def inputs_at(root: Path, n: int = 12) -> dict[str, list[dict[str, Any]]]:
    """Twelve good samples; of each kind three questions of a type, the first two of which begin
    alike.
    """
    rows: dict[str, list[dict[str, Any]]] = {"samples": [sample(i) for i in range(n)]}
    rows["images"] = [
        {"image_url": f"http://x/{i}.png", "image_id": f"i{i}", "status": "ok", "reason": ""}
        for i in range(n)
    ]
    rows["captions"] = [
        {
            "sample_id": f"s{i}",
            "kind": k,
            "caption": f"Caption {i} {k}, <image> said.",
            "status": "ok",
            "reason": "",
        }
        for i in reversed(range(n))
        for k in KINDS
    ]
    rows["questions"] = [
        {
            "question_id": f"q{i}{k[0]}{t[0]}{r}",
            "sample_id": f"s{i}",
            "kind": k,
            "question_type": t,
            "round": r,
            "question": f"{t}{min(r, 1)} for {i} in {r}?",
            "options": ["w", "x", "y", "z"] if t == M else [],
            "answer": "C" if t == M else "Yes.",
            "status": "ok",
            "reason": "",
        }
        for k in KINDS
        for i in range(n)
        for t in (F, M)
        for r in range(3)
    ]
    return rows


def merge(root: Path, rows: dict[str, list[dict[str, Any]]], **values: Any) -> Run:
    schemas = {"samples": SAMPLES, "images": IMAGES, "captions": CAPTIONS, "questions": QUESTIONS}
    for name, schema in schemas.items():
        save(root / name, schema, rows.get(name, []))
    defaults = {
        "similarity_threshold": 0.9,
        "min_per_type": 2,
        "test_fraction": 0.3,
        "split_by": "page",
        "embedding_batch_size": 4,
    }
    paths = {name: str(root / name) for name in schemas}
    place = {
        "run_dir": str(root / "runs"),
        "variant": "",
        "removals": [],
        "limit": 0,
        "seed": 0,
        "embedding_model": "hash",
    }
    stage = Stage(notebook="08_merging", schema={}, values={**place, **paths, **defaults, **values})
    run = Run(stage, stage.open_partial("key", {"hashes": {}, "inputs": {}}), [])
    p = run.params
    kinds, asked = merging.kinds_of(run), bool(p.questions)
    given = {name: value for name, value in vars(p).items() if name in schemas and value}
    if p.split_by == "group":
        given["groups"] = splits.groups(run)
    dealt = {"seed": p.seed, "test_fraction": p.test_fraction, "split_by": p.split_by}
    query = merging.join(kinds, **dealt, limit=p.limit, asked=asked)
    joined = run.sql(
        query, into="joined", one_per="sample.sample_id", removals=removals.table(run), **given
    )
    vectors = (
        deduplication.embed_questions(run, joined, model=p.embedding_model, batch_size=4)
        if asked
        else None
    )
    rule = partial(
        merging.conversations,
        kinds=kinds,
        vectors=vectors,
        threshold=p.similarity_threshold,
        minimum=p.min_per_type,
        seed=p.seed,
    )
    run.map(rule, joined, unit="sample", id="sample.sample_id", batch=64)
    merging.check_merged(run, kinds, asked=asked)
    if asked:
        run.account("question", taken=merging.QUESTIONS, joined=joined)
    return run


@pytest.fixture(autouse=True)
def _small_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deduplication, "SentenceEncoder", HashEncoder)


def rows_of(run: Run, kind: str, name: str) -> dict[str, dict[str, Any]]:
    return {row["id"]: row for row in tables.read_rows(run.data / kind / name)}


def test_all_configurations_hold_the_same_samples_and_nothing_is_lost(tmp_path: Path) -> None:
    rows = inputs_at(tmp_path)
    rows["images"][0] |= {"status": "failed", "reason": "http_404"}
    rows["captions"] = [
        r for r in rows["captions"] if (r["sample_id"], r["kind"]) != ("s1", "non_contextual")
    ]
    for row in rows["questions"]:
        if row["sample_id"] == "s2" and row["kind"] == "contextual" and row["question_type"] == M:
            row |= {"status": "failed", "reason": "not_four_options"}
    run = merge(tmp_path, rows)
    expected = {f"s{n}" for n in range(3, 12)}
    for kind in KINDS:
        for name, parts in CONFIGURATIONS.items():
            found = rows_of(run, kind, name)
            assert {row["sample_id"] for row in found.values()} == expected
            assert set(found) == {s + suffix for s in expected for suffix in parts}
    dropped = list(tables.read_rows(run.data / "dropped"))
    reasons = {row["id"]: (row["reason"], row["detail"]) for row in dropped}
    assert reasons["s0"] == ("image_failed", "http_404")
    assert reasons["s1"] == ("caption_failed", "non_contextual: none")
    assert reasons["s2"] == ("no_multiple_choice", "contextual")
    assert reasons["q2cm0"] == ("malformed", "not_four_options")
    assert reasons["q2cf0"] == ("sample_not_eligible", "no_multiple_choice")
    assert reasons["q5cf2"] == ("similar_question", "1.0000 to q5cf1")
    counts = run.counts()
    assert counts["sample"]["taken"] == 12 == counts["sample"]["kept"] + 3
    assert (
        counts["question"]["taken"]
        == 144
        == counts["question"]["kept"] + sum(counts["question"]["dropped"].values())
    )
    assert counts["question"]["kept"] == 9 * 2 * 4


def test_a_conversation_of_the_leaky_mix_reads_as_the_contract_says(tmp_path: Path) -> None:
    run = merge(tmp_path, inputs_at(tmp_path))
    row = rows_of(run, "contextual", "leaky_mix")["s4"]
    turns = row["conversations"]
    assert (row["images"], row["doc_id"], sorted(row["sources"])) == (
        ["i4"],
        "d4",
        sorted(["caption", F, F, M, M]),
    )
    assert len(turns) == 2 * len(row["sources"])
    assert turns[0]["value"].startswith("<image>\n")
    assert "<image>" not in json.dumps(turns).replace("<image>\\n", "", 1)
    answers = [turn["value"] for turn in turns[1::2]]
    given = {"caption": "Caption 4 contextual, ‹image› said.", F: "Yes.", M: "C"}
    assert answers == [given[source] for source in row["sources"]]
    assert run.metrics["identifiers_neutralised"] == 12 * 2
    sizes = run.metrics["rows"]
    assert sizes["contextual/separate/train"] == 2 * sizes["contextual/leaky_mix/train"]
    assert sizes["contextual/leaky_mix/train"] + sizes["contextual/leaky_mix/test"] == 12


def test_splits_share_no_page_and_two_runs_are_equal_to_the_byte(tmp_path: Path) -> None:
    first, second = (merge(tmp_path / name, inputs_at(tmp_path / name)) for name in "ab")
    files = sorted(p.relative_to(first.data) for p in first.data.rglob("*.parquet"))
    assert len(files) == 2 * 6 * 2 + 1
    assert all((first.data / p).read_bytes() == (second.data / p).read_bytes() for p in files)
    folder = first.data / "contextual" / "leaky_mix"
    sides = [
        {r["doc_id"] for r in tables.read_rows(folder / f"{s}-00000.parquet")}
        for s in ("train", "test")
    ]
    assert all(sides)
    assert not sides[0] & sides[1]


def test_a_limit_is_a_seeded_choice_of_usable_samples_whose_rows_are_those_of_all(
    tmp_path: Path,
) -> None:
    rows = inputs_at(tmp_path)
    rows["images"][0] |= {"status": "failed", "reason": "http_404"}
    whole, some = merge(tmp_path / "all", rows), merge(tmp_path / "some", rows, limit=5)
    found, all_rows = (rows_of(run, "contextual", "separate") for run in (some, whole))
    assert len({row["sample_id"] for row in found.values()}) == 5
    assert found.items() <= all_rows.items()
    assert some.metrics["distinct_questions"] <= whole.metrics["distinct_questions"]
    assert some.counts()["sample"] == {"taken": 5, "kept": 5, "dropped": {}}


def test_captions_alone_become_conversations_where_nobody_asked_questions(tmp_path: Path) -> None:
    with_questions = merge(tmp_path / "both", inputs_at(tmp_path))
    run = merge(tmp_path / "alone", inputs_at(tmp_path), questions="")
    assert [folder.name for folder in (run.data / "contextual").iterdir()] == ["captions"]
    assert rows_of(run, "contextual", "captions") == rows_of(
        with_questions, "contextual", "captions"
    )
    assert run.metrics["identifiers_neutralised"] == 12 * len(KINDS)
    assert similar_questions(run) == []


def test_a_test_row_with_an_image_of_train_is_dropped_with_its_questions(tmp_path: Path) -> None:
    rows = inputs_at(tmp_path)
    for row in rows["images"]:
        row["image_id"] = "same"
    run = merge(tmp_path, rows)
    reasons = run.counts()["sample"]["dropped"]
    assert set(reasons) == {"image_in_train"}
    assert (
        run.counts()["question"]["dropped"]["sample_not_eligible"] == 12 * reasons["image_in_train"]
    )
    assert {n for name, n in run.metrics["rows"].items() if name.endswith("/test")} == {0}
    folder = run.data / "contextual" / "captions"
    assert [path.name for path in folder.iterdir()] == ["train-00000.parquet"]  # no empty split
    from datasets import load_dataset

    read = load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
    assert {name: len(rows) for name, rows in read.items()} == {"train": tables.count_rows(folder)}


def test_an_image_counts_as_trained_on_only_where_its_sample_is_usable(tmp_path: Path) -> None:
    rows = inputs_at(tmp_path)
    splits = [split_of(row, seed=0, test_fraction=0.3) for row in rows["samples"]]
    assert len(set(splits)) == 2
    test, train = splits.index("test"), splits.index("train")
    rows["images"][test]["image_id"] = rows["images"][train]["image_id"]
    unusable = [r for r in rows["captions"] if r["sample_id"] != f"s{train}"]
    both = merge(tmp_path / "both", rows)
    assert both.counts()["sample"]["dropped"] == {"image_in_train": 1}
    alone = merge(tmp_path / "alone", rows | {"captions": unusable})
    assert alone.counts()["sample"]["dropped"] == {"caption_failed": 1}
    found = {
        row["sample_id"]: split
        for split in ("train", "test")
        for row in tables.read_rows(alone.data / f"contextual/captions/{split}-00000.parquet")
    }
    assert found == {f"s{i}": split for i, split in enumerate(splits) if i != train}


def test_the_minimum_keeps_similar_questions_and_counts_their_pairs(tmp_path: Path) -> None:
    run = merge(tmp_path, inputs_at(tmp_path), min_per_type=3)
    assert "similar_question" not in run.counts()["question"]["dropped"]
    assert run.metrics["similar_pairs_kept_at_minimum"] == 12 * 2 * 2


def test_removal_lists_take_samples_by_any_name_and_single_questions(tmp_path: Path) -> None:
    entries = [
        ("sample", "s0", "reviewed", "blurred"),
        ("image", "i1", "nsfw", "0.97"),
        ("document", "d2", "asked", ""),
        ("link", "http://x/3.png", "opted_out", ""),
        ("question", "q4cm0", "reviewed", ""),
        *(("question", f"q5nf{n}", "reviewed", "") for n in range(3)),
        ("question", "q9999", "typing error", ""),
        ("sample", "i1", "an image's id", ""),
    ]
    file = tmp_path / "removals.jsonl"
    lines = [json.dumps(dict(zip(removals.REMOVALS.names, e, strict=True))) for e in entries]
    file.write_text("\n".join(lines))
    run = merge(tmp_path, inputs_at(tmp_path), removals=[str(file)])
    counts = run.counts()
    assert counts["sample"]["dropped"] == {"removed": 4, "no_free_form": 1}
    assert counts["question"]["dropped"]["removed"] == 4
    dropped = {row["id"]: row for row in tables.read_rows(run.data / "dropped")}
    details = [dropped[f"s{n}"]["detail"] for n in range(6) if n != 4]
    assert details == ["reviewed: blurred", "nsfw: 0.97", "asked", "opted_out", "non_contextual"]
    assert dropped["q4cm0"] == {"id": "q4cm0", "reason": "removed", "detail": "reviewed"}
    assert dropped["q0cf0"]["detail"] == "removed"
    for kind, name in product(KINDS, CONFIGURATIONS):
        found = {row["sample_id"] for row in rows_of(run, kind, name).values()}
        assert found == {f"s{n}" for n in (4, *range(6, 12))}
    said = json.dumps(rows_of(run, "contextual", "leaky_mix")["s4"]["conversations"])
    assert "multiple_choice0 for 4" not in said
    assert "multiple_choice1 for 4" in said
    unmet = removals.unmet(run)
    assert [(row["unit"], row["id"]) for row in unmet] == [("question", "q9999"), ("sample", "i1")]
    assert run.metrics["removals_that_name_nothing"] == 2


def test_a_list_that_names_nothing_changes_nothing_and_neither_does_none(tmp_path: Path) -> None:
    (file := tmp_path / "empty.jsonl").write_text("")
    lists = {"none": [], "empty": [str(file)]}
    runs = [
        merge(tmp_path / name, inputs_at(tmp_path), removals=value) for name, value in lists.items()
    ]
    first, second = ({p.name: p.read_bytes() for p in run.data.rglob("*.parquet")} for run in runs)
    assert first == second
    assert removals.unmet(runs[0]) == []


def test_similar_questions_are_shown_beside_what_they_resemble(tmp_path: Path) -> None:
    pairs = similar_questions(merge(tmp_path, inputs_at(tmp_path)), limit=3)
    assert len(pairs) == 3
    assert all(
        p["similarity"] == 1.0 and p["dropped"].split()[0] == p["kept"].split()[0] for p in pairs
    )
    assert all(p["dropped"] != p["kept"] for p in pairs)


def test_inputs_that_cannot_be_merged_are_named(tmp_path: Path) -> None:
    rows = inputs_at(tmp_path)
    with pytest.raises(InputError, match="captions holds no caption"):
        merge(tmp_path / "a", rows | {"captions": []})
    with pytest.raises(InputError, match=r"no sample is left of 12 \(no_free_form 12\)"):
        merge(tmp_path / "b", rows | {"questions": []})
    with pytest.raises(InputError, match=r"questions of samples that .* lacks"):
        merge(tmp_path / "c", rows | {"samples": rows["samples"][:5]})
