"""The numbers behind the figures: words, stems, overlap, histograms, pairs per sample."""

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.notebook_cells import run_section
from vislib.figures import statistics
from vislib.media import stems


def sample(
    context: str, *, url: str = "https://example.org/a", alt: str | None = None
) -> dict[str, object]:
    return {"sample_id": "s", "page_url": url, "alt_text": alt, "context": context}


def caption(
    text: str, *, kind: str = "contextual", status: str = "ok", sample_id: str = "s"
) -> dict[str, str]:
    return {"sample_id": sample_id, "kind": kind, "caption": text, "status": status}


def test_stems_join_forms_and_leave_stop_words_and_single_characters_out() -> None:
    assert stems.stems("sailing") == stems.stems("sails") == ("sail",)
    assert stems.stems("the") == stems.stems("c") == stems.stems("7") == ()


def test_japanese_is_compared_by_pairs_of_characters() -> None:
    assert stems.stems("設定画面") == ("設定", "定画", "画面")
    assert (
        statistics.overlap("画面の設定", stems.source_stems(sample("この画面で設定する")))[
            "matched"
        ]
        == 2
    )


def test_overlap_counts_words_whose_stem_is_in_the_source() -> None:
    source = stems.source_stems(sample("Boats sail from the old harbour.", alt="A lighthouse"))
    found = statistics.overlap("The boat is sailing past a lighthouse and a gull.", source)
    # the, is, a, and, a are stop words; past and gull are not in the source
    assert found == {"all_words": 10, "content_words": 5, "matched": 3}


def test_image_placeholders_are_no_words_of_the_page() -> None:
    source = stems.source_stems(sample("before <image> after <another-image>"))
    assert statistics.overlap("another image", source)["matched"] == 0


def test_overlap_table_has_both_ratios_and_skips_failed_captions() -> None:
    rows = [
        caption("The boat sails."),
        caption("A red barn.", kind="non_contextual"),
        caption("boat", status="failed"),
        caption("a", kind="empty"),
        caption("boat", sample_id="unknown"),
    ]
    table = statistics.overlap_table([sample("boats sail")], rows).set_index("kind")
    assert sorted(table.index) == ["contextual", "empty", "non_contextual"]
    assert table.loc["contextual", "over_content"] == 1
    assert table.loc["contextual", "over_all"] == pytest.approx(2 / 3)
    assert table.loc["non_contextual", "over_content"] == 0
    assert np.isnan(table.loc["empty", "over_content"])


def test_histogram_counts_every_value_once() -> None:
    table = statistics.histogram({"a": [0, 1, 1, 4], "b": []}, [0, 1, 2, 4])
    assert table["group"].tolist() == ["a"] * 3 + ["b"] * 3
    assert table["count"].tolist() == [1, 2, 1, 0, 0, 0]
    assert table["from"].tolist() == [0, 1, 2] * 2


@pytest.mark.parametrize("most", [0, 1, 3, 20, 21, 400, 191.5])
def test_whole_edges_hold_every_number_and_none_but_0_in_the_first(most: float) -> None:
    edges = statistics.whole_edges(most, bins=20)
    assert edges[1] == 0.5
    assert len(set(np.diff(edges))) == 1
    assert edges[0] < 0 <= most < edges[-1]
    assert len(edges) <= 23


@pytest.mark.parametrize("values", [[3, 40, 2000, 2001, 90000], [5], [2500], [2000], []])
def test_log_edges_cover_all_values_and_divide_at_the_cap(values: list[int]) -> None:
    edges = statistics.log_edges(values, through=2000.5, bins=10)
    table = statistics.histogram({"": values}, edges)
    assert table["count"].sum() == len(values)
    assert table.loc[table["from"] >= 2000, "count"].sum() == sum(value > 2000 for value in values)


