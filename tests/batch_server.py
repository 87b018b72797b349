"""A server of the files and batches endpoints on loopback: real multipart, faults on demand, a log
of all calls.

`answer(body, times)` says what a line gets: (status, body), None for a line that is never run, ()
for no word of it. What the server holds stays in memory here while its clients are killed.
"""

import email.parser
import email.policy
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.openai_server import KEY, completion

Said = tuple[int, Any] | tuple[()] | None


def plain(body: dict[str, Any], times: int) -> Said:
    """The answer that the live server of these tests gives to a text."""
    content = body["messages"][-1]["content"]
    return 200, completion(
        f"Answer to {(content if isinstance(content, str) else content[0]['text'])[:40]}"
    )


@dataclass
class Batches:
    """What the server holds, what it has seen, and what it shall do."""

    url: str = ""
    answer: Callable[[dict[str, Any], int], Said] = plain
    status: str = "completed"  # of a batch in the end
    polls: int = 1  # GETs of a batch before it ends
    most_tokens: float = float("inf")  # requests that may be enqueued
    endpoints: tuple[str, ...] = ("files", "batches")
    page: int = 2  # entries of a list
    hook: Callable[[str, str], str] = lambda step, when: (
        ""
    )  # (call, before|after) -> "", hang, drop or a status
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    contents: dict[str, bytes] = field(default_factory=dict)
    batches: dict[str, dict[str, Any]] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)
    asked: Counter[str] = field(default_factory=Counter)  # custom_ids of batches that ran
    largest: int = 0  # bytes of an upload
    _ids: Iterator[int] = field(default_factory=lambda: count(1))
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def store(self, name: str, purpose: str, content: bytes) -> dict[str, Any]:
        """Keep a file."""
        id_ = f"file-{next(self._ids)}"
        self.contents[id_] = content
        self.files[id_] = {
            "id": id_,
            "object": "file",
            "bytes": len(content),
            "created_at": 1,
            "filename": name,
            "purpose": purpose,
            "status": "processed",
        }
        return self.files[id_]

    def create(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Begin a batch, or refuse it as the provider does: by a batch that has failed."""
        assert (asked["endpoint"], asked["completion_window"]) == ("/v1/chat/completions", "24h")
        assert all(
            isinstance(v, str) and len(k) <= 64 and len(v) <= 512
            for k, v in asked["metadata"].items()
        )
        lines = [json.loads(line) for line in self.contents[asked["input_file_id"]].splitlines()]
        assert len({line["custom_id"] for line in lines}) == len(lines)
        batch = {
            "id": f"batch_{next(self._ids)}",
            "object": "batch",
            "endpoint": asked["endpoint"],
            "errors": None,
            "input_file_id": asked["input_file_id"],
            "completion_window": "24h",
            "status": "in_progress",
            "output_file_id": None,
            "error_file_id": None,
            "created_at": 1,
            "metadata": asked["metadata"],
            "polls": 0,
            "request_counts": {"total": len(lines), "completed": 0, "failed": 0},
        }
        waiting = [b for b in self.batches.values() if b["status"] == "in_progress"]
        enqueued = sum(b["request_counts"]["total"] for b in waiting) + len(lines)
        refused = {
            "token_limit_exceeded": enqueued > self.most_tokens,
            "invalid_json_line": self.status == "failed",
        }
        for code in [code for code, is_so in refused.items() if is_so]:
            error = {"code": code, "message": f"{code} it is", "line": 1, "param": None}
            batch |= {"status": "failed", "errors": {"object": "list", "data": [error]}}
        if batch["status"] != "failed":
            self.asked.update(line["custom_id"] for line in lines)
        self.batches[batch["id"]] = batch
        return batch

    def poll(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The batch as it stands; it ends when it was asked for often enough."""
        batch["polls"] += 1
        if batch["status"] == "in_progress" and batch["polls"] > self.polls:
            results: dict[str, list[str]] = {"output": [], "error": []}
            for line in map(
                json.loads, self.contents[batch["input_file_id"]].splitlines()[::-1]
            ):  # in any order
                kind, text = self._run(line)
                results[kind] += [text] if text else []
            for kind, lines in results.items():
                if lines:
                    file = self.store(
                        f"{batch['id']}_{kind}.jsonl",
                        f"batch_{kind}",
                        "\n".join(lines).encode() + b"\n",
                    )
                    batch[f"{kind}_file_id"] = file["id"]
            batch |= {"status": self.status}
            batch["request_counts"] |= {
                "completed": len(results["output"]),
                "failed": len(results["error"]),
            }
        return batch

    def _run(self, line: dict[str, Any]) -> tuple[str, str]:
        key = line["custom_id"]
        said = self.answer(line["body"], self.asked[key])
        result: dict[str, Any] = {
            "id": f"batch_req_{key}",
            "custom_id": key,
            "response": None,
            "error": None,
        }
        if said == ():
            return "output", ""
        if said is None:
            result["error"] = {
                "code": f"batch_{self.status}",
                "message": "could not be run in time",
            }
            return "error", json.dumps(result)
        result["response"] = {"status_code": said[0], "request_id": f"req_{key}", "body": said[1]}
        return "output" if said[0] == 200 else "error", json.dumps(result)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    held: Batches

    def setup(self) -> None:
        super().setup()
        self.connection.setsockopt(6, 1, 1)  # TCP_NODELAY

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = urlsplit(self.path)
        kind, *rest = path.path.removeprefix("/v1/").split("/")
        step = f"{self.command} {kind}{'/id' * bool(rest)}{'/' + rest[1] if rest[1:] else ''}"
        self.held.log.append(step)
        for when in ("before", "after"):
            fault = self.held.hook(step, when)
            if fault == "hang":
                time.sleep(60)
            if fault in ("hang", "drop"):
                self.close_connection = True
                return
            if fault:
                return self._say(int(fault), {"error": {"message": "as told", "code": None}})
            if when == "before":
                with self.held._lock:
                    status, said = self._act(
                        kind, rest, body, {k: v[0] for k, v in parse_qs(path.query).items()}
                    )
        self._say(status, said)

    do_GET = do_POST = _serve

    def _act(
        self, kind: str, rest: list[str], body: bytes, query: dict[str, str]
    ) -> tuple[int, Any]:
        held = self.held
        if self.headers.get("Authorization") != f"Bearer {KEY}":
            return 401, {"error": {"message": "Incorrect API key", "code": "invalid_api_key"}}
        entries = {"files": held.files, "batches": held.batches}.get(kind)
        if entries is None or kind not in held.endpoints or (rest and rest[0] not in entries):
            return 404, {"error": {"message": f"no {self.path}", "code": None}}
        if self.command == "POST" and rest[1:] == ["cancel"]:
            return 200, entries[rest[0]] | {"status": "cancelled"}
        if self.command == "POST":
            return 200, self._upload(body) if kind == "files" else held.create(json.loads(body))
        if rest[1:] == ["content"]:
            return 200, held.contents[rest[0]]
        if rest:
            return 200, held.poll(entries[rest[0]]) if kind == "batches" else entries[rest[0]]
        return 200, self._page(
            [e for e in entries.values() if query.get("purpose") in (None, e.get("purpose"))], query
        )

    def _page(self, entries: list[dict[str, Any]], query: dict[str, str]) -> dict[str, Any]:
        entries = entries[::-1]  # the newest first
        start = next((i for i, e in enumerate(entries, 1) if e["id"] == query.get("after")), 0)
        page = entries[start : start + self.held.page]
        return {"object": "list", "data": page, "has_more": start + len(page) < len(entries)}

    def _upload(self, body: bytes) -> dict[str, Any]:
        head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
        form = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + body)
        parts = {
            part.get_param("name", header="content-disposition"): part for part in form.iter_parts()
        }
        assert parts["purpose"].get_content().strip() == "batch"
        content = parts["file"].get_payload(decode=True)
        self.held.largest = max(self.held.largest, len(content))
        return self.held.store(parts["file"].get_filename(), "batch", content)

    def _say(self, status: int, said: Any) -> None:
        data = said if isinstance(said, bytes) else json.dumps(said).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: Any) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a client that was killed


@contextmanager
def batch_server(**settings: Any) -> Iterator[Batches]:
    """Serve on a free port of 127.0.0.1 while the block runs."""
    held = Batches(**settings)
    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"held": held}))
    held.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
    )
    thread.start()
    try:
        yield held
    finally:
        server.shutdown()
        server.server_close()
