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
Settings = tuple[tuple[str, Any], ...]  # parameters of the experts, hashable, and their threads


def distinct(*, limit: int = 0, seed: int = 0) -> str:
    """SQL: each distinct image behind `samples` once, in order of first appearance.

    An address without a usable image stands among them under itself, with its reason and no path.
    With `limit` (0: all) there are so many images, all usable, by the hash of seed and image_id.
    """
    chosen = ""
    if limit:
        chosen = f"WHERE path <> '' ORDER BY {sql.drawn('image_id', seed)} LIMIT {limit}"
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

    They look at one image at a time, from the full picture, and each scales once: what is legible
    after one scaling is lost after two. Readers and detectors, which take nearly all of the time,
    gain nothing by more at once.
    """

    experts: Sequence[Expert]
    sound: set[str] = field(default_factory=set)  # names of those that have seen an image
    failed: Counter[str] = field(default_factory=Counter)  # images, by name

    def fault(self, name: str, error: Exception) -> str:
        """What an expert failed with; raises InputError where it has failed on all of many."""
        # Of a traceback in the message, what it ends with.
        last = (str(error).strip().splitlines() or [""])[-1]
        fault = f"{type(error).__name__}: {last[:300]}"
        self.failed[name] += 1
        if name not in self.sound and self.failed[name] >= IMAGES_PER_PART:
            raise _broken(name, self.failed[name], fault) from error
        return fault


@cache
def panel_of(settings: Settings) -> Panel:
    """The experts of this process, which load once."""
    return Panel(team(settings))


def look(
    rows: Sequence[Row], *, settings: Settings, root: Path, overlap: float, max_boxes: int
) -> Iterator[Said]:
    """The priors of images, whose paths are below `root`; the first names the experts.

    An image on which an expert fails loses that expert's priors, with the reason, not the others'.
    Raises InputError for an expert that has failed on all of many images: now, not after a million.
    """
    # Kept in the process, not given to it: models do not travel, and load once.
    panel = panel_of(settings)
    for row in rows:
        if row["number"] == 1:
            for expert in panel.experts:
                facts = {"expert": expert.name, "model": expert.model, "revision": expert.revision}
                yield To("experts", facts)
        image = _read(row, root)
        if isinstance(image, Drop):
            yield image
            continue
        found: dict[str, Findings] = {}
        tags: list[str] = []
        for expert in panel.experts:
            began = time.perf_counter()
            try:
                found[expert.name] = expert(image, tags)
                panel.sound.add(expert.name)
            except Exception as error:  # models meet odd pictures with any exception there is
                found[expert.name] = Findings()
                id = f"{row['image_id']}/{expert.name}"
                yield Drop("expert_failed", panel.fault(expert.name, error), id, expert.name)
            tags += [tag.label for tag in found[expert.name].tags]
            yield Note(f"seconds_{expert.name}", time.perf_counter() - began)
        boxes = {name: findings.boxes for name, findings in found.items()}
        kept = balanced(merge(boxes, overlap=overlap), max_boxes, image.size)
        yield from _prior(row["image_id"], found, kept)


def _read(row: Row, root: Path) -> Image.Image | Drop:
    if not row["path"]:
        return Drop("image_failed", row["reason"])
    try:
        return read_image(root / row["path"])
    except ImageError as error:
        return Drop(error.reason, error.detail)
    except OSError as error:
        return Drop("unreadable", f"{error.strerror}: {row['path']}")


def _prior(
    image_id: str, found: Mapping[str, Findings], boxes: Sequence[tuple[str, Box]]
) -> Iterator[Said]:
    """What all experts found in one image, and what run.json counts of it."""
    tags: list[Row] = []
    texts: list[Row] = []
    for name, findings in found.items():
        tags += [vars(tag) | {"expert": name} for tag in findings.tags]
        texts += [vars(line) | {"text": line.label, "expert": name} for line in findings.texts]
        yield Note("boxes_given", len(findings.boxes))
        yield from map(Note, findings.notes)
    prior = {
        "tags": tags,
        "boxes": [vars(box) | {"expert": name} for name, box in boxes],
        "texts": texts,
    }
    for kind, entries in prior.items():
        yield Note(kind, len(entries))
    yield Note("images_with_text", bool(texts))
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
    s = SimpleNamespace(**dict(settings))
    found: list[Expert] = []
    if s.tagger or s.detector or s.open_detector:
        import torch

        torch.set_num_threads(s.threads)  # before a tagger reads its list
    if s.tagger:
        tagger = ModelTagger(
            s.tagger,
            tag_list=s.tag_list,
            threshold=s.tagger_threshold,
            max_tags=s.max_tags,
            device=s.device,
        )
        found.append(tagger)
    options = {"threshold": s.detector_threshold, "device": s.device}
    if s.detector == efficientnet.NAME:
        found.append(ActivationDetector(**options))
    elif s.detector:
        found.append(ClosedDetector(s.detector, **options))
    if s.open_detector:
        options["threshold"] = s.open_detector_threshold
        found.append(OpenDetector(s.open_detector, **options))
    if s.ocr == "rapidocr":
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