def test_tokens_of_documents_above_the_cap_are_read_from_what_02_dropped(tmp_path) -> None:
    """The SQL of notebook 21."""
    dropped = {
        "reason": ["above_cap", "no_image", "above_cap"],
        "detail": ["2048", "none", "over 8123"],
    }
    frames = {
        "documents": pd.DataFrame({"n_tokens": [12]}),
        "samples": pd.DataFrame({"n_context_tokens": [5]}),
        "dropped": pd.DataFrame(dropped),
    }
    names = {"max_tokens": 2000, "bins": 4}
    held = run_section("21_tokens", "## 1", frames, **names)
    assert sorted(held["above"]) == [2048, 8123]
    assert held["kept"].tolist() == [12]
    assert (held["cap"], held["label"]) == (2000, "cap")
    held = run_section("21_tokens", "## 1", frames, **names | {"max_tokens": 5000})
    assert (held["cap"], held["label"]) == (12, "longest kept")


def test_word_counts_are_sorted_by_count_then_name() -> None:
    counts = statistics.word_counts(["Tree, the sky and a 12 tree.", "sky bird"])
    assert counts == [("sky", 2), ("tree", 2), ("bird", 1)]
    assert statistics.word_counts([]) == []


def conversation(sample_id: str, *rounds: tuple[str, str]) -> dict[str, object]:
    turns = [
        turn
        for _, text in rounds
        for turn in ({"from": "human", "value": "?"}, {"from": "gpt", "value": text})
    ]
    return {
        "sample_id": sample_id,
        "sources": [source for source, _ in rounds],
        "conversations": turns,
    }


def test_words_of_answers() -> None:
    rows = [
        conversation(
            "a", ("caption", "A red barn."), ("free_form", "It is red."), ("multiple_choice", "B")
        ),
        conversation("b", ("free_form", "Two of them."), ("free_form", "Yes.")),
    ]
    answers = statistics.answers(rows)
    assert answers.groupby("question_type")["n_words"].sum().to_dict() == {
        "caption": 3,
        "free_form": 7,
        "multiple_choice": 1,
    }


def test_samples_are_counted_by_their_pairs_as_generated_and_after(tmp_path) -> None:
    """The SQL of notebook 23."""
    talks = [
        conversation("a", ("caption", "x"), ("free_form", "y"), ("multiple_choice", "B")),
        conversation("b", ("free_form", "y"), ("free_form", "z")),
    ]
    asked = [("a", "free_form")] * 4 + [("a", "multiple_choice"), ("b", "free_form")]
    of = {"kind": "k", "status": "ok", "model": "m"}
    rows = [{"sample_id": i, "question_type": t, **of} for i, t in asked]
    part = tmp_path / "conversations/part-00000.parquet"
    part.parent.mkdir()
    pq.write_table(pa.Table.from_pylist(talks), part)
    tables = {"questions": pd.DataFrame(rows), "conversations": part.parent}
    counts = run_section("23_qa_types", "## 1", tables, kind="k", published=False)["counts"]
    held = run_section("23_qa_types", "## 1", tables, kind="k", published=True)
    assert list(held["table"].columns) == list(held["counts"]["pairs_are"].unique())
    assert list(held["table"].columns) == ["after de-duplication"]
    of = counts.groupby(["pairs_are", "question_type"])
    found = {key: dict(zip(g["pairs"], g["samples"], strict=True)) for key, g in of}
    assert found == {
        ("after de-duplication", "free_form"): {1: 1, 2: 1},
        ("after de-duplication", "multiple_choice"): {0: 1, 1: 1},
        ("generated", "free_form"): {1: 1, 4: 1},
        ("generated", "multiple_choice"): {0: 1, 1: 1},
    }


def test_a_conversation_that_does_not_pair_is_an_error() -> None:
    broken = {**conversation("a", ("caption", "x")), "sources": ["caption", "free_form"]}
    with pytest.raises(ValueError, match="shorter"):
        statistics.answers([broken])


def test_model_names_are_sorted_and_named_once() -> None:
    assert statistics.model_names(["b", "a", "", "b"]) == "a, b"
    assert statistics.model_names([]) == "none"


def test_the_parameters_behind_a_table_are_those_of_its_stage(tmp_path) -> None:
    table = tmp_path / "04_selection/data/embeddings"
    assert statistics.parameters_of(table) == {}
    table.mkdir(parents=True)
    record = {"inputs": {}, "hashes": {"parameters": {"embedding_model": "org/clip@abc"}}}
    (tmp_path / "04_selection/run.json").write_text(json.dumps(record))
    assert statistics.parameters_of(table) == {"embedding_model": "org/clip@abc"}
