"""Pages of one's own as rows of the OBELICS form: HTML files and WARC archives, their texts and
images in page order (OBELICS, appendix A, whose rules of nodes, images and pages are parameters).

Resiliparse finds the encoding, parses as browsers do and tells the content of a page from its
navigation. A mark stands in the place of every image that may stay before the text is taken, so
that whatever the extractor leaves out, the order is the page's. OBELICS also asks models for the
language and the perplexity of a page: not here.
"""

import json
import re
import zlib
from collections.abc import Container, Iterable, Iterator, Sequence
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import quote, urljoin

from vislib.documents import BrokenRow, Numbered
from vislib.fetching.urls import web_address
from vislib.media.pixels import ImageError
from vislib.media.words import count_words
from vislib.runs import InputError, Run, choose
from vislib.runs.keys import expand
from vislib.runs.provenance import relative_to_root
from vislib.runs.tables import Row

HTML, WARC = (".html", ".htm", ".xhtml"), (".warc", ".warc.gz", ".warc.zst", ".warc.lz4")
_HTML_TYPES = ("text/html", "application/xhtml+xml")
_LARGEST = 16 * 2**20  # bytes of a page
# Browsers nest no deeper, and telling content apart takes the square of the depth.
_DEEPEST = 512
# Where scripts that load images late keep the address; `src` holds a placeholder then.
_LAZY = ("data-src", "data-original", "data-lazy-src", "data-lazy")
_CANDIDATE = re.compile(r"(\S*[^\s,])(?:\s+([^,]*?))?\s*(?:,|$)")  # address, size: of a srcset
_SIZE = re.compile(r"(\d+(?:\.\d+)?)[wx]")
_EXTENSION = re.compile(r"/[^/]+\.([a-z0-9]{2,4})$")


def image_entry(element: Any, base: str, rules: Any) -> dict[str, Any] | None:
    """The entry of an <img> in OBELICS's form, its address absolute; none if it goes.

    `rules` are the parameters of notebook 01. An image whose size the page does not state passes.
    """
    written = _address_of(element)
    try:
        source = web_address(written, web_address(base)).href if written else ""
    except ImageError:
        return None
    ending = _EXTENSION.search(source.partition("?")[0].lower())
    entry: dict[str, Any] = {
        "document_url": base,
        "unformatted_src": written,
        "src": source,
        "format": ending[1] if ending else "",
    }
    for name in ("width", "height"):
        # Pages also write `100%` or `auto`, which OBELICS keeps as they are.
        if size := element.getattr(name):
            entry[f"rendered_{name}"] = int(size) if size.isdecimal() else size
    if alt := element.getattr("alt"):
        entry["alt_text"] = alt
    return entry if source and _fits(entry, rules) else None


def _fits(entry: dict[str, Any], rules: Any) -> bool:
    """Whether an image is more than an ornament, by what the page tells of it."""
    address = entry["src"].lower()
    if any(word in address for word in rules.skip_image_words):
        return False
    # An address without an ending may be of any format; the file tells, in stage 03.
    if entry["format"] and entry["format"] not in rules.image_formats:
        return False
    stated = (entry.get("rendered_width"), entry.get("rendered_height"))
    sides = [size for size in stated if isinstance(size, int)]
    if any(side < rules.min_image_side for side in sides):
        return False
    return len(sides) < 2 or max(sides) <= rules.max_aspect_ratio * min(sides)


def _address_of(element: Any) -> str:
    """The address of the largest image that an <img> offers, as the page writes it."""
    nodes = [element]
    if element.parent.tag == "picture":
        nodes += element.parent.get_elements_by_tag_name("source")
    for node in nodes:
        offers = dict[float, str]()
        listed = node.getattr("srcset") or node.getattr("data-srcset") or ""
        for url, told in _CANDIDATE.findall(listed):
            # Browsers pass over a size that they cannot read, and take none for `1x`.
            if size := _SIZE.fullmatch(told or "1x"):
                offers.setdefault(float(size[1]), url)
        if offers:
            return offers[max(offers)]
    for name in (*_LAZY, "src"):
        written = (element.getattr(name) or "").strip()
        # A picture within the address is a placeholder, or too small to be worth a link.
        if written and not written.startswith("data:"):
            return str(written)
    return ""


