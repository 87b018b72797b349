"""A scripted server of the OpenAI chat protocol on loopback: real HTTP, pixels decoded, faults on
demand.
"""

import base64
import io
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from PIL import Image

KEY = "key-for-tests-only-0123456789"
MODEL = "scripted-vlm"
Reply = tuple[int, dict[str, Any] | str, dict[str, str]]  # status, body, headers


def completion(
    text: str | None, *, finish: str = "stop", tokens: tuple[int, int] = (100, 20)
) -> dict[str, Any]:
    """A chat completion's body."""
    return {
        "id": "c",
        "object": "chat.completion",
        "created": 1,
        "model": MODEL,
        "choices": [
            {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text}}
        ],
        "usage": {
            "prompt_tokens": tokens[0],
            "completion_tokens": tokens[1],
            "total_tokens": sum(tokens),
        },
    }


def error(
    status: int, message: str, code: str = "", headers: dict[str, str] | None = None
) -> Reply:
    """An error of the provider's form."""
    return (
        status,
        {"error": {"message": message, "type": "t", "param": None, "code": code or None}},
        headers or {},
    )


@dataclass
class Scripted:
    """What the server has seen, and what it shall do."""

    url: str = ""
    latency_s: float = 0.0
    script: Callable[[str, int], Reply | None] | None = (
        None  # (prompt, how often it was asked) -> reply, None: answer
    )
    asked: Counter[str] = field(default_factory=Counter)  # by prompt and image
    images: list[tuple[int, int]] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    most_at_once: int = 0
    _now: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def reply(self, body: dict[str, Any], authorization: str) -> Reply:
        """Answer one request as the script says."""
        if authorization != f"Bearer {KEY}":
            return error(401, f"Incorrect API key provided: {authorization[7:]}", "invalid_api_key")
        if body["model"] != MODEL:
            return error(404, f"The model `{body['model']}` does not exist", "model_not_found")
        prompt, pixels = self._read(body["messages"])
        with self._lock:
            self.bodies.append(body)
            self.times.append(time.monotonic())
            self.asked[prompt + pixels] += 1
            times = self.asked[prompt + pixels]
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
        time.sleep(self.latency_s)
        with self._lock:
            self._now -= 1
        scripted = self.script(prompt, times) if self.script else None
        return scripted or (200, completion(f"Answer to {prompt[:40]} {pixels}"), {})

    def _read(self, messages: list[dict[str, Any]]) -> tuple[str, str]:
        """Prompt, and the pixels of an image as text; anything but a data URI that decodes is an
        error.
        """
        content = messages[-1]["content"]
        if isinstance(content, str):
            return content, ""
        texts = [part["text"] for part in content if part["type"] == "text"]
        (url,) = [part["image_url"]["url"] for part in content if part["type"] == "image_url"]
        head, data = url.split(",", 1)
        assert (head[:11], head[-7:]) == ("data:image/", ";base64")
        with Image.open(io.BytesIO(base64.b64decode(data, validate=True))) as image:
            image.load()
            with self._lock:
                self.images.append(image.size)
            colour = image.convert("RGB").resize((1, 1)).getpixel((0, 0))
            return "".join(texts), f"[{image.width}x{image.height} {colour}]"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    scripted: Scripted

    def setup(self) -> None:
        super().setup()
        self.connection.setsockopt(6, 1, 1)  # TCP_NODELAY

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        status, answer, headers = self.scripted.reply(body, self.headers.get("Authorization", ""))
        if status == 0:  # hang up without a word
            self.close_connection = True
            return
        data = (answer if isinstance(answer, str) else json.dumps(answer)).encode()
        head = {"Content-Type": "application/json", "Content-Length": str(len(data)), **headers}
        self.send_response(status)
        for name, value in head.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: Any) -> None:
        pass


class _Server(ThreadingHTTPServer):
    request_queue_size = 1024
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a client that was killed


@contextmanager
def openai_server(**settings: Any) -> Iterator[Scripted]:
    """Serve on a free port of 127.0.0.1 while the block runs."""
    scripted = Scripted(**settings)
    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"scripted": scripted}))
    scripted.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
    )
    thread.start()
    try:
        yield scripted
    finally:
        server.shutdown()
        server.server_close()
