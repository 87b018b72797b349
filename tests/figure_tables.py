"""Tables of three samples of three pages, for the figures of examples and of the pipeline."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from vislib.figures import examples, pipeline
from vislib.runs.contract import DROPPED, SCHEMAS


def write(folder: Path, schema: pa.Schema, rows: list[dict[str, Any]]) -> Path:
    folder.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), folder / "part-00000.parquet")
    return folder


def filled(schema: pa.Schema, **values: Any) -> dict[str, Any]:
    return {
        field.name: values.get(field.name, 0 if field.type == pa.int64() else "")
        for field in schema
    }


def three_samples(tmp_path: Path) -> dict[str, Path]:
    """One sample is English, one Japanese, and of one the image failed."""
    texts = {
        "a": "The old harbour <image> lies north.",
        "b": "古い港 <image>",
        "c": "A barn <image> stands.",
    }
    said = {"a": "A harbour with red boats, C$ 5 or $6.", "b": "赤い港", "c": "A barn."}
    image = tmp_path / "03_images" / "files" / "a.png"
    image.parent.mkdir(parents=True)
    Image.new("RGB", (60, 30), "navy").save(image)
    of = {stage: {name: SCHEMAS[stage][name] for name in SCHEMAS[stage]} for stage in SCHEMAS}
    tables: dict[str, tuple[str, str, list[dict[str, Any]]]] = {
        "documents": ("01_documents", "documents", [{"doc_id": i} for i in texts]),
        "quarantine": (
            "01_documents",
            "quarantine",
            [{"reason": f"duplicate: repeats {i}"} for i in "ab"],
        ),
        "kept_documents": ("02_filtering", "documents", [{"doc_id": i} for i in texts]),
        "samples": (
            "02_filtering",
            "samples",
            [
                {
                    "sample_id": i,
                    "doc_id": f"d{i}",
                    "image_url": i,
                    "context": t,
                    "page_url": f"https://example.org/{i}",
                }
                for i, t in texts.items()
            ],
        ),
        "images": (
            "03_images",
            "images",
            [
                {"image_url": i, "status": "failed" if i == "c" else "ok", "path": "files/a.png"}
                for i in texts
            ],
        ),
        "captions": (
            "06_captioning",
            "captions",
            [
                {"sample_id": i, "kind": k, "caption": t, "status": "ok", "model": "m"}
                for i, t in said.items()
                for k in examples.KINDS
            ],
        ),
        "questions": (
            "07_qa_generation",
            "questions",
            [
                {"sample_id": i, "question_type": t, "status": "ok"}
                for i in texts
                for t in ("free_form", "free_form")
            ],
        ),
    }
    paths = {}
    for name, (stage, table, rows) in tables.items():
        schema = of[stage][table]
        paths[name] = write(
            tmp_path / stage / table, schema, [filled(schema, **row) for row in rows]
        )
    dropped = [
        filled(DROPPED, reason=reason)
        for reason in ("above_cap", "similar_question", "malformed", "too_small")
    ]
    for name in (name for name in pipeline.TABLES if name.endswith("dropped")):
        paths[name] = write(tmp_path / name, DROPPED, dropped)
    talk = [
        {"from": "human", "value": "<image>\nDescribe."},
        {"from": "gpt", "value": "A harbour."},
        {"from": "human", "value": "How many?"},
        {"from": "gpt", "value": "Two boats."},
    ]
    schema = of["08_merging"]["conversations"]
    rows = [
        filled(
            schema,
            id=i,
            images=[],
            conversations=talk,
            sample_id=i,
            sources=["caption", "free_form"],
        )
        for i in texts
    ]
    paths["conversations"] = tmp_path / "08_merging" / "contextual"
    for name in ("leaky_mix", "captions"):
        write(paths["conversations"] / name, schema, rows)
    return paths
