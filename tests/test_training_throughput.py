"""`vislib.training.throughput`: FLOPs and peaks, held against what was worked out
otherwise.
"""

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from vislib.training.throughput import FlopMeter, peak_flops


def test_what_is_computed_again_is_not_counted():
    layers = torch.nn.Linear(16, 16), torch.nn.Linear(16, 16)
    rows, meter = torch.randn(4, 16), FlopMeter()

    def both(x):
        return layers[1](torch.relu(layers[0](x)))

    for _ in range(2):
        with meter.counting():
            checkpoint(
                both, rows, use_reentrant=False, context_fn=FlopMeter.contexts
            ).sum().backward()
    checkpoint(
        both, rows, use_reentrant=False, context_fn=FlopMeter.contexts
    ).sum().backward()  # not counted
    product = 2 * 4 * 16 * 16
    forward, backward = 2 * product, 3 * product  # of the rows no gradient is asked
    assert meter.flops == 2 * (forward + backward)


@pytest.mark.parametrize(
    ("device", "peak"),
    [
        ("NVIDIA H200", 989.5e12),
        ("NVIDIA H100 80GB HBM3", 989.5e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA L40S", 362.05e12),
        ("NVIDIA GeForce RTX 4090", 165.2e12),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("Tesla V100-SXM2-16GB", None),
        ("", None),
    ],
)
def test_the_peak_is_known_by_the_devices_name_or_not_given(device, peak):
    assert peak_flops(device, "bfloat16") == peak
    assert peak_flops(device, "float32") is None
