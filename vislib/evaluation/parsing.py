"""Yes, no and options of answers to benchmarks (VisCon-100K, section 5.2, is silent on how they are
read).

Which option an answer means is read by `vislib.letters`, as for the data. The share of answers that
were not understood stands beside every accuracy.
"""

import re
import unicodedata

from vislib.letters import LETTERS


def strict_yes_no(answer: str) -> str:
    """`yes` or `no`, if the answer is that word alone (case and a full stop apart), else ""."""
    word = answer.strip().rstrip(".").lower()
    return word if word in ("yes", "no") else ""


def lenient_yes_no(answer: str) -> str:
    """`yes` or `no`, if the answer begins with that word (not "yes or no") or holds only that one,
    else "".
    """
    words: list[str] = re.findall(r"\w+", unicodedata.normalize("NFKC", answer).lower())
    said = {word for word in words if word in ("yes", "no")}
    if words and words[0] in said and words[1:2] != ["or"]:
        return words[0]
    return next(iter(said)) if len(said) == 1 else ""


def options_in(prompt: str) -> list[str]:
    """Texts of the options that a prompt lists one a line, `A. …` onwards; none if it lists
    none.
    """
    found: list[str] = []
    for line in prompt.splitlines():
        match = re.fullmatch(r"\s*([A-Z])\.\s(.*)", line)
        if match and match[1] in ("A", LETTERS[len(found) : len(found) + 1]):
            found = [*(found if match[1] != "A" else []), match[2].strip()]
    return found if len(found) > 1 else []
