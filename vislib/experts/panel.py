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
from vislib.runs.tables import Output, Row

# Pixels at once, 100 MB. Each expert scales once, from the full picture: what is legible after one
# scaling is lost after two, and a long page must not be scaled by its longest side.
_PIXELS = 2**25
Seen = tuple[str, Image.Image]  # image_id, picture


class Panel:
    """Experts in the order in which they are asked, and the output that they write to."""

    def __init__(
        self, experts: Sequence[Expert], output: Output, *, overlap: float, max_boxes: int
    ) -> None:
        self.experts, self.output = experts, output
        self._overlap, self._max_boxes = overlap, max_boxes
        self.faults: dict[str, str] = {}  # by expert, the last

    def look(self, rows: Sequence[Row], root: Path) -> None:
        """Write the priors of a batch: rows of image_id, path below `root`, image_url and reason
        (without a path).
        """
        # Some rows at once, as many as their pixels allow: one may be as large as forty others.
        seen: list[Seen] = []
        pixels = 0
        for image_id, image in self._readable(rows, root):
            if seen and pixels + image.width * image.height > _PIXELS:
                self._look(seen)
                seen, pixels = [], 0
            seen.append((image_id, image))
            pixels += image.width * image.height
        if seen:
            self._look(seen)

    def _look(self, seen: Sequence[Seen]) -> None:
        tags: list[list[str]] = [[] for _ in seen]
        found: dict[str, list[Findings]] = {}
        for expert in self.experts:
            began = time.perf_counter()
            found[expert.name] = self._ask(expert, seen, tags)
            self.output.note(f"seconds_{expert.name}", time.perf_counter() - began)
            if expert.name == "tagger":
                tags = [[tag.label for tag in findings.tags] for findings in found["tagger"]]
        for place, (image_id, image) in enumerate(seen):
            of_image = {name: findings[place] for name, findings in found.items()}
            prior = self._prior(of_image, image.size)
            self.output.write("priors", {"image_id": image_id} | prior)
            self.output.keep("image")

    def _readable(self, rows: Sequence[Row], root: Path) -> Iterator[Seen]:
        for row in rows:
            self.output.take("image")
            if not row["path"]:
                self.output.drop("image", row["image_url"], "image_failed", row["reason"])
                continue
            try:
                image = read_image(root / row["path"])
            except ImageError as error:
                self.output.drop("image", row["image_id"], error.reason, error.detail)
            except OSError as error:
                detail = f"{error.strerror}: {row['path']}"
                self.output.drop("image", row["image_id"], "unreadable", detail)
            else:
                yield row["image_id"], image

    def _ask(
        self, expert: Expert, seen: Sequence[Seen], tags: Sequence[Sequence[str]]
    ) -> list[Findings]:
        try:
            found = expert([image for _, image in seen], tags)
        except Exception as error:  # models meet odd pictures with any exception there is
            if len(seen) > 1:
                pairs = zip(seen, tags, strict=True)
                return [self._ask(expert, [one], [words])[0] for one, words in pairs]
            # Of a traceback in the message, what it ends with.
            reason = (str(error).strip().splitlines() or [""])[-1]
            fault = f"{type(error).__name__}: {reason[:300]}"
            self.faults[expert.name] = fault
            self.output.take(expert.name)
            self.output.drop(expert.name, f"{seen[0][0]}/{expert.name}", "expert_failed", fault)
            return [Findings()]
        self.output.take(expert.name, len(seen))
        self.output.keep(expert.name, len(seen))
        return found

    def _prior(
        self, found: Mapping[str, Findings], size: tuple[int, int]
    ) -> dict[str, list[dict[str, Any]]]:
        # What has no area, or lies beside the picture, is counted and left out.
        whole = {name: list(filter(None, map(clipped, f.boxes))) for name, f in found.items()}
        prior: dict[str, list[dict[str, Any]]] = {"tags": [], "boxes": [], "texts": []}
        for name, box in balanced(merge(whole, overlap=self._overlap), self._max_boxes, size):
            prior["boxes"].append({**vars(box), "expert": name})
        for name, findings in found.items():
            prior["tags"] += [{**vars(tag), "expert": name} for tag in findings.tags]
            prior["texts"] += [{**vars(text), "expert": name} for text in findings.texts]
            self.output.note("boxes_given", len(findings.boxes))
            self.output.note("boxes_without_area", len(findings.boxes) - len(whole[name]))
            for note in findings.notes:
                self.output.note(note)
        for kind, entries in prior.items():
            self.output.note(kind, len(entries))
        self.output.note("images_with_text", bool(prior["texts"]))
        return prior
