"""How far a text answers a question, on questions whose answer is plain, and on the labelled ones'
kinds of fault.
"""

import pytest

from vislib.answering import evidence

CAPTION = (
    "A red rocket stands on a pad at dusk. The tower is 41 metres high; its roof has yellow tiles."
)


def asked(question: str, answer: str, *options: str) -> dict:
    return {"question": question, "answer": answer, "options": list(options)}


@pytest.mark.parametrize(
    "question",
    [
        asked("What colour is the rocket?", "B", "Blue", "Red", "Green", "White"),
        asked("How high is the tower?", "A", "41 metres", "20 metres", "11 metres", "52 metres"),
        # both stand in one sentence: the nearer one is meant
        asked("What has yellow tiles?", "D", "The pad", "The tower", "The rocket", "The roof"),
    ],
)
def test_the_right_option_is_favoured_and_a_wrong_one_would_not_be(question):
    assert evidence(question, CAPTION) > 0.05
    for wrong in set("ABCD") - {question["answer"]}:
        assert evidence(question | {"answer": wrong}, CAPTION) < 0
    assert evidence(question, "A plate of soup on a table.") == 0
    assert evidence(question, "") == 0


def test_a_free_answer_needs_its_words_beside_one_of_the_question():
    question = asked("What do the tiles on the roof look like?", "They are yellow.")
    assert evidence(question, CAPTION) == 1
    assert evidence(question, "A yellow boat on a lake.") == 0
    assert evidence(question | {"answer": "Green, and broken."}, CAPTION) == 0
    # in two sentences, of which the text holds one
    half = question | {"answer": "Yellow. They came from China."}
    assert 0 < evidence(half, CAPTION) < 0.5


def test_words_alone_know_no_other_language_and_no_paraphrase():
    question = asked("What colour is the rocket?", "A", "Red", "Blue", "Green", "White")
    assert evidence(question, "Eine rote Rakete steht am Abend bereit.") == 0
    assert evidence(question, "The launcher is crimson.") == 0
