"""Stage 05: experts look at every image, and what they find becomes its priors (DenseFusion-1M,
Perceptual Fusion).

Every distinct image of the samples is looked at once. Each worker process loads the experts once,
and shares the cores with the others.
"""

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from math import ceil
from pathlib import Path
from shutil import rmtree
from types import SimpleNamespace
from typing import Any

from PIL import Image

from vislib.experts.activation import ActivationDetector
from vislib.experts.findings import Box, Expert, Findings, balanced, merge
from vislib.experts.models import ClosedDetector, ModelTagger, OpenDetector
from vislib.experts.ocr import Reader
from vislib.media import efficientnet
from vislib.media.pixels import ImageError, read_image
from vislib.runs import Drop, InputError, Note, Run, To, sql
from vislib.runs.jobs import own_cores
from vislib.runs.tables import Row, count_rows, read_rows
from vislib.runs.verbs import Said

NAMES = ("tagger", "detector", "open_detector", "ocr")  # of experts, and of their parameters
IMAGES_PER_PART, _FEWEST_PARTS = 200, 16  # small sets too are shared among workers
# Pixels at once, 100 MB. Each expert scales once, from the full picture: what is legible after one
# scaling is lost after two, and a long page must not be scaled by its longest side.
_PIXELS = 2**25
Seen = tuple[str, Image.Image]  # image_id, picture
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
    # A sample has one image at most: how many are distinct shows only when they are joined.
    wanted = run.params.limit or count_rows(run.table("samples"))
    return max(1, min(IMAGES_PER_PART, ceil(wanted / _FEWEST_PARTS)))


@dataclass(frozen=True)
class Panel:
    """Experts in the order in which they are asked, the tagger first: its tags are what the
    open-vocabulary detector looks for.
    """

    experts: Sequence[Expert]
    sound: set[str] = field(default_factory=set)  # names of those that have seen an image
    failed: Counter[str] = field(default_factory=Counter)  # images, by name


@cache
def panel_of(settings: Settings) -> Panel:
    """The experts of this process, which load once."""
    return Panel(team(settings))


def look(
    rows: Sequence[Row], *, settings: Settings, root: Path, overlap: float, max_boxes: int
) -> Iterator[Said]:
    """The priors of a batch of images, whose paths are below `root`; the first names the experts.

    An expert that fails on some images is asked for them one by one; an image on which it fails
    alone loses that expert's priors, with the reason, not the others'. Raises InputError for an
    expert that has failed on all of many images: now, not after a million.
    """
    # Kept in the process, not given to it: models do not travel, and load once.
    panel = panel_of(settings)
    if any(row["number"] == 1 for row in rows):
        for expert in panel.experts:
            facts = {"expert": expert.name, "model": expert.model, "revision": expert.revision}
            yield To("experts", facts)
    for seen in _seen(rows, root):
        if isinstance(seen, Drop):
            yield seen
            continue
        tags: list[list[str]] = [[] for _ in seen]
        found: dict[str, list[Findings]] = {}
        for expert in panel.experts:
            began = time.perf_counter()
            found[expert.name], drops = _ask(panel, expert, seen, tags)
            yield from drops
            yield Note(f"seconds_{expert.name}", time.perf_counter() - began)
            if expert.name == "tagger":
                tags = [[tag.label for tag in findings.tags] for findings in found["tagger"]]
        for place, (image_id, image) in enumerate(seen):
            of_image = {name: findings[place] for name, findings in found.items()}
            boxes = {name: findings.boxes for name, findings in of_image.items()}
            kept = balanced(merge(boxes, overlap=overlap), max_boxes, image.size)
            yield from _prior(image_id, of_image, kept)


def _seen(rows: Sequence[Row], root: Path) -> Iterator[list[Seen] | Drop]:
    """Some images at once, as many as their pixels allow: one may be as large as forty others."""
    seen: list[Seen] = []
    pixels = 0
    for row in rows:
        image = _read(row, root)
        if isinstance(image, Drop):
            yield image
            continue
        if seen and pixels + image.width * image.height > _PIXELS:
            yield seen
            seen, pixels = [], 0
        seen.append((row["image_id"], image))
        pixels += image.width * image.height
    if seen:
        yield seen


