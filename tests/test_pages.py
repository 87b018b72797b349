"""HTML and WARC in: texts and images in the order of the page, ornaments out."""

import gzip
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.test_documents import load, table
from vislib.documents import BrokenRow
from vislib.pages import page_row
from vislib.runs import InputError

RULES = {
    "base_url": "http://localhost/",
    "main_content": True,
    "skip_elements": [],
    "image_formats": ["jpg", "jpeg", "png", "webp"],
    "skip_image_words": ["logo"],
    "min_image_side": 150,
    "max_aspect_ratio": 2.0,
    "min_block_words": 1,
    "min_page_words": 3,
    "max_page_words": 2000,
    "min_page_images": 1,
    "max_page_images": 30,
}
TEXT = "The bridge was opened on a Sunday in May, before some two thousand people and a brass band."
URL = "https://a.example/news/bridge.html"


def row_of(body: str, head: str = "", url: str = URL, **changes: object) -> dict:
    html = f"<!doctype html><html><head>{head}</head><body><main>{body}</main></body></html>"
    return page_row(html.encode(), url=url, rules=SimpleNamespace(**RULES | changes))


def shape(row: dict) -> list[str]:
    """The page as a list: texts, and addresses of images in brackets."""
    return [text or f"[{image}]" for text, image in zip(row["texts"], row["images"], strict=True)]


def image_of(tag: str, head: str = "") -> str:
    """The address that is taken of one image between two texts; "" if none is."""
    row = row_of(f"<p>{TEXT}</p>{tag}<p>{TEXT}</p>", head, min_page_images=0)
    return next((image for image in row["images"] if image), "")


def test_texts_and_images_stand_in_the_order_of_the_page():
    figure = (
        "<figure><img src='b.jpg' alt='Red'><figcaption>The bridge today.</figcaption></figure>"
    )
    row = row_of(f"<h1>A bridge</h1><p>{TEXT}</p>{figure}<p>An <img src=/c.png> inside.</p>")
    assert shape(row) == [
        f"A bridge\n\n{TEXT}",
        "[https://a.example/news/b.jpg]",
        "The bridge today.\n\nAn",
        "[https://a.example/c.png]",
        "inside.",
    ]
    entries = json.loads(row["metadata"])
    assert entries[1] == {
        "document_url": URL,
        "unformatted_src": "b.jpg",
        "src": "https://a.example/news/b.jpg",
        "format": "jpg",
        "alt_text": "Red",
    }
    assert [entry is None for entry in entries] == [True, False, True, False, True]
    assert json.loads(row["general_metadata"]) == {"url": URL}


@pytest.mark.parametrize(
    ("tag", "name"),
    [
        ("<img src=a.jpg>", "news/a.jpg"),
        ("<img src=' a.jpg '>", "news/a.jpg"),
        ("<img src=//b.example/a.webp>", "//b.example/a.webp"),
        ("<img src=a.jpg srcset='s.jpg 320w, l.jpg 1200w, m.jpg 640w'>", "news/l.jpg"),
        ("<img src=a.jpg srcset='s.jpg, l.jpg 2x'>", "news/l.jpg"),
        ("<img src=a.jpg srcset='w_1,h_2/s.jpg 320w, w_9,h_2/l.jpg 900w'>", "news/w_9,h_2/l.jpg"),
        ("<img src='data:image/gif;base64,R0lG' data-src=a.jpg>", "news/a.jpg"),
        ("<img src=blank.png data-original=a.jpg>", "news/a.jpg"),
        ("<picture><source srcset='l.webp 900w'><img src=a.jpg></picture>", "news/l.webp"),
        ("<noscript><img src=a.jpg></noscript>", "news/a.jpg"),
        ("<img src=picture?id=7>", "news/picture?id=7"),
        ("<img src=a.jpg width=640 height=480>", "news/a.jpg"),
        ("<img src=a.jpg width=100% height=auto>", "news/a.jpg"),
        ("<img src=a.jpg width=² srcset='b.jpg 1.2.3x'>", "news/a.jpg"),
        ("<img src=a.jpg width=640 height=100>", ""),  # a side too small
        ("<img src=a.jpg width=900 height=300>", ""),  # a banner
        ("<img src=/logo/a.jpg>", ""),
        ("<img src=a.svg>", ""),
        ("<img src='data:image/png;base64,iVBO'>", ""),
        ("<img src='javascript:alert(1)'>", ""),
        ("<img src='http://[bad/a.jpg'>", ""),
        ("<img>", ""),
    ],
)
def test_the_address_of_an_image(tag, name):
    where = f"https:{name}" if name.startswith("//") else f"https://a.example/{name}"
    assert image_of(tag) == (where if name else "")


