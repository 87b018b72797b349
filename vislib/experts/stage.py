"""Stage 05: experts look at every image, and what they find becomes its priors (DenseFusion-1M,
Perceptual Fusion).

Every distinct image of the samples is looked at once. Each worker process loads the experts once,
and shares the cores with the others.
"""

import os
import sqlite3
from contextlib import closing
from functools import cache, partial
from pathlib import Path
from shutil import rmtree
from types import SimpleNamespace
from typing import Any

import pyarrow as pa

from vislib.experts.findings import Expert
from vislib.experts.panel import Panel
from vislib.runs import InputError, Run, choose, short_hash, tables
from vislib.runs.tables import Output, Row, TableWriter, parts, read_rows

NAMES = (
    "tagger",
    "detector",
    "open_detector",
    "ocr",
)  # of experts; also what their parameters begin with
IMAGES_PER_SHARD, _FEWEST_SHARDS = 200, 16  # small sets too are shared among workers
_IMAGES = pa.schema([(name, pa.string()) for name in ("image_id", "path", "image_url", "reason")])
Settings = tuple[
    tuple[str, Any], ...
]  # parameters of the experts, hashable, and the `threads` of each process


def run_experts(run: Run) -> None:
    """Fill `priors` (a row per distinct image of the input `samples`) and `experts` (a row per
    expert in use).

    Parameters: those of the experts, samples, images, box_overlap, max_boxes, batch_size, workers,
    device, limit, seed. Raises InputError when no sample has an image that can be read, or an
    expert fails on all.
    """
    p = run.params
    shards = distinct_images(
        run.table("samples"), run.table("images"), run.scratch, limit=p.limit, seed=run.seed
    )
    work = partial(
        experts_part,
        settings=settings_of(run),
        root=run.table("images").parent,
        batch_size=p.batch_size,
        overlap=p.box_overlap,
        max_boxes=p.max_boxes,
    )
    run.map_shards(work, shards, workers=p.workers)
    counts = run.counts()
    if not (kept := counts.get("image", {}).get("kept")):
        raise InputError(
            f"05_experts: no image of {p.samples} can be read; see {p.images}, mend and run 03"
            " again"
        )
    run.metrics["share_with_text"] = round(run.metrics["images_with_text"] / kept, 4)
    for name in (name for name in NAMES if name in counts):
        taken = counts[name]["taken"]
        if not counts[name]["kept"]:
            rmtree(run.folder / "shards")  # what is mended may not be in the key
            faults = (
                row["detail"]
                for row in read_rows(run.data / "dropped")
                if row["id"].endswith(f"/{name}")
            )
            raise _broken(name, taken, next(faults))
        run.metrics[f"seconds_per_image_{name}"] = round(
            run.metrics.pop(f"seconds_{name}") / taken, 4
        )


