"""`vislib.training.throughput`: FLOPs, peaks and memory, held against numbers that were worked out by hand."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.training_rows import SETTINGS
from vislib.training import tiny
from vislib.training.parts import freeze
from vislib.training.throughput import Cost, memory_needed, peak_flops


class Toy(torch.nn.Module):
    """Weights: vision 2 x 10, connector 20, language 30, vocabulary 50 in and 50 out; two layers each, 8 wide."""

    def __init__(self) -> None:
        super().__init__()
        self.vision_tower = torch.nn.ModuleList([torch.nn.Linear(10, 1, bias=False) for _ in range(2)])
        self.language_model = torch.nn.ModuleDict({"embed": torch.nn.Embedding(10, 5), "layer": self.weights(30)})
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


COUNTS = {"n_tokens": np.array([10, 4]), "n_supervised": np.array([3, 2]), "n_pixels": np.array([32, 0]),
          "n_images": np.array([2, 0])}  # fmt: skip
# 8 patches in 2 images of 4; sums of squares: tokens 100 + 16, patches per image 2 x 16
ATTENTION = 3 * 2 * 116 * 8 * 2
SEEN = 4 * 32 * 4 * 3


@pytest.mark.parametrize(
    ("learning", "flops"),
    [
        (("",), 14 * 6 * 30 + 5 * 6 * 50 + 8 * 6 * (20 + 20) + ATTENTION + 3 * SEEN),
        (("multi", "language", "lm"), 14 * 6 * 30 + 5 * 6 * 50 + 8 * (2 * 20 + 6 * 20) + ATTENTION + SEEN),
        (("multi",), 14 * 4 * 30 + 5 * 4 * 50 + 8 * (2 * 20 + 6 * 20) + ATTENTION + SEEN),
        (("vision_tower.1",), 14 * 4 * 30 + 5 * 4 * 50 + 8 * (2 * 10 + 6 * 10 + 4 * 20) + ATTENTION + 3 * SEEN),
    ],
)
def test_flops_are_those_worked_out_by_hand(learning, flops):
    assert Cost.of(Toy().learning(*learning)).flops(COUNTS) == flops


def test_text_costs_nothing_in_the_vision_tower_and_batches_add_up():
    cost = Cost.of(Toy().learning(""))
    halves = [cost.flops({name: values[at] for name, values in COUNTS.items()}) for at in (slice(0, 1), slice(1, 2))]
    assert sum(halves) == cost.flops(COUNTS)
    assert halves[1] == 4 * 6 * 30 + 2 * 6 * 50 + 3 * 2 * 16 * 8 * 2


@pytest.mark.parametrize("name", list(tiny.NAMES))
def test_every_supported_family_is_counted_whole(name):
    model, _ = tiny.NAMES[name]()
    freeze(model, ("connector", "language"), vision_from_layer=0)
    cost, n = Cost.of(model), {"vision": 0, "rest": 0}
    for key, parameter in model.named_parameters():
        n["vision" if "vision" in key else "rest"] += parameter.numel()
    tables = 2 * model.get_input_embeddings().weight.numel()
    assert 6 * n["rest"] + 2 * n["vision"] == cost.per_token + cost.per_patch + 6 * tables
    assert (cost.patch, cost.per_supervised) == (14, 3 * tables)


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
        return memory_needed(model, replace(SETTINGS, **given), processes=processes, tokens=7, supervised=3) / 1.1

    assert needed(1) == pytest.approx(170 * 4 + 130 * 12 + activations, abs=1)
    assert needed(4, strategy="zero2") == pytest.approx(170 * 4 + 130 * 12 / 4 + activations, abs=1)
    assert needed(4, strategy="zero3") == pytest.approx((170 * 4 + 130 * 12) / 4 + activations, abs=1)
    again = 2 * (7 * 8 * (2 + 17) + 3 * 2 * 100)
    half = needed(1, precision="bfloat16", gradient_checkpointing=True)
    assert half == pytest.approx(170 * 6 + 130 * 12 + again, abs=1)
