"""Planned rows, settings and a run for tests that train: a tiny model learns from pictures of
noise.
"""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import torch
from PIL import Image
from safetensors.torch import load_file

from vislib.runs.progress import Progress
from vislib.training import worker
from vislib.training.labels import Encoder
from vislib.training.models import open_processor
from vislib.training.planning import ROWS
from vislib.training.settings import Settings

SETTINGS = Settings(
    method="full",
    parts=("connector", "language"),
    vision_from_layer=0,
    lora_rank=4,
    lora_alpha=4,
    lora_dropout=0.1,
    image_splitting=False,
    max_length=512,
    epochs=1,
    max_steps=0,
    batch_size=4,
    device_batch_size=2,
    learning_rate=1e-3,
    warmup=0.1,
    weight_decay=0.0,
    precision="float32",
    attention="sdpa",
    gradient_checkpointing=False,
    strategy="ddp",
    processes=1,
    machines=1,
    main_address="",
    loader_workers=0,
    checkpoint_steps=2,
    device="cpu",
    seed=7,
)
WORDS = ["amber", "birch", "coral", "dusk", "ember", "frost", "grove", "harbor", "iris", "jade"]


def plan(folder: Path, model: Path, *, pictured: int, texts: int = 0, turns: int = 1) -> Path:
    """A file of planned rows: `pictured` with an image each, `texts` without; answers differ in
    words and length.
    """
    encoder, rows = Encoder(open_processor(model), max_length=512), []
    for number in range(pictured + texts):
        images = []
        if number < pictured:
            images = [str(folder / f"{number}.png")]
            noise = Image.effect_noise((40 + 4 * number, 50), 20 + 8 * number).convert("RGB")
            noise.resize((80, 80)).save(images[0])
        said = [
            " ".join(WORDS[(number + turn + n) % 10] for n in range(3 + number % 4))
            for turn in range(turns)
        ]
        asked = [
            "<image>\n" * (turn == 0 and bool(images)) + f"What is {number}?"
            for turn in range(turns)
        ]
        pairs = zip(asked, said, strict=True)
        turned = [
            {"from": who, "value": text}
            for pair in pairs
            for who, text in zip(("human", "gpt"), pair, strict=True)
        ]
        row = {
            "id": f"row{number}",
            "source": "visual" if images else "own",
            "sample_id": "",
            "images": images,
            "conversations": turned,
        }
        found = encoder.encode(row)
        rows.append(row | found.counts | {"rounds": len(row["conversations"]) // 2})
    with pa.ipc.new_file(folder / "rows.arrow", ROWS) as writer:
        writer.write_table(pa.Table.from_pylist(rows, schema=ROWS))
    return folder / "rows.arrow"


def a_run(folder: Path) -> SimpleNamespace:
    """The part of a run that `train` uses."""
    folder.mkdir(parents=True, exist_ok=True)
    return SimpleNamespace(
        folder=folder,
        stage=SimpleNamespace(run=folder),
        workers_lock=folder / "workers.lock",
        metrics={},
        progress=Progress,
    )


def settings_of(ground: Path, folder: Path, **given) -> Settings:
    """Settings of a training in `folder`."""
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    places = {"model": str(ground / "tiny-llava"), "rows": str(ground / "rows.arrow")}
    places |= {
        "facts": {"base": "tiny-llava"},
        "checkpoints": str(folder / "checkpoints"),
        "output": str(folder / "model"),
    }
    return replace(SETTINGS, **places | given)


def trained(settings: Settings) -> tuple[dict[str, torch.Tensor], list[dict]]:
    """Weights and log of a training in this process."""
    file = Path(settings.checkpoints) / "settings.json"
    settings.write(file)
    worker.main(file)
    return result(settings)


def result(settings: Settings) -> tuple[dict[str, torch.Tensor], list[dict]]:
    done = json.loads((Path(settings.checkpoints) / "done.json").read_text())
    name = "model" if settings.method == "full" else "adapter_model"
    return load_file(Path(settings.output) / f"{name}.safetensors"), done["log"]
