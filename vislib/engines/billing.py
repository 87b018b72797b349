"""What an image costs in tokens: each provider's published rule as data (VisCon-100K, section 3.2,
asks with images).

A rule of `image_billing.toml` shrinks a picture as its provider does, cuts what is left into cells,
and bills the cells. From it follow the size worth sending (`send_side`) and what a request will
cost before it is asked.
"""

import math
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from vislib.runs.errors import InputError

_FILE = Path(__file__).with_name("image_billing.toml")


@dataclass(frozen=True, kw_only=True, eq=False)
class Rule:
    """Tokens of an image: `base`, `per_cell` for each cell of `cell` px, `per_row` for each row of
    cells.

    A picture is first made to fit `max_side`, `max_short` (px) and `max_cells` (0: no limit), then
    cut into cells, rounded up, or to the `nearest` number and up to `min_pixels`. No `cell`: always
    `base`.
    """

    name: str
    models: Sequence[str]  # patterns of model names, as the shell's
    source: str
    base: int = 0
    cell: int = 0
    per_cell: float = 1.0
    per_row: int = 0
    max_side: int = 0
    max_short: int = 0
    max_cells: int = 0
    min_pixels: int = 0
    nearest: bool = False

    def tokens(self, width: int, height: int) -> int:
        """Tokens that an image of `width` x `height` px is billed."""
        if not self.cell:
            return self.base
        columns, rows = self._grid(*scaled_size(width, height, self.seen(width, height)))
        return self.base + math.ceil(columns * rows * self.per_cell - 1e-6) + rows * self.per_row

    def seen(self, width: int, height: int) -> int:
        """The longest side, in px, at which the provider looks at an image of `width` x `height`
        px.
        """
        longest = max(width, height)
        shortest = min(width, height)
        if not self.cell:  # billed by the picture: every size is looked at
            return longest
        limits = [longest, self.max_side, self.max_short * longest // shortest]
        high = min(limit for limit in limits if limit)
        most = self.max_cells or math.inf
        return _largest(width, height, high, lambda w, h: math.prod(self._grid(w, h)) <= most)

    def _grid(self, width: int, height: int) -> tuple[int, int]:
        """Columns and rows of cells."""
        cell = self.cell
        if not self.nearest:
            return math.ceil(width / cell), math.ceil(height / cell)
        # the form that Qwen publishes
        columns = round(width / cell)
        rows = round(height / cell)
        if columns * rows * cell**2 >= self.min_pixels:
            return columns, rows
        grow = math.sqrt(self.min_pixels / (width * height))
        return math.ceil(width * grow / cell), math.ceil(height * grow / cell)


@cache
def rules() -> dict[str, Rule]:
    """The image rules by name, in the order in which their patterns are tried."""
    return {name: Rule(name=name, **entry) for name, entry in _families("images").items()}


def rule_of(params: Any) -> Rule | None:
    """The rule that `image_billing` names, or for `auto` the one whose pattern fits `model`; None
    if none is known.

    Raises InputError for a name that is no rule.
    """
    name = getattr(params, "image_billing", "none")
    if name not in ("auto", "none", *rules()):
        raise InputError(
            f"image_billing is {name!r}; take auto, none, or one of {', '.join(rules())}"
        )
    return rules().get(_family("images", params.model) if name == "auto" else name)


def caching_of(model: str) -> Mapping[str, Any]:
    """How the provider of `model` reuses the beginning of prompts; empty if nothing is known of it.

    From `least` tokens on, in steps of `step`; `read` and `write` are shares of the input price;
    `marked_at`: the provider at this address reuses them only up to a breakpoint that the request
    sets.
    """
    return _families("caches").get(_family("caches", model), {})


@lru_cache(maxsize=1 << 16)
def send_side(width: int, height: int, *, side: int, tokens: int, rule: Rule | None) -> int:
    """The longest side in px worth sending of a `width` x `height` px image; `side` itself if
    nothing is gained.

    Never more than `side` (0: as the file is) or than the provider looks at, and billed at most
    `tokens` (0: no bound). Raises InputError if no size of the image is billed so little.
    """
    # Without a rule nobody knows what a pixel costs, and the side asked for is what is sent.
    if rule is None or min(width, height) < 1:
        return side

    longest = min(side or max(width, height), max(width, height))
    best = min(longest, rule.seen(*scaled_size(width, height, longest)))
    most = tokens or math.inf
    best = _largest(width, height, best, lambda w, h: rule.tokens(w, h) <= most)
    if (least := rule.tokens(*scaled_size(width, height, best))) > most:
        raise InputError(
            f"image_tokens is {tokens}, but {rule.name} bills no image less than {least}; raise it"
        )
    return side if best == longest else best


def scaled_size(width: int, height: int, side: int) -> tuple[int, int]:
    """Width and height, in px, of the picture that `pixels.scaled` makes for `side`."""
    if not side or max(width, height) <= side:
        return width, height
    # Pillow's thumbnail takes the shorter side that keeps the ratio best
    ratio = width / height
    low = max(1, int(side / ratio if ratio >= 1 else side * ratio))
    if ratio >= 1:
        return side, min((low, low + 1), key=lambda n: abs(ratio - side / n))
    return min((low, low + 1), key=lambda n: abs(ratio - n / side)), side


def _largest(width: int, height: int, high: int, fits: Callable[[int, int], bool]) -> int:
    """The largest side up to `high` whose scaled picture fits, by bisection; 1 if none does."""
    if fits(*scaled_size(width, height, high)):  # as a rule
        return high
    low = 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(*scaled_size(width, height, middle)) else (low, middle)
    return low


@cache
def _families(kind: str) -> dict[str, dict[str, Any]]:
    tables: dict[str, dict[str, Any]] = tomllib.loads(_FILE.read_text(encoding="utf-8"))[kind]
    return tables


@cache
def _family(kind: str, model: str) -> str:
    """The first family with a pattern that fits the last part of a model's name; empty if none
    has.
    """
    # Without the maker's name or the folder: `org/model` and a local copy of it are billed alike.
    name = model.rstrip("/").rpartition("/")[2].lower()
    for family, table in _families(kind).items():
        if any(fnmatchcase(name, pattern) for pattern in table["models"]):
            return family
    return ""
