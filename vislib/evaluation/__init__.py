"""Stage 12: models on benchmarks, and whether their differences are real (VisCon-100K, section
5.2).
"""

from vislib.evaluation.benchmarks import BENCHMARKS
from vislib.evaluation.contextual import load_questions
from vislib.evaluation.stage import (
    answer,
    compare,
    local_row,
    open_arms,
    replies,
    wrong_answers,
)

__all__ = [
    "BENCHMARKS",
    "answer",
    "compare",
    "load_questions",
    "local_row",
    "open_arms",
    "replies",
    "wrong_answers",
]