def page_row(html: bytes, *, url: str, rules: Any, charset: str = "", **origin: Any) -> Row:
    """One page as a row of the OBELICS form, `origin` beside its address.

    Raises BrokenRow for a page that is too large, too deep, or has too few or too many words or
    images.
    """
    from resiliparse.parse.encoding import detect_encoding
    from resiliparse.parse.html import HTMLTree

    if len(html) > _LARGEST:
        raise BrokenRow("page_too_large", f"more than {_LARGEST} bytes")
    encoding = charset or detect_encoding(html, from_html_meta=True) or "utf-8"
    tree: Any = HTMLTree.parse_from_bytes(html, encoding)
    if tree.body and html.count(b"<") > _DEEPEST and _depth(tree) > _DEEPEST:
        raise BrokenRow("page_too_deep", f"elements nested more than {_DEEPEST} deep")
    base = next((b.getattr("href") for b in tree.document.get_elements_by_tag_name("base")), None)
    # No page can hold the mark, as it holds the hash of the page.
    mark = f"\ue000{sha256(html).hexdigest()}:"
    images = _mark_images(tree, urljoin(url, base or ""), rules, mark)
    _unframe_figures(tree)
    nodes = list(_nodes(_text_of(tree, rules), images, mark, rules))
    texts = [node if isinstance(node, str) else None for node in nodes]
    entries = [node if isinstance(node, dict) else None for node in nodes]
    words = sum(count_words(text) for text in texts if text)
    _require("words", words, rules.min_page_words, rules.max_page_words)
    stay = sum(entry is not None for entry in entries)
    _require("images", stay, rules.min_page_images, rules.max_page_images)
    return {
        "images": [entry and entry["src"] for entry in entries],
        "texts": texts,
        "metadata": json.dumps(entries, ensure_ascii=False),
        "general_metadata": json.dumps({"url": url, **origin}, ensure_ascii=False),
    }


def _require(what: str, n: int, low: int, high: int) -> None:
    if not low <= n <= high:
        few = "few" if n < low else "many"
        raise BrokenRow(f"{few}_{what}", f"{n} {what}, {low} to {high} are asked for")


def _text_of(tree: Any, rules: Any) -> str:
    from resiliparse.extract.html2text import extract_plain_text

    take = partial(
        extract_plain_text,
        tree,
        preserve_formatting=True,
        list_bullets=False,
        alt_texts=False,
        comments=False,
        noscript=True,  # where lazy images have a plain one
        skip_elements=list(rules.skip_elements),
    )
    # A page whose layout is unlike others has no content for the extractor: all of it is, then.
    return take(main_content=rules.main_content).strip() or take()


def _depth(tree: Any) -> int:
    from resiliparse.parse.html import traverse_dom

    depths = [0]
    traverse_dom(tree.body, lambda context: depths.append(context.depth), elements_only=True)
    return max(depths)


def _mark_images(tree: Any, base: str, rules: Any, mark: str) -> list[dict[str, Any]]:
    """Put a numbered mark in place of each image that stays; their entries in that order."""
    entries = list[dict[str, Any]]()
    seen = set[str]()
    for element in list(tree.document.get_elements_by_tag_name("img")):
        entry = image_entry(element, base, rules)
        # The same image again is its copy for readers without scripts, or an ornament.
        if entry is None or entry["src"] in seen:
            continue
        seen.add(entry["src"])
        text = tree.create_text_node(f"{mark}{len(entries)}\ue001")
        element.parent.replace_child(text, element)
        entries.append(entry)
    return entries


def _unframe_figures(tree: Any) -> None:
    """Make plain blocks of figures and their captions: the extractor takes them for no content."""
    for tag in ("figure", "figcaption"):
        for element in list(tree.document.get_elements_by_tag_name(tag)):
            block = tree.create_element("div")
            for child in list(element.child_nodes):
                block.append_child(child)
            element.parent.replace_child(block, element)


def _nodes(
    text: str, images: Sequence[dict[str, Any]], mark: str, rules: Any
) -> Iterator[str | dict[str, Any]]:
    """Texts and entries of images in page order."""
    for number, piece in enumerate(re.split(rf"{mark}(\d+)\ue001", text)):
        if number % 2:
            yield images[int(piece)]
            continue
        lines = [line.rstrip() for line in piece.splitlines()]
        kept = [line for line in lines if not line or count_words(line) >= rules.min_block_words]
        if said := "\n".join(kept).strip():
            yield re.sub(r"\n{3,}", "\n\n", said)


