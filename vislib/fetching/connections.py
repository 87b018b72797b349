"""Requests to web servers, and replies read as browsers read them.

Browsers, curl and urllib read a reply with a blank in a header's name, a folded line, bare line
feeds or two `Transfer-Encoding`s; a strict reader refuses it whole (RFC 9112 lets it), and the
picture is lost. Here the head is read line by line, and what can be made of it is taken; the body
is read by `http.client`. A connection serves one request: links lie on many hosts.
"""

import io
import re
import socket
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from http.client import HTTPException, HTTPResponse
from typing import Any, BinaryIO

from ada_url import URL

from vislib.fetching.addresses import PublicNetwork
from vislib.fetching.urls import web_address
from vislib.media.pixels import ImageError, Reason

_CONNECT_S = 10.0
_LONGEST_HEAD = 256 * 1024  # bytes, as in Chromium
_LONGEST_WAIT_S = 120.0  # that a server may ask for
_READ = 64 * 1024
_ZLIB_OR_GZIP = 47  # window bits that tell one from the other
_STATUS = re.compile(rb"(?:HTTP|ICY)(?:/[\d.]*)?[ \t]+(\d{3})(?!\d)", re.IGNORECASE)
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_REASONS: dict[int, Reason] = {
    401: "forbidden",
    402: "forbidden",
    403: "forbidden",
    404: "not_found",
    408: "timed_out",
    410: "not_found",
    425: "server_error",
    429: "rate_limited",
    451: "forbidden",
}


class _Wire(io.RawIOBase):
    """What a socket receives, until its deadline: a server that sends a byte now and then would
    pass a limit on each wait.
    """

    def __init__(self, connected: socket.socket, deadline: float) -> None:
        self._socket, self._deadline = connected, deadline

    def makefile(self, *args: Any) -> io.BufferedReader:
        """What `HTTPResponse` asks of a socket."""
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._socket.settimeout(max(self._deadline - time.monotonic(), 0.001))
        return self._socket.recv_into(buffer)


class Reply(HTTPResponse):
    """A reply, whose head is read leniently: its `fields` have names in lower case."""

    fields: list[tuple[str, str]]

    def begin(self) -> None:
        """Read the head that counts; raises ImageError `disconnected`."""
        stream: Any = self.fp
        status, self.fields = read_head(stream)
        lengths = {int(word) for word in self.words("content-length") if word.isdecimal()}
        framing = "".join(f"Content-Length: {length}\r\n" for length in lengths)
        if "chunked" in self.words("transfer-encoding"):  # goes before a length (RFC 9112, 6.3)
            framing = "Transfer-Encoding: chunked\r\n"
        elif len(lengths) > 1:  # leave no end to rely on
            raise ImageError("disconnected", f"Content-Length is {sorted(lengths)}")
        # What is left of the head is as strict as the library wants it.
        self.fp = io.BufferedReader(io.BytesIO(f"HTTP/1.1 {status} -\r\n{framing}\r\n".encode()))
        super().begin()
        self.fp = stream

    def values(self, name: str) -> list[str]:
        """All values of a header."""
        return [value for each, value in self.fields if each == name]

    def value(self, name: str) -> str:
        """The first value of a header, empty without one."""
        return next(iter(self.values(name)), "")

    def words(self, name: str) -> set[str]:
        """The distinct words of a header that is a list, in lower case."""
        return {word.strip().lower() for word in ",".join(self.values(name)).split(",")}

    @property
    def hold(self) -> float:
        """Seconds that `Retry-After` asks for, as a number or a date; 0 if it cannot be read, 120
        at most.
        """
        value = self.value("retry-after")
        try:
            if value.isdecimal():
                seconds = float(value)
            else:
                seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, OverflowError):
            return 0.0
        return min(max(seconds, 0.0), _LONGEST_WAIT_S)


@contextmanager
def get(
    network: PublicNetwork, address: URL, headers: dict[str, str], seconds: float
) -> Iterator[Reply]:
    """The reply to a GET request, to be read within `seconds`; raises ImageError and OSError."""
    deadline = time.monotonic() + seconds
    headers = {"Host": address.host, "Connection": "close", **headers}
    lines = [f"{name}: {value}\r\n" for name, value in headers.items()]
    head = f"GET {address.pathname}{address.search} HTTP/1.1\r\n{''.join(lines)}\r\n"
    with network.connect(address, min(_CONNECT_S, seconds / 2)) as connected:
        connected.sendall(head.encode())
        wire: Any = _Wire(connected, deadline)
        try:
            with Reply(wire, method="GET") as reply:
                reply.begin()
                yield reply
        except HTTPException as error:
            raise ImageError("disconnected", f"{type(error).__name__}: {error}"[:200]) from error


