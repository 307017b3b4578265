"""An application that is told who leads, and keeps to the contract of docs/adopting.md: older epochs are refused."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from schemas.routes import WebhookRoute


class Application:
    def __init__(self) -> None:
        self.epoch, self.leader = 0, ""
        self.told: list[tuple[dict[str, str], bytes]] = []
        self.broken = False
        self.address = ""

    def route(self, secret: str | None = None) -> WebhookRoute:
        return WebhookRoute(
            name="application",
            url=f"{self.address}/leader",
            confirm_url=f"{self.address}/leader",
            secret=secret,
            timeout_s=2,
        )

    def hear(self, headers: dict[str, str], body: bytes) -> int:
        self.told.append((headers, body))
        if self.broken:
            return 503
        news = json.loads(body)
        if news["epoch"] < self.epoch:
            return 409
        self.epoch, self.leader = news["epoch"], news["leader"]
        return 204


@contextlib.contextmanager
def application() -> Iterator[Application]:
    made = Application()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self._answer(made.hear({key.lower(): value for key, value in self.headers.items()}, body))

        def do_GET(self) -> None:
            if made.broken:
                self._answer(503)
            else:
                self._answer(200, json.dumps({"epoch": made.epoch, "leader": made.leader}).encode())

        def _answer(self, status: int, body: bytes = b"") -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield made
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
