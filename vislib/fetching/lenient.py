"""Replies of lax servers, put into the strict form that the HTTP library reads.

Browsers, curl and urllib read a reply with a blank in a header's name, a folded line, bare line
feeds or two `Transfer-Encoding`s; h11 refuses it whole (RFC 9112 lets it). Here the head is written
anew with what can be read of it, and so are the lines between chunks; the bytes of a body pass as
they are.
"""

import re
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

import httpcore2

_HEAD_END, _LINE_END = re.compile(rb"[^\r\n]\r?\n\r?\n"), re.compile(rb"\n")
_LONGEST = 256 * 1024  # bytes of a head, as in Chromium
_STATUS = re.compile(rb"(?:HTTP|ICY)(?:/(\d+)(?:\.(\d+))?)?[ \t]+(\d{3})(?!\d)", re.IGNORECASE)
_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # a token, RFC 9110
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_CHUNK_SIZE = re.compile(rb"\s*([0-9a-fA-F]{1,16})\s*(?:;|$)")
_READ = 64 * 1024


class LenientStream(httpcore2.AsyncNetworkStream):
    """A connection whose replies are made strict; one request at a time."""

    def __init__(self, inner: httpcore2.AsyncNetworkStream) -> None:
        self._inner, self._held = inner, bytearray()
        self._part: Callable[[], Awaitable[bytes]] = self._head  # what is read next
        self._left = 0  # bytes of the chunk that is read

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Send a request: what comes next is the head of its reply."""
        if buffer:
            self._held.clear()
            self._part = self._head
        await self._inner.write(buffer, timeout)

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """The next part of the reply, empty at its end; `max_bytes` is at least 64 KiB, as httpcore
        has it.
        """
        return await self._part()

    async def aclose(self) -> None:
        """Close the connection."""
        await self._inner.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """The same over TLS."""
        return LenientStream(await self._inner.start_tls(ssl_context, server_hostname, timeout))

    def get_extra_info(self, info: str) -> Any:
        """What the connection knows of itself."""
        return self._inner.get_extra_info(info)

    # -- the parts of a reply; each sets which one is read next
    async def _head(self) -> bytes:
        head = await self._until(_HEAD_END)
        strict, status, chunked = strict_head(head) if _HEAD_END.search(head) else (head, 0, False)
        if (
            status == 101 or not 100 <= status < 200
        ):  # an interim reply comes before the one that counts
            self._part = self._size if chunked else self._rest
        return strict

    async def _rest(self) -> bytes:
        if not self._held:
            return await self._inner.read(_READ)
        part = bytes(self._held)
        self._held.clear()
        return part

    async def _size(self) -> bytes:
        """The line before a chunk. What follows the last chunk is not waited for."""
        line = await self._until(_LINE_END)
        size = _CHUNK_SIZE.match(line)
        self._left = int(size[1], 16) if size else 0
        self._part = self._data if self._left else self._rest
        if not size:
            return line  # no chunk begins so: h11 says what is wrong
        return b"%x\r\n" % self._left if self._left else b"0\r\n\r\n"

    async def _data(self) -> bytes:
        if not self._held:
            await self._more()
        part = bytes(self._held[: self._left])
        del self._held[: self._left]
        self._left -= len(part)
        if not self._left and (await self._until(_LINE_END)).endswith(b"\n"):
            self._part = self._size
            part += b"\r\n"
        return part

    async def _until(self, mark: re.Pattern[bytes]) -> bytes:
        """What comes up to `mark`, mark included; all that came, where the mark does not."""
        while (
            not (found := mark.search(self._held))
            and len(self._held) < _LONGEST
            and await self._more()
        ):
            pass
        end = found.end() if found else len(self._held)
        taken = bytes(self._held[:end])
        del self._held[:end]
        return taken

    async def _more(self) -> bool:
        part = await self._inner.read(_READ)
        self._held += part
        return bool(part)


def strict_head(head: bytes) -> tuple[bytes, int, bool]:
    """A reply's head in strict form, its status (0: no HTTP, and left as it is), whether chunks
    follow.

    Header lines without a proper name are left out, values are UTF-8, and one field says where the
    body ends: chunks go before lengths (RFC 9112, section 6.3), and a length that is no number says
    nothing.
    """
    first, *lines = head.strip().splitlines()
    status = _STATUS.match(first)
    if not status:
        return head, 0, False
    fields: list[tuple[bytes, bytes]] = []
    for line in lines:
        if line[:1] in (b" ", b"\t") and fields:  # goes on with the line before
            fields[-1] = (fields[-1][0], fields[-1][1] + b" " + line)
        else:
            name, _, value = line.partition(b":")
            fields.append((name.strip(), value))
    codings, lengths, kept = set[bytes](), set[bytes](), []
    for name, value in fields:
        value = _utf8(_CONTROL.sub(b" ", value).strip())
        words = {word.strip().lower() for word in value.split(b",")}
        if name.lower() == b"transfer-encoding":
            codings |= words
        elif name.lower() == b"content-length":
            lengths |= {word for word in words if word.isdigit()}
        elif _NAME.fullmatch(name):
            kept.append(name + b": " + value)
    chunked = b"chunked" in codings
    kept += (
        [b"Transfer-Encoding: chunked"]
        if chunked
        else [b"Content-Length: " + length for length in lengths]
    )
    old = status.group(1, 2) in ((None, None), (b"0", b"9"), (b"1", b"0"))
    begin = b"HTTP/1.0 " if old else b"HTTP/1.1 "
    return b"\r\n".join([begin + status[3], *kept, b"", b""]), int(status[3]), chunked


def _utf8(value: bytes) -> bytes:
    try:
        value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1").encode()
    return value
