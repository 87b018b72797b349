"""Stage 08: unique questions, and conversations in every data configuration (VisCon-100K, section
3.4).
"""

from vislib.merging.candidates import Inputs, candidates
from vislib.merging.stage import merge_conversations, similar_questions

__all__ = ["Inputs", "candidates", "merge_conversations", "similar_questions"]
