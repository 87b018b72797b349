"""`vislib.training.throughput`: FLOPs and peaks, held against what was worked out
otherwise.
"""

import json
import re
import signal
from pathlib import Path

import pytest
import torch
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from tests.training_rows import plan, settings_of, trained
from vislib.training import tiny, worker
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


@pytest.fixture(scope="module", autouse=True)
def _alone():
    """One thread, as children have it here; what a training sets in this process is taken back."""
    threads, before = (
        torch.get_num_threads(),
        {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)},
    )
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    for number, handler in before.items():
        signal.signal(number, handler)


FROZEN = [
    {"method": "lora"},
    {"method": "full"},
    {"method": "full", "parts": ("vision", "connector"), "vision_from_layer": 1},
]


@pytest.mark.parametrize("given", FROZEN)
@pytest.mark.parametrize("name", ["tiny-llava", "tiny-idefics2"])
def test_layers_before_all_that_learns_are_computed_forward_and_once(
    tmp_path, monkeypatch, name, given
):
    """By torch's own counter and through the Trainer, with activations computed again."""
    tiny.build(name, tmp_path / name)
    plan(tmp_path, tmp_path / name, pictured=2)
    flops, asked = dict[bool, dict[str, int]](), list[bool]()

    class Counted(worker.AnswerTrainer):
        def training_step(self, model, *more):
            found = [n for n, _ in model.named_modules() if re.search(r"vision_.*layers\.\d+$", n)]
            frozen = found[: given.get("vision_from_layer", len(found))]
            for layer in frozen:
                model.get_submodule(layer).register_forward_hook(
                    lambda module, taken, out: asked.append(out.requires_grad)
                )
            with FlopCounterMode(display=False) as counter:
                loss = super().training_step(model, *more)
            counts = {key: sum(n.values()) for key, n in counter.get_flop_counts().items()}
            flops[self.settings.gradient_checkpointing] = {
                layer: sum(n for key, n in counts.items() if key.endswith(layer))
                for layer in frozen
            }
            return loss

    monkeypatch.setattr(worker, "AnswerTrainer", Counted)
    for again in (False, True):
        place = {"model": str(tmp_path / name), "gradient_checkpointing": again, "max_steps": 1}
        trained(
            settings_of(
                tmp_path,
                tmp_path / str(again),
                **given,
                **place,
                rows=str(tmp_path / "rows.arrow"),
            )
        )
    assert flops[True] == flops[False]
    assert all(flops[True].values())
    assert not any(asked)


@pytest.mark.parametrize("name", ["tiny-llava", "tiny-idefics2"])
def test_utilisation_is_what_torch_counts_whether_or_not_layers_are_computed_again(
    tmp_path, monkeypatch, name
):
    tiny.build(name, tmp_path / name)
    plan(tmp_path, tmp_path / name, pictured=2)
    counted, plain = list[float](), list[float]()

    class Counted(worker.AnswerTrainer):
        def training_step(self, *given):
            if self.settings.gradient_checkpointing:
                return super().training_step(*given)
            with FlopCounterMode(display=False) as counter:
                loss = super().training_step(*given)
            plain.append(counter.get_total_flops())
            return loss

    monkeypatch.setattr(worker, "AnswerTrainer", Counted)
    monkeypatch.setattr(worker, "peak_flops", lambda device, precision: 1e12)
    for again in (False, True):
        place = {"model": str(tmp_path / name), "gradient_checkpointing": again, "max_steps": 2}
        settings = settings_of(
            tmp_path, tmp_path / str(again), **place, rows=str(tmp_path / "rows.arrow")
        )
        _, log = trained(settings)
        metrics = json.loads((Path(settings.checkpoints) / "done.json").read_text())["metrics"]
        counted.append(metrics["mfu"] * 1e12 / metrics["tokens_per_second"])
    passes = len(plain) // 2  # of each of the two steps
    for flops_per_token in counted:
        assert flops_per_token * log[0]["tokens"] == pytest.approx(sum(plain[:passes]), rel=2e-3)
