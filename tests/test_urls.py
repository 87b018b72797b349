"""`vislib.fetching.urls`: addresses are read as browsers read them, and tables keep them as they
were found.
"""

import pytest

from tests.test_fetching import allowing, fetch, impatient  # noqa: F401
from tests.web_server import web_server
from vislib.fetching.urls import tidied, web_address

READ = {
    " http://a.example/b.png\n": "http://a.example/b.png",
    "\x00\x1f\ufeff http://a.example/b.png\x0b": "http://a.example/b.png",
    "ht\ttp://a.exa\r\nmple/\n\t\tb.png": "http://a.example/b.png",
    "HTTPS:\\\\A.Example:443\\b\\c.png": "https://a.example/b/c.png",
    "//a.example/b.png": "http://a.example/b.png",
    "\\\\a.example/b.png": "http://a.example/b.png",
    "http://größe.example/ü|^`{}.png?ü='|": (
        "http://xn--gre-6ka8i.example/%C3%BC|%5E%60%7B%7D.png?%C3%BC=%27|"
    ),
    "http://a_b.example./b c.png#d e": "http://a_b.example./b%20c.png#d%20e",
    "http://☕.example/": "http://xn--53h.example/",
    "http://127.1:80/": "http://127.0.0.1/",
    "http://①②⑦.⓪.⓪.①/": "http://127.0.0.1/",
    "http://a.example/%zz%2F/../b": "http://a.example/b",
    "http://a.example/b.png\xa0": "http://a.example/b.png%C2%A0",
}
NOT_READ = [
    "",
    " ",
    "b.png",
    "/b.png",
    "ftp://a.example/b",
    "data:image/png;base64,AA",
    "http://",
    "http://[x/b",
    "http://u:p@a.example/b",
    "http://a.example:b/",
    "http://a.example:65536/",
    "http://a.example:0/",
    "http://a b.example/",
    "http://1.2.3.4.5/",
    "http://a.example/\ud800",
]


@pytest.mark.parametrize(("url", "read"), READ.items())
def test_addresses_are_read_as_browsers_do(url, read):
    assert web_address(url).href == read
    assert tidied(tidied(url)) == tidied(url)


@pytest.mark.parametrize("url", NOT_READ)
def test_no_address_of_a_file(url):
    with pytest.raises(ValueError, match=r"."):
        web_address(url)


def test_the_ledger_keeps_an_address_as_it_was_found_and_each_file_is_asked_for_once(
    tmp_path, monkeypatch
):
    with web_server() as server:
        ways = [
            " {}/a.png",
            "{}/a.png ",
            "\n{}/a.png\n",
            "{}/a.png\t",
            "{}/a\n\t\t.png",
            "\ufeff{}/a.png",
        ]
        ways += ["{}/a.png\r\n", "{}/größe.png", "{}/b c.png#top"]
        urls = [way.format(server.url) for way in ways]
        urls += [
            f"http:\\\\{server.host}\\d.png",
            f"HTTP://{server.host}/e.png",
            f"//{server.host}/f.png",
        ]
        found, metrics = fetch(tmp_path, urls, monkeypatch, **allowing(server))
        assert set(found.values()) == {"ok"}
        paths = ["/a.png", "/gr%C3%B6%C3%9Fe.png", "/b%20c.png", "/d.png", "/e.png", "/f.png"]
        assert server.asked == dict.fromkeys(paths, 1)
        assert metrics["links_asked"] == len(paths)
