"""Rows shown as cards in notebooks: a small picture, its texts beside it, readable without the file
at hand.

Notebooks of this project look at samples before and after each step (VisCon-100K, figures 1 and 8,
print such pairs). Styles stand inline and colours are those of the page: JupyterLab strips style
sheets from notebooks that it has not run itself, and both of its themes and the exported HTML must
stay readable.
"""

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from IPython.display import HTML

from vislib.media.pixels import ImageError, read_image, scaled

SIDE = 220  # px of a thumbnail's longest side: about 10 kB
_SHORT, _LONGEST = 48, 4000  # characters: up to here a fact on one line; from here a text is cut
_LINE = "1px solid rgba(128,128,128,.35)"
_LABEL = "font-size:80%;opacity:.7;overflow-wrap:anywhere"


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
    `text`: columns shown with their names; lists become lines, absent values a dash. Without `text`
    the cards are tiles of a contact sheet. `side`: px of a picture's longest side, at most.
    """
    shown = [_card(row, image, root, title, text, side) for row in rows]
    flow = "column" if text else "row wrap"
    return HTML(
        f'<div style="display:flex;flex-flow:{flow};gap:8px">{"".join(shown) or "no rows"}</div>'
    )  # type: ignore[no-untyped-call]


def chats(
    rows: Iterable[Mapping[str, Any]],
    *,
    image: str = "",
    root: Path | None = None,
    side: int = SIDE,
) -> HTML:
    """Each row's `conversations` (turns in LLaVA's form) as a chat beside its picture.

    `image`: column with the path of the picture, below `root` or absolute.
    """
    shown, box = [], "flex:1 1 0;min-width:0;max-width:60em;max-height:32em;overflow:auto"
    for row in rows:
        picture = (
            f'<div style="flex:none;width:{side}px">{_picture(row.get(image), root, side)}</div>'
        )
        turns = "".join(_turn(turn["from"], turn["value"]) for turn in row["conversations"])
        shown.append(
            f'<div style="display:flex;gap:12px;border:{_LINE};border-radius:4px;padding:8px">'
            f'{picture}<div style="{box}">{turns}</div></div>'
        )
    return HTML(
        f'<div style="display:flex;flex-flow:column;gap:8px">{"".join(shown) or "no rows"}</div>'
    )  # type: ignore[no-untyped-call]


def _turn(speaker: str, text: str) -> str:
    """One turn: what is asked to the right, what is answered to the left."""
    asks = speaker == "human"
    # Greys that are seen on light and dark pages alike.
    side, shade = ("margin-left:20%", ".16") if asks else ("margin-right:20%", ".06")
    style = (
        f"{side};margin-bottom:6px;padding:4px 10px;border-radius:10px;white-space:pre-wrap;"
        f"overflow-wrap:anywhere;line-height:1.35;background:rgba(128,128,128,{shade})"
    )
    return f'<div dir="auto" style="{style}">{escape(_as_text(text))}</div>'


def _card(
    row: Mapping[str, Any],
    image: str,
    root: Path | None,
    title: str,
    text: Sequence[str],
    side: int,
) -> str:
    bold = "font-weight:600;overflow-wrap:anywhere"
    heading = (
        f'<div dir="auto" style="{bold}">{escape(_as_text(row.get(title)))}</div>' if title else ""
    )
    picture = (
        f'<div style="flex:none;width:{side}px">{_picture(row.get(image), root, side)}</div>'
        if image
        else ""
    )
    frame = f"border:{_LINE};border-radius:4px;padding:8px"
    if not text:
        return f'<div style="{frame};width:{side}px;font-size:80%">{picture}{heading}</div>'
    # Short values share one line of facts; the others get boxes beside each other.
    values = {name: _as_text(row.get(name)) for name in text}
    # Facts on one line, texts in columns: a card is read at a glance.
    short = [name for name, value in values.items() if len(value) <= _SHORT and "\n" not in value]
    facts = " · ".join(f"{_label(name)} <bdi>{escape(values[name])}</bdi>" for name in short)
    texts = "".join(_text(name, values[name]) for name in text if name not in short)
    columns = f'<div style="display:flex;flex-wrap:wrap;gap:12px">{texts}</div>'
    body = f'<div style="flex:1 1 0;min-width:0">{heading}<div>{facts}</div>{columns}</div>'
    return f'<div style="display:flex;gap:12px;{frame}">{picture}{body}</div>'


def _text(name: str, value: str) -> str:
    """A labelled text; longer ones get more of the width, then scroll in their own box."""
    box = (
        "max-height:15em;overflow:auto;white-space:pre-wrap;overflow-wrap:anywhere;line-height:1.35"
    )
    body = f'<div dir="auto" style="{box}">{escape(value)}</div>'
    # By length, within bounds: a caption beside a page of text must stay legible.
    share = 1 + min(len(value), 1200) // 200
    return f'<div style="flex:{share} 1 160px;min-width:0">{_label(name)}{body}</div>'


def _label(name: str) -> str:
    return f'<span style="{_LABEL}">{escape(name)}</span>'


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
    if not path:
        return f'<span style="{_LABEL}">no image</span>'
    try:
        small = scaled(read_image((root or Path()) / path), side)
    except (ImageError, OSError) as error:
        why = f"{error.strerror}: {path}" if isinstance(error, OSError) else str(error)
        return f'<span style="{_LABEL}">{escape(why)}</span>'
    # Within the page itself: a notebook that is sent to a colleague keeps its pictures.
    stream = io.BytesIO()
    small.save(stream, "JPEG", quality=80)
    data = base64.b64encode(stream.getvalue()).decode("ascii")
    return (
        f'<img alt="" width="{small.width}" height="{small.height}"'
        f' src="data:image/jpeg;base64,{data}">'
    )