def read_head(stream: BinaryIO) -> tuple[int, list[tuple[str, str]]]:
    """Status and headers of the reply that counts: an interim one (1xx) may come before it.

    Raises ImageError `disconnected` where nothing can be made of it.
    """
    first, *lines = _head_lines(stream)
    status = _STATUS.match(first)
    if not status:
        raise ImageError("disconnected", f"no HTTP: {first[:60]!r}")
    if status[1].startswith(b"1") and status[1] != b"101":
        return read_head(stream)
    fields: list[tuple[str, str]] = []
    for line in lines:
        text = _text(_CONTROL.sub(b" ", line))
        if text[:1] in (" ", "\t") and fields:  # folded: it goes on with the line before
            name, value = fields[-1]
            fields[-1] = name, f"{value} {text.strip()}".strip()
        else:
            name, _, value = text.partition(":")
            fields.append((name.strip().lower(), value.strip()))
    return int(status[1]), fields


def _head_lines(stream: BinaryIO) -> list[bytes]:
    lines: list[bytes] = []
    left = _LONGEST_HEAD
    while (line := stream.readline(left)).rstrip(b"\r\n") or not lines:
        left -= len(line)  # its end too: a server may send blank lines for ever
        if not line.endswith(b"\n"):
            fault = "breaks off" if left else f"is above {_LONGEST_HEAD} bytes"
            raise ImageError("disconnected", f"the head of the reply {fault}")
        if text := line.rstrip(b"\r\n"):
            lines.append(text)
    return lines


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def redirect(reply: Reply, address: URL) -> URL | None:
    """Where a reply leads on to, None if it carries the file. Any other status raises its
    ImageError.
    """
    status, location = reply.status, reply.value("location")
    if status in (301, 302, 303, 307, 308) and location:
        return web_address(location, address)
    if not 200 <= status < 300:
        reason = _REASONS.get(status, "server_error" if status >= 500 else "http_error")
        raise ImageError(reason, f"HTTP {status}")
    if status == 206:  # which was not asked for, but may be the whole
        said = reply.value("content-range")
        span = re.fullmatch(r"bytes 0-(\d{1,18})/(\d{1,18})", said)
        if not span or int(span[1]) + 1 != int(span[2]):
            raise ImageError("truncated", f"HTTP 206, a part: Content-Range {said}"[:100])
    return None


def read_body(reply: Reply, most: int) -> bytes:
    """The file in a reply, decoded.

    Raises ImageError: `too_many_bytes` as soon as they are, `disconnected`, `unsupported_format`,
    `broken`, `truncated`, `empty`.
    """
    if (announced := reply.length or 0) > most:
        raise ImageError("too_many_bytes", f"{announced} bytes announced, at most {most}")
    data = bytearray()
    while piece := reply.read1(_READ):
        data += piece
        if len(data) > most:
            raise ImageError("too_many_bytes", f"more than {most} bytes")
    if reply.length:
        raise ImageError("disconnected", f"{reply.length} bytes of the reply are missing")
    if not data:
        raise ImageError("empty", "0 bytes")
    return _decoded(bytes(data), reply.value("content-encoding").lower(), most)


def _decoded(data: bytes, encoding: str, most: int) -> bytes:
    """The file behind a Content-Encoding. None was asked for, but servers err; words that are no
    encoding (none, utf-8) say nothing.
    """
    if encoding in ("br", "zstd", "compress", "x-compress") or "," in encoding:
        raise ImageError("unsupported_format", f"Content-Encoding {encoding}"[:100])
    if encoding not in ("gzip", "x-gzip", "deflate"):
        return data
    inflate = zlib.decompressobj(wbits=_ZLIB_OR_GZIP)
    try:
        plain = inflate.decompress(data, most + 1)  # no more: it may be a bomb
    except zlib.error as error:
        raise ImageError("broken", f"Content-Encoding: {error}") from error
    if len(plain) > most:
        raise ImageError("too_many_bytes", f"more than {most} bytes")
    if not inflate.eof:
        raise ImageError("truncated", "its Content-Encoding breaks off")
    return plain
