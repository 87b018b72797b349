"""As much of the hub's protocol as an upload needs, on loopback: datasets whose files come within
commits. Large-file storage is not spoken.
"""

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Hub(ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repos: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.tokens: set[str] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_: object) -> None:
        pass

    def reply(self, body: Any, status: int = 200) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        name, _, rest = self.path.removeprefix("/api/datasets/").partition("/tree/")
        files = self.server.repos.get(name, {})
        found = [
            {"type": "file", "path": path, "size": len(data), "oid": "0" * 40}
            for path, data in files.items()
        ]
        self.reply(found if rest else {"id": name, "sha": "0" * 40, "siblings": []})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.tokens.add(self.headers.get("Authorization", ""))
        if self.path == "/api/repos/create":
            given = json.loads(body)
            name = "/".join(filter(None, (given.get("organization"), given["name"])))
            self.server.repos.setdefault(name, {})
            self.server.private.setdefault(name, given.get("visibility") == "private")
            self.reply({"url": f"{self.server.url}/datasets/{name}"})
        elif self.path == "/api/validate-yaml":
            self.reply({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            files = json.loads(body)["files"]
            modes = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files
            ]
            self.reply({"files": modes})
        else:
            name = self.path.removeprefix("/api/datasets/").partition("/commit/")[0]
            self.commit(self.server.repos[name], body)
            said = {
                "commitOid": "1" * 40,
                "commitUrl": f"{self.server.url}/datasets/{name}/commit/1",
            }
            self.reply({"success": True, **said})

    def commit(self, files: dict[str, bytes], body: bytes) -> None:
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "deletedFile":
                del files[value["path"]]
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])


@contextmanager
def hub_server() -> Iterator[Hub]:
    """Serve while the block runs."""
    hub = Hub()
    threading.Thread(target=hub.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
