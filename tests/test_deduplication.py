"""The selection rule of the question de-duplication, by hand and by brute force."""

import random
from collections import Counter

import numpy as np
import pytest

from vislib.deduplication import Unique, sweep, unique
from vislib.media.embeddings import Embeddings, text_hash

F, M = "free_form", "multiple_choice"


def at_degrees(*degrees: float) -> np.ndarray:
    """Unit vectors in the plane: the similarity of two is the cosine of the angle between them."""
    return np.array([[np.cos(np.radians(d)), np.sin(np.radians(d))] for d in degrees], np.float32)


def found(
    vectors: np.ndarray, types: list[str], ids: list[str], *, threshold: float, minimum: int
) -> Unique:
    pairs = zip(ids, types, strict=True)
    rows = [{"question_id": name, "question_type": kind} for name, kind in pairs]
    result = unique(rows, vectors, threshold=threshold, minimum=minimum)
    dropped = [row for row, _, _ in result.dropped]
    assert result.kept == [row for row in rows if row not in dropped]
    return result


def dropped_ids(result: Unique) -> list[str]:
    return [row["question_id"] for row, _, _ in result.dropped]


def selection(
    degrees: list[float], types: list[str], minimum: int, threshold: float = 0.9
) -> tuple[list[int], int]:
    ids = [f"q{n}" for n in range(len(degrees))]
    result = found(at_degrees(*degrees), types, ids, threshold=threshold, minimum=minimum)
    return [ids.index(name) for name in dropped_ids(result)], result.stuck


def test_the_closest_pair_loses_the_question_nearer_to_the_others() -> None:
    # the closest are q1 and q2 (5 degrees): beside each other, q1 has cos 20 + cos 70 = 1.28, q2
    # cos 25 + cos 65 = 1.33, so q2 goes; then q0 and q1 (cos 20 = 0.94): q0 has cos 90 = 0 beside
    # q1, q1 has cos 70 = 0.34 and goes
    assert selection([0, 20, 25, 90], [F] * 4, minimum=1) == ([2, 1], 0)
    assert selection([0, 20, 25, 90], [F] * 4, minimum=1, threshold=0.95) == ([2], 0)
    assert selection([0, 40, 80], [F] * 3, minimum=1) == ([], 0)


def test_the_pair_is_told_with_its_similarity() -> None:
    result = found(at_degrees(0, 10, 90), [F, F, F], ["b", "a", "c"], threshold=0.9, minimum=1)
    ((lost, kept, similarity),) = result.dropped
    assert (lost["question_id"], kept["question_id"]) == ("a", "b")  # 10 degrees: nearer to 90
    assert similarity == 0.9848


@pytest.mark.parametrize("ids", [["a", "b"], ["b", "a"]])
def test_equal_means_drop_the_larger_id(ids: list[str]) -> None:
    result = found(at_degrees(0, 5), [F, F], ids, threshold=0.9, minimum=1)
    assert dropped_ids(result) == ["b"]


def test_a_type_at_its_minimum_is_spared() -> None:
    # q1 (multiple choice) lies nearer to the others, but is the last of its type: q0 goes
    assert selection([0, 5, 40], [F, M, F], minimum=1) == ([0], 0)
    assert selection([0, 5, 40], [F, F, F], minimum=1) == ([1], 0)


def test_a_pair_of_which_neither_may_go_stays_and_is_counted() -> None:
    assert selection([0, 5, 90, 95], [F, F, M, M], minimum=2) == ([], 2)
    assert selection([0, 5, 90, 95, 170], [F, F, M, M, M], minimum=2) == ([2], 1)


def test_equal_questions_reach_a_threshold_of_one() -> None:
    vector = np.random.default_rng(0).normal(size=384)
    twice = np.array([vector / np.linalg.norm(vector)] * 2, np.float32)
    result = found(twice, [F, M], ["a", "b"], threshold=1.0, minimum=0)
    assert [similarity for _, _, similarity in result.dropped] == [1.0]


