"""Reading what a web server answers to a request for an image: status, redirect, headers, body, or
none of them.
"""

import re
import ssl
import time
import zlib
from collections.abc import Iterator
from email.utils import parsedate_to_datetime

import httpcore2
import httpx2
from ada_url import URL

from vislib.fetching.urls import web_address
from vislib.media.pixels import ImageError, Reason

NETWORK_ERRORS = (
    TimeoutError,
    httpcore2.TimeoutException,
    httpcore2.NetworkError,
    httpcore2.ProtocolError,
    ssl.SSLError,  # after the handshake httpcore lets them through
)
_LONGEST_WAIT_S = 120.0  # that a server may ask for
_PIECE = 1 << 20  # bytes decoded at once
_ZLIB_OR_GZIP, _GZIP = (
    47,
    b"\x1f\x8b",
)  # window bits that tell one from the other; how a gzip member begins
_NOT_READ = ("br", "zstd", "compress", "x-compress")  # encodings; none was asked for
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


def redirect(status: int, headers: httpx2.Headers, address: URL) -> URL | None:
    """Where a reply leads on to, None if it carries the file. Any other status raises its
    ImageError.
    """
    if status in (301, 302, 303, 307, 308) and "location" in headers:
        return address_of(headers["location"], address)
    if not 200 <= status < 300:
        raise ImageError(
            _STATUS.get(status, "server_error" if status >= 500 else "http_error"), f"HTTP {status}"
        )
    if status == 206:  # which was not asked for
        span = re.fullmatch(
            r"bytes 0-(\d{1,18})/(\d{1,18})", said := headers.get("content-range", "")
        )
        if not span or int(span[1]) + 1 != int(span[2]):
            raise ImageError("truncated", f"HTTP 206, a part: Content-Range {said}"[:100])
    return None


def retry_after(value: str) -> float:
    """Seconds that a `Retry-After` asks for, as a number or a date; 0 if it cannot be read, 120 at
    most.
    """
    try:
        seconds = (
            float(value)
            if value.isdecimal()
            else parsedate_to_datetime(value).timestamp() - time.time()
        )
    except (ValueError, OverflowError):
        return 0.0
    return min(max(seconds, 0.0), _LONGEST_WAIT_S)


def failure_of(error: Exception) -> ImageError:
    """What a failure of the network or of a server's HTTP says of the link."""
    detail = f"{type(error).__name__}: {error}".removesuffix(": ")[:200]
    if isinstance(error, ImageError):
        return error
    if isinstance(error, httpcore2.ConnectError | httpcore2.ConnectTimeout):
        tls = isinstance(error.args[0] if error.args else None, ssl.SSLError)
        return ImageError("bad_certificate" if tls else "unreachable", detail)
    if isinstance(error, httpcore2.LocalProtocolError | httpcore2.UnsupportedProtocol):
        return ImageError("bad_url", detail)
    if isinstance(error, TimeoutError | httpcore2.TimeoutException):
        return ImageError("timed_out", "no whole answer within timeout_s")
    return ImageError("disconnected", detail)


class Body:
    """A reply's body as it comes, decoded, at most `most` bytes of it."""

    def __init__(self, headers: httpx2.Headers, most: int) -> None:
        self._data, self._most, self._inflate, self._after = bytearray(), most, None, b""
        encoding = headers.get("content-encoding", "identity").strip().lower()
        if encoding in ("gzip", "x-gzip", "deflate"):  # none was asked for
            self._inflate = zlib.decompressobj(wbits=_ZLIB_OR_GZIP)
        elif (
            encoding in _NOT_READ or "," in encoding
        ):  # other words (none, utf-8) are no encodings: servers err
            raise ImageError("unsupported_format", f"Content-Encoding {encoding}"[:100])
        if (announced := int(headers.get("content-length", 0))) > most:
            raise ImageError("too_many_bytes", f"{announced} bytes announced, at most {most}")

    def take(self, chunk: bytes) -> None:
        """Add what came; raises ImageError `too_many_bytes` as soon as it is, `broken` if it cannot
        be decoded.
        """
        for piece in self._decoded(chunk):
            self._data += piece
            if len(self._data) > self._most:
                raise ImageError("too_many_bytes", f"more than {self._most} bytes")

    def whole(self) -> bytes:
        """The bytes when all have come; raises ImageError `truncated` or `empty`."""
        if self._inflate and not self._inflate.eof:
            raise ImageError("truncated", "its Content-Encoding breaks off")
        if not self._data:
            raise ImageError("empty", "0 bytes")
        return bytes(self._data)

    def _decoded(self, chunk: bytes) -> Iterator[bytes]:
        if self._inflate is None:
            yield chunk
            return
        try:
            while chunk:
                if (
                    self._inflate.eof
                ):  # another gzip member may follow, also after zeros; the rest is idle
                    chunk = (self._after + chunk).lstrip(b"\0")
                    if not chunk.startswith(_GZIP):
                        self._after = chunk[: len(_GZIP)]
                        return
                    self._inflate, self._after = zlib.decompressobj(wbits=_ZLIB_OR_GZIP), b""
                yield self._inflate.decompress(chunk, _PIECE)
                chunk = (
                    self._inflate.unused_data
                    if self._inflate.eof
                    else self._inflate.unconsumed_tail
                )
        except zlib.error as error:
            raise ImageError("broken", f"Content-Encoding: {error}") from error
