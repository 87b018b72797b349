"""How a model is trained: what notebooks 10 and 11 take as parameters and the training processes
read from a file.

Defaults of the paper sets: ShareGPT4V-7b is fully fine-tuned, IDEFICS2-8b by adapters (VisCon-100K,
section 5).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

DONE, SETTINGS = "done.json", "settings.json"  # files beside the checkpoints


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One training. Names of parameters are those of the notebooks; those from `model` on are
    set by the stage, but for `merge`.
    """

    method: str  # full, lora, dora
    parts: Sequence[str]  # of vision, connector, language: what learns
    vision_from_layer: int  # first layer of the vision tower that learns, if vision does
    lora_rank: int  # of the two matrices that stand for a change of a weight
    lora_alpha: int  # a change counts alpha / rank
    lora_dropout: float  # before adapters alone
    image_splitting: bool  # also show an image in parts
    max_length: int  # tokens of a row, image tokens included
    epochs: float  # passes over the rows
    max_steps: int  # 0: as many as the epochs have
    max_supervised_tokens: int = 0  # the step that reaches them is the last, 0: no cap
    batch_size: int  # rows of one optimiser step, over all processes
    device_batch_size: int  # rows of one forward pass on one device
    learning_rate: float  # the highest
    warmup: float  # share of the steps
    weight_decay: float  # AdamW's
    precision: str  # float32, bfloat16
    attention: str  # sdpa, eager, flash_attention_2
    gradient_checkpointing: bool  # compute activations again rather than hold them
    strategy: str  # ddp, zero2, zero3, fsdp
    processes: int  # on this machine, 0: one per GPU
    machines: int  # all with the same number of processes
    main_address: str  # host:port of machine 0
    loader_workers: int  # that decode images, of each process
    checkpoint_steps: int  # steps between checkpoints
    device: str  # auto, cpu, cuda
    seed: int  # of order, dropout and first adapters
    quantization: str = "none"  # of frozen weights under adapters: none, 4bit, 8bit
    eval_steps: int = 0  # steps between evaluations of the held-out rows, 0: none
    load_best: bool = False  # keep the weights of the lowest evaluation loss
    report_to: str = "none"  # none, tensorboard, wandb, trackio
    model: str = ""  # folder or hub id[@revision] that the weights come from
    rows: str = ""  # Arrow file of the rows to learn from (`planning`)
    held_out: str = ""  # the same of those to evaluate, if any
    checkpoints: str = ""  # folder
    reports: str = ""  # folder of TensorBoard's files
    run_name: str = ""  # of the training, where it is reported to a service
    output: str = ""  # folder that the trained model is saved to
    merge: bool = False  # save whole weights, adapters merged in, as servers need them
    facts: Mapping[str, Any] = field(default_factory=dict)  # what the model's record says of it

    @classmethod
    def of(cls, params: Any, **given: Any) -> "Settings":
        """The settings in a notebook's parameters, and what its stage sets."""
        named = {f.name: getattr(params, f.name) for f in fields(cls) if hasattr(params, f.name)}
        return cls(**{**named, **given})

    @classmethod
    def read(cls, file: Path) -> "Settings":
        """The settings that `write` left in `file`."""
        return cls(**json.loads(file.read_text(encoding="utf-8")))

    def write(self, file: Path) -> None:
        """Leave the settings for a training process."""
        file.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")
