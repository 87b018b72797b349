"""Texts that are no rounds: no identifier is lost, nothing raises, and the time stays linear."""

import random
import time
from collections import Counter

import pytest

from vislib.qa_format import REASONS, Parsed, parse_free_form, parse_multiple_choice


def pieces(seed: int) -> str:
    """A text of random parts of the format, in random order."""
    chance = random.Random(seed)
    parts = [
        "<Human>",
        "<Options>",
        "<Assistant>",
        "</Human>",
        "**<human>:**",
        "<Option>",
        "A.",
        '"B. two"',
        "C)",
        "(D) x",
        "\n",
        "\n\n",
        "```",
        "---",
        "**",
        "Round 2",
        "1.",
        "What?",
        "words and words",
        "Let me know",
        "<think>",
        "</think>",
        "D",
        "A. one B. two C. three D. four",
        "<Human> What? <Options> 'A. 1' 'B. 2' 'C. 3' 'D. 4' <Assistant> B",
        "<|im_end|>",
        "</s>",
        "\\<",
        ">",
        "<",
        ":",
        "é",
        "日本",
        "\r\n",
        "\x00",
        "\x85",
        "\u2028",
        "\ud800",
        "{",
        "]",
    ]
    return "".join(
        chance.choice(parts) + chance.choice(["", " ", "\n"]) for _ in range(chance.randrange(60))
    )


@pytest.mark.parametrize("parse", [parse_free_form, parse_multiple_choice])
def test_random_text_never_raises_and_blocks_are_pieces_of_it(parse: object) -> None:
    seen: set[str] = set()
    for seed in range(4000):
        text = pieces(seed)
        parsed: Parsed = parse(text)  # type: ignore[operator]
        seen |= {block.reason for block in parsed.blocks}
        told = "".join(block.text for block in parsed.blocks)
        expected = text.encode("utf-8", "replace").decode()
        assert not Counter("".join(told.split())) - Counter("".join(expected.split())), repr(text)
        for block in parsed.blocks:
            assert block.reason == "" or block.reason in REASONS
            if not block.reason:
                assert block.round.question
                assert block.round.answer
                assert len(set(block.round.options)) in (0, 4)
    assert {"", "no_rounds", "identifiers_unpaired", "missing_answer"} <= seen


@pytest.mark.parametrize("parse", [parse_free_form, parse_multiple_choice])
@pytest.mark.parametrize(
    "unit",
    [
        "<",
        "< ",
        "*",
        "<Human> and then some words",
        "<Human> a\n<Options> A. and some words",
        "\n",
        " ",
        "-",
        "\n---",
        "A. ",
        '"A. x" ',
        "(",
        "```\n",
        "</think>",
        "\n\nLet me know",
        "** ",
        "<Human>** and some words\n\n",
        "1. \n",
        ": ",
        "Round 1\n",
        "the answer is ",
        "<|",
    ],
)
def test_garbage_takes_linear_time(parse: object, unit: str) -> None:
    body = unit * (125_000 // len(unit))
    start = time.process_time()
    parse(f"<Human> q\n<Options>\n{body}\n<Assistant>{body}\n<Human> q")  # type: ignore[operator]
    assert time.process_time() - start < 5  # a quadratic pattern would take minutes
