"""`vislib.fetching.connections`: what browsers, curl and urllib read is read here too."""

from tests.test_fetching import allowing, fetch, impatient  # noqa: F401
from tests.web_server import answer, png, web_server
from vislib.fetching.connections import parse_head

BODY = png(5)
LENGTH = f"Content-Length: {len(BODY)}\r\n".encode()
OK = b"HTTP/1.1 200 OK\r\n"
END = b"\r\n"


def chunks(size: int, end: bytes = b"\r\n", after: bytes = b"") -> bytes:
    """The picture in chunks of that many bytes, then a last one; `after` follows each size."""
    parts = [BODY[at : at + size] for at in range(0, len(BODY), size)] + [b""]
    return b"".join(b"%X%s%s%s%s" % (len(part), after, end, part, end) for part in parts)


CHUNKED = b"Transfer-Encoding: chunked\r\n"
CLOSE = b"Connection: close\r\n"
REPLIES = {
    "blank in a name": OK + b"X Powered By: PHP\r\n" + LENGTH + END + BODY,
    "blank before the colon": (
        OK + b"Content-Type : image/png\r\nContent-Length : %d\r\n" % len(BODY) + END + BODY
    ),
    "no name": OK + b": nothing\r\n" + LENGTH + END + BODY,
    "no colon": OK + b"garbage (or so)\r\n" + LENGTH + END + BODY,
    "name of other letters": (
        OK + "Größe: 5\r\n".encode() + LENGTH + b"Gr\xf6\xdfe: \xfc\r\n" + END + BODY
    ),
    "chunked twice": OK + CHUNKED * 2 + END + chunks(20),
    "chunked in a list": OK + b"Transfer-Encoding: Chunked, chunked\r\n" + END + chunks(20),
    "chunked and length": OK + CHUNKED + b"Content-Length: 7\r\n" + END + chunks(33),
    "identity": OK + b"Transfer-Encoding: identity\r\n" + LENGTH + END + BODY,
    "identity, chunked": OK + b"Transfer-Encoding: identity, chunked\r\n" + END + chunks(1),
    "identity to the end": OK + b"Transfer-Encoding: identity\r\n" + CLOSE + END + BODY,
    "chunk extensions": OK + CHUNKED + END + chunks(9, after=b" ; a=b"),
    "chunks without a last line": OK + CHUNKED + CLOSE + END + chunks(9)[:-2],
    "trailers": OK + CHUNKED + END + chunks(50)[:-2] + b"X Sum: 1\r\n\r\n",
    "line feeds": (OK + b"A: b\r\n" + LENGTH + END).replace(b"\r", b"") + BODY,
    "mixed line ends": OK + b"A: b\n" + LENGTH + b"\n" + BODY,
    "folded": OK + b"X-Note: one\r\n  two\r\n\tthree\r\n" + LENGTH + END + BODY,
    "folded length": OK + b"Content-Length:\r\n %d\r\n" % len(BODY) + END + BODY,
    "folded at once": OK + b" Server: x\r\n" + LENGTH + END + BODY,
    "no phrase": b"HTTP/1.1 200\r\n" + LENGTH + END + BODY,
    "odd phrase": b"HTTP/1.1 200 \x01Tr\xe8s bien\r\n" + LENGTH + END + BODY,
    "two blanks": b"HTTP/1.1  200  OK\r\n" + LENGTH + END + BODY,
    "small letters": b"http/1.1 200 ok\r\n" + LENGTH.lower() + END + BODY,
    "version of its own": b"HTTP/1.2 200 OK\r\n" + LENGTH + END + BODY,
    "HTTP/1.0": b"HTTP/1.0 200 OK\r\n" + CLOSE + END + BODY,
    "ICY": b"ICY 200 OK\r\n" + LENGTH + CLOSE + END + BODY,
    "blank lines before": b"\r\n\r\n" + OK + LENGTH + END + BODY,
    "early hints": b"HTTP/1.1 103 Early Hints\r\nLink: <a>\r\n\r\n" + OK + LENGTH + END + BODY,
    "bytes of other scripts": OK + b"X-Name: caf\xe9\x00\x0b\xff\r\n" + LENGTH + END + BODY,
    "the length twice": OK + LENGTH * 2 + END + BODY,
    "the length in a list": (
        OK + b"Content-Length: %d, %d\r\n" % (len(BODY), len(BODY)) + END + BODY
    ),
    "a length that is none": OK + b"Content-Length: unknown\r\n" + CLOSE + END + BODY,
    "many headers": OK + b"".join(b"X-%d: y\r\n" % n for n in range(20_000)) + LENGTH + END + BODY,
}


