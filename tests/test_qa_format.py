"""Questions and answers as text: what is written is read back, in every form that models give
it.
"""

import pytest

from vislib.qa_format import (
    MAX_ROUNDS,
    REASONS,
    Parsed,
    Round,
    parse_free_form,
    parse_multiple_choice,
    render_rounds,
)

FREE = (
    Round("How many boats lie in the harbour?", (), "Three."),
    Round(
        "Why is the sea wall curved?",
        (),
        "It throws waves back.\n\n1. A wave runs up.\n2. It falls on itself.",
    ),
    Round("Is there a lighthouse?", (), "No: neither on the wall nor on the hill."),
)
CHOICE = (
    Round("What colour is the nearest boat?", ("Red", "Dark blue", "White", "Green"), "B"),
    Round(
        "Where was it built?",
        ("In Kiel, Germany", "In St. Ives", "In Oban", 'At the "Old Yard"'),
        "D",
    ),
    Round(
        "What stands on the hill?", ("A chapel with a tower", "Nothing", "A mill", "Two pines"), "A"
    ),
)
STYLES = {
    "canonical": lambda text: text,
    "windows": lambda text: text.replace("\n", "\r\n"),
    "colon": lambda text: text.replace("> ", ">: "),
    "lower case": lambda text: text.replace("<H", "<h").replace("<O", "<o").replace("<A", "<a"),
    "colon inside": (
        lambda text: text.replace("Human>", "human:>").replace("Assistant>", "assistant:>")
    ),
    "spaces inside": (
        lambda text: text.replace("<Human>", "< Human >").replace("<Assistant>", "<Assistant >")
    ),
    "numbered": (
        lambda text: text.replace("<Human>", "<Human 1>").replace("<Assistant>", "<Assistant_1>")
    ),
    "escaped": lambda text: text.replace("<", "\\<").replace("n> ", "n\\> "),
    "bold": lambda text: text.replace("<", "**<").replace("> ", ">** "),
    "bold colon": lambda text: text.replace("<", "**<").replace("> ", ">:** "),
    "bold identifier and colon": lambda text: text.replace("<", "**<").replace("> ", ">**: "),
    "bold question": lambda text: text.replace("<Human> ", "<Human> **").replace("?\n", "?**\n"),
    "bold line": lambda text: text.replace("<Human>", "**<Human>").replace("?\n", "?**\n"),
    "prose before": lambda text: "Sure! Here are the rounds you asked for:\n\n" + text,
    "thoughts before": lambda text: (
        "<think>I could ask <Human> why? <Assistant> So.</think>\n" + text
    ),
    "fence": lambda text: f"Here:\n```text\n{text}\n```\nLet me know if you need more.",
    "fences": lambda text: "```\n" + text.replace("\n\n<H", "\n```\n\n```\n<H") + "\n```",
    "end of turn": lambda text: text + "<|end_of_turn|>GPT4 Correct User: <Human> more",
    "rules": lambda text: text.replace("\n\n<H", "\n\n---\n\n<H"),
    "headings": lambda text: "### Round 1\n" + text.replace("\n\n<H", "\n\n### Round 2:\n<H"),
    "bold headings": lambda text: (
        "**Round 1**\n\n" + text.replace("\n\n<H", "\n\n**Round 2**\n\n<H")
    ),
    "numbers": lambda text: "1. " + text.replace("\n\n<H", "\n\n2. <H"),
    "no line breaks": lambda text: text.replace("\n<", " <"),
    "own lines": lambda text: text.replace("n> ", "n>\n").replace("t> ", "t>\n"),
    "closing remark": lambda text: (
        text + "\n\nI hope this helps! Let me know if you want other questions."
    ),
    "ruled remark": lambda text: text + "\n\n---\n\n*Note: all of it is in the description.*",
    "closing tags": lambda text: (
        text.replace("?\n", "?</Human>\n").replace("\n\n<H", "</Assistant>\n\n<H")
        + "</Assistant>\n"
    ),
}


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("reverse", [False, True])
def test_free_form_in_every_style(style: str, reverse: bool) -> None:
    rounds = FREE[::-1] if reverse else FREE
    parsed = parse_free_form(STYLES[style](render_rounds(rounds)))
    assert parsed.rounds == rounds
    assert len(parsed.blocks) == len(rounds)


@pytest.mark.parametrize("style", STYLES)
def test_multiple_choice_in_every_style(style: str) -> None:
    parsed = parse_multiple_choice(STYLES[style](render_rounds(CHOICE)))
    assert parsed.rounds == CHOICE


def faults(parsed: Parsed) -> list[str]:
    return [block.reason for block in parsed.blocks]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ["no_rounds"]),
        ("I am sorry, I cannot help with that.", ["no_rounds"]),
        ("Human: what?\nAssistant: this", ["no_rounds"]),
        ("<Human> What?", ["missing_answer"]),
        ("<Human> What?\n<Assistant>\n<Human> Who?\n<Assistant> She.", ["missing_answer", ""]),
        ("<Human> What?\n<Human> Who?\n<Assistant> She.", ["missing_answer", ""]),
        ("<Human>\n<Assistant> She.", ["empty_question"]),
        ("<Human> ?! <Assistant> She.", ["empty_question"]),
        ("<Assistant> She.\n<Human> Who?\n<Assistant> He.", ["identifiers_unpaired", ""]),
        ("<Human> Who?\n<Assistant> She.\n<Assistant> He.", ["identifiers_unpaired"]),
        ("<Human> Who?\n<Options> 'A. x'\n<Assistant> She.", ["identifiers_unpaired"]),
    ],
)
def test_free_form_says_why_it_drops(text: str, expected: list[str]) -> None:
    assert faults(parse_free_form(text)) == expected


