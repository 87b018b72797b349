"""Captions as prose: what the page calls the picture, what was measured in it, what the page says beside it.

A contextual caption (VisCon-100K, section 3.2) uses all three, a non-contextual one the picture alone. A fused one
(DenseFusion-1M, Perceptual Fusion) also names what experts recognised in it.
"""

from collections.abc import Iterator

from vislib.engines.extractive.evidence import Evidence, Sentence, script
from vislib.engines.extractive.picture import Picture
from vislib.engines.extractive.questions import WORDINGS, as_quotes, joined, noun_phrase, quotable, shuffled
from vislib.runs.seeding import seeded

_SHAPES = ((2.0, "very wide"), (1.05, "landscape"), (0.95, "square"), (0.5, "portrait"), (0, "very tall"))

_DULL = ("level", "spread")  # said where little else can be


def write_caption(evidence: Evidence, picture: Picture | None, seed: int) -> str:
    """A caption of one to eight sentences; "" without any evidence."""
    way, words = noun_phrase(evidence.label)
    way = "named" if way == "label" and not evidence.context else way
    plan: list[tuple[str, dict[str, str]]] = [(way, {"label": words})] if words else []
    if picture:
        frame, colours = _frame(picture), _colours(picture)
        plan.append(("first" if words else "alone", {"frame": f"a {frame}", "bare": frame, "colours": colours}))
        details = shuffled(_details(picture), seed, "details")
        plan += sorted(details, key=lambda item: item[0] in _DULL)[: 2 if evidence.sentences else 4]
    if evidence.objects:
        plan.append(("objects", {"objects": joined([quotable(name) for name in evidence.objects])}))
    if evidence.texts:
        plan.append(("texts", {"texts": as_quotes(evidence.texts)}))
    for key, sentences in zip(("quote", "more"), _quotes(evidence, seed), strict=False):
        plan.append((key, {"text": quotable(" ".join(s.text for s in sentences))}))
    return " ".join(_say(key, fields, seed) for key, fields in plan)


def _say(key: str, fields: dict[str, str], seed: int) -> str:
    capitals = {name.capitalize(): text[:1].upper() + text[1:] for name, text in fields.items()}
    wordings: list[str] = WORDINGS["caption"][key]
    return shuffled(wordings, seed)[0].format(**fields, **capitals)


def _frame(p: Picture) -> str:
    """`bright colour picture in landscape format`."""
    tone = "dark " if p.light < 70 else "bright " if p.light > 195 else ""
    shape = next(name for least, name in _SHAPES if p.width / p.height >= least)
    return f"{tone}{'black-and-white' if p.grey else 'colour'} picture in {shape} format"


def _colours(p: Picture) -> str:
    """`white is the main colour, with some light grey beside it`."""
    top, *others = p.areas["all"]
    some = [c.shade for c in others if c.share > 0.05][:2]
    if top.share > 0.92 or not some:
        return f"nearly everything is {top.shade}"
    if top.share > 0.45:
        return f"{top.shade} is the main colour, with {'some ' if len(some) < 2 else ''}{joined(some)} beside it"
    return f"{joined([top.shade, *some])} are the main colours"


def _details(p: Picture) -> Iterator[tuple[str, dict[str, str]]]:
    """Wording and fields of what else can be said; of the areas only the first pair that differs."""
    tops = {name: colours[0] for name, colours in p.areas.items()}
    pairs = {
        "rows": ("upper third", "lower third"), "columns": ("left third", "right third"), "frame": ("border", "middle"),
    }  # fmt: skip
    ends = {key: (tops[one], tops[two]) for key, (one, two) in pairs.items()}
    yield from [
        (key, {"a": a.shade, "b": b.shade}) for key, (a, b) in ends.items()
        if a.family != b.family and min(a.share, b.share) > 0.5
    ][:1]  # fmt: skip
    yield from [("spot", {"colour": family, "place": place}) for family, (place, _) in list(p.spots.items())[:1]]
    for key, values in (("light", p.corners), ("detail", p.detail)):
        low, high = min(values, key=values.__getitem__), max(values, key=values.__getitem__)
        if values[high] - values[low] > 20 if key == "light" else values[high] > 2 * values[low] + 3:
            yield key, {"a": high, "b": low}
        elif key == "light" and p.contrast > 28 and values[high] - values[low] < 12:
            yield "level", {}
        elif key == "detail" and values[high] < 1.5 * values[low]:
            yield "spread", {}
    if not 0.1 <= p.even <= 0.7:
        yield "flat" if p.even > 0.7 else "gradual", {}
    if not 28 <= p.contrast <= 75:
        yield "strong" if p.contrast > 75 else "weak", {}


def _quotes(evidence: Evidence, seed: int) -> list[list[Sentence]]:
    """One or two quotations: the best sentence and one about as near; two that follow each other are quoted as one."""
    able = [s for s in evidence.sentences if s.alone or (s.text.startswith(("This ", "These ")) and s.score > 1.8)]
    able = sorted(able, key=lambda s: (-s.score, s.number)) or list(evidence.sentences[:1])
    if not able:
        return []
    first = able[0]
    rest = [s for s in evidence.sentences if s is not first and s.score > 0.5 * first.score]
    if follower := next((s for s in rest if s.number == first.number + 1), None):
        return [[first, follower]]
    second = next((s for s in rest if s.alone and script(s.text) == script(first.text)), None)
    return [[first], [second]] if second and seeded(seed, "second") % 3 else [[first]]
