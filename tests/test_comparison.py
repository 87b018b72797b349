"""Pairs, the page that shows them, and votes, as notebook 40 calls them; in a browser:
campaigns/test_voting.py.
"""

import base64
import io
import json
import re
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from vislib.figures import comparison
from vislib.runs import InputError, start_run, tables
from vislib.runs.contract import CAPTIONS, IMAGES, QUESTIONS, SAMPLES
from vislib.runs.tables import TableWriter

# samples: 0 fails on the left, 1 on the right, 2 on both, 3 is not on the right, 4 has no picture
N = 20
SIDE = {True: "left", False: "right"}  # whether the text is the left model's -> where it stands
HOSTILE = (
    '</script><script>window.evil = 1</script><img src=x onerror="window.evil = 1"> \u2028 “ok”'
    " {{data}}"
)


@pytest.fixture(autouse=True)
def _environment(monkeypatch, tmp_path):
    monkeypatch.setenv("VISLIB_RUNS", str(tmp_path / "runs"))


def write(path, schema, rows):
    with_all = dict.fromkeys(schema.names)
    writer = TableWriter(path, schema, rows_per_part=7)
    for row in rows:
        writer.write(with_all | row)
    writer.close()
    return str(path)


def captions(path, model, failed=(), lacking=(), text="{i} says {model}"):
    return write(
        path,
        CAPTIONS,
        (
            {
                "sample_id": f"s{i:02d}",
                "kind": "contextual",
                "model": f"model-{model}",
                "request_sha": f"sha{model}{i}",
                "caption": (
                    ""
                    if i in failed
                    else text.format(i=i, model={"one": "this", "two": "that"}[model])
                ),
                "status": "failed" if i in failed else "ok",
                "reason": "length" if i in failed else "",
                "tokens_in": 10,
                "tokens_out": 5,
            }
            for i in range(N)
            if i not in lacking
        ),
    )


@pytest.fixture
def inputs(tmp_path):
    for i in range(N):
        file = tmp_path / f"data/files/{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (1200, 300), (i * 10, 0, 90)).save(file)
    context = "Before <another-image> and <image> after. " + HOSTILE
    return {
        "left": captions(tmp_path / "data/left", "one", failed=(0, 2)),
        "right": captions(tmp_path / "data/right", "two", failed=(1, 2), lacking=(3,)),
        "right_kind": "contextual",
        "questions": "",
        "samples": write(
            tmp_path / "data/samples",
            SAMPLES,
            (
                {
                    "sample_id": f"s{i:02d}",
                    "image_url": f"u{i}",
                    "page_url": f"http://x.org/{i}",
                    "context": context,
                    "alt_text": HOSTILE if i % 2 else None,
                }
                for i in range(N)
            ),
        ),
        "images": write(
            tmp_path / "data/images",
            IMAGES,
            (
                {
                    "image_url": f"u{i}",
                    "status": "failed" if i == 4 else "ok",
                    "path": None if i == 4 else f"files/{i}.png",
                }
                for i in range(N)
            ),
        ),
    }


def compare(inputs, **parameters):
    run = start_run("40_comparison", {"count": 100, **inputs, **parameters})
    sides = comparison.read_sides(run)
    pairs = comparison.write_pairs(run, sides)
    counts = run.counts()["sample"]
    run.finish()
    return run, sides, pairs, counts


def page_data(run):
    source = (run.data / "page.html").read_text(encoding="utf-8")
    return source, json.loads(
        re.search(r'<script id="data" type="application/json">(.*?)</script>', source, re.S)[1]
    )


def rows(run, table):
    return list(tables.read_rows(run.data / table))


def save_votes(path, run, choice=lambda pair: "left", remark=lambda pair: ""):
    """A file as the page saves it, with one vote on every pair."""
    data = page_data(run)[1]
    votes = [{"pair_id": p["id"], "choice": choice(p), "remark": remark(p)} for p in data["pairs"]]
    path.write_text(json.dumps({"format": "vislib votes 1", "page": data["page"], "votes": votes}))
    return str(path)


