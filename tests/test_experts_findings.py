"""`vislib.experts.findings`: what overlaps is one object, what is small stays, and no order of the
input shows.
"""

import random

import pytest

from vislib.experts.findings import Box, balanced, merge


def box(x1: float, y1: float, x2: float, y2: float, label: str = "cat", score: float = 0.5) -> Box:
    return Box(label, score, x1, y1, x2, y2)


def many(seed: int, n: int = 400) -> list[Box]:
    """Boxes of every size, few labels, scores with ties."""
    chance, made = random.Random(seed), []
    for _ in range(n):
        x, y, side = chance.random() * 0.9, chance.random() * 0.9, chance.choice([0.01, 0.04, 0.3])
        right, below = min(x + side, 1.0), min(y + side, 1.0)
        made.append(box(x, y, right, below, chance.choice("abc"), round(chance.random(), 1)))
    return made


def overlaps(one: Box, other: Box, limit: float) -> bool:
    """Whether the two, of one label, are one object."""
    return len(merge({"a": [one, other]}, overlap=limit)) == 1


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (box(0.0, 0.0, 0.4, 0.4), 1.0),
        (box(0.2, 0.0, 0.6, 0.4), 1 / 3),  # 0.08 of 0.24
        (box(0.1, 0.1, 0.3, 0.3), 0.25),  # inside: 0.04 of 0.16
        (box(0.4, 0.0, 0.8, 0.4), 0.0),  # they touch
        (box(0.9, 0.9, 1.0, 1.0), 0.0),
    ],
)
def test_intersection_over_union(other, expected):
    one = box(0.0, 0.0, 0.4, 0.4)
    for pair in ((one, other), (other, one)):
        assert not overlaps(*pair, min(expected + 0.001, 1.0))
        assert not expected or overlaps(*pair, expected - 0.001)
    assert merge({"a": []}, overlap=0.5) == []


def test_one_object_that_two_experts_found_stays_once_with_the_better_score():
    found = {
        "detector": [box(0.0, 0.0, 0.4, 0.4, "Cat ", 0.7), box(0.5, 0.5, 0.9, 0.9, "dog", 0.4)],
        "open_detector": [
            box(0.01, 0.0, 0.4, 0.4, "cat", 0.8),
            box(0.5, 0.5, 0.9, 0.9, "cat", 0.3),
        ],
    }
    kept = [(expert, one.label, one.score) for expert, one in merge(found, overlap=0.5)]
    assert kept == [
        ("open_detector", "cat", 0.8),
        ("detector", "dog", 0.4),
        ("open_detector", "cat", 0.3),
    ]


def test_overlap_counts_above_the_limit_only_and_ties_fall_the_same_way():
    pair = [box(0.0, 0.0, 0.4, 0.4), box(0.2, 0.0, 0.6, 0.4)]  # IoU 1/3
    for overlap, left in ((0.34, 2), (0.33, 1), (0.0, 1), (1.0, 2)):
        for order in (pair, pair[::-1]):
            kept = merge({"a": order}, overlap=overlap)
            assert len(kept) == left
            assert kept[0] == ("a", pair[0])
    same = box(0.1, 0.1, 0.2, 0.2)
    assert len(merge({"a": [same, same], "b": [same]}, overlap=1.0)) == 3
    assert merge({"b": [same], "a": [same, same]}, overlap=0.9) == [("a", same)]


def test_a_chain_loses_its_middle_not_its_end():
    chain = [
        box(0.0, 0.0, 0.4, 0.4, score=0.9),
        box(0.1, 0.0, 0.5, 0.4, score=0.8),
        box(0.2, 0.0, 0.6, 0.4, score=0.7),
    ]
    assert [one.score for _, one in merge({"a": chain}, overlap=0.5)] == [0.9, 0.7]  # IoU 0.6, 0.33


def test_of_each_size_some_stay_and_of_each_label():
    large = [box(0.0, 0.0, 0.5 + i / 100, 0.5, "car", 0.9) for i in range(20)]
    medium = [box(0.0, 0.0, 0.06, 0.05 + i / 1000, "person", 0.6) for i in range(5)]
    small = [
        box(0.0, 0.0, 0.02, 0.02 + i / 1000, label, 0.3)
        for i, label in enumerate(["bird", "bird", "kite"])
    ]
    found = [("detector", one) for one in (*large, *medium, *small)]
    kept = [one.label for _, one in balanced(found, 8, (1000, 1000))]
    assert kept == ["car"] * 2 + ["person"] * 3 + ["bird", "bird", "kite"]
    assert {one.label for _, one in balanced(found, 3, (1000, 1000))} == {"car", "person", "bird"}
    assert [one.label for _, one in balanced(found, 4, (10, 10))] == [
        "car",
        "person",
        "bird",
        "kite",
    ]  # all are small


def test_sizes_are_those_of_the_picture_in_pixels():
    boxes = [("a", box(0.0, 0.0, 0.5, 0.5 + i / 100, score=0.9)) for i in range(9)]
    boxes.append(("a", box(0.0, 0.0, 0.05, 0.05, score=0.1)))
    for width, stays in (
        (1000, True),
        (100, True),
        (50, False),
    ):  # of 50 px, a half is small as well
        assert (boxes[-1] in balanced(boxes, 2, (width, width))) is stays


@pytest.mark.parametrize("seed", range(8))
def test_any_boxes_in_any_order_give_the_same_list(seed):
    boxes = many(seed)
    experts = {"a": boxes[::2], "b": boxes[1::2]}
    merged = merge(experts, overlap=0.5)
    shuffled = {
        name: random.Random(seed).sample(experts[name], len(experts[name])) for name in ("b", "a")
    }
    assert merge(shuffled, overlap=0.5) == merged
    assert {one for _, one in merged} <= set(boxes)
    for index, (_, one) in enumerate(merged):
        alike = [other for _, other in merged[:index] if other.label == one.label]
        assert not any(overlaps(one, other, 0.5) for other in alike)
        assert all(other.score >= one.score for other in alike)
    areas = {1: 0, 9: 0}
    for limit in (1, 9, 50, 0):
        kept = balanced(random.Random(seed).sample(merged, len(merged)), limit, (1000, 1000))
        assert kept == balanced(merged, limit, (1000, 1000))
        assert len(kept) == min(limit or len(merged), len(merged))
        assert [one.score for _, one in kept] == sorted(
            (one.score for _, one in kept), reverse=True
        )
        areas[limit] = sum((one.x2 - one.x1) < 0.02 for _, one in kept)
    assert areas[9] >= 3  # of three sizes
    assert areas[50] >= 16
