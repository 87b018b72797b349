"""Stage 11: image and web context (and priors) -> caption, trained on the captions of a set
(VisCon-100K, section 5.6).

That is how VisCon-1M and the larger part of DenseFusion-1M came about: the captioner takes the
place of the model that wrote the first 100 K captions. What is trained here is an engine for stage
06 (`engines.own_server`).
"""

from vislib.captioner.stage import REASONS, SYSTEMS, Plan, examples, learnt, train_captioner

__all__ = ["REASONS", "SYSTEMS", "Plan", "examples", "learnt", "train_captioner"]