def test_every_sample_of_either_side_is_shown_or_explained(inputs):
    run, sides, pairs, counts = compare(inputs)
    assert counts == {
        "taken": N,
        "kept": N - 4,
        "dropped": {"left_lost": 1, "right_lost": 2, "both_lost": 1},
    }
    dropped = {row["id"]: row["detail"] for row in rows(run, "dropped")}
    assert dropped["s00"] == "left: length"
    assert dropped["s03"] == "right: not there"
    assert dropped["s02"] == "left: length, right: length"
    shown = rows(run, "pairs")
    assert {row["sample_id"] for row in shown} == {f"s{i:02d}" for i in range(4, N)}
    assert [row["position"] for row in shown] == list(range(1, len(pairs) + 1))
    assert [row["sample_id"] for row in shown] != sorted(row["sample_id"] for row in shown)
    assert all(row["left_model"] == "model-one" and row["right"].endswith("that") for row in shown)
    known = comparison.side_table(sides)
    assert list(sides) == ["model-one", "model-two"]
    assert known.loc["usable"].tolist() == [18, 17]
    assert known.loc["lost: length"].tolist() == [2, 2]
    assert known.loc["words"].tolist() == [3, 3]


def test_the_page_tells_nothing_of_the_sides_and_swaps_half_of_them(inputs):
    run, sides, _, _ = compare(inputs)
    source, data = page_data(run)
    for word in (
        "model-",
        "contextual",
        "shaone",
        "shatwo",
        "shown_left",
        *sides,
        "captioning",
        str(run.stage.run),
    ):
        assert word not in source, word
    key = {row["pair_id"]: row for row in rows(run, "pairs")}
    for pair in data["pairs"]:
        row = key[pair["id"]]
        assert (
            pair["texts"]
            == [row["left"], row["right"]][:: 1 if row["shown_left"] == "left" else -1]
        )
    assert [row["shown_left"] for row in key.values()].count("right") == len(key) / 2
    other = compare(inputs, seed=1)[0]
    assert {r["sample_id"]: r["shown_left"] for r in rows(other, "pairs")} != {
        r["sample_id"]: r["shown_left"] for r in key.values()
    }
    assert page_data(other)[1]["page"] != data["page"]


def test_the_page_stands_alone(inputs):
    run, _, _, _ = compare(inputs, image_side=100)
    source, data = page_data(run)
    assert source.count("<script") == 2  # no text has opened one
    assert not re.findall(
        r"""(?:src|href)\s*=\s*["']?(?!data:)[\w/.]""",
        re.sub(r"<script.*?</script>", "", source, flags=re.S),
    )
    assert "default-src 'none'" in source
    by_url = {pair["url"]: pair for pair in data["pairs"]}
    assert by_url["http://x.org/4"]["image"] == ""
    kind, image = by_url["http://x.org/5"]["image"].split(",")
    assert kind == "data:image/png;base64"
    assert Image.open(io.BytesIO(base64.b64decode(image))).size == (100, 25)
    assert by_url["http://x.org/5"]["context"] == [
        "Before [another picture] and ",
        " after. " + HOSTILE,
    ]
    assert by_url["http://x.org/5"]["alt"] == HOSTILE


def test_votes_are_unblinded_and_change_no_page(inputs, tmp_path):
    run, _, _, _ = compare(inputs)
    page = (run.data / "page.html").read_bytes()
    file = save_votes(
        tmp_path / "votes.json",
        run,
        lambda p: "tie" if p["url"].endswith("/7") else SIDE[p["texts"][0].endswith("this")],
        lambda p: "names the place" if p["url"].endswith("/9") else "",
    )
    run, _, _, _ = compare(inputs, votes=file)
    votes = pd.read_parquet(run.data / "votes")
    assert (run.data / "page.html").read_bytes() == page
    assert votes["choice"].value_counts().to_dict() == {"left": N - 5, "tie": 1}
    assert votes.loc[votes["remark"] != "", ["sample_id", "remark"]].to_numpy().tolist() == [
        ["s09", "names the place"]
    ]
    assert comparison.tally(votes)["left_share"] == 1.0


@pytest.mark.parametrize("wrong", ["seed", "pair", "choice", "json", "list"])
def test_a_file_of_other_votes_is_refused(inputs, tmp_path, wrong):
    run, _, _, _ = compare(inputs)
    file = Path(save_votes(tmp_path / "votes.json", run))
    saved = json.loads(file.read_text())
    if wrong == "pair":
        saved["votes"][0]["pair_id"] = "0" * 16
    if wrong == "choice":
        saved["votes"][0]["choice"] = "model-one"
    file.write_text({"json": "{", "list": "[]"}.get(wrong, json.dumps(saved)))
    with pytest.raises(InputError, match=r"votes\.json: "):
        compare(inputs, votes=str(file), seed=int(wrong == "seed"))


