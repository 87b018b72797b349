"""Stage 05: experts look at every image, and what they find becomes its priors (DenseFusion-1M,
Perceptual Fusion).

Every distinct image of the samples is looked at once. Each worker process loads the experts once,
and shares the cores with the others.
"""

import os
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from shutil import rmtree
from types import SimpleNamespace
from typing import Any

from vislib.experts.findings import Expert
from vislib.experts.panel import Panel
from vislib.runs import InputError, Run, To, choose, sql, tables
from vislib.runs.tables import Row, read_rows
from vislib.runs.verbs import Said

NAMES = ("tagger", "detector", "open_detector", "ocr")  # of experts, and of their parameters
IMAGES_PER_PART, _FEWEST_PARTS = 200, 16  # small sets too are shared among workers
Settings = tuple[tuple[str, Any], ...]  # parameters of the experts, hashable, and their threads


def distinct(*, limit: int = 0, seed: int = 0) -> str:
    """SQL: each distinct image behind `samples` once, in order of first appearance.

    An address without a usable image stands among them under itself, with its reason and no path.
    With `limit` (0: all) there are so many images, all usable, by the hash of seed and image_id.
    """
    chosen = (
        f"WHERE path <> '' ORDER BY {sql.drawn('image_id', seed)} LIMIT {limit}" if limit else ""
    )
    return f"""
    WITH wanted AS (SELECT image_url, min(row) AS place FROM samples GROUP BY image_url),
    found AS (
        SELECT coalesce(image_id, image_url) AS image_id, coalesce(path, '') AS path, place,
            coalesce(reason, 'not in the ledger') AS reason
        FROM wanted LEFT JOIN images USING (image_url)
        QUALIFY row_number() OVER (PARTITION BY coalesce(image_id, image_url) ORDER BY place) = 1
    ), chosen AS (SELECT * FROM found {chosen})
    SELECT image_id, path, reason, row_number() OVER (ORDER BY place) AS number
    FROM chosen ORDER BY place
    """


def part_size(run: Run) -> int:
    """Images of a part: few enough that all workers have some."""
    # Addresses, not images: which of them are one image shows only when they are joined.
    ((n,),) = sql.select(
        "SELECT count(DISTINCT image_url) FROM samples",
        {"samples": run.table("samples")},
        run.scratch,
    )
    wanted = min(int(n), run.params.limit or int(n))
    return max(1, min(IMAGES_PER_PART, -(-wanted // _FEWEST_PARTS)))


def look(
    rows: Sequence[Row], *, settings: Settings, root: Path, overlap: float, max_boxes: int
) -> Iterator[Said]:
    """The priors of a batch of images, whose paths are below `root`; the first names the experts.

    Raises InputError for an expert that has failed on all of many images: now, not after a million.
    """
    # Kept in the process, not given to it: models do not travel, and load once.
    panel = panel_of(settings, overlap, max_boxes)
    if any(row["number"] == 1 for row in rows):
        for expert in panel.experts:
            facts = {"expert": expert.name, "model": expert.model, "revision": expert.revision}
            yield To("experts", facts)
    yield from panel.look(rows, root)
    for name, (n_failed, n_asked) in panel.failed.items():
        if n_failed == n_asked >= IMAGES_PER_PART:
            raise _broken(name, n_failed, panel.faults[name])


@cache
def panel_of(settings: Settings, overlap: float, max_boxes: int) -> Panel:
    """The experts of this process, which load once."""
    return Panel(team(settings), overlap=overlap, max_boxes=max_boxes)


def check_looked(run: Run) -> None:
    """Close the account of each expert. Raises InputError when no image could be read, or an expert
    failed on all.
    """
    if not (kept := run.counts().get("image", {}).get("kept")):
        raise InputError(
            f"05_experts: no image of {run.params.samples} can be read; see {run.params.images},"
            " mend and run 03 again"
        )
    # As they named themselves: a set may run without some of them.
    names = [row["expert"] for row in read_rows(run.data / "experts")]
    for name in names:
        run.account(name, taken=f"SELECT image_id || '/{name}' FROM priors")
        if not run.counts()[name]["kept"]:
            rmtree(run.folder / "shards")  # what is mended may not be in the key
            rows = read_rows(run.data / "dropped")
            fault = next(row["detail"] for row in rows if row["id"].endswith(f"/{name}"))
            raise _broken(name, run.counts()[name]["taken"], fault)
    run.metrics["share_with_text"] = round(run.metrics["images_with_text"] / kept, 4)
    for name in names:
        seconds = run.metrics.pop(f"seconds_{name}")
        run.metrics[f"seconds_per_image_{name}"] = round(seconds / kept, 4)


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


@cache
def team(settings: Settings) -> tuple[Expert, ...]:
    """The experts that the settings name, the tagger first; loaded once in each process."""
    s, found = SimpleNamespace(**dict(settings)), list[Expert]()
    if s.tagger or s.detector or s.open_detector:
        import torch

        torch.set_num_threads(s.threads)  # before a tagger reads its list
    if s.tagger:
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


def _broken(name: str, failed: int, fault: str) -> InputError:
    panel_of.cache_clear()  # what is mended loads and counts anew
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
