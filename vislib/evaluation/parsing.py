"""From replies to rows of the contract's `results`: how letters, yes and no are read out of them
(VisCon-100K, section 5.2, is silent on it).

A strict reader counts "The answer is B." as wrong, so that a model is punished for its form; a
greedy one finds an A in "A cat". The strict reading takes the letter alone; the lenient one what
the answer means, and gives up where two options could be meant: no guess is made. The verdict
(`correct` or `points`) is the harness's own, where one asked. Our readings stand beside it
(`lenient`, `strictly_correct`): the harness takes the first character (SEED), or guesses where it
finds no letter (MMMU). The share of replies that were not understood stands beside every accuracy.
"""

import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence

from vislib.engines.thoughts import without_thoughts
from vislib.evaluation.benchmarks import Item, Sample, items, logged_reply, weight
from vislib.media.words import count_words
from vislib.qa_options import ALPHABET, DENIAL, meant, normal, options_in, plain, texts_by_letter
from vislib.runs.tables import Row

Reader = Callable[[str, Sequence[str]], str]  # (reply, options) -> the letter that it means, or ""
_UNLISTED = 5  # options that are read for where a prompt lists none
_STRICT = re.compile(r"\(?([A-Z])[.)]?")
# Letters that an option's text has if it is found inside a sentence: "no" stands in too many.
_LEAST = 3


def strict_letter(answer: str, letters: str = ALPHABET) -> str:
    """The letter, if the answer is that alone (perhaps with a full stop or brackets), else ""."""
    match = _STRICT.fullmatch(answer.strip())
    return match[1] if match and match[1] in letters else ""


def lenient_letter(answer: str, options: Sequence[str]) -> str:
    """The letter of the one option that the answer means, or "" where none or several could be
    meant.

    What `meant` finds decides; after it an option's text in a sentence that denies nothing.
    """
    letters = meant(answer, options).letters or _quoted_inside(answer, options)
    return "".join(letters) if len(letters) == 1 else ""


def lenient_yes_no(answer: str) -> str:
    """`yes` or `no`, if the answer begins with that word (not "yes or no") or holds only that one,
    else "".
    """
    # Full-width letters are letters: models of some languages write them.
    words: list[str] = re.findall(r"\w+", unicodedata.normalize("NFKC", answer).lower())
    said = {"yes", "no"} & set(words)
    # The first word is the answer, what follows are its reasons.
    if words and words[0] in said and words[1:2] != ["or"]:
        return words[0]
    return said.pop() if len(said) == 1 else ""


def _quoted_inside(answer: str, options: Sequence[str]) -> set[str]:
    """Options whose text stands as whole words in a sentence; one inside a longer one that is found
    does not count.
    """
    spoken, texts = plain(normal(answer)), texts_by_letter(options)
    found = set[str]()
    # The longest first: "green" within "dark green" is not said.
    for letter, option in sorted(texts.items(), key=lambda item: -len(item[1])):
        if len(option) >= _LEAST or option.isdigit() or not option.isascii():
            whole = rf"(?<![a-z0-9]){re.escape(option)}(?![a-z0-9])"
            spoken, times = re.subn(whole, "\0", spoken)
            if times:
                found.add(letter)
    return set() if DENIAL.search(spoken) else found


def result_row(
    name: str, reply: str, answer: str, reads: str, *, options: Sequence[str] = (), read: Reader
) -> Row:
    """One reply as it is read for a `letter`, for `yes_no` or, as `text`, not at all; without a
    verdict.
    """
    reply = without_thoughts(reply)
    row: Row = {
        "sample_id": name,
        "prediction": reply,
        "answer": answer,
        "words": count_words(reply),
    }
    # What is not known has its column too, so that rows of all benchmarks make one table.
    row |= dict.fromkeys(("correct", "parsed", "strictly_correct", "lenient", "points"))
    if reads == "letter":
        strict = strict_letter(reply, ALPHABET[: len(options)])
        lenient = read(reply, options)
    elif reads == "yes_no":
        # Strictly the word alone, but for case and a full stop.
        strict = reply.rstrip(".").lower()
        lenient = lenient_yes_no(reply)
        answer = answer.lower()
    else:
        return row
    return row | {
        "parsed": bool(lenient),
        "lenient": float(lenient == answer),
        "strictly_correct": strict == answer,
    }


def read_log(
    task: str,
    log: Sequence[Sample],
    scores: Sequence[float],
    *,
    pictures: Mapping[str, str],
    read: Reader,
) -> Iterator[Row]:
    """Results without model, arm and seed, one per item of a task's log; an item without a verdict
    has its `reason` and `detail` alone.

    `scores`: the harness's own, of each item with a verdict; `pictures`: by number of a question.
    """
    found = items(task, log)
    judged = [item for item in found if not item.fault]
    for item, score in zip(judged, scores, strict=True):
        item.score = score
    for item in found:
        row: Row = {"benchmark": item.benchmark.name, "sample_id": item.id}
        if item.fault:
            row["reason"], row["detail"] = item.fault
        else:
            row = _item_row(item, judged, read) | row
            row["cluster"] = pictures.get(str(item.samples[0]["doc_id"]), "")
        yield row


def _item_row(item: Item, judged: Sequence[Item], read: Reader) -> Row:
    """One item, all its samples side by side: it is read right if all of them are."""
    benchmark = item.benchmark
    score = item.score
    parts = [_sample_row(item, sample, read) for sample in item.samples]
    row = dict(parts[0])
    for name in ("prediction", "answer"):
        row[name] = " / ".join(part[name] for part in parts)
    row["words"] = max(part["words"] for part in parts)
    if row["parsed"] is not None:
        for name in ("parsed", "strictly_correct", "lenient"):
            row[name] = min(part[name] for part in parts)
    # A further task may grade its answers though it has no row that says so.
    if benchmark.graded or score not in (0, benchmark.scale):
        if benchmark.total == "ratio":  # the harness rounds it
            score = item.records[0]["scores"][1]
        if benchmark.metric == "exact_match":
            row["answer"] = ""  # people's answers are not logged, the target names their column
        points = score * weight(item, judged)
        return row | {"points": points, "lenient": None, "strictly_correct": None}
    row["correct"] = bool(score)
    if row["parsed"] is None:  # text, which the harness alone compares
        row["strictly_correct"] = row["correct"]
    return row


def _sample_row(item: Item, sample: Sample, read: Reader) -> Row:
    options = options_in(sample["input"])
    answer = str(sample["target"]).strip()
    reads = item.benchmark.reads
    kind = item.kind
    if reads == "letter":
        kind = kind or ("multiple_choice" if options else "")
        # An open question of MMMU may have a letter for its answer, a key of music.
        if kind in ("", "open") or answer not in tuple(ALPHABET):
            reads = "text"
    options = options or [""] * _UNLISTED
    row = result_row(item.id, logged_reply(sample), answer, reads, options=options, read=read)
    return row | {"question_type": kind}
