"""Rows shown as cards in notebooks: a small picture, its texts beside it, readable without the file
at hand.

Notebooks of this project look at samples before and after each step (VisCon-100K, figures 1 and 8,
print such pairs). Styles stand inline and colours are those of the page: JupyterLab strips style
sheets from notebooks that it has not run itself, and both of its themes and the exported HTML must
stay readable.
"""

import base64
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from IPython.display import HTML

from vislib.media.pixels import ImageError, read_image, scaled

SIDE = 220  # px of a thumbnail's longest side: about 10 kB
_SHORT, _LONGEST = 48, 4000  # characters: up to here a fact on one line; from here a text is cut
_FRAME = "border:1px solid rgba(128,128,128,.35);border-radius:4px;padding:8px"
_LABEL = "font-size:80%;opacity:.7;overflow-wrap:anywhere"
_CHAT = "flex:1 1 0;min-width:0;max-width:60em"  # whole: a cut chat hides that it goes on
_LINES = "white-space:pre-wrap;overflow-wrap:anywhere;line-height:1.35"


def cards(
    rows: Iterable[Mapping[str, Any]],
    *,
    image: str = "",
    root: Path | None = None,
    title: str = "",
    text: Sequence[str] = (),
    side: int = SIDE,
) -> HTML:
    """One card per row; every argument but `rows` and `root` names a column.

    `image`: path of the picture, below `root` (a stage's data folder) or absolute. `title`: the
    card's heading.
    `text`: columns shown with their names; lists become lines, absent values a dash, and
    `conversations` (turns in LLaVA's form) a chat. Without `text` the cards are tiles of a contact
    sheet. `side`: px of a picture's longest side, at most.
    """

    def card(row: Mapping[str, Any]) -> str:
        picture = _picture(row.get(image), root, side) if image else ""
        bold = "font-weight:600;overflow-wrap:anywhere"
        heading = _div(bold, escape(_as_text(row.get(title)))) if title else ""
        if not text:
            return _div(f"{_FRAME};width:{side}px;font-size:80%", picture, heading)
        body = _div("flex:1 1 0;min-width:0", heading, *_texts(row, text))
        return _div(f"display:flex;gap:12px;{_FRAME}", picture, body)

    flow = "column" if text else "row wrap"
    inside = "".join(map(card, rows)) or "no rows"
    return HTML(_div(f"display:flex;flex-flow:{flow};gap:8px", inside))  # type: ignore[no-untyped-call]


def _div(style: str, *inside: str) -> str:
    """A box of HTML, whose own text finds its direction by its first letter."""
    return f'<div dir="auto" style="{style}">{"".join(inside)}</div>'


def _turn(turn: Mapping[str, str]) -> str:
    """One turn: what is asked to the right, what is answered to the left."""
    # Greys that are seen on light and dark pages alike.
    side, shade = ("right", ".06") if turn["from"] != "human" else ("left", ".16")
    style = (
        f"margin-{side}:20%;margin-bottom:6px;padding:4px 10px;border-radius:10px;"
        f"background:rgba(128,128,128,{shade});{_LINES}"
    )
    return _div(style, escape(_as_text(turn["value"])))


def _texts(row: Mapping[str, Any], names: Sequence[str]) -> Iterator[str]:
    """Short values on one line of facts, the others in columns: a card is read at a glance."""
    facts, columns = [], []
    for name in names:
        if name == "conversations":
            columns.append(_div(_CHAT, *(_turn(turn) for turn in row[name])))
            continue
        value = _as_text(row.get(name))
        label = f'<span style="{_LABEL}">{escape(name)}</span>'
        if len(value) <= _SHORT and "\n" not in value:
            facts.append(f"{label} <bdi>{escape(value)}</bdi>")
            continue
        # A long text scrolls in its own box.
        body = _div(f"max-height:15em;overflow:auto;{_LINES}", escape(value))
        # Width by length, within bounds: a caption beside a page of text must stay legible.
        share = 1 + min(len(value), 1200) // 200
        columns.append(_div(f"flex:{share} 1 160px;min-width:0", label, body))
    yield _div("", " · ".join(facts))
    yield _div("display:flex;flex-wrap:wrap;gap:12px", *columns)


def _as_text(value: Any) -> str:
    """A value as one text; absent and empty ones show as a dash."""
    if isinstance(value, list | tuple):
        value = "\n".join(str(item) for item in value)
    text = (
        f"{value:.3g}" if isinstance(value, float) else str("" if value is None else value).strip()
    )
    # A notebook of fifty whole pages would not open.
    over = len(text) - _LONGEST
    return (f"{text[:_LONGEST]} … ({over} more characters)" if over > 0 else text) or "–"


def _picture(path: str | Path | None, root: Path | None, side: int) -> str:
    """An `img` of at most `side` px, or the reason why there is none."""
    box = f"flex:none;width:{side}px"
    if not path:
        return _div(f"{box};{_LABEL}", "no image")
    try:
        small = scaled(read_image((root or Path()) / path), side)
    except (ImageError, OSError) as error:
        why = f"{error.strerror}: {path}" if isinstance(error, OSError) else str(error)
        return _div(f"{box};{_LABEL}", escape(why))
    # Within the page itself: a notebook that is sent to a colleague keeps its pictures.
    stream = io.BytesIO()
    small.save(stream, "JPEG", quality=80)
    data = base64.b64encode(stream.getvalue()).decode("ascii")
    size = f'width="{small.width}" height="{small.height}"'
    return _div(box, f'<img alt="" {size} src="data:image/jpeg;base64,{data}">')
