"""Options of multiple-choice rounds: read in every form that models give them."""

import re
from collections.abc import Callable

import pytest

from tests.test_qa_format import CHOICE, STYLES, faults
from vislib.qa_format import parse_multiple_choice, render_rounds


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
    text = OPTIONS[style](render_rounds(CHOICE))
    assert text != render_rounds(CHOICE)
    assert parse_multiple_choice(text).rounds == CHOICE


@pytest.mark.parametrize("outer", STYLES)
@pytest.mark.parametrize("inner", ["one line", "round brackets", "unquoted"])
def test_styles_combine(outer: str, inner: str) -> None:
    assert (
        parse_multiple_choice(STYLES[outer](OPTIONS[inner](render_rounds(CHOICE)))).rounds == CHOICE
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
