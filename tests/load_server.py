"""A fast server of the chat protocol in a process of its own: latency, limits and faults on demand,
bills by prompt.

`python -m tests.load_server '{"latency_s": 0.3}'` prints its address; tests use `load_server(...)`
and `bill(url)`. Every fault is drawn from seed, prompt and how often that prompt was asked, so that
a run's faults can be had again.
"""

import asyncio
import json
import random
import subprocess
import sys
import time
import urllib.request
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

USAGE = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120}
TEXT = {"role": "assistant", "content": "A short answer."}


def _completion(choices: Any, usage: Any = USAGE) -> str:
    return json.dumps(
        {
            "id": "c",
            "object": "chat.completion",
            "created": 1,
            "model": "m",
            "choices": choices,
            "usage": usage,
        }
    )


def _choice(message: Any, finish: str = "stop") -> list[Any]:
    return [{"index": 0, "finish_reason": finish, "message": message}]


ANSWER = _completion(_choice(TEXT))
# What a 200 may hold besides an answer; some of it is billed all the same.
BODIES = {
    "not_json": '{"id": "c", "choices": [',
    "html": "<html><body>Bad gateway</body></html>",
    "no_choices": _completion([]),
    "null_choices": _completion(None),
    "text_choices": _completion("none"),
    "null_message": _completion(_choice(None)),
    "listed_content": _completion(_choice({"role": "assistant", "content": [{"x": 1}]})),
    "null_content": _completion(_choice({"role": "assistant", "content": None})),
    "a_list": "[1, 2]",
    "a_number": "17",
    "error_in_200": json.dumps({"error": {"message": "overloaded", "code": 503}}),
}
# These answer a request for good, or for a day.
SETTLED = {
    "length": _completion(_choice(TEXT, "length")),
    "content_filter": _completion(_choice({"role": "assistant", "content": ""}, "content_filter")),
    "refusal": _completion(_choice({"role": "assistant", "content": None, "refusal": "No."})),
}
# Answers all the same.
ODD = {
    "odd_usage": _completion(
        _choice(TEXT), {"prompt_tokens": "many", "completion_tokens": -5, "total_tokens": None}
    ),
    "no_usage": _completion(_choice(TEXT), None),
}
BROKEN = ("error", "overloaded", "reset", "hang", "cut", "cut_chunk", "drip")
FAULTS = (*BROKEN, *BODIES, *SETTLED, *ODD)


@dataclass
class Settings:
    """What the server does; 0: without that limit."""

    latency_s: float = 0.0
    most_in_flight: int = 0  # 429 above
    per_minute: int = 0  # 429 above, counted over every `window_s`
    window_s: float = 1.0
    headers: bool = True  # tell the limits in each reply
    retry_after: bool = True  # say in a 429 when to come again
    fault_rate: float = 0.0
    faults: tuple[str, ...] = ("error",)
    seed: int = 0


@dataclass
class State:
    """What the server has seen."""

    settings: Settings
    asked: Counter[str] = field(default_factory=Counter)  # prompts that were not refused
    billed: Counter[str] = field(
        default_factory=Counter
    )  # 200s with an answer, sent or lost on the way
    failed: Counter[str] = field(default_factory=Counter)  # by fault, and "429"
    accepted: deque[float] = field(default_factory=deque)
    in_flight: int = 0
    most: int = 0

    def refuses(self) -> dict[str, str] | None:
        """Headers of a 429 if this request is one too many."""
        now, s = time.monotonic(), self.settings
        while self.accepted and self.accepted[0] <= now - s.window_s:
            self.accepted.popleft()
        most = s.per_minute * s.window_s / 60
        if s.most_in_flight and self.in_flight >= s.most_in_flight:
            return {"retry-after-ms": "100"} if s.retry_after else {}
        if most and len(self.accepted) >= most:
            wait = self.accepted[0] + s.window_s - now
            return {"retry-after": str(round(wait, 3))} if s.retry_after else {}
        if most:
            self.accepted.append(now)
        return None

    def limits(self) -> dict[str, str]:
        """The provider's rate headers."""
        s = self.settings
        if not (s.headers and s.per_minute):
            return {}
        left = s.per_minute * s.window_s / 60 - len(self.accepted)
        return {
            "x-ratelimit-limit-requests": str(s.per_minute),
            "x-ratelimit-remaining-requests": str(int(left)),
            "x-ratelimit-reset-requests": f"{int(1000 * s.window_s)}ms",
        }

    def fault(self, prompt: str) -> str:
        """The fault that this attempt at `prompt` meets, empty for none; `drip: …` always meets
        that one.
        """
        if (name := prompt.partition(":")[0]) in FAULTS:
            return name
        draw = random.Random(f"{self.settings.seed} {prompt} {self.asked[prompt]}")
        return draw.choice(self.settings.faults) if draw.random() < self.settings.fault_rate else ""


