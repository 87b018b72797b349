"""Which option a reply means, and when nobody can say."""

import time

import pytest

from vislib.evaluation.parsing import lenient_letter, strict_letter

COLOURS = ["red", "green", "dark green", "a blue car"]
CASES = [  # answer, options, strict, lenient
    ("B", COLOURS, "B", "B"),
    (" B.\n", COLOURS, "B", "B"),
    ("B)", COLOURS, "B", "B"),
    ("(B)", COLOURS, "B", "B"),
    ("b", COLOURS, "", "B"),
    ("Ｂ", COLOURS, "", "B"),  # full width
    ("（Ｂ）", COLOURS, "", "B"),
    ("**B**", COLOURS, "", "B"),
    ('"B"', COLOURS, "", "B"),
    ("E", COLOURS, "", ""),  # no such option
    ("B: red", ["blue", "red", "x", "y"], "", "B"),
    ("B: red", COLOURS, "", ""),  # red is A
    ("B. It looks green to me", COLOURS, "", "B"),
    ("b) green", COLOURS, "", "B"),
    ("B - green", COLOURS, "", "B"),
    ("The answer is B.", COLOURS, "", "B"),
    ("the answer is: (b)", COLOURS, "", "B"),
    ("Answer: B", COLOURS, "", "B"),
    ("The correct answer would be option B, because it is not red.", COLOURS, "", "B"),
    ("I would choose B", COLOURS, "", "B"),
    ("I think B", COLOURS, "", "B"),
    ("I think it is B. green", COLOURS, "", "B"),
    ("B is correct", COLOURS, "", "B"),
    ("A, because it is red", COLOURS, "", "A"),
    ("It must be (C)", COLOURS, "", "C"),
    ("It is not A, it is B.", COLOURS, "", "B"),
    ("B B B B", COLOURS, "", "B"),
    ("A cat", COLOURS, "", ""),  # an article is no letter
    ("A cat", ["dog", "cow", "A cat", "bird"], "", "C"),
    ("a cat sits there", ["dog", "cow", "A cat", "bird"], "", "C"),
    ("The answer is a cat", COLOURS, "", ""),
    ("It is a red thing", COLOURS, "", "A"),
    (
        "I think it is hard to say",
        [*COLOURS, "e", "f", "g", "h", "i"],
        "",
        "",
    ),  # "I" is option I here
    ("I", [*COLOURS, "e", "f", "g", "h", "pink"], "I", "I"),
    ("A.I. systems are clever", COLOURS, "", ""),
    ("Vitamin C is healthy", COLOURS, "", ""),
    ("A B", COLOURS, "", ""),
    ("A or B", COLOURS, "", ""),
    ("A and B", COLOURS, "", ""),
    ("AB", COLOURS, "", ""),
    ("The answer is A or B.", COLOURS, "", ""),
    ("The answer is A, B", COLOURS, "", ""),
    ("(A) or (B)", COLOURS, "", ""),
    ("A) or B)", COLOURS, "", ""),
    (
        "A. red\nB. green\nC. dark green\nD. a blue car",
        COLOURS,
        "",
        "",
    ),  # it says the options again
    ("It is A. No, the answer is B.", COLOURS, "", ""),
    ("A. red B. green C. dark green D. a blue car", COLOURS, "", ""),
    ("(A) red (B) green", COLOURS, "", ""),
    ("B. Ann C. Day", ["red", "Ann C. Day", "x", "y"], "", "B"),
    ("B\nThe red car is on the left", COLOURS, "", "B"),
    ("It's B.", COLOURS, "", "B"),
    ("The answer is not B", COLOURS, "", ""),
    ("B is not correct", COLOURS, "", ""),
    ("(B) is not right", COLOURS, "", ""),
    ("I would not choose B.", COLOURS, "", ""),
    ("It cannot be B.", COLOURS, "", ""),
    ("I don’t think it is B", COLOURS, "", ""),
    ("It is not (B).", COLOURS, "", ""),
    ("I am not sure, but it is B.", COLOURS, "", "B"),
    ("It is not (B), it is (C)", COLOURS, "", "C"),
    ("Red.", COLOURS, "", "A"),
    ("dark green", COLOURS, "", "C"),
    ("The car is dark green, I believe", COLOURS, "", "C"),  # green alone is not said
    ("The car is dark green, the grass green", COLOURS, "", ""),
    ("The wall is not red", COLOURS, "", ""),
    ("It isn’t red", COLOURS, "", ""),
    ("reddish", COLOURS, "", ""),
    ("There are 3 of them", ["1", "2", "3", "4"], "", "C"),
    ("There are 13 of them", ["1", "2", "3", "4"], "", ""),
    ("No", ["Yes", "No"], "", "B"),
    ("I have no idea", ["Yes", "No"], "", ""),
    ("B", ["B", "A", "D", "C"], "B", "B"),  # the letter of the option was asked for
    ("照片里是红色的杯子", ["蓝色", "红色的", "绿色", "黄"], "", "B"),
    ("D", ["same", "same", "x", "y"], "D", "D"),
    ("same", ["same", "same", "x", "y"], "", ""),
    ("答案：B", COLOURS, "", "B"),
    ("正确答案是B。", COLOURS, "", "B"),
    ("我选B。", COLOURS, "", "B"),
    ("不选B。", COLOURS, "", ""),
    ("答案是A或B", COLOURS, "", ""),
    ("B。", COLOURS, "", "B"),
    ("Ｂ．", COLOURS, "", "B"),
    ("B、绿色", ["红色", "绿色", "白色", "黄"], "", "B"),
    ("B：绿色", ["红色", "绿色", "白色", "黄"], "", "B"),
    ("正解はBです", COLOURS, "", "B"),
    ("정답은 B입니다.", COLOURS, "", "B"),
    (r"\boxed{B}", COLOURS, "", "B"),
    (r"$\boxed{\text{B}}$", COLOURS, "", "B"),
    (r"The answer is $\boxed{B}$.", COLOURS, "", "B"),
    (r"\(B\)", COLOURS, "", "B"),
    ("<answer>B</answer>", COLOURS, "", "B"),
    ("<answer> B. green </answer>", COLOURS, "", "B"),
    ("**Answer:** B", COLOURS, "", "B"),
    ("**Answer: B**", COLOURS, "", "B"),
    ("Die Antwort: B", COLOURS, "", "B"),
    ("La réponse est B.", COLOURS, "", "B"),
    ("B green", COLOURS, "", "B"),
    ("B.green", COLOURS, "", "B"),
    ("A/C", COLOURS, "", ""),
    ("Answer: A/C", COLOURS, "", ""),
    ("", COLOURS, "", ""),
    ("...", COLOURS, "", ""),
    ("What a question?", COLOURS, "", ""),
]


@pytest.mark.parametrize(("answer", "options", "strict", "lenient"), CASES)
def test_an_answer_means_one_option_or_none(answer, options, strict, lenient):
    assert strict_letter(answer, "ABCDEFGHI"[: len(options)]) == strict
    assert lenient_letter(answer, options) == lenient


@pytest.mark.parametrize(("answer", "options", "strict", "lenient"), CASES)
def test_what_the_strict_reading_takes_the_lenient_one_takes_too(answer, options, strict, lenient):
    assert strict in ("", lenient)


@pytest.mark.parametrize(
    "flood",
    ["A " * 30_000, "the answer is " * 9_000, "(" * 60_000, "is (((" * 20_000, "\n" * 60_000],
)
def test_no_answer_takes_long_to_read(flood):
    started = time.process_time()
    lenient_letter(flood, COLOURS)
    assert time.process_time() - started < 20  # a hang, not a slow machine
