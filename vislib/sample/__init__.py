"""Interleaved documents that come with the library, in the OBELICS form (VisCon-100K, section 3.1).

`pages/*.md` hold the web pages, one readable text file each: the page's address, its title after `# `,
paragraphs, and images as `![alt](address)`. `photographs.toml` names crops of photographs that scikit-image,
scikit-learn and matplotlib carry, read from those packages when asked for; `drawings.toml` holds charts,
signs and diagrams as text, drawn when asked for. The addresses use the reserved example domains. Texts and
drawings were written for this project and are dedicated to the public domain under CC0-1.0.
"""

from collections.abc import Iterator
from typing import Any

__all__ = ["image_bytes", "rows"]


def rows() -> Iterator[dict[str, Any]]:
    """The documents as OBELICS rows (columns images, texts, metadata, general_metadata), in order of file name.

    A few rows are broken on purpose, as rows of a crawl are: see `pages.damaged`.
    """
    from vislib.sample import pages

    for path in pages.paths():
        row = pages.read_page(path)
        yield row
        yield from pages.damaged(path.stem, row)


def image_bytes(url: str) -> bytes | None:
    """The encoded image behind an address of the embedded pages; None where nobody answers (a dead link)."""
    from vislib.sample import pictures

    return pictures.encoded(pictures.name_of(url))
