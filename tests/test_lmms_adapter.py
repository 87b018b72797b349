"""`vislib.evaluation.parsing` and `benchmarks`: what lmms-eval 0.7.3 logs becomes one table.

`lmms_logs/` holds logs that the harness wrote of its own tasks, on the questions and answers of
`campaigns/lmms_logs.py`, and its scores of single items; a campaign writes all again and compares.
"""

import json
import math
import random
from pathlib import Path

import pytest

from vislib.evaluation import parsing
from vislib.evaluation.lmms import check
from vislib.evaluation.parsing import lenient_letter
from vislib.runs import InputError
from vislib.runs.contract import RESULTS

LOGS = Path(__file__).with_name("lmms_logs")
SCORES = json.loads((LOGS / "scores.json").read_text())
ITEM_SCORES = json.loads((LOGS / "item_scores.json").read_text())
COLUMNS = {*RESULTS.names} - {"model", "arm", "seed"}


def log(task: str) -> list[dict]:
    return [json.loads(line) for line in (LOGS / f"{task}.jsonl").read_text().split("\n") if line]


def read_log(task: str, samples: list[dict], scores: list | None = None, **pictures: str) -> list:
    """The rows of a log, with the harness's scores of its items."""
    scores = ITEM_SCORES[task] if scores is None else scores
    return list(parsing.read_log(task, samples, scores, pictures=pictures, read=lenient_letter))


def read(task: str, *columns: str) -> list[tuple]:
    return [
        tuple(row[name] for name in columns)
        for row in read_log(task, log(task))
        if "reason" not in row
    ]


def test_every_task_of_the_papers_has_a_log_and_every_row_the_contracts_columns():
    tasks = sorted(path.stem for path in LOGS.glob("*.jsonl"))
    assert len(tasks) == len(SCORES) == 12
    for task in tasks:
        rows = read_log(task, log(task))
        assert all(row.keys() == COLUMNS for row in rows if "reason" not in row), task
        assert len({(row["benchmark"], row["sample_id"]) for row in rows}) == len(rows)
        assert all(row["prediction"] for row in rows if "reason" not in row)


VERDICT = ("prediction", "answer", "correct", "strictly_correct", "parsed", "question_type")
# `correct` is the harness's; a letter that our reading finds, or misses, stands in `parsed` and
# `lenient`
CHOICES = {
    "seedbench": [
        ("B", "B", True, True, True, "image"),
        ("The answer is A.", "A", False, False, True, "image"),  # the harness reads T
        ("A. It is red", "C", False, False, True, "video"),
        ("But it is red", "B", True, False, True, "image"),  # and B here, where we read A: red
    ],
    "mmbench_en_dev_static": [
        ("B / (C) / I choose A", "B / C / A", True, False, True, "attribute"),
        ("The sky is blue. / B", "C / A", False, False, True, "relation"),  # one rotation of two
        (
            "Red is what I see / The best option is C, not B",
            "A / C",
            False,
            False,
            True,
            "relation",
        ),
    ],
    "ai2d": [  # what the model said, not what a filter left of it
        ("B. stem", "B", True, False, True, "multiple_choice"),
        ("The leaf", "C", False, False, True, "multiple_choice"),
    ],
    "scienceqa_img": [
        ("B.", "B", True, True, True, "multiple_choice"),
        ("The answer is B", "B", False, False, True, "multiple_choice"),
    ],
    "mmmu_val": [
        (
            "Hard to tell",
            "B",
            True,
            False,
            False,
            "multiple_choice",
        ),  # the harness guesses, here rightly
        ("The answer is 1200.5", "1,200.50", True, True, None, "open"),
        ("So it is the key of d minor", "D", True, True, None, "open"),
    ],
    "pope": [
        ("Yes", "yes", True, True, True, ""),
        ("No, there is none", "no", False, False, True, ""),
    ],
    "gqa": [("Red.", "red", True, True, None, ""), ("blue", "red", False, False, None, "")],
}