def by_brute_force(
    similarity: list[list[float]], types: list[str], ids: list[str], threshold: float, minimum: int
) -> tuple[list[int], int]:
    """The rule word for word, with lists."""
    standing, dropped, kept_pairs = list(range(len(ids))), [], set()
    while True:
        pairs = [
            (-similarity[i][j], *sorted((ids[i], ids[j])), i, j)
            for i in standing
            for j in standing
            if i < j and (i, j) not in kept_pairs
        ]
        if not pairs or -min(pairs)[0] < threshold:
            return dropped, len(kept_pairs)
        i, j = min(pairs)[3:]
        free = [k for k in (i, j) if sum(types[n] == types[k] for n in standing) > minimum]
        if not free:
            kept_pairs.add((i, j))
            continue
        means = {
            k: round(sum(similarity[k][n] for n in standing if n != k) / (len(standing) - 1), 4)
            for k in free
        }
        loser = max(free, key=lambda k: (means[k], ids[k]))
        standing.remove(loser)
        dropped.append(loser)


@pytest.mark.parametrize("seed", range(60))
def test_the_selection_agrees_with_brute_force(seed: int) -> None:
    draw = random.Random(seed)
    n, minimum, threshold = draw.randint(0, 12), draw.randint(0, 3), draw.choice([0.3, 0.7, 0.9])
    vectors = np.random.default_rng(seed).normal(size=(n, 3))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    if n > 3:
        vectors[n // 2] = vectors[0]  # a tie of everything but the id
    types, ids = (
        [draw.choice([F, M]) for _ in range(n)],
        [f"{draw.getrandbits(32):08x}" for _ in range(n)],
    )
    single = vectors.astype(np.float32).astype(float)
    similarity = np.round(single @ single.T, 4).tolist()
    result = found(vectors.astype(np.float32), types, ids, threshold=threshold, minimum=minimum)
    dropped = [ids.index(name) for name in dropped_ids(result)]
    assert (dropped, result.stuck) == by_brute_force(similarity, types, ids, threshold, minimum)
    left = Counter(row["question_type"] for row in result.kept)
    assert all(left[name] >= min(minimum, types.count(name)) for name in (F, M))


# -- the sweep


def test_a_sweep_tells_what_each_setting_leaves() -> None:
    # two pairs of twins, 5 degrees apart and of one type each; the pairs at a right angle
    texts = ["what is red", "what is blue", "who sails there", "who sails here"]
    near = at_degrees(0, 5, 90, 95)
    places = np.argsort([text_hash(text) for text in texts])
    hashes = np.array([text_hash(texts[place]) for place in places], np.uint64)
    asked = [
        {"question_id": f"q{n}", "question_type": kind, "question": text}
        for n, (kind, text) in enumerate(zip([F, F, M, M], texts, strict=True))
    ]
    sample = {"sample_id": "s", "kind": "contextual", "questions": asked}
    vectors = Embeddings(hashes, near[places])
    said = sweep([sample], vectors=vectors, thresholds=[0.9, 1.0], minima=[1, 2], into="swept")
    rows = {(to.row["threshold"], to.row["minimum"]): to.row for to in said}
    assert {setting: row["kept"] for setting, row in rows.items()} == {
        (0.9, 1): 2,
        (0.9, 2): 4,
        (1.0, 1): 4,
        (1.0, 2): 4,
    }
    few, all_of_them = rows[0.9, 1], rows[0.9, 2]
    assert few["nearest"] == pytest.approx(np.cos(np.radians(95)), abs=1e-4)  # the outer ones
    assert all_of_them["nearest"] == pytest.approx(np.cos(np.radians(5)), abs=1e-4)
    assert few["free_form"] == 1
    assert all_of_them["distinct_1"] == 8 / 12  # what, is, red, blue, who, sails, there, here
    assert all_of_them["distinct_2"] == 6 / 8
