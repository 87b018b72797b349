"""Letters of multiple-choice rounds: read in every form that models give them, and shuffled by
seed.
"""

from collections import Counter

import pytest

from tests.test_qa_options import FOUR
from vislib.qa_format import parse_multiple_choice
from vislib.qa_options import LETTERS, shuffle


@pytest.mark.parametrize(
    "answer",
    [
        "B",
        "B.",
        "B)",
        "(B)",
        "b",
        "'B'",
        '"B"',
        "**B**",
        "**B.**",
        "B. blue",
        "B) blue",
        "(B) blue",
        "B: blue",
        "B - blue",
        "B – blue",
        "B blue",
        "**B. blue**",
        '"B. blue"',
        "Blue",
        "blue.",
        "Option B",
        "Answer: B",
        "The answer is B",
        "The answer is B.",
        "The correct answer is B. blue",
        "The correct option is: (B) blue",
        "Correct answer: B",
        "B. It is the colour of its hull.",
        "B\n\nThe hull is blue.",
        "B\nExplanation: it is blue, not red.",
        "`B`",
        "$B$",
        "**Answer:** B",
        "The answer is: **B**",
        "Answer: **B. blue**",
        "The answer is B because a car is blue.",
        "B, because it is blue.",
        "[B]",
    ],
)
def test_answers_in_every_style(answer: str) -> None:
    (block,) = parse_multiple_choice(f"<Human> What?\n{FOUR}<Assistant> {answer}").blocks
    assert (block.round.answer, block.reason) == ("B", "")


def test_a_letter_wins_over_an_option_of_that_text() -> None:
    text = "<Human> Which letter?\n<Options> 'A. D' 'B. C' 'C. B' 'D. A'\n<Assistant> C"
    assert parse_multiple_choice(text).rounds[0].answer == "C"


def test_an_option_that_begins_with_an_article_is_no_letter() -> None:
    text = "<Human> What?\n<Options> A. a mill\nB. a chapel\nC. two pines\nD. A and B\n<Assistant> "
    assert parse_multiple_choice(text + "a chapel").rounds[0].answer == "B"
    assert parse_multiple_choice(text + "A and B").rounds[0].answer == "D"


def test_the_right_letter_is_balanced_whatever_the_model_prefers() -> None:
    rounds = 4000
    letters = Counter()
    for i in range(rounds):
        options, letter = shuffle(
            "What?", ("red", "blue", "white", "green"), "B", seed=3, name=f"q{i}"
        )
        assert options[LETTERS.index(letter)] == "blue"
        assert sorted(options) == ["blue", "green", "red", "white"]
        letters[letter] += 1
    assert all(
        abs(letters[x] / rounds - 0.25) < 4 * (0.25 * 0.75 / rounds) ** 0.5 for x in LETTERS
    )  # four sigma


def test_the_order_depends_on_seed_and_name_alone() -> None:
    orders = {
        tuple(shuffle("What?", "wxyz", "A", seed=s, name=n)[0])
        for s in (0, 1, 2)
        for n in ("a", "b", "c")
    }
    assert len(orders) > 4
    assert shuffle("What?", "wxyz", "A", seed=1, name="a") == shuffle(
        "Who?", "wxyz", "A", seed=1, name="a"
    )


@pytest.mark.parametrize(
    "option",
    [
        "All of the above",
        "None of these",
        "both of them",
        "Both A and C",
        "A or B",
        "Neither B nor D, but A & C",
        "The former",
        "Option B is right",
        "The first two",
        "All the others",
        "None of the options",
        "Any of the above",
    ],
)
def test_options_that_speak_of_others_stay_where_they_are(option: str) -> None:
    assert shuffle("What?", ("red", "blue", "white", option), "A", seed=0, name="q") is None
    assert (
        shuffle(
            f"What if not “{option}”?", ("red", "blue", "white", "green"), "A", seed=0, name="q"
        )
        is None
    )


@pytest.mark.parametrize(
    "option",
    [
        "None",
        "Both sides of the road",
        "A boat",
        "Vitamin D",
        "12",
        "All four wheels",
        "The first of May",
        "Some of the flags",
        "It stands above the door",
    ],
)
def test_other_options_move(option: str) -> None:
    assert shuffle("Which?", ("red", "blue", "white", option), "D", seed=0, name="q") is not None


@pytest.mark.parametrize(
    "answer",
    [
        "B。",
        "Ｂ",
        "B．blue",
        "B、blue",
        "B：blue",
        "答案：B",
        "正确答案是B。",
        r"\boxed{B}",
        r"$\boxed{\text{B}}$",
        r"\(B\)",
        "<answer>B</answer>",
        "**Answer:** B",
        "Answer: B.",
        "B.blue",
        "Let me see.\nAnswer: B",
    ],
)
def test_answers_in_other_scripts_and_wrappers(answer: str) -> None:
    (block,) = parse_multiple_choice(f"<Human> What?\n{FOUR}<Assistant> {answer}").blocks
    assert (block.round.answer, block.reason) == ("B", "")