@pytest.mark.parametrize("task", CHOICES)
def test_the_verdict_is_the_harnesses_and_our_reading_stands_beside_it(task):
    assert read(task, *VERDICT) == CHOICES[task]
    assert {points for (points,) in read(task, "points")} == {None}


@pytest.mark.parametrize(
    ("task", "points"), [("vqav2_val", [1, 0.6]), ("textvqa_val", [1, 0.6]), ("mmvet", [0.5, 1.0])]
)
def test_graded_answers_have_points_and_no_verdict(task, points):
    assert read(task, "points", "correct", "parsed") == [(value, None, None) for value in points]


def test_points_of_llava_bench_have_the_benchmarks_score_as_their_mean():
    rows = read_log("llava_in_the_wild", log("llava_in_the_wild"))
    points = [row["points"] for row in rows[:2]]
    assert points == pytest.approx([6 / 8.5, 9 / 8.5])  # the reference answers got 8 and 9
    assert sum(points) / 2 == pytest.approx((6 + 9) / (8 + 9))  # what the harness reports
    assert [row["question_type"] for row in rows[:2]] == ["conv", "detail"]
    assert rows[2] == {
        "benchmark": "llava_in_the_wild",
        "sample_id": "2",
        "reason": "no_judgement",
        "detail": "I cannot say.",
    }


@pytest.mark.parametrize("task", SCORES)
def test_same_items_give_the_harnesses_own_score(task):
    rows, found = read_log(task, log(task)), SCORES[task]
    check(task, rows, found)
    if any("reason" in row for row in rows):
        return  # the harness counts a missing judgement as -1
    other = {name: 1.02 * value for name, value in found.items() if isinstance(value, float)}
    with pytest.raises(InputError, match=f"lmms-eval reports .* of {task}"):
        check(task, rows, other)


def rotated(questions: int, rights: list[list[bool]]) -> list[dict]:
    """A log of MMBench: each question four times, its options shifted."""
    samples = []
    for turn in range(4):
        for index in range(questions):
            words = ["one", "two", "three", "four"]
            options = dict(zip("ABCD", words[turn:] + words[:turn], strict=True))
            right = next(letter for letter, word in options.items() if word == "two")
            said = right if rights[index][turn] else "ABCD"[("ABCD".index(right) + 1) % 4]
            record = {
                **options,
                "index": index + turn * 1_000_000,
                "answer": right,
                "prediction": said,
                "L2-category": "x",
            }
            listed = "\n".join(f"{letter}. {word}" for letter, word in options.items())
            samples.append(
                {
                    "doc_id": len(samples),
                    "filtered_resps": said,
                    "gpt_eval_score": record,
                    "target": right,
                    "input": f"Which?\n{listed}\nAnswer with the letter.",
                }
            )
    return samples


def test_a_question_of_mmbench_counts_once_and_only_if_all_its_rotations_are_right():
    rng = random.Random(0)
    rights = [[rng.random() < 0.8 for _ in range(4)] for _ in range(250)]
    # As the harness's own aggregation gives them; a campaign holds it against such a log.
    scores = [100.0 * all(right) for right in rights]
    pictures = {str(n): f"picture {n // 2}" for n in range(1000)}
    rows = read_log("mmbench_en_dev_static", rotated(250, rights), scores, **pictures)
    assert [row["sample_id"] for row in rows] == list(map(str, range(250)))
    assert [row["correct"] for row in rows] == [all(right) for right in rights]
    assert [row["lenient"] for row in rows] == [float(all(right)) for right in rights]
    assert rows[5]["cluster"] == "picture 2"
    assert (
        math.fsum(row["correct"] for row in rows) / 250 < 0.5 < 0.7 < sum(map(sum, rights)) / 1000
    )


