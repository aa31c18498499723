from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants

RESOLVE = re.compile(r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<name>.+)")
INFO = re.compile(r"/api/models/(?P<repo>[^/]+/[^/]+?)(/revision/(?P<revision>[^/]+))?")


@dataclass
class Hub:
    """A hub with one repository, in as much of its protocol as downloads need; every knob is a way to misbehave."""

    repo: str = "org/model"
    commit: str = "c0" * 20
    revisions: tuple[str, ...] = ("main", "v1")
    files: dict[str, bytes] = field(default_factory=dict)
    listed_sha256: dict[str, str] = field(default_factory=dict)
    refuse: tuple[int, str] | None = None
    cut_after_bytes: list[int] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    tokens: set[str | None] = field(default_factory=set)
    ranges: list[str] = field(default_factory=list)
    gate: threading.Event | None = None
    endpoint: str = ""
    server: ThreadingHTTPServer | None = None

    def start(self) -> None:
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (HubHandler,), {"hub": self}))
        self.server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def stop(self) -> None:
        if self.server is not None:
            self.server.shutdown()
            self.server.server_close()
            self.server = None
        # Kept-alive connections of the library's client would outlive the listener.
        huggingface_hub.close_session()

    def sha256(self, name: str) -> str:
        return self.listed_sha256.get(name, hashlib.sha256(self.files[name]).hexdigest())

    def downloads(self) -> list[str]:
        """The names that were asked for with GET, in order."""
        return [
            path.partition("/resolve/")[2].partition("/")[2] for path in self.requests if path.startswith("GET /org")
        ]

    def siblings(self) -> list[dict[str, object]]:
        return [
            {"rfilename": name, "size": len(data), "blobId": hashlib.sha1(data).hexdigest()}
            | ({"lfs": {"size": len(data), "sha256": self.sha256(name), "pointerSize": 134}} if is_large(name) else {})
            for name, data in self.files.items()
        ]


def is_large(name: str) -> bool:
    return name.endswith((".gguf", ".safetensors"))


class HubHandler(BaseHTTPRequestHandler):
    """Answers one connection for the `hub` of the subclass."""

    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def do_GET(self) -> None:
        self.answer(with_body=True)

    def answer(self, *, with_body: bool) -> None:
        path = self.path.partition("?")[0]
        self.hub.requests.append(f"{self.command} {path}")
        self.hub.tokens.add(self.headers.get("Authorization"))
        if self.hub.refuse is not None:
            self.fail(*self.hub.refuse)
        elif info := INFO.fullmatch(path):
            self.send_info(info)
        elif (found := RESOLVE.fullmatch(path)) and found["repo"] == self.hub.repo and found["name"] in self.hub.files:
            self.send_file(found["name"], with_body=with_body)
        else:
            self.fail(404, "EntryNotFound")

    def send_info(self, info: re.Match[str]) -> None:
        if info["repo"] != self.hub.repo:
            self.fail(404, "RepoNotFound")
        elif info["revision"] and info["revision"] not in (*self.hub.revisions, self.hub.commit):
            self.fail(404, "RevisionNotFound")
        else:
            body = {"id": self.hub.repo, "sha": self.hub.commit, "siblings": self.hub.siblings()}
            self.send(200, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def send_file(self, name: str, *, with_body: bool) -> None:
        data, status = self.hub.files[name], 200
        headers = {"X-Repo-Commit": self.hub.commit, "ETag": f'"{hashlib.sha1(data).hexdigest()}"'}
        if is_large(name):
            headers |= {"X-Linked-Etag": f'"{self.hub.sha256(name)}"', "X-Linked-Size": str(len(data))}
        if asked := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            start, status = int(asked[1]), 206
            self.hub.ranges.append(f"{start}-")
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            data = data[start:]
        self.send(status, data, headers, with_body=with_body)

    def send(self, status: int, body: bytes, headers: dict[str, str], *, with_body: bool = True) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if not with_body:
            return
        if "X-Linked-Etag" in headers and self.hub.cut_after_bytes:
            body = body[: self.hub.cut_after_bytes.pop(0)]
            self.close_connection = True
        if "X-Linked-Etag" in headers and self.hub.gate is not None:
            self.wfile.write(body[: len(body) // 2])
            self.hub.gate.wait(5)
            self.close_connection = True
            return
        self.wfile.write(body)

    def fail(self, status: int, code: str) -> None:
        self.send(status, b"", {"X-Error-Code": code, "X-Error-Message": code})


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache of its own for what neurons of these tests measure."""
    directory = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CORTEX_CACHE", str(directory))
        yield directory


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub on a free port of this machine; nothing of the user's own configuration or token is seen."""
    for name in ("HF_HUB_CACHE", "HF_HOME", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    # The library keeps what it has received in whole chunks of this size.
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1024)
    hub = Hub()
    hub.start()
    yield hub
    if hub.gate is not None:
        hub.gate.set()
    hub.stop()
