"""The embedded documents: exact OBELICS rows, pictures that decode, and the faults that a crawl
has.
"""

import json
from functools import cache
from io import BytesIO
from typing import Any
from urllib.parse import urlsplit

from PIL import Image, ImageOps

from vislib.sample import image_bytes, image_file, paths, read_page, rows

ALWAYS = {"document_url", "unformatted_src", "src", "original_width", "original_height", "format"}
OPTIONAL = {"alt_text", "formatted_filename", "rendered_width", "rendered_height"}
RESERVED = ("example.com", "example.net", "example.org", ".example")  # RFC 2606


@cache
def documents() -> tuple[dict[str, Any], ...]:
    return tuple(read_page(path) for path in paths())


def positions() -> list[dict[str, Any]]:
    return [entry for row in documents() for entry in json.loads(row["metadata"]) if entry]


def fault(row: dict[str, Any]) -> str:
    """The rule of the OBELICS form that a row breaks, "" for none."""
    if len(row["images"]) != len(row["texts"]):
        return "length"
    if any(
        (image is None) == (text is None)
        for image, text in zip(row["images"], row["texts"], strict=True)
    ):
        return "pair"
    try:
        metadata, general = json.loads(row["metadata"]), json.loads(row["general_metadata"])
        "".join(text or "" for text in row["texts"]).encode()
    except ValueError as error:
        return type(error).__name__
    same = [entry and entry["src"] for entry in metadata] == row["images"]
    return "" if same and general["url"].startswith("https://") else "metadata"


def test_pages_are_exact_rows() -> None:
    for row in documents():
        assert list(row) == ["images", "texts", "metadata", "general_metadata"]
        assert fault(row) == ""
        assert all(
            text == text.strip() and "![" not in text for text in row["texts"] if text is not None
        )
        assert row["texts"][0]
        assert not row["texts"][0].startswith("#")


def test_there_are_enough_and_varied() -> None:
    lengths = [sum(len(text or "") for text in row["texts"]) for row in documents()]
    images = [sum(url is not None for url in row["images"]) for row in documents()]
    assert len(documents()) >= 40
    assert sum(images) >= 80
    assert min(images) >= 1
    assert max(images) >= 6
    assert len(set(images)) >= 6
    assert min(lengths) < 100
    assert sum(length > 7600 for length in lengths) >= 4  # above the cap of 2,000 tokens
    assert sum(600 < length < 4000 for length in lengths) >= 30
    assert len({json.loads(row["general_metadata"])["url"] for row in documents()}) == len(
        documents()
    )


def test_metadata_keys_are_those_of_the_page() -> None:
    for entry in positions():
        assert set(entry) >= ALWAYS
        assert set(entry) <= ALWAYS | OPTIONAL
        assert entry.get("alt_text") != ""
    assert 4 < sum("alt_text" not in entry for entry in positions()) < len(positions()) / 2
    assert {type(entry.get("rendered_width")) for entry in positions()} == {int, str, type(None)}
    assert any("formatted_filename" not in entry for entry in positions())


def test_addresses_are_reserved_for_examples() -> None:
    for entry in positions():
        for key in ("document_url", "src"):
            assert (urlsplit(entry[key]).hostname or "").endswith(RESERVED)


def test_every_answering_link_decodes_at_the_stated_size() -> None:
    dead, broken, modes, seen = [], [], set(), set()
    for entry in {image_file(entry["src"]).name: entry for entry in positions()}.values():
        data = image_bytes(entry["src"])
        if data is None:
            dead.append(entry["src"])
        elif data.startswith(b"<!DOCTYPE"):
            broken.append(entry["src"])
        else:
            assert data not in seen
            seen.add(data)
            with Image.open(BytesIO(data)) as image:
                modes.add(image.mode)
                assert (image.format or "").lower() == entry["format"]
                assert ImageOps.exif_transpose(image).size == (
                    entry["original_width"],
                    entry["original_height"],
                )
                assert max(image.size) <= 640
                assert {"Software", "date", "Creation Time"}.isdisjoint(image.info)
    assert len(dead) == 3
    assert len(broken) == 1
    assert modes >= {"RGB", "L", "P", "CMYK", "RGBA"}
    assert len(seen) >= 80


def test_rows_are_deterministic() -> None:
    assert [json.dumps(row) for row in rows()] == [json.dumps(row) for row in rows()]


def test_broken_rows_follow_their_pages() -> None:
    faults = [fault(row) for row in rows() if fault(row)]
    expected = [
        "JSONDecodeError",
        "JSONDecodeError",
        "UnicodeEncodeError",
        "length",
        "pair",
        "pair",
    ]
    assert sorted(faults) == expected
    whole = [json.dumps(row) for row in rows() if not fault(row)]
    assert len(whole) == len(set(whole)) + 1 == len(documents()) + 1  # one page stands twice


def test_other_languages_and_scripts() -> None:
    codes = {path.suffixes[0][1:] for path in paths() if len(path.suffixes) == 2}
    assert codes == {"ar", "de", "es", "fr", "ja"}
    text = "".join(text or "" for row in documents() for text in row["texts"])
    for word in ("القمر", "昆明湖", "Verdunstung", "cucharilla", "croissant"):
        assert word in text


def test_every_file_is_shown_and_licensed() -> None:
    folder = image_file("https://www.example.org/x.jpg").parent
    files = {path.name for path in folder.iterdir()} - {"LICENCES.md"}
    gone = {"spring-banner.jpg", "summer-palace-plan.jpg", "old-workshop.jpg"}
    assert files | gone == {image_file(entry["src"]).name for entry in positions()}
    licences = (folder / "LICENCES.md").read_text(encoding="utf-8")
    assert [name for name in sorted(files) if f"`{name}`" not in licences] == []
    assert sum(path.stat().st_size for path in folder.iterdir()) < 6_000_000


def test_unknown_links_are_dead() -> None:
    assert image_bytes("https://www.example.org/nothing.jpg?w=3") is None


def test_every_page_file_begins_with_its_address_and_title() -> None:
    for path in paths():
        address, title = path.read_text(encoding="utf-8").splitlines()[:2]
        assert address.startswith("https://")
        assert title.startswith("# ")