class Connection(asyncio.Protocol):
    """One connection, one request at a time, as clients of HTTP/1.1 without pipelining send
    them.
    """

    def __init__(self, state: State) -> None:
        self.state, self.buffer, self.need = state, bytearray(), 0

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        if not self.need:
            head, found, _ = self.buffer.partition(b"\r\n\r\n")
            if not found:
                return
            if head.startswith(b"GET"):
                state = self.state
                said = {
                    "billed": state.billed,
                    "asked": state.asked,
                    "failed": state.failed,
                    "most": state.most,
                }
                self.buffer.clear()
                self.send(200, json.dumps(said))
                return
            (length,) = [
                int(line[15:])
                for line in head.lower().split(b"\r\n")
                if line.startswith(b"content-length:")
            ]
            self.need, self.body_at = len(head) + 4 + length, len(head) + 4
        if len(self.buffer) >= self.need:
            body, self.need = bytes(self.buffer[self.body_at :]), 0
            self.buffer.clear()
            self.serve(body)

    def serve(self, body: bytes) -> None:
        state = self.state
        if (headers := state.refuses()) is not None:
            state.failed["429"] += 1
            said = json.dumps(
                {
                    "error": {
                        "message": "Too many",
                        "type": "requests",
                        "code": "rate_limit_exceeded",
                    }
                }
            )
            self.send(429, said, state.limits() | headers)
            return
        content = json.loads(body)["messages"][-1]["content"]
        prompt = content if isinstance(content, str) else content[0]["text"]
        state.asked[prompt] += 1
        fault = state.fault(prompt)
        state.in_flight += 1
        state.most = max(state.most, state.in_flight)
        asyncio.get_running_loop().call_later(state.settings.latency_s, self.finish, prompt, fault)

    def finish(self, prompt: str, fault: str) -> None:
        state = self.state
        state.in_flight -= 1
        if fault:
            state.failed[fault] += 1
        if fault in ("", *ODD, *SETTLED):
            state.billed[prompt] += 1
        if fault in ("error", "overloaded"):
            status, said = (
                (500, "<h1>oops</h1>")
                if fault == "error"
                else (503, '{"error": {"message": "later"}}')
            )
            self.send(status, said, {"retry-after": "0.05"} if fault == "overloaded" else {})
        elif fault in BROKEN:
            self.breakdown(fault)
        else:
            answer = {**BODIES, **SETTLED, **ODD}.get(fault, ANSWER)
            self.send(
                200,
                answer,
                state.limits(),
                kind="text/html" if fault == "html" else "application/json",
            )

    def breakdown(self, fault: str) -> None:
        """What is no whole reply."""
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
        if fault == "reset":
            self.transport.abort()
        elif fault == "cut":
            self.transport.write(head + b"Content-Length: 900\r\n\r\n" + ANSWER[:100].encode())
            self.transport.close()
        elif fault == "cut_chunk":
            self.transport.write(
                head + b"Transfer-Encoding: chunked\r\n\r\n20\r\n" + ANSWER[:32].encode() + b"\r\n"
            )
            self.transport.close()
        elif fault == "drip":
            self.transport.write(head + b"Content-Length: 9999\r\n\r\n")
            self.more(b" ", 0.1)
        # hang: no word at all

    def more(self, data: bytes, every: float) -> None:
        if not self.transport.is_closing():
            if not self.transport.get_write_buffer_size():
                self.transport.write(data)
            asyncio.get_running_loop().call_later(every, self.more, data, every)

    def send(
        self,
        status: int,
        body: str,
        headers: dict[str, str] | None = None,
        kind: str = "application/json",
    ) -> None:
        lines = [
            f"HTTP/1.1 {status} X",
            f"Content-Type: {kind}",
            f"Content-Length: {len(body.encode())}",
        ]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        if not self.transport.is_closing():
            self.transport.write("\r\n".join([*lines, "", body]).encode())


async def _serve(settings: Settings) -> None:
    state, loop = State(settings), asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(state), "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)  # ends with the process that started it


@contextmanager
def load_server(**settings: Any) -> Iterator[str]:
    """The address of a server of its own process, while the block runs."""
    command = [sys.executable, "-m", "tests.load_server", json.dumps(settings)]
    root = Path(__file__).resolve().parents[1]
    process = subprocess.Popen(
        command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout
        yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
    finally:
        process.kill()
        process.wait()


def bill(url: str) -> dict[str, Any]:
    """What the server has seen: prompts `asked` and `billed`, attempts that `failed` by fault,
    `most` at once.
    """
    with urllib.request.urlopen(url) as reply:
        return dict(json.load(reply))


if __name__ == "__main__":
    asyncio.run(_serve(Settings(**json.loads(sys.argv[1]))))