def test_every_reason_is_explained() -> None:
    assert all(REASONS.values())


def test_bad_rounds_leave_their_neighbours_alone() -> None:
    good = render_rounds(CHOICE[:1])
    parsed = parse_multiple_choice(
        f"{good}\n\n<Human> What?\n<Options> none\n<Assistant> A\n\n{good}"
    )
    assert faults(parsed) == ["", "not_four_options", ""]
    assert parsed.blocks[1].round.question == "What?"
    assert "none" in parsed.blocks[1].text


def test_more_than_five_rounds() -> None:
    parsed = parse_free_form("<Human> A?\n" + render_rounds(FREE + FREE + FREE))
    assert len(parsed.rounds) == MAX_ROUNDS
    assert faults(parsed) == ["missing_answer"] + [""] * 5 + ["beyond_five_rounds"] * 4


@pytest.mark.parametrize(
    "answer",
    [
        "If you walk further, you reach the mill.",
        "Three\n\n3",
        "It says:\n\n```\nls -l\n```",
        "First.\n\nNote the flag on top.",
        "Red: **two**, blue: **one**.",
        "* one\n* two",
        "The sign reads <Harbour>.",
        "**Red** and **blue**",
        "3",
    ],
)
def test_answers_keep_their_words(answer: str) -> None:
    rounds = (Round("What?", (), answer), Round("Why?", (), answer))
    assert parse_free_form(render_rounds(rounds)).rounds == rounds


@pytest.mark.parametrize(
    "text",
    [
        "<Human>：图中是什么？\n<Assistant>：一座石桥。",
        "<Human：>图中是什么？\n<Assistant：>一座石桥。",
        "＜Human＞图中是什么？\n＜Assistant＞一座石桥。",
        "**<Human>**： 图中是什么？\n**<Assistant>**： 一座石桥。",
        "<Human> : 图中是什么？\n<Assistant> : 一座石桥。",
        "<Human>﹕图中是什么？\n<Assistant>﹕一座石桥。",
    ],
)
def test_a_colon_of_any_script_belongs_to_the_identifier(text: str) -> None:
    assert parse_free_form(text).rounds == (Round("图中是什么？", (), "一座石桥。"),)


def test_backslashes_before_quotes_and_marks_are_undone() -> None:
    text = (
        r"<Human> What\'s on the \"left\" \(a lot\)?"
        + "\n"
        + r"<Assistant> It\'s \*one\* sign: C:\temp \& more."
    )
    expected = Round('What\'s on the "left" (a lot)?', (), r"It's *one* sign: C:\temp & more.")
    assert parse_free_form(text).rounds == (expected,)


@pytest.mark.parametrize(
    "question",
    [
        "What does the <option> tag in the screenshot do?",
        "Why does <human> stand beside <assistant> in the code?",
        "What ends the list, </option> or </Options>?",
        "What follows <Options>",
    ],
)
@pytest.mark.parametrize("kind", ["free_form", "multiple_choice"])
def test_a_question_about_a_tag_is_whole(question: str, kind: str) -> None:
    rounds = (Round(question, (), "It lists <option> and </human> tags."), FREE[0])
    if kind == "free_form":
        assert parse_free_form(render_rounds(rounds)).rounds == rounds
    rounds = (
        Round(question, ("an <option>", "a menu", "the <human>", "a </human>"), "C"),
        CHOICE[0],
    )
    assert parse_multiple_choice(render_rounds(rounds)).rounds == rounds


@pytest.mark.parametrize(
    "text",
    [
        r"<Human> What is it?\n<Assistant> A cat.\n\n<Human> Where?\n<Assistant> Indoors.",
        r"<Human> What is it?\r\n<Assistant> A cat.\r\n<Human> Where?\r\n<Assistant> Indoors.",
        "<Human> What is it?\\n<Assistant> A cat.\n<Human> Where?\\n<Assistant> Indoors.\n",
    ],
)
def test_line_breaks_written_as_two_characters(text: str) -> None:
    assert parse_free_form(text).rounds == (
        Round("What is it?", (), "A cat."),
        Round("Where?", (), "Indoors."),
    )


@pytest.mark.parametrize(
    "tail",
    [
        "\n### Human: next\n### Assistant: more",
        "\n\n### Instruction:\nNext",
        "\n[INST] next [/INST]",
        "<|im_end|>",
        "</s>",
    ],
)
def test_what_a_chat_template_goes_on_with_is_no_answer(tail: str) -> None:
    parsed = parse_free_form(render_rounds(FREE) + tail)
    assert parsed.rounds == FREE
    assert len(parsed.blocks) == len(FREE)


@pytest.mark.parametrize(
    "form", ["<think>\n{}\n</think>\n", "◁think▷{}◁/think▷", "[THINK]{}[/THINK]", "{}\n</think>\n"]
)
def test_drafts_in_thoughts_are_no_rounds(form: str) -> None:
    for draft in (
        "Draft: <Human> Bad?\n<Assistant> Bad.",
        '{"question": "Bad?", "answer": "Bad."}',
    ):
        parsed = parse_free_form(form.format(draft) + render_rounds(FREE))
        assert (parsed.rounds, len(parsed.blocks)) == (FREE, len(FREE))
    assert faults(parse_free_form("<think>I draft\n" + render_rounds(FREE))) == ["no_rounds"]
