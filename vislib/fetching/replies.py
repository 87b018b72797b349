"""What a web server's answer to a request for an image means: status, redirect, body, or none."""

import re
import time
import zlib
from collections.abc import Iterator
from email.utils import parsedate_to_datetime

from ada_url import URL

from vislib.fetching.connections import Reply
from vislib.fetching.urls import web_address
from vislib.media.pixels import ImageError, Reason

_LONGEST_WAIT_S = 120.0  # that a server may ask for
_PIECE = 1 << 20  # bytes decoded at once
_ZLIB_OR_GZIP = 47  # window bits that tell one from the other
_GZIP = b"\x1f\x8b"  # how a gzip member begins
_STATUS: dict[int, Reason] = {
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


def address_of(url: str, base: URL | None = None) -> URL:
    """The address of an http or https link, its host in ASCII; raises ImageError `bad_url`.

    `base` is where the reply came from that led on to `url`.
    """
    try:
        return web_address(url, base)
    except ValueError as error:
        raise ImageError("bad_url", str(error)) from error


def redirect(reply: Reply, address: URL) -> URL | None:
    """Where a reply leads on to, None if it carries the file. Any other status raises its
    ImageError.
    """
    status, location = reply.status, reply.value("location")
    if status in (301, 302, 303, 307, 308) and location:
        return address_of(location, address)
    if not 200 <= status < 300:
        reason = _STATUS.get(status, "server_error" if status >= 500 else "http_error")
        raise ImageError(reason, f"HTTP {status}")
    if status == 206:  # which was not asked for, but may be the whole
        said = reply.value("content-range")
        span = re.fullmatch(r"bytes 0-(\d{1,18})/(\d{1,18})", said)
        if not span or int(span[1]) + 1 != int(span[2]):
            raise ImageError("truncated", f"HTTP 206, a part: Content-Range {said}"[:100])
    return None


def retry_after(reply: Reply) -> float:
    """Seconds that `Retry-After` asks for, as a number or a date; 0 if it cannot be read, 120 at
    most.
    """
    value = reply.value("retry-after")
    try:
        if value.isdecimal():
            seconds = float(value)
        else:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
    except (ValueError, OverflowError):
        return 0.0
    return min(max(seconds, 0.0), _LONGEST_WAIT_S)


async def read_body(reply: Reply, most: int) -> bytes:
    """The file in a reply, decoded; `reply.received` counts what was sent for it.

    Raises ImageError: `too_many_bytes` as soon as they are, `unsupported_format`, `broken`,
    `truncated`, `empty`.
    """
    if (announced := reply.length or 0) > most:
        raise ImageError("too_many_bytes", f"{announced} bytes announced, at most {most}")
    decoder = _decoder(reply.value("content-encoding").lower())
    data = bytearray()
    async for chunk in reply.body():
        reply.received += len(chunk)
        for piece in decoder.decode(chunk) if decoder else [chunk]:
            data += piece
            if len(data) > most:
                raise ImageError("too_many_bytes", f"more than {most} bytes")
    if decoder and not decoder.inflate.eof:
        raise ImageError("truncated", "its Content-Encoding breaks off")
    if not data:
        raise ImageError("empty", "0 bytes")
    return bytes(data)


def _decoder(encoding: str) -> "_Inflate | None":
    """What decodes a body. None was asked for, but servers err; words that are no encoding (none,
    utf-8) say nothing.
    """
    if encoding in ("br", "zstd", "compress", "x-compress") or "," in encoding:
        raise ImageError("unsupported_format", f"Content-Encoding {encoding}"[:100])
    return _Inflate() if encoding in ("gzip", "x-gzip", "deflate") else None


class _Inflate:
    """zlib or gzip in pieces of bounded size: a bomb is met before it has unfolded."""

    def __init__(self) -> None:
        self.inflate, self._after = zlib.decompressobj(wbits=_ZLIB_OR_GZIP), b""

    def decode(self, chunk: bytes) -> Iterator[bytes]:
        """The bytes in a chunk; raises ImageError `broken`."""
        try:
            while chunk:
                if self.inflate.eof:
                    # Another gzip member may follow, also after zeros; any other rest is idle.
                    chunk = (self._after + chunk).lstrip(b"\0")
                    if not chunk.startswith(_GZIP):
                        self._after = chunk[: len(_GZIP)]
                        return
                    self.inflate, self._after = zlib.decompressobj(wbits=_ZLIB_OR_GZIP), b""
                yield self.inflate.decompress(chunk, _PIECE)
                ended = self.inflate.eof
                chunk = self.inflate.unused_data if ended else self.inflate.unconsumed_tail
        except zlib.error as error:
            raise ImageError("broken", f"Content-Encoding: {error}") from error
