"""A scripted web server on loopback: real sockets, and whatever a stranger's server may do on
demand.
"""

import asyncio
import io
import ssl
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from PIL import Image

Headers = dict[str, str] | list[tuple[str, str]]


def png(shade: int, size: tuple[int, int] = (24, 16)) -> bytes:
    """A small picture of one colour."""
    stream = io.BytesIO()
    Image.new("RGB", size, (shade % 256, shade // 256, 99)).save(stream, "PNG")
    return stream.getvalue()


def answer(
    status: int = 200, body: bytes = b"", headers: Headers = (), length: int | None = None
) -> bytes:
    """A whole reply; `length` is what Content-Length claims."""
    lines = [
        f"HTTP/1.1 {status} Some Reason",
        f"Content-Length: {len(body) if length is None else length}",
    ]
    lines += (
        [f"{name}: {value}" for name, value in dict(headers).items()]
        if isinstance(headers, dict)
        else []
    )
    lines += [f"{name}: {value}" for name, value in headers] if isinstance(headers, list) else []
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + body


def bomb(megabytes: int) -> bytes:
    """The beginning of a gzip stream that unfolds to that many MB of zeros."""
    squeeze = zlib.compressobj(wbits=31)
    first, more = (
        squeeze.compress(bytes(1_000_000)) + squeeze.flush(zlib.Z_FULL_FLUSH) for _ in range(2)
    )
    return first + more * (megabytes - 1)


@dataclass
class Seen:
    """What the server has seen, and what it shall do."""

    port: int = 0
    latency_s: float = 0.0
    script: Callable[[str, int], bytes | str | None] | None = (
        None  # (path, how often it was asked) -> what to do
    )
    asked: Counter[str] = field(default_factory=Counter)
    at: list[tuple[float, str]] = field(default_factory=list)
    heads: list[str] = field(default_factory=list)
    connections: int = 0
    now: int = 0
    most_at_once: int = 0
    sent: int = 0  # bytes of endless bodies
    names: list[str] = field(default_factory=list)  # that TLS was asked for

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"http://{self.host}"


async def _serve(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    seen.connections += 1
    try:
        while head := await reader.readuntil(b"\r\n\r\n"):
            path = head.split(b" ", 2)[1].decode("latin-1")
            seen.heads.append(head.decode("latin-1"))
            seen.asked[path] += 1
            seen.at.append((time.monotonic(), path))
            seen.now += 1
            seen.most_at_once = max(seen.most_at_once, seen.now)
            try:
                await asyncio.sleep(seen.latency_s)
                reply = seen.script(path, seen.asked[path]) if seen.script else None
                await _reply(
                    seen, answer(body=png(len(path))) if reply is None else reply, reader, writer
                )
            finally:
                seen.now -= 1
    except (ConnectionError, asyncio.IncompleteReadError):
        pass
    finally:
        with suppress(Exception):
            writer.close()


async def _reply(
    seen: Seen, reply: bytes | str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Bytes as they are; `hang`, `reset`, `close`, `endless`, `drip SECONDS` (a picture, a byte at
    a time).
    """
    what, _, pause = reply.partition(" ") if isinstance(reply, str) else ("", "", "")
    if isinstance(reply, bytes):
        writer.write(reply)
        await writer.drain()
        if b"Connection: close" in reply:
            raise ConnectionError
    elif what == "hang":
        await reader.read()
    elif what == "reset":
        writer.transport.abort()
        raise ConnectionError
    elif what == "close":
        raise ConnectionError
    elif what == "endless":
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\n\r\n")
        while seen.sent < 1_000_000_000:
            writer.write(bytes(100_000))
            seen.sent += 100_000
            await writer.drain()
    elif what == "drip":
        for byte in answer(body=png(7)):
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(float(pause))


@contextmanager
def web_server(tls: ssl.SSLContext | None = None, **settings: object) -> Iterator[Seen]:
    """Serve on a free port of 127.0.0.1 while the block runs."""
    seen, loop, ready = Seen(**settings), asyncio.new_event_loop(), threading.Event()

    async def serve() -> None:
        server = await asyncio.start_server(
            lambda reader, writer: _serve(seen, reader, writer),
            "127.0.0.1",
            0,
            ssl=tls,
            backlog=1024,
        )
        seen.port = server.sockets[0].getsockname()[1]
        ready.set()

    loop.create_task(serve())
    loop.set_exception_handler(lambda loop, context: None)  # clients that are gone
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    assert ready.wait(10)
    try:
        yield seen
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0.01))
        loop.close()
