"""Claims of the sample to be labelled, by which the judge of 13 is measured: drawn and planted by
rule.

`python -m tests.grounding_claims runs/sample PACKET` draws sentences of captions by hash, without a
look at what any judge says of them, and plants false ones: a wrong colour, a wrong count, and the
sentence of another page that comes nearest. PACKET is what a labeller reads: pictures, pages and
claims, nothing of where a claim comes from. The labels stand beside the claims in
`vislib/sample/labels/grounding.csv`; run again, it keeps those of claims that are still there.
"""

import csv
import json
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from vislib.media.embeddings import INSTALLED, SentenceEncoder
from vislib.media.picture import NEIGHBOURS
from vislib.media.tokenization import sentences
from vislib.runs import seeded, short_hash, tables

FILE = Path(__file__).parents[1] / "vislib/sample/labels/grounding.csv"
COLUMNS = [
    "claim_id",
    "sample_id",
    "kind",
    "sentence",
    "text",
    "planted",
    "original",
    "label_a",
    "label_b",
]
SEED = 13
SAMPLES = 60  # at least one of every page
DRAWN = {"contextual": 226, "non_contextual": 22}
PLANTED = 24  # of each of three rules
# A second draw, when the first had left too few of the class `image`, and of swaps in reserve.
SECOND = 68  # of captions whose writer saw no page
SWAPPED = 6  # of each of the two rules that swap a word
_COUNTS = [
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
]
_COLOUR = re.compile(rf"\b({'|'.join(NEIGHBOURS)})\b", re.IGNORECASE)
_COUNT = re.compile(rf"(?<![\w.,])(\d{{1,4}}|{'|'.join(_COUNTS)})(?![\w]|[.,]\d)", re.IGNORECASE)
Claim = dict[str, Any]


def ordered(rows: Sequence[Any], *names: str) -> list[Any]:
    """The rows in an order that is drawn by hash."""
    return sorted(rows, key=lambda row: seeded(SEED, *map(str, names), *map(str, row.values())))


def wrong_colour(text: str) -> str:
    """The sentence with its first colour as one that nobody takes for it; "" without a colour."""
    held = {found.lower() for found in _COLOUR.findall(text)}
    if not held:
        return ""
    own = _COLOUR.search(text)[0].lower()
    far = [name for name in NEIGHBOURS if name not in {*held, *NEIGHBOURS[own]}]
    return _put(text, own, far[seeded(SEED, text) % len(far)])


def wrong_count(text: str) -> str:
    """The sentence with its first number as another one; "" without a number."""
    found = _COUNT.search(text)
    if not found:
        return ""
    own, draw = found[0].lower(), seeded(SEED, text)
    if own in _COUNTS:
        far = [word for n, word in enumerate(_COUNTS) if abs(n - _COUNTS.index(own)) > 1]
        return _put(text, own, far[draw % len(far)])
    number = int(own)
    step = 11 + draw % 30 if number > 1000 else 2 + draw % 7 + number // 4
    return _put(text, own, str(number + (-step if number > 1000 else step)))


def _put(text: str, old: str, new: str) -> str:
    def cased(match: re.Match[str]) -> str:
        return new.capitalize() if match[0][0].isupper() else new

    swapped = re.sub(rf"(?<![\w.,]){old}(?![\w])", cased, text, flags=re.IGNORECASE)
    # the article must not give the swap away
    swapped = re.sub(rf"\b([Aa])n (?={new}\b)", r"\1 ", swapped)
    return re.sub(rf"\b([Aa]) (?={new}\b)", r"\1n " if new[0] in "aeio" else r"\1 ", swapped)


def claims_of(run: Path) -> tuple[list[Claim], dict[str, Any]]:
    """Every sentence of every good caption, and the samples by id."""
    samples = {row["sample_id"]: row for row in tables.read_rows(run / "02_filtering/data/samples")}
    claims = []
    for row in tables.read_rows(run / "06_captioning/data/captions"):
        if row["status"] == "ok":
            for place, text in enumerate(map(str.strip, sentences(row["caption"]))):
                known = {"sample_id": row["sample_id"], "kind": row["kind"], "sentence": place}
                claims.append(known | {"text": text})
    return claims, samples


def chosen_samples(claims: Sequence[Claim], samples: dict[str, Any]) -> set[str]:
    """One sample of every page, then others, by hash."""
    ids = ordered([{"id": id} for id in sorted({claim["sample_id"] for claim in claims})])
    pages, first, rest = set[str](), list[str](), list[str]()
    for row in ids:
        page = samples[row["id"]]["doc_id"]
        (rest if page in pages else first).append(row["id"])
        pages.add(page)
    return set([*first, *rest][:SAMPLES])