def test_lax_replies_are_read(tmp_path, monkeypatch):
    replies = {f"/{n}": reply for n, reply in enumerate(REPLIES.values())}
    with web_server(script=lambda path, n: replies[path]) as server:
        urls = [server.url + path for path in replies]
        found, metrics = fetch(tmp_path, urls, monkeypatch, **allowing(server, timeout_s=20.0))
        assert [
            name for name, reason in zip(REPLIES, found.values(), strict=True) if reason != "ok"
        ] == []
        assert metrics["requests"] == len(urls)


BAD = {
    "no HTTP": b"220 ready\r\n\r\n",
    "two lengths": OK + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    "no status": b"HTTP/1.1 OK\r\n\r\n",
    "a chunk without a size": OK + CHUNKED + b"\r\nfive\r\n",
    "a cut chunk": OK + CHUNKED + CLOSE + b"\r\n40\r\nhello",
    "cut between chunks": OK + CHUNKED + CLOSE + b"\r\n5\r\nhello\r\n",
    "a cut head": b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-",
    "a head without an end": OK + b"X: y\r\n" * 60_000,
}


def test_what_cannot_be_read_costs_its_link_alone(tmp_path, monkeypatch):
    replies = {f"/a{n}": reply for n, reply in enumerate(BAD.values())}
    with web_server(script=lambda path, n: replies.get(path)) as server:
        urls = [server.url + path for path in replies] + [f"{server.url}/b{n}" for n in range(9)]
        found, _ = fetch(tmp_path, urls, monkeypatch, **allowing(server, timeout_s=20.0, retries=0))
    assert list(found.values()) == ["disconnected"] * len(BAD) + ["ok"] * 9


def test_redirects_and_opting_out_are_read_from_lax_heads_too(tmp_path, monkeypatch):
    replies = {
        "/away": (
            b"HTTP/1.1 302\nX Y: z\nLocation : /gr\xc3\xb6\xc3\x9fe.png\nContent-Length: 0\n\n"
        ),
        "/latin": (
            b"HTTP/1.1 302 Moved\r\nLocation:\r\n /gr\xf6\xdfe.png \r\nContent-Length: 0\r\n\r\n"
        ),
        "/slashes": answer(302, headers={"Location": "http:\\\\{}\\gr%C3%B6%C3%9Fe.png"}),
        "/out": OK + b"X-Robots-Tag : no\r\n\tindex, noai\r\n" + LENGTH + END + BODY,
    }
    with web_server(script=lambda path, n: replies.get(path)) as server:
        replies["/slashes"] = replies["/slashes"].replace(b"{}", server.host.encode())
        found, _ = fetch(
            tmp_path, [server.url + path for path in replies], monkeypatch, **allowing(server)
        )
        assert server.asked["/gr%C3%B6%C3%9Fe.png"] == 3
    assert list(found.values()) == ["ok", "ok", "ok", "opted_out"]


def test_a_head_is_read_as_it_is():
    head = b"HTTP/1.1 404 Not Found\nA: b\nSet-Cookie: x\nset-cookie: y\nContent-Length: 3"
    status, headers = parse_head(head.splitlines())
    assert status == 404
    assert headers.items() == [
        ("A", "b"),
        ("Set-Cookie", "x"),
        ("set-cookie", "y"),
        ("Content-Length", "3"),
    ]
