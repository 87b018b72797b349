"""Stage 08: unique questions, and conversations in every data configuration (VisCon-100K, section
3.4).
"""

from vislib.merging.candidates import Inputs, candidates
from vislib.merging.conversations import configurations, conversation, shuffled
from vislib.merging.deduplication import unique
from vislib.merging.stage import merge_conversations, similar_questions

__all__ = [
    "Inputs",
    "candidates",
    "configurations",
    "conversation",
    "merge_conversations",
    "shuffled",
    "similar_questions",
    "unique",
]
