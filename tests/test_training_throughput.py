"""`vislib.training.throughput`: FLOPs, peaks and memory, held against what was worked out
otherwise.
"""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from tests.training_rows import SETTINGS
from vislib.training.throughput import FlopMeter, memory_needed, peak_flops


class Toy(torch.nn.Module):
    """Weights: vision 2 x 10, connector 20, language 30, vocabulary 50 in and 50 out; two layers
    each, 8 wide.
    """

    def __init__(self) -> None:
        super().__init__()
        self.vision_tower = torch.nn.ModuleList(
            [torch.nn.Linear(10, 1, bias=False) for _ in range(2)]
        )
        self.language_model = torch.nn.ModuleDict(
            {"embed": torch.nn.Embedding(10, 5), "layer": self.weights(30)}
        )
        self.multi_modal_projector = self.weights(20)
        self.lm_head = self.weights(50)
        text = SimpleNamespace(hidden_size=8, num_hidden_layers=2, vocab_size=100)
        vision = SimpleNamespace(hidden_size=4, num_hidden_layers=3, patch_size=2)
        self.config = SimpleNamespace(get_text_config=lambda: text, vision_config=vision)

    @staticmethod
    def weights(count: int) -> torch.nn.Module:
        return torch.nn.Linear(count, 1, bias=False)

    def get_output_embeddings(self):
        return self.lm_head

    def get_input_embeddings(self):
        return self.language_model["embed"]

    def learning(self, *parts: str) -> "Toy":
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(any(name.startswith(part) for part in parts))
        return self


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


def test_memory_is_that_worked_out_by_hand_and_shared_as_the_strategy_does():
    model = Toy().learning("language", "lm")  # 170 weights, 130 of them learn
    activations = 4 * (7 * 8 * 17 * 2 + 3 * 2 * 100)

    def needed(processes: int, **given: object) -> float:
        return (
            memory_needed(
                model, replace(SETTINGS, **given), processes=processes, tokens=7, supervised=3
            )
            / 1.1
        )

    assert needed(1) == pytest.approx(170 * 4 + 130 * 12 + activations, abs=1)
    assert needed(4, strategy="zero2") == pytest.approx(170 * 4 + 130 * 12 / 4 + activations, abs=1)
    assert needed(4, strategy="zero3") == pytest.approx(
        (170 * 4 + 130 * 12) / 4 + activations, abs=1
    )
    again = 2 * (7 * 8 * (2 + 17) + 3 * 2 * 100)
    half = needed(1, precision="bfloat16", gradient_checkpointing=True)
    assert half == pytest.approx(170 * 6 + 130 * 12 + again, abs=1)
