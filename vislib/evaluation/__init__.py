"""Stage 12: models on benchmarks, and whether their differences are real (VisCon-100K, section
5.2).
"""

from vislib.evaluation.questions import LOCAL, load_items
from vislib.evaluation.stage import arm_sizes, evaluate, wrong_answers

__all__ = ["LOCAL", "arm_sizes", "evaluate", "load_items", "wrong_answers"]
