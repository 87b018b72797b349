"""`vislib.evaluation.parsing`: yes and no, options off a prompt."""

import pytest

from vislib.evaluation.parsing import lenient_letter, lenient_yes_no, result_row
from vislib.qa_options import options_in


@pytest.mark.parametrize(
    ("answer", "strict", "lenient"),
    [
        ("Yes", "yes", "yes"),
        ("no.", "no", "no"),
        ("No, there is no dog.", "", "no"),
        ("There is no dog, yes?", "", ""),
        ("I see: yes", "", "yes"),
        ("nothing", "", ""),
        ("Yesterday", "", ""),
        ("", "", ""),
        ("yes or no", "", ""),
    ],
)
def test_yes_and_no_are_read(answer, strict, lenient):
    assert lenient_yes_no(answer) == lenient
    for right in ("yes", "no"):
        row = result_row("1", answer, right, "yes_no", read=lenient_letter)
        assert row["strictly_correct"] == (strict == right)
        assert (row["parsed"], row["lenient"]) == (bool(lenient), float(lenient == right))


def test_options_are_read_off_a_prompt():
    prompt = (
        "Context:\nA. Miller wrote it.\nWhich?\nA. one\nB. two. B. or not\nC. three\nAnswer with"
        " the letter."
    )
    assert options_in(prompt) == ["one", "two. B. or not", "three"]
    assert options_in("Describe the picture.\nA. Miller took it.") == []