def open_pages(run: Run) -> tuple[Numbered, int]:
    """The pages that `paths` name, a seeded choice of `limit`, each made a row when it is asked
    for; and how many they are, 0 where an archive would have to be read to know.
    """
    params = run.params
    try:
        web_address(params.base_url)
    except ImageError as error:
        raise InputError(
            f"base_url = {params.base_url!r}: {error.detail}; give the http address under which the"
            " folder stood, or http://localhost/"
        ) from error
    endings = HTML if params.source == "html" else WARC
    found = dict[Path, str]()  # a glob and a folder may name a file twice
    for path in run.inputs("paths"):
        for file in expand(path):
            # A file that is named is read whatever its ending.
            if path.is_file() or file.name.lower().endswith(endings):
                place = file.relative_to(path).as_posix() if path.is_dir() else file.name
                found.setdefault(file, place)
    if not found:
        raise InputError(
            f"paths = {params.paths!r}: no {' or '.join(endings)} file there; give files, folders"
            " or globs"
        )
    if params.source == "html":
        files = list(enumerate(found.items()))
        chosen = choose(files, params.limit, run.seed, key=lambda file: file[1][1])
        return html_pages(chosen, params), len(chosen)
    if not params.limit:  # to know their number would take a second reading
        return warc_pages(list(found), params), 0
    positions = range(sum(1 for file in found for _ in _responses(file)))
    some = set(choose(positions, params.limit, run.seed, key=str))
    return warc_pages(list(found), params, some), len(some)


def html_pages(files: Iterable[tuple[int, tuple[Path, str]]], rules: Any) -> Numbered:
    """Numbered files with their places below `base_url`."""
    for number, (file, place) in files:
        url = urljoin(rules.base_url, quote(place))
        yield relative_to_root(file), number, partial(_file_row, file, url, rules)


def _file_row(file: Path, url: str, rules: Any) -> Row:
    with file.open("rb") as stream:
        return page_row(stream.read(_LARGEST + 1), url=url, rules=rules)


def warc_pages(files: Sequence[Path], rules: Any, chosen: Container[int] | None = None) -> Numbered:
    """The HTML pages of archives; only those `chosen` by position over all files, if some are."""
    position = 0
    for file in files:
        source = relative_to_root(file)
        for number, (record, html) in enumerate(_responses(file)):
            if chosen is None or position in chosen:
                origin = {"warc_filename": file.name, "warc_record_offset": record.stream_pos}
                # Some programs write the address in angle brackets.
                url = record.headers.get("WARC-Target-URI", "").strip("<>")
                charset = record.http_charset or ""
                row = partial(page_row, html, url=url, rules=rules, charset=charset, **origin)
                yield source, number, row
            position += 1


def _responses(file: Path) -> Iterator[tuple[Any, bytes]]:
    """Records of pages that were answered with HTML, and their bytes."""
    from fastwarc.warc import ArchiveIterator, WarcRecordType

    last = 0
    try:
        for record in ArchiveIterator(str(file), auto_decode="all"):
            last = record.stream_pos
            headers = record.http_headers
            answered = record.record_type == WarcRecordType.response and headers is not None
            if not answered or headers.status_code != 200:
                continue
            if record.http_content_type in _HTML_TYPES:
                html = record.reader.read(_LARGEST + 1)
                # The end of an archive that was cut is given as if it were whole.
                whole = min(record.content_length, _LARGEST)
                if len(html) < whole and "Content-Encoding" not in headers:
                    raise OSError(f"a page ends after {len(html)} of {whole} bytes")
                yield record, html
        if file.suffix == ".gz" and not _ends_with_member(file, last):
            raise OSError("its last record is cut")
    except OSError as error:
        raise InputError(
            f"{file}: cannot be read to its end ({error}); fetch it again, or leave it out"
        ) from error


def _ends_with_member(file: Path, start: int) -> bool:
    """Whether the gzip member that begins at `start` is whole and the file's last."""
    with file.open("rb") as stream:
        stream.seek(start)
        member = zlib.decompressobj(31)  # of gzip
        while not member.eof and (piece := stream.read(2**20)):
            member.decompress(piece)
        return member.eof and not member.unused_data and not stream.read(1)
