"""How fast a training is, and how much memory it needs: tokens and samples per second, and model FLOPs utilisation.

MFU = FLOP/s that the training needs / dense bfloat16 peak of the devices, in bfloat16 training on devices of `PEAKS`.
FLOPs of a row, after Kaplan et al. 2020 (2 per weight and token forward, twice that backward):

    language             tokens x (6 N trained + 4 N frozen and passed by gradients + 2 N frozen before all that learns)
    vision, connector    the same with their own N, per patch of the row's images
    vocabulary           the same, per supervised token: logits of other tokens are not made
    attention            3 x 2 L^2 d per language layer (causal: half of the L x L products), and 4 P^2 d per vision
                         layer and image, thrice if vision learns

It leaves out padding, dummy images, norms, softmax, the optimiser and what gradient checkpointing computes again:
those are cost, not progress, so that a slower recipe never looks busier. A connector that resamples patches to fewer
tokens (IDEFICS2's perceiver) is counted per patch as a whole, which is slightly too much.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vislib.training.parts import NAMES, part_of
from vislib.training.settings import Settings

PEAKS: tuple[tuple[str, float], ...] = (  # FLOP/s, bfloat16, dense, by a pattern of CUDA's device name
    (r"\bH200 NVL\b", 835.5e12),  # NVIDIA H200 datasheet: 1,671 TFLOPS with sparsity
    (r"\bH200\b", 989.5e12),  # the same: 1,979 with sparsity (SXM)
    (r"\bH100 PCIe\b", 756e12),  # NVIDIA H100 datasheet: 1,513 with sparsity
    (r"\bH100 NVL\b", 835.5e12),  # the same: 1,671
    (r"\bH100 80GB HBM3\b", 989.5e12),  # the same: 1,979 (SXM)
    (r"\bA100\b", 312e12),  # NVIDIA A100 datasheet, SXM and PCIe
    (r"\bL40S\b", 362.05e12),  # NVIDIA L40S datasheet
    (r"\bRTX 4090$", 165.2e12),  # NVIDIA Ada architecture whitepaper, with float32 accumulation
)
_MARGIN = 1.1  # allocator, libraries, communication
Counts = npt.NDArray[Any]


def peak_flops(device: str, precision: str) -> float | None:
    """FLOP/s that a device of that CUDA name can reach; None if it is not known, or training is not in bfloat16."""
    found = next((peak for pattern, peak in PEAKS if re.search(pattern, device)), None)
    return found if precision == "bfloat16" else None


@dataclass(frozen=True)
class Cost:
    """FLOPs of a training step by what they grow with."""

    per_token: float
    per_supervised: float
    per_patch: float
    per_token_squared: float
    per_patch_squared: float
    patch: int  # px of its side

    @classmethod
    def of(cls, model: Any) -> "Cost":
        """The cost of training `model` as it is frozen and adapted now; models of other forms count as text alone."""
        head, embeddings = model.get_output_embeddings().weight, model.get_input_embeddings().weight
        factors = dict.fromkeys(NAMES, 0.0)
        order, learns, passes = list(NAMES), {"vision": False}, False
        named = sorted(model.named_parameters(), key=lambda item: order.index(part_of(item[0]) or "language"))
        for name, parameter in named:  # in the order of use
            part = part_of(name) or "language"
            passes |= parameter.requires_grad
            learns["vision"] |= parameter.requires_grad and part == "vision"
            if parameter is not head and parameter is not embeddings:
                factors[part] += size(parameter) * (6 if parameter.requires_grad else 4 if passes else 2)
        text, vision = model.config.get_text_config(), getattr(model.config, "vision_config", None)
        width, layers = (getattr(vision, name, 0) or 0 for name in ("hidden_size", "num_hidden_layers"))
        return cls(
            per_token=factors["language"], per_supervised=size(head) * (6 if head.requires_grad else 4),
            per_patch=factors["vision"] + factors["connector"],
            per_token_squared=6.0 * text.hidden_size * text.num_hidden_layers,
            per_patch_squared=4.0 * width * layers * (3 if learns["vision"] else 1),
            patch=getattr(vision, "patch_size", 0) or 0,
        )  # fmt: skip

    def flops(self, counts: Mapping[str, Counts]) -> float:
        """FLOPs of one step on rows of n_tokens, n_supervised, n_pixels and n_images, an entry a row.

        The images of a row count as of equal size.
        """
        tokens, patches = counts["n_tokens"].astype(float), counts["n_pixels"] / (self.patch**2 or np.inf)
        text = self.per_token * tokens + self.per_token_squared * tokens**2
        seen = self.per_patch * patches + self.per_patch_squared * patches**2 / np.maximum(counts["n_images"], 1)
        return float((text + seen + self.per_supervised * counts["n_supervised"]).sum())


def size(parameter: Any) -> int:
    """Numbers in a parameter, also where ZeRO-3 has dealt it out."""
    return int(getattr(parameter, "ds_numel", parameter.numel()))


def memory_needed(model: Any, settings: Settings, *, processes: int, tokens: int, supervised: int) -> int:
    """Bytes that one process needs at least: weights, gradients, Adam's moments, activations of a pass.

    A pass holds `tokens`, `supervised` ones among them; `processes` share what the strategy shares out. Float32
    weights have bfloat16 copies in bfloat16 training, and bfloat16 weights that learn have float32 ones, under ZeRO.
    Activations after Korthikanti et al. 2022: 34 x tokens x width bytes a layer in bfloat16, or 2 of these where they
    are computed again; logits and their gradients for supervised tokens. Vision's are not counted; a tenth is added.
    """
    every = [(size(p), p.element_size(), p.requires_grad) for p in model.parameters()]
    copies = 2 * (settings.precision == "bfloat16")
    weights = sum(n * (width + copies * (width == 4)) for n, width, _ in every)
    gradients = sum(n * width for n, width, learns in every if learns)
    moments = sum(n * (8 if width == 4 else 12) for n, width, learns in every if learns)
    shares = {"ddp": (1, 1), "zero2": (1, processes)}.get(settings.strategy, (processes, processes))
    text, width = model.config.get_text_config(), 4 - copies
    layers = text.num_hidden_layers + 17 if settings.gradient_checkpointing else 17 * text.num_hidden_layers
    activations = width * (tokens * text.hidden_size * layers + supervised * 2 * text.vocab_size)
    return int(_MARGIN * (weights / shares[0] + (gradients + moments) / shares[1] + activations))
