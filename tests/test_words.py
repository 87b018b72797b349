"""`vislib.media.words`: what a word is, and that everything counts by it."""

import pytest

from vislib.evaluation.parsing import lenient_letter, result_row
from vislib.figures import comparison, language, statistics
from vislib.media.words import count_words, words


def test_words_are_lower_case_with_apostrophes_inside() -> None:
    assert words("It’s the Smiths' 3rd_boat, (2024)!") == [
        "it's",
        "the",
        "smiths",
        "3rd",
        "boat",
        "2024",
    ]


def test_words_cut_between_scripts() -> None:
    assert words("Debianの設定ファイル.") == ["debian", "の設定ファイル"]


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0),
        ("— … !", 0),
        ("Two words.", 2),
        ("2,228.5 m in 1985, 3.", 5),
        ("A well-kept garden – it's old.", 6),
        ("红色的 cup", 4),
        ("設定ファイル", 6),
        ("हिन्दी में", 2),  # vowel signs are no breaks
        ("cafe\u0301 noir", 2),
        ("한국어 문장", 2),
        ("น้ำ", 2),  # two letters with two signs, one of them a letter of its own in Unicode
    ],
)
def test_words_are_counted_in_every_script(text: str, count: int) -> None:
    assert count_words(text) == count


def test_captions_answers_and_predictions_are_counted_alike() -> None:
    text = "A well-kept garden – it's old. 红色"
    talk = {
        "sample_id": "s",
        "sources": ["caption"],
        "conversations": [{"value": "?"}, {"value": text}],
    }
    assert language.caption_lengths(text)[1] == 8
    assert statistics.answers([talk])["n_words"].tolist() == [8]
    assert result_row("s", text, "", "text", read=lenient_letter)["words"] == 8
    assert comparison.count_words is count_words