def test_a_base_moves_all_relative_addresses():
    assert image_of("<img src=a.jpg>", "<base href='/static/'>") == "https://a.example/static/a.jpg"


def test_an_image_counts_once_and_navigation_goes():
    menu = "<nav><a href=/><img src=/menu.png>Home</a> <a href=/b>About us</a></nav>"
    twice = "<img src=a.jpg data-src=a.jpg><noscript><img src=a.jpg></noscript>"
    row = row_of(f"{menu}<p>{TEXT}</p>{twice}<div class=shop>Buy now!</div><p>{TEXT}</p>")
    assert "Home" not in str(row["texts"])
    assert row["images"].count("https://a.example/news/a.jpg") == 1
    assert "Buy now" in str(row["texts"])
    kept = row_of(
        f"<p>{TEXT}</p><img src=a.jpg><div class=shop>Buy now!</div>", skip_elements=[".shop"]
    )
    assert "Buy now" not in str(kept["texts"])
    # where the whole page looks like navigation to the extractor, all of it is its content
    assert TEXT in str(row_of(f"<div class=sidebar><p>{TEXT}</p><img src=a.jpg></div>")["texts"])


@pytest.mark.parametrize(
    ("body", "change", "reason"),
    [
        (f"<p>{TEXT}</p>", {}, "few_images"),
        (f"<p>{TEXT}</p><img src=a.jpg><img src=b.jpg>", {"max_page_images": 1}, "many_images"),
        ("<p>Two words</p><img src=a.jpg>", {}, "few_words"),
        (f"<p>{TEXT}</p><img src=a.jpg>", {"max_page_words": 9}, "many_words"),
        ("", {}, "few_words"),
        ("<div>" * 3000 + TEXT, {}, "page_too_deep"),
        ("<p>word " * 3_000_000, {}, "page_too_large"),
        ("\x00\x01<<<>>>&&&;&#xD800;", {}, "few_words"),
    ],
)
def test_a_page_that_does_not_fit_says_why(body, change, reason):
    with pytest.raises(BrokenRow) as caught:
        row_of(body, **change)
    assert caught.value.args[0] == reason


def test_paragraphs_of_few_words_may_go_and_words_are_those_of_the_script():
    row = row_of(f"<h2>Figure 3</h2><p>{TEXT}</p><img src=a.jpg>", min_block_words=4)
    assert shape(row)[0] == TEXT
    japanese = row_of("<p>橋は一九三二年に開通しました。</p><img src=a.jpg>", min_block_words=4)
    assert shape(japanese)[0] == "橋は一九三二年に開通しました。"


@pytest.mark.parametrize("encoding", ["windows-1251", "utf-16", "shift_jis", "utf-8-sig"])
def test_encodings_are_found(encoding):
    said = {
        "windows-1251": "Мост открыли в воскресенье.",
        "shift_jis": "橋は日曜日に開通しました。",
    }
    text = said.get(encoding, "Die Brücke wurde am Sonntag eröffnet.")
    html = f"<html><head><meta charset='{encoding}'></head><body><p>{text * 5}</p><img src=a.jpg>"
    row = page_row(html.encode(encoding), url=URL, rules=SimpleNamespace(**RULES))
    assert shape(row)[0] == text * 5