def test_a_question_of_mmbench_with_a_lost_rotation_is_dropped_whole():
    samples = rotated(3, [[True] * 4] * 3)
    samples = [sample | {"token_counts": [{"output_tokens": 1}]} for sample in samples]
    samples[4] |= {"filtered_resps": "", "token_counts": [None]}  # a rotation of question 1
    del samples[2]  # question 2 itself
    rows = [
        (row["sample_id"], row.get("reason"))
        for row in read_log("mmbench_en_dev_static", samples, [100.0])
    ]
    assert rows == [("0", None), ("1", "generation_failed"), ("2", "unpaired")]


def test_questions_about_one_picture_share_a_cluster():
    pictures = {"0": "a picture", "1": "a picture"}
    assert {row["cluster"] for row in read_log("gqa", log("gqa"), **pictures)} == {"a picture"}


def test_a_judge_may_give_nothing():
    samples = log("llava_in_the_wild")[:2]
    samples[0]["gpt_eval_llava_all"]["scores"] = [8.0, 0.0]  # the harness: 0 and 100 %
    rows = read_log("llava_in_the_wild", samples, [0.0, 100.0])
    assert [row["points"] for row in rows] == pytest.approx([0, 9 / 8.5])


def test_an_answer_that_no_judge_scored_is_no_zero():
    sample = log("mmvet")[0]
    sample["gpt_eval_score"] |= {
        "eval_model": "",
        "score": 0.0,
    }  # what it logs when its judge cannot be reached
    (row,) = read_log("mmvet", [sample], [])
    assert row["reason"] == "no_judgement"


def test_points_of_mme_have_its_score_as_their_mean():
    rows = read("mme", "benchmark", "sample_id", "points", "answer", "question_type")
    perception = [row[2] for row in rows if row[0] == "mme"]
    # count: 200 and 50 points, 125 on average; color: 50; MME's score is their sum
    assert sum(perception) / len(perception) == pytest.approx(125 + 50)
    assert [row for row in rows if row[0] == "mme_cognition"] == [
        ("mme_cognition", "code_reasoning/1.png", 200.0, "Yes / No", "code_reasoning")
    ]
    half = read_log("mme", log("mme")[:3], ITEM_SCORES["mme"][:1])
    assert [row.get("reason") for row in half] == [None, "unpaired"]


def test_a_log_without_any_text_is_an_error_not_a_score_of_zero():
    silent = [sample | {"filtered_resps": ""} for sample in log("seedbench")]
    with pytest.raises(InputError, match="seedbench has 4 answers without any text"):
        read_log("seedbench", silent)


def test_an_answer_whose_generation_failed_is_dropped_and_an_empty_one_is_wrong():
    failed, empty, said = (dict(sample) for sample in log("seedbench")[:3])
    failed |= {"filtered_resps": "", "token_counts": [None]}  # the harness goes on after an error
    empty |= {"filtered_resps": "", "token_counts": [{"output_tokens": 1}]}
    said |= {"token_counts": [{"output_tokens": 5}]}
    rows = read_log("seedbench", [failed, empty, said], [0.0, 0.0])
    assert [(row["sample_id"], row.get("reason"), row.get("correct")) for row in rows] == [
        ("0", "generation_failed", None),
        ("1", None, False),
        ("2", None, False),
    ]


def test_a_log_of_another_form_is_an_error_that_names_it():
    sample = {"doc_id": 0, "filtered_resps": "a", "input": "Say a.", "target": "a", "bleu": 0.5}
    with pytest.raises(InputError, match=r"some_task logs .*bleu"):
        read_log("some_task", [sample], [])


def test_what_a_model_thought_before_its_answer_is_none():
    sample = next(sample for sample in log("seedbench") if sample["target"] in "ABCD")
    wrong = next(letter for letter in "ABCD" if letter != sample["target"])
    thought = {**sample, "resps": [[f"<think>The answer is {wrong}.</think>\n{sample['target']}"]]}
    (row,) = read_log("seedbench", [thought], [1.0])
    assert row["prediction"] == sample["target"]