def _read(row: Row, root: Path) -> Image.Image | Drop:
    if not row["path"]:
        return Drop("image_failed", row["reason"], id=row["image_id"])
    try:
        return read_image(root / row["path"])
    except ImageError as error:
        return Drop(error.reason, error.detail, id=row["image_id"])
    except OSError as error:
        return Drop("unreadable", f"{error.strerror}: {row['path']}", id=row["image_id"])


def _ask(
    panel: Panel, expert: Expert, seen: Sequence[Seen], tags: Sequence[Sequence[str]]
) -> tuple[list[Findings], list[Drop]]:
    """What an expert finds in each image, and those on which it fails."""
    try:
        found = expert([image for _, image in seen], tags)
    except Exception as error:  # models meet odd pictures with any exception there is
        if len(seen) > 1:
            findings, drops = list[Findings](), list[Drop]()
            for one, words in zip(seen, tags, strict=True):
                alone, lost = _ask(panel, expert, [one], [words])
                findings += alone
                drops += lost
            return findings, drops
        # Of a traceback in the message, what it ends with.
        reason = (str(error).strip().splitlines() or [""])[-1]
        fault = f"{type(error).__name__}: {reason[:300]}"
        panel.failed[expert.name] += 1
        n_failed = panel.failed[expert.name]
        if expert.name not in panel.sound and n_failed >= IMAGES_PER_PART:
            raise _broken(expert.name, n_failed, fault) from error
        id = f"{seen[0][0]}/{expert.name}"
        return [Findings()], [Drop("expert_failed", fault, id=id, unit=expert.name)]
    panel.sound.add(expert.name)
    return found, []


def _prior(
    image_id: str, found: Mapping[str, Findings], boxes: Sequence[tuple[str, Box]]
) -> Iterator[Said]:
    """What all experts found in one image, and what run.json counts of it."""
    prior: dict[str, Any] = {"tags": [], "boxes": [], "texts": []}
    for name, box in boxes:
        prior["boxes"].append({**vars(box), "expert": name})
    for name, findings in found.items():
        prior["tags"] += [{**vars(tag), "expert": name} for tag in findings.tags]
        for line in findings.texts:
            prior["texts"].append({**vars(line), "text": line.label, "expert": name})
        yield Note("boxes_given", len(findings.boxes))
        yield from map(Note, findings.notes)
    for kind, entries in prior.items():
        yield Note(kind, len(entries))
    yield Note("images_with_text", bool(prior["texts"]))
    yield To("priors", {"image_id": image_id} | prior)


def check_looked(run: Run) -> None:
    """Close the account of each expert. Raises InputError when no image could be read, or an expert
    failed on all.
    """
    kept = run.counts().get("image", {}).get("kept")
    if not kept:
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
    found |= {
        "tag_list": run.input("tag_list"),
        "max_tags": run.params.max_tags,
        "device": run.params.device,
        "threads": max(1, own_cores() // run.params.workers),
    }
    return tuple(found.items())


def team(settings: Settings) -> tuple[Expert, ...]:
    """The experts that the settings name, the tagger first."""
    s, found = SimpleNamespace(**dict(settings)), list[Expert]()
    if s.tagger or s.detector or s.open_detector:
        import torch

        torch.set_num_threads(s.threads)  # before a tagger reads its list
    if s.tagger:
        options = {"tag_list": s.tag_list, "max_tags": s.max_tags, "device": s.device}
        found.append(ModelTagger(s.tagger, threshold=s.tagger_threshold, **options))
    if s.detector == efficientnet.NAME:
        found.append(ActivationDetector(threshold=s.detector_threshold, device=s.device))
    elif s.detector:
        found.append(ClosedDetector(s.detector, threshold=s.detector_threshold, device=s.device))
    if s.open_detector:
        found.append(
            OpenDetector(s.open_detector, threshold=s.open_detector_threshold, device=s.device)
        )
    if s.ocr == "rapidocr":
        found.append(
            Reader(threshold=s.ocr_threshold, side=s.ocr_side, threads=s.threads),
        )
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
