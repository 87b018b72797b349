"""The datasheet of a release: seven sections, as both papers append them (Gebru et al., Datasheets
for Datasets), and the summary of training content that the EU's AI Act asks for (article 53, the
template of July 2025).

The papers' own are written from memory, and contradict their text in places (a release before the
collection, "no missing information" of links that rot). Here a number stands only where a record or
a table has it, and a judgement only where a person gave it.
"""

from vislib.publishing.facts import Facts


def write_datasheet(facts: Facts) -> None:
    """Write datasheet.md into the release."""
    (facts.folder / "datasheet.md").write_text(facts.render("datasheet.md"), encoding="utf-8")
