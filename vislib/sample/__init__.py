"""Interleaved documents that come with the library, in the OBELICS form (VisCon-100K, section 3.1).

`pages/*.md` hold the web pages, one readable text file each: the page's address, its title after `#
`, paragraphs, and images as `![alt](address)`. `images/` holds what answers at the addresses of the
images, by file name. The addresses use the reserved example domains. Licences:
`images/LICENCES.md`.
"""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

__all__ = ["image_bytes", "rows"]

_IMAGES = Path(__file__).parent / "images"


def rows() -> Iterator[dict[str, Any]]:
    """The documents as OBELICS rows (columns images, texts, metadata, general_metadata), in order
    of file name.

    A few rows are broken on purpose, as rows of a crawl are: see `pages.damaged`.
    """
    from vislib.sample import pages

    for path in pages.paths():
        row = pages.read_page(path)
        yield row
        yield from pages.damaged(path.stem, row)


def image_file(url: str) -> Path:
    """Where the picture of an address lies, by the name at its end; dead links have no file."""
    return _IMAGES / PurePosixPath(urlsplit(url).path).name


def image_bytes(url: str) -> bytes | None:
    """What answers at an address of the embedded pages; None where nobody does (a dead link)."""
    file = image_file(url)
    return file.read_bytes() if file.is_file() else None
