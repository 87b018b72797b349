"""What tests of the embedded engine stand on: pages, pictures, priors and requests by number."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vislib.engines import Answer, Request
from vislib.engines.extractive import Extractive
from vislib.qa_format import Parsed, parse_free_form, parse_multiple_choice

TASKS = ("free_form", "multiple_choice")
PARSERS = {"free_form": parse_free_form, "multiple_choice": parse_multiple_choice}
THINGS = (
    "bridge",
    "tower",
    "castle",
    "harbour",
    "lighthouse",
    "windmill",
    "railway",
    "fountain",
    "theatre",
    "library",
    "market",
    "temple",
)
PLACES = (
    "Lisbon",
    "Oslo",
    "Vienna",
    "Cairo",
    "Quito",
    "Manila",
    "Dakar",
    "Lima",
    "Riga",
    "Sofia",
    "Tunis",
    "Perth",
)
COLOURS = [
    (200, 30, 30),
    (30, 60, 200),
    (40, 150, 60),
    (240, 210, 40),
    (250, 250, 250),
    (20, 20, 20),
]


def picture_of(folder: Path, number: int) -> Path:
    """A seeded picture: two bands of colour, a patch and a little noise."""
    rng = np.random.default_rng(number)
    height, width = 120 + 20 * (number % 4), 120 + 30 * (number % 5)
    pixels = np.empty((height, width, 3), dtype=np.int16)
    pixels[:] = COLOURS[number % 6]
    pixels[height * (1 + number % 3) // 4 :] = COLOURS[(number + 2) % 6]
    pixels[10:40, 10:50] = COLOURS[(number + 3) % 6]
    pixels += rng.integers(0, 12, pixels.shape, dtype=np.int16) if number % 2 else 0
    path = folder / f"{number:016x}.png"
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path)
    return path


def sample_of(number: int, **changes: Any) -> dict[str, Any]:
    thing, place, year = THINGS[number % 12], PLACES[number % 12], 1801 + 7 * number
    context = (
        f"The {thing} of {place}\n\n<image>\n\nThe {thing} was opened in {year}. The {thing} is"
        f" {20 + 3 * number} metres tall. The {thing} was designed by Anna {place}son. Visitors"
        f" love the {thing} because the view reaches far over the old"
        f" town.\n\n<another-image>\n\nThe market hall of {place} is a large building of glass and"
        f" stone number {number}. About {300 + 11 * number} people work there on a quiet day."
    )
    return {
        "sample_id": f"s{number:03d}",
        "doc_id": f"d{number:03d}",
        "image_index": 1,
        "image_url": f"http://x/{number}.png",
        "alt_text": f"A {thing} under the sky of {place}",
        "page_url": f"http://x/{number}",
        "context": context,
        "n_context_tokens": 100,
        "width": 100,
        "height": 100,
        **changes,
    }


def priors_of(*texts: str) -> dict[str, Any]:
    box = {"score": 0.99, "x1": 0.1, "y1": 0.1, "x2": 0.6, "y2": 0.3}
    return {
        "tags": [],
        "boxes": [{"label": "person", **box}],
        "texts": [{"text": text, **box} for text in texts],
    }


def request_of(
    sample: dict[str, Any], path: Path | str, task: str, kind: str = "contextual", **evidence: Any
) -> Request:
    given = {
        "task": task,
        "kind": kind,
        "sample": sample,
        "caption": "",
        "priors": None,
        "image_path": str(path),
    }
    return Request(id=sample["sample_id"], prompt="p", prompt_sha="t", evidence=given | evidence)


@pytest.fixture(scope="module")
def requests(tmp_path_factory: pytest.TempPathFactory) -> list[Request]:
    """Both question types of both kinds for 60 samples of as many pages."""
    folder = tmp_path_factory.mktemp("pictures")
    paths = [picture_of(folder, n) for n in range(60)]
    kinds = ("contextual", "non_contextual")
    return [
        request_of(sample_of(n), paths[n], task, kind)
        for n in range(60)
        for kind in kinds
        for task in TASKS
    ]


def answered(
    requests: Sequence[Request], asked: Iterable[Request] | None = None
) -> dict[tuple[str, str, str], Answer]:
    engine = Extractive()
    pairs = engine.answer(requests if asked is None else asked)
    return {(r.id, r.evidence["kind"], r.evidence["task"]): answer for r, answer in pairs}


@pytest.fixture(scope="module")
def parsed(requests: list[Request]) -> dict[tuple[str, str, str], Parsed]:
    answers = answered(requests)
    return {
        key: PARSERS[key[2]](answer.text)
        for key, answer in answers.items()
        if answer.status == "ok"
    }
