"""Options and letters of multiple-choice rounds: read in every form that models give them, and
shuffled by seed.
"""

import re
from collections import Counter
from collections.abc import Callable

import pytest

from tests.test_qa_format import CHOICE, STYLES, faults
from vislib.qa_format import parse_multiple_choice, render_multiple_choice
from vislib.qa_options import LETTERS, shuffle


def options(pattern: str, form: str) -> Callable[[str], str]:
    """A style that rewrites what `pattern` finds in the canonical text."""
    return lambda text: re.sub(pattern, form, text)


OPTIONS = {
    "single quotes": options(r'"([A-D]\..*)"\n', r"'\1'\n"),
    "curly quotes": options(r'"([A-D]\..*)"\n', r"“\1”\n"),
    "unquoted": options(r'"([A-D]\..*)"\n', r"\1\n"),
    "one line": options(r'"\n"', r'" "'),
    "commas": options(r'"\n"', r'", "'),
    "commas at line ends": options(r'"\n"', r'",\n"'),
    "list": (
        lambda text: options(r'("\n)(<A)', r'"]\n\2')(
            options(r"Options>\n", "Options> [")(text)
        ).replace('"\n"', '", "')
    ),
    "object": lambda text: options(r'("\n)(<A)', r'"}\n\2')(
        options(r'"?([A-D])\. ', r'"\1": "')(text).replace("Options>\n", "Options> {")
    ),
    "same line as identifier": options(r"Options>\n", "Options>: "),
    "two a line": options(r'"\n"([BD])', r'" "\1'),
    "brackets": options(r"([A-D])\. ", r"\1) "),
    "round brackets": options(r'"([A-D])\. ', r'"(\1) '),
    "colons": options(r'"([A-D])\. ', r'"\1: '),
    "lower case": lambda text: (
        text.replace('"A. ', '"a. ')
        .replace('"B.', '"b.')
        .replace('"C.', '"c.')
        .replace('"D.', '"d.')
    ),
    "bullets": options(r'\n"', r'\n- "'),
    "bold letters": options(r'"([A-D])\.', r'"**\1.**'),
    "blank lines": options(r'\n"', r'\n\n"'),
    "option identifier": options(r"<Options>", "<Option>"),
    "indented": options(r'\n"', r'\n    "'),
}


@pytest.mark.parametrize("style", OPTIONS)
def test_options_in_every_style(style: str) -> None:
    text = OPTIONS[style](render_multiple_choice(CHOICE))
    assert text != render_multiple_choice(CHOICE)
    assert parse_multiple_choice(text).rounds == CHOICE


@pytest.mark.parametrize("outer", STYLES)
@pytest.mark.parametrize("inner", ["one line", "round brackets", "unquoted"])
def test_styles_combine(outer: str, inner: str) -> None:
    assert (
        parse_multiple_choice(STYLES[outer](OPTIONS[inner](render_multiple_choice(CHOICE)))).rounds
        == CHOICE
    )


FOUR = '<Options>\n"A. red"\n"B. blue"\n"C. white"\n"D. green"\n'


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<Human> What?\n<Assistant> B", "missing_options"),
        ("<Human> What?\n<Options>\n<Assistant> B", "missing_options"),
        (f"<Human> What?\n{FOUR}", "missing_answer"),
        (f"<Human> What?\n{FOUR}<Assistant>", "missing_answer"),
        (f"<Human>\n{FOUR}<Assistant> B", "empty_question"),
        (f"{FOUR}<Assistant> B", "identifiers_unpaired"),
        (f"<Human> What?\n<Assistant> B\n{FOUR}", "identifiers_unpaired"),
        (f"<Human> What?\n{FOUR}{FOUR}<Assistant> B", "identifiers_unpaired"),
        (f"<Human> What?\n{FOUR}<Assistant> B\n<Assistant> C", "identifiers_unpaired"),
        (
            "<Human> What?\n<Options> 'A. red' 'B. blue' 'C. white'\n<Assistant> B",
            "not_four_options",
        ),
        (
            "<Human> What?\n<Options> A. red\nB. blue\nC. white\nD. green\nE. grey\n<Assistant> B",
            "not_four_options",
        ),
        (
            "<Human> What?\n<Options> A. red\nB. blue\nB. white\nD. green\n<Assistant> B",
            "not_four_options",
        ),
        (
            "<Human> What?\n<Options> A. red\nB. blue\nC. vitamin D. green\n<Assistant> B",
            "not_four_options",
        ),
        ("<Human> What?\n<Options> red, blue, white, green\n<Assistant> B", "not_four_options"),
        ("<Human> What?\n<Options> A. red\nB.\nC. white\nD. green\n<Assistant> A", "empty_option"),
        (
            "<Human> What?\n<Options> A. red\nB. Red.\nC. white\nD. green\n<Assistant> C",
            "repeated_options",
        ),
        (f"<Human> What?\n{FOUR}<Assistant> E", "answer_not_an_option"),
        (f"<Human> What?\n{FOUR}<Assistant> A red boat", "answer_not_an_option"),
        (f"<Human> What?\n{FOUR}<Assistant> I cannot tell", "answer_not_an_option"),
        (f"<Human> What?\n{FOUR}<Assistant> B. white", "answer_contradicts_options"),
        (f"<Human> What?\n{FOUR}<Assistant> B and C", "several_answers"),
        (f"<Human> What?\n{FOUR}<Assistant> A, C", "several_answers"),
        (f"<Human> What?\n{FOUR}<Assistant> Answer: A/C", "several_answers"),
        (f"<Human> What?\n{FOUR}<Assistant> The answer seems to be a car.", "answer_not_an_option"),
        (f"<Human> What?\n{FOUR}<Assistant> As an assistant I see blue.", "answer_not_an_option"),
        (f"<Human> What?\n{FOUR}<Assistant> B. blue or C. white", "several_answers"),
    ],
)
def test_multiple_choice_says_why_it_drops(text: str, expected: str) -> None:
    assert faults(parse_multiple_choice(text)) == [expected]


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


