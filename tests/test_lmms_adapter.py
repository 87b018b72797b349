"""`vislib.evaluation.logs`: what lmms-eval 0.7.3 logs becomes one table.

`lmms_logs/` holds logs that the harness wrote of its own tasks, on the questions and answers of
`campaigns/lmms_logs.py`, which a campaign writes again and compares.
"""

import json
from pathlib import Path

import pytest

from vislib.evaluation.logs import read_log
from vislib.runs import InputError
from vislib.runs.contract import RESULTS

LOGS = Path(__file__).with_name("lmms_logs")
COLUMNS = {*RESULTS.names} - {"model", "arm", "seed"}


def log(task: str) -> list[dict]:
    return [json.loads(line) for line in (LOGS / f"{task}.jsonl").read_text().split("\n") if line]


def read(task: str, *columns: str) -> list[tuple]:
    return [tuple(row[name] for name in columns) for row in read_log(task, log(task)) if "reason" not in row]


def test_every_task_of_the_papers_has_a_log_and_every_row_the_contracts_columns():
    tasks = sorted(path.stem for path in LOGS.glob("*.jsonl"))
    assert len(tasks) == 12
    for task in tasks:
        rows = list(read_log(task, log(task)))
        assert all(row.keys() == COLUMNS for row in rows if "reason" not in row), task
        assert len({(row["benchmark"], row["sample_id"]) for row in rows}) == len(rows)
        assert all(row["prediction"] for row in rows if "reason" not in row)


VERDICT = ("prediction", "answer", "correct", "strictly_correct", "parsed", "question_type")
CHOICES = {
    "seedbench": [
        ("B", "B", True, True, True, "image"),
        ("The answer is A.", "A", True, False, True, "image"),  # the harness reads T
        ("A. It is red", "C", False, False, True, "video"),
    ],
    "mmbench_en_dev_static": [
        ("B", "B", True, True, True, "attribute"),
        ("The sky is blue.", "C", True, False, True, "relation"),
    ],
    "ai2d": [  # what the model said, not what a filter left of it
        ("B. stem", "B", True, False, True, "multiple_choice"),
        ("The leaf", "C", True, False, True, "multiple_choice"),
    ],
    "scienceqa_img": [
        ("B.", "B", True, True, True, "multiple_choice"),
        ("The answer is B", "B", True, False, True, "multiple_choice"),
    ],
    "mmmu_val": [
        ("Hard to tell", "B", False, False, False, "multiple_choice"),  # the harness guesses, here rightly
        ("The answer is 1200.5", "1,200.50", True, True, None, "open"),
        ("So it is the key of d minor", "D", True, True, None, "open"),
    ],
    "pope": [("Yes", "yes", True, True, True, ""), ("No, there is none", "no", True, False, True, "")],
    "gqa": [("Red.", "red", True, True, None, ""), ("blue", "red", False, False, None, "")],
}


@pytest.mark.parametrize("task", CHOICES)
def test_verdicts_follow_our_rule(task):
    assert read(task, *VERDICT) == CHOICES[task]
    assert {points for (points,) in read(task, "points")} == {None}


@pytest.mark.parametrize(
    ("task", "points"), [("vqav2_val", [1, 0.6]), ("textvqa_val", [1, 0.6]), ("mmvet", [0.5, 1.0])]
)
def test_graded_answers_have_points_and_no_verdict(task, points):
    assert read(task, "points", "correct", "parsed") == [(value, None, None) for value in points]


def test_points_of_llava_bench_have_the_benchmarks_score_as_their_mean():
    rows = list(read_log("llava_in_the_wild", log("llava_in_the_wild")))
    points = [row["points"] for row in rows[:2]]
    assert points == pytest.approx([6 / 8.5, 9 / 8.5])  # the reference answers got 8 and 9
    assert sum(points) / 2 == pytest.approx((6 + 9) / (8 + 9))  # what the harness reports
    assert [row["question_type"] for row in rows[:2]] == ["conv", "detail"]
    assert rows[2] == {
        "benchmark": "llava_in_the_wild", "sample_id": "2", "reason": "no_judgement", "detail": "I cannot say.",
    }  # fmt: skip


def test_an_answer_that_no_judge_scored_is_no_zero():
    sample = log("mmvet")[0]
    sample["gpt_eval_score"] |= {"eval_model": "", "score": 0.0}  # what it logs when its judge cannot be reached
    (row,) = read_log("mmvet", [sample])
    assert row["reason"] == "no_judgement"


def test_points_of_mme_have_its_score_as_their_mean():
    rows = read("mme", "benchmark", "sample_id", "points", "answer", "question_type")
    perception = [row[2] for row in rows if row[0] == "mme"]
    # count: 200 and 50 points, 125 on average; color: 50; MME's score is their sum
    assert sum(perception) / len(perception) == pytest.approx(125 + 50)
    assert [row for row in rows if row[0] == "mme_cognition"] == [
        ("mme_cognition", "code_reasoning/1.png", 200.0, "Yes / No", "code_reasoning")
    ]
    half = list(read_log("mme", log("mme")[:3]))
    assert [row.get("reason") for row in half] == [None, "unpaired"]


def test_a_log_without_any_text_is_an_error_not_a_score_of_zero():
    silent = [sample | {"filtered_resps": ""} for sample in log("seedbench")]
    with pytest.raises(InputError, match="seedbench has 3 answers without any text"):
        list(read_log("seedbench", silent))


def test_an_answer_whose_generation_failed_is_dropped_and_an_empty_one_is_wrong():
    failed, empty, said = (dict(sample) for sample in log("seedbench"))
    failed |= {"filtered_resps": "", "token_counts": [None]}  # the harness goes on after an error
    empty |= {"filtered_resps": "", "token_counts": [{"output_tokens": 1}]}
    said |= {"token_counts": [{"output_tokens": 5}]}
    rows = list(read_log("seedbench", [failed, empty, said]))
    assert [(row["sample_id"], row.get("reason"), row.get("correct")) for row in rows] == [
        ("0", "generation_failed", None), ("1", None, False), ("2", None, False),
    ]  # fmt: skip


def test_a_log_of_another_form_is_an_error_that_names_it():
    sample = {"doc_id": 0, "filtered_resps": "a", "input": "Say a.", "target": "a", "bleu": 0.5}
    with pytest.raises(InputError, match=r"some_task logs .*bleu"):
        list(read_log("some_task", [sample]))
