"""Words of claims held against texts, and the embedding that brings paraphrases near."""

import pytest

from vislib.evidence import Evidence, similarities, specifics
from vislib.media.embeddings import INSTALLED

PAGE = "The lightship was built in 1908.\n\n<image>\n\nShe has two masts. Tickets cost 6,000 yen."


def test_a_claim_is_held_against_the_whole_text_and_its_nearest_sentence():
    page = Evidence.of([PAGE])
    found = page.support("The lightship has masts and was built for tickets.")
    # four of four stems on the page, two of them in one sentence
    assert (found.score, found.text) == (0.75, "The lightship was built in 1908.")
    assert page.support("A dog sleeps.") == page.support("") == (0.0, "")
    assert Evidence.of([]).support("The ship.") == (0.0, "")
    assert "image" not in page.words  # the mark of a place is no word of the page


@pytest.mark.parametrize(
    ("claim", "lacking"),
    [
        ("It has two masts.", set()),
        ("It has 2 masts.", set()),
        ("It has seven masts.", {"7"}),
        ("Tickets cost 6000 yen.", set()),
        ("It is a red-hulled ship.", {"red"}),
        ("It was built in Hamburg in 1908.", {"hamburg"}),
        ("Nobody knows.", set()),  # a capital at the beginning names nobody
    ],
)
def test_names_numbers_and_colours_that_a_text_lacks(claim, lacking):
    assert specifics(claim) - Evidence.of([PAGE]).words == lacking


def test_colours_that_were_measured_are_known():
    assert specifics("A red hull.") <= Evidence.of([PAGE], known=["red"]).words


def test_a_paraphrase_is_nearer_than_another_fact_and_nothing_is_near_an_empty_text():
    near, far, nothing = similarities(
        INSTALLED, "A vessel floats.", ["A boat is on the water.", "Prices rose in May.", ""]
    )
    assert near > far
    assert nothing < 0.3
