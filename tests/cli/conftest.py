"""A gateway that says what it is told to, on a port of its own."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

Answer = tuple[int, bytes]


@dataclass
class CannedGateway:
    """Answers by path, of several one after the other, then the last; what was asked, shown as a key, and posted."""

    answers: dict[str, Answer | list[Answer]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    posted: list[bytes] = field(default_factory=list)
    shown: list[str | None] = field(default_factory=list)
    url: str = ""

    def answer(self, path: str) -> Answer:
        found = self.answers.get(path, (404, b"{}"))
        if isinstance(found, tuple):
            return found
        return found.pop(0) if len(found) > 1 else found[0]


@pytest.fixture
def gateway() -> Iterator[CannedGateway]:
    """Serve canned answers; `answers` may be filled after the start."""
    canned = CannedGateway()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            canned.asked.append(f"{self.command} {self.path}")
            canned.shown.append(self.headers["Authorization"])
            status, body = canned.answer(self.path)
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            canned.posted.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.do_GET()

        def do_DELETE(self) -> None:
            self.do_GET()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        canned.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield canned
        server.shutdown()
        thread.join()
