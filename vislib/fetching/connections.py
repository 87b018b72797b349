"""Requests over connections that are kept, and replies read as browsers read them.

Browsers, curl and urllib read a reply with a blank in a header's name, a folded line, bare line
feeds or two `Transfer-Encoding`s; a strict reader refuses it whole (RFC 9112 lets it), and the
picture is lost. Here the head is read line by line, and what can be made of it is taken.
"""

import re
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from ada_url import URL

from vislib.fetching.addresses import PublicNetwork
from vislib.media.pixels import ImageError

_LONGEST = 256 * 1024  # bytes of a head, as in Chromium
_READ = 64 * 1024
_IDLE = 16  # connections kept open for a next request
_STATUS = re.compile(rb"(?:HTTP|ICY)(?:/(\d+)(?:\.(\d+))?)?[ \t]+(\d{3})(?!\d)", re.IGNORECASE)
_CHUNK_SIZE = re.compile(rb"\s*([0-9a-fA-F]{1,16})\s*(?:;|$)")
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


@dataclass
class Reply:
    """The head of a reply, names in lower case, and its body as it comes."""

    status: int
    fields: list[tuple[str, str]]
    reader: StreamReader
    persistent: bool  # the server takes another request when this reply is read
    ended: bool = False  # the body was read to an end that the server marked
    received: int = 0  # bytes of the body, as they were sent

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
    def length(self) -> int | None:
        """Bytes that the body has, None if its end says so; raises ImageError `disconnected`."""
        if self.status in (204, 304):
            return 0
        # A length that is no number says nothing; two that differ leave no end to rely on.
        lengths = {int(word) for word in self.words("content-length") if word.isdecimal()}
        if len(lengths) > 1:
            raise ImageError("disconnected", f"Content-Length is {sorted(lengths)}")
        return next(iter(lengths), None)

    async def body(self) -> AsyncIterator[bytes]:
        """The bytes as they come; raises ImageError `disconnected` where they break off."""
        if "chunked" in self.words("transfer-encoding"):  # goes before a length (RFC 9112, 6.3)
            # What follows the last chunk is not waited for, nor is the connection used again.
            while size := await self._chunk_size():
                async for piece in self._exactly(size):
                    yield piece
                await _line(self.reader)
        elif self.length is None:
            while piece := await self.reader.read(_READ):
                yield piece
        else:
            async for piece in self._exactly(self.length):
                yield piece
            self.ended = True

    async def _chunk_size(self) -> int:
        line = await _line(self.reader)
        size = _CHUNK_SIZE.match(line)
        if not size:
            raise ImageError("disconnected", f"no chunk begins with {line[:60]!r}")
        return int(size[1], 16)

    async def _exactly(self, length: int) -> AsyncIterator[bytes]:
        while length:
            piece = await self.reader.read(min(length, _READ))
            if not piece:
                raise ImageError("disconnected", f"{length} bytes of the reply are missing")
            length -= len(piece)
            yield piece


class Client:
    """Asks web servers, each request on a connection that is open already, if one is."""

    def __init__(self, network: PublicNetwork, headers: dict[str, str]) -> None:
        self._network = network
        self._headers = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self._idle: list[tuple[str, StreamReader, StreamWriter]] = []

    @asynccontextmanager
    async def get(self, address: URL, connect_s: float) -> AsyncIterator[Reply]:
        """The reply to a GET request; raises ImageError and OSError."""
        reader, writer = self._kept(address.origin) or await self._network.connect(
            address, connect_s
        )
        kept = False
        try:
            target = address.pathname + address.search
            head = f"GET {target} HTTP/1.1\r\nHost: {address.host}\r\n{self._headers}\r\n"
            writer.write(head.encode())
            await writer.drain()
            reply = await read_head(reader)
            yield reply
            kept = reply.ended and reply.persistent
        finally:
            if kept:
                self._idle.append((address.origin, reader, writer))
                self.close(_IDLE)
            else:
                writer.transport.abort()  # at once, whatever is still to come

    def close(self, keep: int = 0) -> None:
        """Close connections that nobody uses, all but the `keep` used last."""
        while len(self._idle) > keep:
            self._idle.pop(0)[2].transport.abort()

    def _kept(self, origin: str) -> tuple[StreamReader, StreamWriter] | None:
        for place, (of, reader, writer) in enumerate(self._idle):
            if of == origin:
                del self._idle[place]
                if not reader.at_eof() and not writer.transport.is_closing():
                    return reader, writer
                writer.transport.abort()
                return self._kept(origin)
        return None


async def read_head(reader: StreamReader) -> Reply:
    """The head of the reply that counts: an interim one (1xx) may come before it.

    Raises ImageError `disconnected` where nothing can be made of it.
    """
    first, *lines = await _head_lines(reader)
    status = _STATUS.match(first)
    if not status:
        raise ImageError("disconnected", f"no HTTP: {first[:60]!r}")
    if 100 <= int(status[3]) < 200 and int(status[3]) != 101:
        return await read_head(reader)
    fields: list[tuple[str, str]] = []
    for line in lines:
        text = _text(_CONTROL.sub(b" ", line))
        if text[:1] in (" ", "\t") and fields:  # folded: it goes on with the line before
            name, value = fields[-1]
            fields[-1] = name, f"{value} {text.strip()}".strip()
        else:
            name, _, value = text.partition(":")
            fields.append((name.strip().lower(), value.strip()))
    old = status.group(1, 2) in ((None, None), (b"0", b"9"), (b"1", b"0"))
    reply = Reply(int(status[3]), fields, reader, persistent=not old)
    reply.persistent &= "close" not in reply.words("connection")
    return reply


async def _head_lines(reader: StreamReader) -> list[bytes]:
    lines: list[bytes] = []
    size = 0
    while (line := (await _line(reader)).rstrip(b"\r\n")) or not lines:
        size += len(line) + 2  # its end too: a server may send blank lines for ever
        if size > _LONGEST:
            raise ImageError("disconnected", f"the head of the reply is above {_LONGEST} bytes")
        if line:
            lines.append(line)
    return lines


async def _line(reader: StreamReader) -> bytes:
    try:
        line = await reader.readline()
    except ValueError as error:  # longer than the reader holds
        raise ImageError("disconnected", str(error)) from error
    if not line.endswith(b"\n"):
        raise ImageError("disconnected", "the reply breaks off")
    return line


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")