PRESIDENTS = ("John F. Kennedy", "Lyndon B. Johnson", "George H. W. Bush", "Gerald R. Ford")
COLOURS = ("红色", "蓝色", "绿色", "白色")
PLAIN = ("Red", "Blue", "Green", "White")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (
            (
                "'A. John F. Kennedy', 'B. Lyndon B. Johnson', 'C. George H. W. Bush', 'D. Gerald"
                " R. Ford'"
            ),
            PRESIDENTS,
        ),
        (
            (
                '["A. John F. Kennedy", "B. Lyndon B. Johnson", "C. George H. W. Bush", "D. Gerald'
                ' R. Ford"]'
            ),
            PRESIDENTS,
        ),
        (
            (
                "“A. John F. Kennedy” “B. Lyndon B. Johnson” “C. George H. W. Bush” “D. Gerald R."
                " Ford”"
            ),
            PRESIDENTS,
        ),
        (
            "A. John F. Kennedy, B. Lyndon B. Johnson, C. George H. W. Bush, D. Gerald R. Ford",
            PRESIDENTS,
        ),
        (
            "A. John F. Kennedy\nB. Lyndon B. Johnson\nC. George H. W. Bush\nD. Gerald R. Ford",
            PRESIDENTS,
        ),
        (
            "'A. Ann C. Day's 10', 'B. D. B. Low', 'C. Vitamin C. and zinc', 'D. A. Smith's 4,000'",
            ("Ann C. Day's 10", "D. B. Low", "Vitamin C. and zinc", "A. Smith's 4,000"),
        ),
        (
            "A. Austin, B. Washington, D.C., C. Rome, D. Paris",
            ("Austin", "Washington, D.C.", "Rome", "Paris"),
        ),
        ("A. 10 a.m. B. 11 a.m. C. 1 p.m. D. 2 p.m.", ("10 a.m.", "11 a.m.", "1 p.m.", "2 p.m.")),
        (
            r"['A. It\'s open', 'B. It\'s closed', 'C. Don\'t enter', 'D. Ask us']",
            ("It's open", "It's closed", "Don't enter", "Ask us"),
        ),
        (r"\"A. Red\", \"B. Blue\", \"C. Green\", \"D. White\"", PLAIN),
        ("'A. 红色'，'B. 蓝色'，'C. 绿色'，'D. 白色'", COLOURS),
        ("A、红色\nB、蓝色\nC、绿色\nD、白色", COLOURS),
        ("A：红色\nB：蓝色\nC：绿色\nD：白色", COLOURS),
        ("A．红色\nB．蓝色\nC．绿色\nD．白色", COLOURS),
        ("Ａ．红色　Ｂ．蓝色　Ｃ．绿色　Ｄ．白色", COLOURS),
        ("A、红色，B、蓝色，C、绿色，D、白色", COLOURS),
        ("A. 红色；B. 蓝色；C. 绿色；D. 白色。", (*COLOURS[:3], "白色。")),
        ("A.红色B.蓝色C.绿色D.白色", COLOURS),
        ("（A）红色（B）蓝色（C）绿色（D）白色", COLOURS),
        ("「A. 红色」、「B. 蓝色」、「C. 绿色」、「D. 白色」", COLOURS),
        ("A.Red, B.Blue, C.Green, D.White", PLAIN),
        ("A.Red B.Blue C.Green D.White", PLAIN),
        ("a)Red; b)Blue; c)Green; d)White", PLAIN),
        ("(A)Red\n(B)Blue\n(C)Green\n(D)White", PLAIN),
        ("A: Red | B: Blue | C: Green | D: White", PLAIN),
    ],
)
def test_options_as_models_write_them(body: str, expected: tuple[str, ...]) -> None:
    (block,) = parse_multiple_choice(f"<Human> Which?\n<Options> {body}\n<Assistant> C").blocks
    assert (block.round.options, block.round.answer, block.reason) == (expected, "C", "")


@pytest.mark.parametrize(
    "body",
    [
        # which B is the second option's?
        "A. Lyndon B. Johnson B. John F. Kennedy C. George Bush D. Gerald Ford",
        "A. red, B. blue, C. vitamin D. green",
        "A. red, B. blue, C. white, D. green, E. grey",
        "'A. red', 'B. blue', 'C. white', 'D. green', 'E. grey'",
        "A. red\nB. blue\nC. white\nD. green\nA. red\nB. blue\nC. white\nD. green",
        "1. red\n2. blue\n3. white\n4. green",
    ],
)
def test_options_that_could_be_cut_in_two_ways_are_no_options(body: str) -> None:
    (block,) = parse_multiple_choice(f"<Human> Which?\n<Options> {body}\n<Assistant> C").blocks
    assert block.reason == "not_four_options"


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
