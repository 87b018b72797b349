"""Requests to web servers, and replies read as browsers read them.

Browsers, curl and urllib read a reply with a blank in a header's name, a folded line, bare line
feeds or two `Transfer-Encoding`s; a strict reader refuses it whole (RFC 9112 lets it), and the
picture is lost. Here a reply is read line by line, and what can be made of it is taken. Whatever
cannot be read ends as ImageError, EOFError or LimitOverrunError.
"""

import re
import time
import zlib
from asyncio import StreamReader
from email.message import Message
from email.utils import parsedate_to_datetime

from ada_url import URL

from vislib.fetching.urls import web_address
from vislib.media.pixels import ImageError, Reason

_LONGEST_HEAD = 256 * 1024  # bytes, as in Chromium
_LONGEST_WAIT_S = 120.0  # that a server may ask for
_READ = 64 * 1024
_ZLIB_OR_GZIP = 47  # window bits that tell one from the other
_STATUS = re.compile(rb"(?:HTTP|ICY)(?:/[\d.]*)?[ \t]+(\d{3})(?!\d)", re.IGNORECASE)
_CHUNK = re.compile(rb"\s*([\da-f]{1,15})\s*(;.*)?\s*", re.IGNORECASE)
_REASONS: dict[int, Reason] = {
    401: "forbidden",
    403: "forbidden",
    404: "not_found",
    408: "timed_out",
    410: "not_found",
    451: "forbidden",
}


class Later(ImageError):
    """Too many requests: the server wants to be asked later, in `hold` seconds if it says so."""

    def __init__(self, detail: str, hold: float) -> None:
        super().__init__("rate_limited", detail)
        self.hold = hold


def get(address: URL, user_agent: str) -> bytes:
    """The bytes of a GET request. A connection serves one: links lie on many hosts."""
    return (
        f"GET {address.pathname}{address.search} HTTP/1.1\r\n"
        f"Host: {address.host}\r\n"
        f"User-Agent: {user_agent}\r\n"
        "Accept: image/*,*/*;q=0.5\r\n"
        "Accept-Encoding: identity\r\n"
        "Connection: close\r\n"
        "\r\n"
    ).encode()


async def read_head(stream: StreamReader) -> tuple[int, Message]:
    """Status and headers of the reply that counts: an interim one (1xx) may come before it."""
    while (head := parse_head(await _head_lines(stream)))[0] < 200:
        pass
    return head


async def _head_lines(stream: StreamReader) -> list[bytes]:
    lines: list[bytes] = []
    size = 0
    while (line := (await stream.readuntil()).rstrip(b"\r\n")) or not lines:
        size += len(line) + 1  # its end too: a server may send blank lines for ever
        if size > _LONGEST_HEAD:
            raise ImageError("disconnected", f"the head is above {_LONGEST_HEAD} bytes")
        if len(lines) > 1 and line[:1] in b" \t":  # folded: it goes on with the line before
            lines[-1] += b" " + line.strip()
        elif line:
            lines.append(line)
    return lines


def parse_head(lines: list[bytes]) -> tuple[int, Message]:
    """What can be made of the lines of a head; ImageError `disconnected` without a status."""
    status = _STATUS.match(lines[0])
    if not status:
        raise ImageError("disconnected", f"no HTTP: {lines[0][:60]!r}")
    headers = Message()
    for line in lines[1:]:
        name, _, value = _text(line).partition(":")
        headers[name.strip()] = value.strip()
    return int(status[1]), headers


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def redirect(status: int, headers: Message, address: URL) -> URL | None:
    """Where a reply leads on to, None if it carries the file. Any other status raises its
    ImageError.
    """
    location = headers.get("location", "")
    if status in (301, 302, 303, 307, 308) and location:
        return web_address(location, address)
    if status < 300:
        return None
    hold = _hold(headers.get("retry-after", ""))
    if status == 429 or (status >= 500 and hold):
        raise Later(f"HTTP {status}", hold)
    reason = _REASONS.get(status, "server_error" if status >= 500 else "http_error")
    raise ImageError(reason, f"HTTP {status}")


def _hold(value: str) -> float:
    """Seconds that `Retry-After` asks for, as a number or a date; 0 if it cannot be read."""
    try:
        if value.isdecimal():
            seconds = float(value)
        else:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
    except (ValueError, OverflowError):
        return 0.0
    return min(max(seconds, 0.0), _LONGEST_WAIT_S)


async def read_body(stream: StreamReader, headers: Message, most: int) -> bytes:
    """The file in a reply, decoded.

    Raises ImageError: `too_many_bytes` as soon as they are, `disconnected`, `unsupported_format`,
    `broken`, `empty`.
    """
    said = ",".join(headers.get_all("content-length", []))
    lengths = {int(n) for n in re.findall(r"\d{1,18}", said)}
    data = bytearray()
    # Chunks go before a length (RFC 9112, 6.3).
    if "chunked" in ",".join(headers.get_all("transfer-encoding", [])).lower():
        while size := _chunk_size(await stream.readuntil()):
            _check(len(data) + size, most)
            data += await stream.readexactly(size)
            await stream.readuntil()
    elif len(lengths) > 1:  # leave no end to rely on
        raise ImageError("disconnected", f"Content-Length is {sorted(lengths)}")
    elif lengths:
        (size,) = lengths
        _check(size, most)
        data += await stream.readexactly(size)
    else:
        while piece := await stream.read(_READ):
            data += piece
            _check(len(data), most)
    if not data:
        raise ImageError("empty", "0 bytes")
    return _decoded(bytes(data), headers.get("content-encoding", "").lower(), most)


def _chunk_size(line: bytes) -> int:
    size = _CHUNK.fullmatch(line)
    if not size:
        raise ImageError("disconnected", f"no size of a chunk: {line[:20]!r}")
    return int(size[1], 16)


def _check(size: int, most: int) -> None:
    if size > most:
        raise ImageError("too_many_bytes", f"{size} bytes or more, at most {most}")


def _decoded(data: bytes, encoding: str, most: int) -> bytes:
    """The file behind a Content-Encoding. None was asked for, but servers err; words that are no
    encoding (none, utf-8) say nothing.
    """
    if encoding in ("br", "zstd", "compress", "x-compress"):
        raise ImageError("unsupported_format", f"Content-Encoding {encoding}")
    if encoding not in ("gzip", "x-gzip", "deflate"):
        return data
    try:
        # No more than that: it may be a bomb. What breaks off is seen when it is decoded.
        plain = zlib.decompressobj(wbits=_ZLIB_OR_GZIP).decompress(data, most + 1)
    except zlib.error as error:
        raise ImageError("broken", f"Content-Encoding: {error}") from error
    _check(len(plain), most)
    return plain