def test_a_folder_of_html(tmp_path):
    folder = tmp_path / "site"
    (folder / "news/2024").mkdir(parents=True)
    for name, body in {
        "index.html": f"<p>{TEXT}</p>",
        "news/2024/ä b.html": f"<p>{TEXT}</p><img src=../a.jpg><p>The end.</p>",
        "news/c.HTM": f"<p>Another page. {TEXT}</p><img src=c.jpg>",
        "news/notes.txt": "no page",
    }.items():
        (folder / name).write_text(body)
    run = load(source="html", paths=[str(folder)], base_url="https://a.example/de/")
    documents = table(run, "documents")
    assert sorted(json.loads(d["general_metadata"])["url"] for d in documents) == [
        "https://a.example/de/news/2024/%C3%A4%20b.html",
        "https://a.example/de/news/c.HTM",
    ]
    assert {image for d in documents for image in d["images"] if image} == {
        "https://a.example/de/news/a.jpg",
        "https://a.example/de/news/c.jpg",
    }
    (fault,) = table(run, "quarantine")
    assert (Path(fault["source"]).name, fault["reason"].partition(":")[0]) == (
        "index.html",
        "few_images",
    )
    assert run.counts()["row"]["taken"] == 3
    with pytest.raises(InputError, match=r"no \.warc"):
        load(source="warc", paths=[str(folder)])
    with pytest.raises(InputError, match=r"base_url = 'a\.example'"):
        load(source="html", paths=[str(folder)], base_url="a.example")


def archive(file: Path, pages: list[tuple[str, int, str, str]], packed: bool = False) -> Path:
    """A WARC of answers: address, status, content type, body; `packed` as servers pack them."""
    written = []
    for url, status, kind, body in pages:
        said = gzip.compress(body.encode()) if packed else body.encode()
        coding = "Content-Encoding: gzip\r\n" if packed else ""
        head = f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\n{coding}"
        answer = f"{head}Content-Length: {len(said)}\r\n\r\n".encode() + said
        lines = f"WARC/1.1\r\nWARC-Type: response\r\nWARC-Target-URI: <{url}>\r\n"
        lines += "Content-Type: application/http; msgtype=response\r\n"
        record = f"{lines}Content-Length: {len(answer)}\r\n\r\n".encode() + answer + b"\r\n\r\n"
        written.append(gzip.compress(record) if file.suffix == ".gz" else record)
    file.write_bytes(b"".join(written))
    return file


@pytest.mark.parametrize("name", ["a.warc", "a.warc.gz"])
@pytest.mark.parametrize("packed", [False, True])
def test_an_archive_gives_its_html_pages(tmp_path, name, packed):
    def body(number: int) -> str:
        return f"<p>Page {number}. {TEXT}</p><img src=a{number}.jpg>"

    pages = [(f"https://a.example/{n}", 200, "text/html; charset=utf-8", body(n)) for n in range(9)]
    pages[1:1] = [
        ("https://a.example/gone", 404, "text/html", body(77)),
        ("https://a.example/x.png", 200, "image/png", "PNG"),
        ("https://a.example/empty", 200, "text/html", ""),
    ]
    file = archive(tmp_path / name, pages, packed)
    run = load(source="warc", paths=[str(file)])
    documents = table(run, "documents")
    found = [json.loads(d["general_metadata"]) for d in documents]
    assert [origin["url"] for origin in found] == [f"https://a.example/{n}" for n in range(9)]
    assert found[0]["warc_filename"] == name
    assert documents[3]["images"][1] == "https://a.example/a3.jpg"
    assert [fault["row"] for fault in table(run, "quarantine")] == [1]
    some = table(load(source="warc", paths=[str(file)], limit=4), "documents")
    assert 3 <= len(some) <= 4
    assert [d for d in documents if d in some] == some


@pytest.mark.parametrize("cut", [600, 640, 900])
def test_a_broken_archive_is_named(tmp_path, cut):
    file = archive(tmp_path / "a.warc.gz", [(URL, 200, "text/html", f"<p>{TEXT}" * 500)] * 3)
    whole = file.read_bytes()
    file.write_bytes(whole[:cut])
    with pytest.raises(InputError, match=r"a\.warc\.gz: cannot be read to its end"):
        load(source="warc", paths=[str(file)], max_page_words=10**6, min_page_images=0)
