"""The words of card, datasheet and Croissant, apart from the code that fills them; the form of what
only a person can say (`answers.md`), and the answers for the embedded pages (`sample.md`).
"""

import re
from pathlib import Path

# a package, so that the key of 09 holds all that lies here
TEMPLATES = Path(__file__).parent


def sections(text: str) -> dict[str, str]:
    """The text below each heading `## name`, without comments."""
    plain = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    _, *found = re.split(r"^## +(\S+)\s*$", plain, flags=re.MULTILINE)
    return dict(zip(found[::2], map(str.strip, found[1::2]), strict=True))


def form() -> dict[str, str]:
    """The questions that only a person can answer, by name."""
    return sections((TEMPLATES / "answers.md").read_text(encoding="utf-8"))
