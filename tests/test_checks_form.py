"""Rules on a text's form: it repeats itself, stops in mid-sentence, or is in another language."""

import pytest

from tests.test_checks import GOOD, fault
from vislib.checks import Checks, foreign, loop, repetition, truncation

SENTENCE = "The picture shows a man in a white shirt who stands next to a wooden table. "


@pytest.mark.parametrize(
    "text",
    [
        GOOD + " " + SENTENCE * 4,
        SENTENCE * 3,
        GOOD + "\n\n" + GOOD,
        "It is a very " + "very " * 60 + "large dog.",
        "The sign reads: " + "!" * 2000,
        "The label says A" + "a" * 1500,
        "A list of colours: " + "red, blue, " * 30 + "red.",
        "".join(f"{i}. A man in a white shirt stands next to a wooden table.\n" for i in range(12)),
        "写真には岩の上に立つ赤い灯台が写っており、手前を二隻の帆船が通り過ぎていく。" * 4,
        "图中是一位穿着白色衬衫的男子站在木桌旁边，桌上放着许多水果和一只花瓶。" * 3,
        "ภาพแสดงประภาคารสีแดงบนโขดหินและเรือใบสองลำแล่นผ่าน" * 5,
        GOOD + " The flag is" + " red and white and" * 12,
    ],
)
def test_stuck_models_are_found(text: str) -> None:
    assert repetition(text)


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        "The sign reads “No, no, no!” and below it “NO ENTRY” in red letters.",
        "The dump on the screen begins with 00 00 00 00 00 00 00 00 and ends with ff.",
        (
            "Left of the tree stands a red car. Right of the tree stands a blue car. Behind the"
            " tree stands a green car."
        ),
        (
            "Row, row, row your boat, gently down the stream. Merrily, merrily, merrily, merrily,"
            " life is but a dream."
        ),
        (
            "A table with the columns Name, Age and Town: Ann, 31, Leeds; Bob, 32, Leeds; Cid, 33,"
            " Leeds; Dot, 34, Leeds."
        ),
        (
            "すもももももももものうち。東京都の東にある東京駅から東京タワーまで歩くと、"
            "東京の街並みがよく見える。"
        ),
    ],
)
def test_repeated_words_of_people_pass(text: str) -> None:
    assert repetition(text) == ""


FRAMES = (
    "There is a {} on the table. ",
    "In the background, a {} is parked near the building. ",
    "The man wears a {}. ",
)


THINGS = ("cup", "white plate", "knife", "fork", "large glass bowl", "spoon", "jug")


@pytest.mark.parametrize("frame", FRAMES)
def test_a_captioner_that_runs_dry_is_found(frame: str) -> None:
    looped = "".join(frame.format(thing) for thing in THINGS)
    assert fault(f"A table in a small room. {looped}") == "repetition"
    assert (
        fault(f"{GOOD} {GOOD[::-1]} {frame.format('cup')}{frame.format('knife')}") != "repetition"
    )
    assert loop("".join(frame.format(thing) for thing in THINGS[:4])) == ""


@pytest.mark.parametrize(
    "text",
    [
        "".join(
            f"The bar of the year {2010 + i} is blue and reaches a height of {i * 7}. "
            for i in range(9)
        ),
        (
            "Spain is red. France is blue. Italy is green. Malta is white. Norway is grey. Greece"
            " is pink. Chad is brown."
        ),
        "".join(f"- a {thing} on the table\n" for thing in THINGS),
        (
            "A cup stands on the table. Left of it lies a knife. The plate behind both is white. On"
            " the plate lies bread. A jug stands at the edge. Its handle points to the left. There"
            " is a window on the right. A cat sits in front."
        ),
    ],
)
def test_enumerations_of_people_are_no_loop(text: str) -> None:
    assert loop(text) == ""


@pytest.mark.parametrize(
    "text",
    [
        GOOD[: GOOD.index(" into the")],
        GOOD + " Behind the tower, a group of houses with red roofs and",
        GOOD
        + " Behind the tower, a group of houses with white walls climbs the hill towards the chur",
        "A large black dog runs along the beach with a",
        GOOD + " A flag flies from",
        "The chart has four bars. The names of the bars are the following:",
        "Left stands a bus, a tram,",
    ],
)
def test_cut_texts_are_found(text: str) -> None:
    assert truncation(text)


@pytest.mark.parametrize(
    "end",
    [
        "",
        " The sign reads “Open”",
        " (see the next page)",
        " It is called “And then…”",
        " **It is old.**",
        " Old?",
        " All of it stands at https://example.org/a/b_c",
        "\n\nPhoto: Jane Doe",
        " 灯台は赤い。",
        " ما اسم هذه؟",
        " ☀",
        (
            "\n1. First comes the keel of the ship\n- red\n- blue and a bit of green\n- the white"
            " of the sea"
        ),
        "\n\n4.2. The lamp room and the gallery of the tower",
    ],
)
def test_whole_texts_pass(end: str) -> None:
    assert truncation(GOOD + end) == ""


GERMAN = (
    "Das Bild zeigt einen roten Leuchtturm auf einem Felsen. Davor fahren zwei Segelboote, und der"
    " Himmel ist bewölkt. Die Tür des Turmes ist weiß gestrichen."
)


JAPANESE = "写真には岩の上に立つ赤い灯台が写っている。手前を二隻の帆船が通り過ぎ、空は曇っている。"


def test_the_language_is_the_pages_or_english() -> None:
    assert foreign(GERMAN, GOOD) == "de"
    assert foreign(JAPANESE, GOOD) == "ja"
    assert foreign(JAPANESE, "") == "ja"
    for page in (GERMAN, JAPANESE, GOOD, ""):
        assert foreign(GOOD, page) == ""
    assert foreign(GERMAN, f"{GOOD} {GERMAN}") == foreign(JAPANESE, f"{GOOD * 9} {JAPANESE}") == ""
    assert Checks(["language"], "de").fault(GOOD)[0] == "language"
    assert Checks(["language"], "de").fault(GERMAN) == ("", "")


@pytest.mark.parametrize(
    "text",
    [
        "Ein roter Turm.",
        "Homo sapiens, Pan troglodytes, Gorilla gorilla, Pongo pygmaeus, Hylobates lar.",
        f"A poster with the words “{GERMAN}”.",
        f"The sign shows 立入禁止, and below it one reads: {JAPANESE}",
        (
            "Kafka, Brod, Weltsch, Baum, Prague, Zürau, Meran, Klosterneuburg, Felice Bauer, Milena"
            " Jesenská."
        ),
        f"{GERMAN} {GOOD}",
        "x = np.zeros((3, 4)); print(x[0], sum(x), len(x), range(10))",
    ],
)
def test_short_mixed_and_doubtful_texts_pass(text: str) -> None:
    assert fault(text) == ""
