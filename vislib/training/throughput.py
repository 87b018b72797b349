"""How busy a training keeps its GPUs: model FLOPs utilisation (MFU).

MFU = FLOP/s that the training needs / dense bfloat16 peak of the devices, in bfloat16 training on
devices of `PEAKS`. What a token of the mix needs is counted on the passes of one whole step, by
torch's own counter: matrix products, convolutions and attention, forward and backward, on frozen
parts forward alone. What gradient checkpointing computes again is taken off: it is cost, not
progress, so that a slower recipe never looks busier. Padding and dummy images are counted as they
ran; kernels that torch does not know (FlashAttention's own package) are not.
"""

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from torch.utils.flop_counter import FlopCounterMode

# FLOP/s, bfloat16, dense, by a pattern of CUDA's device name; the first that fits counts.
PEAKS: tuple[tuple[str, float], ...] = (
    (r"\bH200 NVL\b", 835.5e12),  # NVIDIA H200 datasheet: 1,671 TFLOPS with sparsity
    (r"\bH200\b", 989.5e12),  # the same: 1,979 with sparsity (SXM)
    (r"\bH100 PCIe\b", 756e12),  # NVIDIA H100 datasheet: 1,513 with sparsity
    (r"\bH100 NVL\b", 835.5e12),  # the same: 1,671
    (r"\bH100 80GB HBM3\b", 989.5e12),  # the same: 1,979 (SXM)
    (r"\bA100\b", 312e12),  # NVIDIA A100 datasheet, SXM and PCIe
    (r"\bL40S\b", 362.05e12),  # NVIDIA L40S datasheet
    (r"\bRTX 4090$", 165.2e12),  # NVIDIA Ada architecture whitepaper, with float32 accumulation
)


def peak_flops(device: str, precision: str) -> float | None:
    """FLOP/s that a device of that CUDA name can reach; None if it is not known, or training is not
    in bfloat16.
    """
    found = next((peak for pattern, peak in PEAKS if re.search(pattern, device)), None)
    return found if precision == "bfloat16" else None


class FlopMeter:
    """FLOPs of the passes that run in `counting`, without those that are computed again."""

    flops = 0.0
    _again: list[FlopCounterMode] | None = None  # what was computed again, while a pass is counted

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Add what runs meanwhile, forward and backward."""
        FlopMeter._again = []
        try:
            with FlopCounterMode(display=False) as counter:
                yield
            again = sum(repeated.get_total_flops() for repeated in FlopMeter._again)
            self.flops += counter.get_total_flops() - again
        finally:
            FlopMeter._again = None

    @staticmethod
    def contexts() -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
        """Contexts of a layer's forward and of computing it again, as `torch.utils.checkpoint` asks
        for them.
        """
        if FlopMeter._again is None:
            return nullcontext(), nullcontext()
        repeated = FlopCounterMode(display=False)
        FlopMeter._again.append(repeated)
        return nullcontext(), repeated