def planted(claims: Sequence[Claim], every: Sequence[Claim], samples: Any) -> Iterator[Claim]:
    """False claims of each rule, made of sentences that are not drawn themselves."""
    for rule, swap in (("colour", wrong_colour), ("count", wrong_count)):
        swapped = [(claim, swap(claim["text"])) for claim in ordered(claims, rule)]
        pairs = one_a_sample(pair for pair in swapped if pair[1])
        for claim, text in pairs[: PLANTED + SWAPPED]:
            yield claim | {"text": text, "planted": rule, "original": claim["text"]}
    own = [claim for claim in every if claim["kind"] == "contextual"]
    vectors = SentenceEncoder(INSTALLED)([claim["text"] for claim in own])
    pages = [samples[claim["sample_id"]]["doc_id"] for claim in own]
    mine = [claim for claim in ordered(claims, "page") if claim["kind"] == "contextual"]
    for claim, _ in one_a_sample((claim, "") for claim in mine)[:PLANTED]:
        near = vectors @ vectors[own.index(claim)]
        here = samples[claim["sample_id"]]["doc_id"]
        others = [n for n, page in enumerate(pages) if page != here]
        text = own[max(others, key=lambda n: near[n])]["text"]
        yield claim | {"text": text, "planted": "page", "original": claim["text"]}


def one_a_sample(pairs: Iterable[tuple[Claim, str]]) -> list[tuple[Claim, str]]:
    """The first of each sample."""
    firsts = dict[str, tuple[Claim, str]]()
    for claim, text in pairs:
        firsts.setdefault(claim["sample_id"], (claim, text))
    return list(firsts.values())


def draw(run: Path) -> tuple[list[Claim], dict[str, Any]]:
    """The claims to label, by sample, and the samples by id."""
    every, samples = claims_of(run)
    chosen = chosen_samples(every, samples)
    here = [claim for claim in every if claim["sample_id"] in chosen]
    drawn = list[Claim]()
    for kind, count in DRAWN.items():
        drawn += ordered([claim for claim in here if claim["kind"] == kind])[:count]
    rest = [claim for claim in here if claim not in drawn]
    found = [claim | {"planted": "", "original": ""} for claim in drawn]
    found += planted(rest, every, samples)
    used = {(claim["sample_id"], claim["original"]) for claim in found}
    more = [c for c in ordered(rest) if c["kind"] == "non_contextual"]
    more = [claim for claim in more if (claim["sample_id"], claim["text"]) not in used]
    found += [claim | {"planted": "", "original": ""} for claim in more[:SECOND]]
    for claim in found:
        names = ("sample_id", "kind", "sentence", "text")
        claim["claim_id"] = short_hash(*(str(claim[name]) for name in names))
    return sorted(found, key=lambda claim: (claim["sample_id"], claim["claim_id"])), samples


def read_labels() -> dict[str, Claim]:
    """The rows of the file as it stands, by claim."""
    if not FILE.exists():
        return {}
    with FILE.open(encoding="utf-8", newline="") as stream:
        return {row["claim_id"]: row for row in csv.DictReader(stream)}


def write(claims: Sequence[Claim]) -> None:
    """Write the file anew; labels of claims that are still there stay."""
    before = read_labels()
    FILE.parent.mkdir(exist_ok=True)
    with FILE.open("w", encoding="utf-8", newline="") as stream:
        file = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
        file.writeheader()
        for claim in claims:
            old = before.get(claim["claim_id"], {})
            file.writerow(claim | {name: old.get(name, "") for name in ("label_a", "label_b")})


def packet(claims: Sequence[Claim], samples: Any, run: Path) -> Iterator[str]:
    """A JSON line per sample: picture, page, claims; nothing of how a claim came about."""
    images = {row["image_url"]: row for row in tables.read_rows(run / "03_images/data/images")}
    for id in sorted({claim["sample_id"] for claim in claims}):
        sample = samples[id]
        picture = run / "03_images/data" / images[sample["image_url"]]["path"]
        own = [claim for claim in claims if claim["sample_id"] == id]
        row = {"sample_id": id, "image": str(picture)}
        row |= {name: sample[name] for name in ("page_url", "alt_text", "context")}
        row["claims"] = [{name: claim[name] for name in ("claim_id", "text")} for claim in own]
        yield json.dumps(row, ensure_ascii=False)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    found, known = draw(folder)
    write(found)
    if len(sys.argv) > 2:
        lines = packet(found, known, folder)
        Path(sys.argv[2]).write_text("\n".join(lines) + "\n", encoding="utf-8")
