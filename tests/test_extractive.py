"""The embedded engine: questions that hold, and the same answers in any order."""

import random
import re
from collections import Counter

from tests import extractive_ground as shared
from tests.extractive_ground import TASKS, answered, sample_of
from vislib.engines import Request
from vislib.engines.extractive import nearest_sentences
from vislib.qa_format import Parsed

parsed, requests = shared.parsed, shared.requests


def test_the_format_parses_without_a_drop(parsed: dict[tuple[str, str, str], Parsed]) -> None:
    assert len(parsed) == 240
    blocks = [block for found in parsed.values() for block in found.blocks]
    assert len(blocks) > 700
    assert [block for block in blocks if block.reason] == []


def test_most_samples_have_three_rounds_or_more(parsed: dict[tuple[str, str, str], Parsed]) -> None:
    for kind, least in (("contextual", 0.95), ("non_contextual", 0.6)):
        for task in TASKS:
            counts = [len(found.rounds) for key, found in parsed.items() if key[1:] == (kind, task)]
            assert sum(count >= 3 for count in counts) >= least * len(counts), (
                kind,
                task,
                Counter(counts),
            )


def test_no_question_twice_in_one_sample(parsed: dict[tuple[str, str, str], Parsed]) -> None:
    for sample_id, kind, _ in parsed:
        questions = [r.question for task in TASKS for r in parsed[sample_id, kind, task].rounds]
        assert len(questions) == len(set(questions))


def test_wrong_options_of_a_gap_are_not_in_its_sentence(
    parsed: dict[tuple[str, str, str], Parsed],
) -> None:
    gaps = [
        r for found in parsed.values() for r in found.rounds if r.options and "____" in r.question
    ]
    assert len(gaps) > 60
    for gap in gaps:
        right = gap.options["ABCD".index(gap.answer)]
        assert len(set(gap.options)) == 4
        assert not [
            option for option in gap.options if option != right and f" {option} " in gap.question
        ], gap


def test_a_gap_is_filled_by_the_page_s_own_word(parsed: dict[tuple[str, str, str], Parsed]) -> None:
    for number in range(60):
        context = sample_of(number)["context"]
        for round_ in parsed[f"s{number:03d}", "contextual", "multiple_choice"].rounds:
            if "____" in round_.question:
                whole = round_.question.replace("____", round_.options["ABCD".index(round_.answer)])
                assert re.search(r"“(.+?)”", whole)[1] in context  # type: ignore[index]


def test_sentences_near_the_picture_come_first_and_code_never() -> None:
    context = (
        "The old harbour lies far to the north of it. The mole was built of granite"
        " blocks.\n\n<image>\n\nThe lighthouse was lit in 1871 by two keepers. Run `make all` and"
        " open http://x/ then.\n\n灯台は一八七一年に二人の灯台守によって初めて点灯されました。"
        "今も港の入り口に立っています。とても古い建物なので訪れる人が多い。"
    )
    assert nearest_sentences(context)[:3] == (
        "The lighthouse was lit in 1871 by two keepers.",
        "The mole was built of granite blocks.",
        "灯台は一八七一年に二人の灯台守によって初めて点灯されました。",
    )
    assert not [text for text in nearest_sentences(context) if "make" in text]


def test_the_right_letter_is_spread(parsed: dict[tuple[str, str, str], Parsed]) -> None:
    letters = Counter(
        r.answer
        for key, found in parsed.items()
        if key[2] == "multiple_choice"
        for r in found.rounds
    )
    assert set(letters) == set("ABCD")
    assert min(letters.values()) > 0.6 * letters.total() / 4


def test_answers_do_not_depend_on_order_or_on_what_is_asked(requests: list[Request]) -> None:
    mixed = random.Random(7).sample(requests, len(requests))
    straight, shuffled = answered(requests), answered(mixed)
    assert straight == shuffled
    some = answered(mixed, mixed[:9])
    assert some == {key: straight[key] for key in some}
    assert len(some) == 9