def test_sides_that_cannot_be_compared(inputs, tmp_path):
    with pytest.raises(InputError, match="two kinds of one table"):
        compare({**inputs, "right": inputs["left"]})
    with pytest.raises(InputError, match="no text of kind 'fused'; it has contextual"):
        compare({**inputs, "right_kind": "fused"})
    with pytest.raises(InputError, match="usable text on both sides"):
        compare({**inputs, "right": captions(tmp_path / "data/none", "two", failed=range(N))})


def test_labels_say_what_tells_the_sides_apart(inputs, tmp_path):
    left = tmp_path / "runs/sample/06_captioning/data/captions"
    captions(left, "one")
    captions(left.parents[2] / "06_captioning.short/data/captions", "one")
    sides = compare(
        {**inputs, "left": "06_captioning/captions", "right": "06_captioning.short/captions"}
    )[1]
    assert list(sides) == ["06_captioning", "06_captioning.short"]


def questions(path, good):
    return write(
        path,
        QUESTIONS,
        (
            {
                "sample_id": f"s{i:02d}",
                "kind": "contextual",
                "question": f"What is {n}?",
                "answer": "B" if n else "Text.",
                "options": ["one", "two"] if n else [],
                "status": "ok" if good(i, n) else "dropped",
                "model": path.name,
                "reason": "" if good(i, n) else "options_repeat",
            }
            for i in range(6)
            for n in range(2)
        ),
    )


def test_questions_as_a_reader_sees_them(inputs, tmp_path):
    left = questions(tmp_path / "a", lambda i, n: i > 0)
    right = questions(tmp_path / "b", lambda i, n: n == 0)
    _, sides, pairs, counts = compare({**inputs, "left": left, "right": right})
    assert counts["dropped"] == {"left_lost": 1}
    texts = {p["pair_id"]: list(p["texts"])[:: -1 if p["swapped"] else 1] for p in pairs}
    assert texts[pairs[0]["pair_id"]] == [
        "What is 0?\n→ Text.\n\nWhat is 1?\nA. one\nB. two\n→ B",
        "What is 0?\n→ Text.",
    ]
    assert comparison.side_table(sides).loc["rounds set aside"].tolist() == [0, 1]
    with pytest.raises(InputError, match="two of questions"):
        compare({**inputs, "right": right})


def test_the_caption_that_answers_more_questions_is_known_by_question(inputs, tmp_path):
    """Text "{i} says this" on the left and "{i} says that" on the right."""
    asked = {"status": "ok", "question": "What does 5 say?", "answer": "A", "kind": "contextual"}
    rows = [
        asked | {"sample_id": f"s{i:02d}", "options": options, "question_id": f"{i}{options[0]}"}
        for i in range(N)
        for options in (
            ["lorem ipsum", "dolor", "amet", "elit"],
            ["dolor", "lorem", "amet", "elit"],
        )
    ]
    rows += [asked | {"sample_id": "s05", "options": []}]  # free form
    rows += [asked | {"sample_id": "s05", "options": ["a", "b", "c", "d"], "status": "dropped"}]
    inputs["left"] = captions(tmp_path / "data/third", "one", failed=(0, 2), text="It says lorem.")
    inputs["right"] = captions(tmp_path / "data/fourth", "two", failed=(1,), text="It says dolor.")
    questions = write(tmp_path / "data/questions", QUESTIONS, rows)
    run = start_run("40_comparison", inputs | {"questions": questions})
    sides = comparison.read_sides(run)
    answers = comparison.answered(run, sides)
    run.close()
    assert len(answers) == 2 * 17  # of samples that are usable on both sides
    assert answers["left"].sum() == answers["right"].sum() == 17
    found = comparison.utility(answers)
    assert (found["left_answers"], found["difference"], found["mcnemar_p"]) == (0.5, 0, 1)
    better = answers.assign(left=True)
    found = comparison.utility(better)
    assert found["difference"] == pytest.approx(0.5)
    assert found["mcnemar_p"] == pytest.approx(2 * 0.5**17)
    assert found["difference_from"] <= 0.5 <= found["difference_to"]
    assert comparison.utility(answers.head(0)) == {}
