"""Experts asked together about a batch of images, and their findings as one prior (DenseFusion-1M,
Perceptual Fusion).

The tagger looks first: its tags are what the open-vocabulary detector looks for. An expert that
fails on a batch is asked image by image; an image on which it fails alone loses that expert's
priors, with the reason, not the others'.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from vislib.experts.boxes import balanced, clipped, merge
from vislib.experts.findings import Expert, Findings
from vislib.media.pixels import ImageError, read_image
from vislib.runs import Drop, Note, To
from vislib.runs.tables import Row
from vislib.runs.verbs import Said

# Pixels at once, 100 MB. Each expert scales once, from the full picture: what is legible after one
# scaling is lost after two, and a long page must not be scaled by its longest side.
_PIXELS = 2**25
Seen = tuple[str, Image.Image]  # image_id, picture


class Panel:
    """Experts in the order in which they are asked."""

    def __init__(self, experts: Sequence[Expert], *, overlap: float, max_boxes: int) -> None:
        self.experts = experts
        self._overlap, self._max_boxes = overlap, max_boxes
        self.faults: dict[str, str] = {}  # by expert, the last
        self.failed = {expert.name: (0, 0) for expert in experts}  # images of those asked

    def look(self, rows: Sequence[Row], root: Path) -> Iterator[Said]:
        """The priors of a batch: rows of image_id, path below `root`, and reason (without one)."""
        # Some rows at once, as many as their pixels allow: one may be as large as forty others.
        seen: list[Seen] = []
        pixels = 0
        for row in rows:
            image = _read(row, root)
            if isinstance(image, Drop):
                yield image
                continue
            if seen and pixels + image.width * image.height > _PIXELS:
                yield from self._look(seen)
                seen, pixels = [], 0
            seen.append((row["image_id"], image))
            pixels += image.width * image.height
        if seen:
            yield from self._look(seen)

    def _look(self, seen: Sequence[Seen]) -> Iterator[Said]:
        tags: list[list[str]] = [[] for _ in seen]
        found: dict[str, list[Findings]] = {}
        for expert in self.experts:
            began = time.perf_counter()
            found[expert.name], drops = self._ask(expert, seen, tags)
            yield from drops
            yield Note(f"seconds_{expert.name}", time.perf_counter() - began)
            if expert.name == "tagger":
                tags = [[tag.label for tag in findings.tags] for findings in found["tagger"]]
        for place, (image_id, image) in enumerate(seen):
            of_image = {name: findings[place] for name, findings in found.items()}
            prior, notes = self._prior(of_image, image.size)
            yield To("priors", {"image_id": image_id} | prior)
            yield from notes

    def _ask(
        self, expert: Expert, seen: Sequence[Seen], tags: Sequence[Sequence[str]]
    ) -> tuple[list[Findings], list[Drop]]:
        try:
            found = expert([image for _, image in seen], tags)
        except Exception as error:  # models meet odd pictures with any exception there is
            if len(seen) > 1:
                alone = [
                    self._ask(expert, [one], [words]) for one, words in zip(seen, tags, strict=True)
                ]
                return [one for (one,), _ in alone], [drop for _, lost in alone for drop in lost]
            # Of a traceback in the message, what it ends with.
            reason = (str(error).strip().splitlines() or [""])[-1]
            fault = f"{type(error).__name__}: {reason[:300]}"
            self.faults[expert.name] = fault
            self._count(expert, 1, 1)
            id = f"{seen[0][0]}/{expert.name}"
            return [Findings()], [Drop("expert_failed", fault, id=id, unit=expert.name)]
        self._count(expert, 0, len(seen))
        return found, []

    def _count(self, expert: Expert, failed: int, asked: int) -> None:
        n_failed, n_asked = self.failed[expert.name]
        self.failed[expert.name] = n_failed + failed, n_asked + asked

    def _prior(
        self, found: Mapping[str, Findings], size: tuple[int, int]
    ) -> tuple[dict[str, list[dict[str, Any]]], list[Note]]:
        notes = []
        # What has no area, or lies beside the picture, is counted and left out.
        whole = {name: list(filter(None, map(clipped, f.boxes))) for name, f in found.items()}
        prior: dict[str, list[dict[str, Any]]] = {"tags": [], "boxes": [], "texts": []}
        for name, box in balanced(merge(whole, overlap=self._overlap), self._max_boxes, size):
            prior["boxes"].append({**vars(box), "expert": name})
        for name, findings in found.items():
            prior["tags"] += [{**vars(tag), "expert": name} for tag in findings.tags]
            prior["texts"] += [{**vars(text), "expert": name} for text in findings.texts]
            notes.append(Note("boxes_given", len(findings.boxes)))
            notes.append(Note("boxes_without_area", len(findings.boxes) - len(whole[name])))
            notes += [Note(name) for name in findings.notes]
        for kind, entries in prior.items():
            notes.append(Note(kind, len(entries)))
        notes.append(Note("images_with_text", bool(prior["texts"])))
        return prior, notes


def _read(row: Row, root: Path) -> Image.Image | Drop:
    if not row["path"]:
        return Drop("image_failed", row["reason"], id=row["image_id"])
    try:
        return read_image(root / row["path"])
    except ImageError as error:
        return Drop(error.reason, error.detail, id=row["image_id"])
    except OSError as error:
        return Drop("unreadable", f"{error.strerror}: {row['path']}", id=row["image_id"])