def settings_of(run: Run) -> Settings:
    """What the experts of this run are made of, and how many threads each process has."""
    found = {name: value for name, value in vars(run.params).items() if name.startswith(NAMES)}
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    found |= {
        "tag_list": run.input("tag_list"),
        "max_tags": run.params.max_tags,
        "device": run.params.device,
    }
    return tuple((found | {"threads": max(1, cores // run.params.workers)}).items())


def distinct_images(
    samples: Path, ledger: Path, scratch: Path, *, limit: int = 0, seed: int = 0
) -> list[Path]:
    """Each distinct image behind `samples` once, in order of first appearance, as scratch parts;
    memory is constant.

    An address without a usable image stands among them with its reason and no path. With `limit`
    (0: all) there are so many images, all usable, chosen by the hash of seed and image_id.
    """
    folder, building, seen = (
        scratch / name for name in ("images", "images.building", "images.sqlite")
    )
    if not folder.exists():
        seen.unlink(missing_ok=True)  # of a run that was ended here
        with closing(sqlite3.connect(seen)) as database:
            database.execute(
                "CREATE TABLE wanted (place INTEGER PRIMARY KEY, image_url TEXT UNIQUE)"
            )
            urls = ((row["image_url"],) for row in read_rows(samples, ["image_url"]))
            database.executemany("INSERT OR IGNORE INTO wanted (image_url) VALUES (?)", urls)
            database.execute(
                "CREATE TABLE ledger (image_url TEXT PRIMARY KEY, image_id TEXT, path TEXT, reason"
                " TEXT)"
            )
            rows = read_rows(ledger, ["image_url", "image_id", "path", "reason"])
            database.executemany(
                "INSERT OR IGNORE INTO ledger VALUES (:image_url, :image_id, :path, :reason)", rows
            )
            database.create_function(
                "chance", 1, partial(short_hash, str(seed)), deterministic=True
            )
            (wanted,) = database.execute("SELECT count(*) FROM wanted").fetchone()
            share = min(IMAGES_PER_SHARD, -(-min(wanted, limit or wanted) // _FEWEST_SHARDS))
            writer = TableWriter(building, _IMAGES, rows_per_part=max(1, share))
            group = f"WHERE path > '' GROUP BY image_id ORDER BY chance(image_id) LIMIT {limit}"
            found = database.execute(
                "SELECT image_id, path, image_url, reason FROM (SELECT min(place) AS first,"
                " image_url, image_id, coalesce(path, '') AS path, coalesce(reason, 'not in the"
                " ledger') AS reason FROM wanted LEFT JOIN ledger USING (image_url)"
                f" {group if limit else 'GROUP BY coalesce(image_id, image_url)'}) ORDER BY first"
            )
            for values in found:
                writer.write(dict(zip(_IMAGES.names, values, strict=True)))
            writer.close()
        os.replace(building, folder)
    return parts(folder)


@cache
def team(settings: Settings) -> tuple[Expert, ...]:
    """The experts that the settings name, the tagger first; loaded once in each process."""
    s, found = SimpleNamespace(**dict(settings)), list[Expert]()
    if s.tagger not in ("", "measured") or s.detector or s.open_detector:
        import torch

        torch.set_num_threads(s.threads)  # before a tagger reads its list
    if s.tagger == "measured":
        from vislib.experts.measured import MeasuredTagger

        found.append(MeasuredTagger(threshold=s.tagger_threshold, max_tags=s.max_tags))
    elif s.tagger:
        from vislib.experts.tagging import ModelTagger

        options = {"tag_list": s.tag_list, "max_tags": s.max_tags, "device": s.device}
        found.append(ModelTagger(s.tagger, threshold=s.tagger_threshold, **options))
    if s.detector:
        from vislib.experts.detection import ClosedDetector

        found.append(ClosedDetector(s.detector, threshold=s.detector_threshold, device=s.device))
    if s.open_detector:
        from vislib.experts.detection import OpenDetector

        found.append(
            OpenDetector(s.open_detector, threshold=s.open_detector_threshold, device=s.device)
        )
    if s.ocr == "rapidocr":
        from vislib.experts.ocr import Reader

        found.append(Reader(threshold=s.ocr_threshold, side=s.ocr_side, threads=s.threads))
    if not found:
        raise InputError(
            "05_experts: tagger, detector and open_detector are empty and ocr is none; name an"
            " expert"
        )
    return tuple(found)


def experts_part(
    part: Path,
    output: Output,
    *,
    settings: Settings,
    root: Path,
    batch_size: int,
    overlap: float,
    max_boxes: int,
) -> None:
    """Write the priors of the images of one scratch part, whose paths are below `root`; the first
    names the experts.

    Raises InputError for an expert that fails on all images of a full part.
    """
    panel, rows = (
        Panel(team(settings), output, overlap=overlap, max_boxes=max_boxes),
        list(read_rows(part)),
    )
    for expert in panel.experts if part.stem == "part-00000" else ():
        output.write(
            "experts", {"expert": expert.name, "model": expert.model, "revision": expert.revision}
        )
    for start in range(0, len(rows), batch_size):
        panel.look(rows[start : start + batch_size], root)
    for name, fault in panel.faults.items():
        if output.counts[f"{name}/dropped/expert_failed"] == IMAGES_PER_SHARD:
            raise _broken(name, IMAGES_PER_SHARD, fault)  # now, not after a million


def _broken(name: str, failed: int, fault: str) -> InputError:
    return InputError(
        f"05_experts: {name} failed on all of {failed} images ({fault}); mend it or leave it out"
    )


def examples(run: Run, count: int) -> list[Row]:
    """A seeded handful to look at, two thirds of it with boxes or texts, as far as there are.

    Rows of `priors` with the `picture` that shows them, and their lists as lines for people.
    """
    from vislib.experts.overlays import described, overlay

    ids: dict[bool, list[str]] = {True: [], False: []}
    for row in read_rows(run.data / "priors", ["image_id", "boxes", "texts"]):
        ids[bool(row["boxes"] or row["texts"])].append(row["image_id"])
    chosen = (
        choose(ids[True], count - min(count // 3, len(ids[False])), run.seed) if ids[True] else []
    )
    chosen += choose(ids[False], count - len(chosen), run.seed) if len(chosen) < count else []
    priors = tables.lookup(run.data / "priors", "image_id", chosen)
    files = tables.lookup(run.table("images"), "image_id", chosen, ["path"])
    for image_id, row in priors.items():
        row["picture"] = run.scratch / f"{image_id}.png"
        overlay(run.table("images").parent / files[image_id]["path"], row).save(row["picture"])
    return [priors[image_id] | described(priors[image_id]) for image_id in chosen]
