"""A hub on this machine, as far as the hub's own client asks one: a repository's list of files, and the files."""

from __future__ import annotations

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Self

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class HubServer:
    """Serves the files of `folder` as `owner/name`, revisions `main` and `v1`.

    `failures`: so many requests for it are answered with 503 first. `refusal`: a status and its error code.
    `token`: what must come as bearer, if anything.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.failures = 0
        self.refusal: tuple[int, str] | None = None
        self.token = ""
        self.asked: list[str] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._make_handler())
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def describe(self, path: str) -> object | None:
        """The answer of the API's `path`; None if there is none."""
        files = [(file.name, file.stat().st_size) for file in sorted(self.folder.iterdir())]
        if path.startswith(f"/api/models/owner/name/tree/{COMMIT}"):
            return [{"type": "file", "path": name, "size": size, "oid": digest(name)} for name, size in files]
        if path in [f"/api/models/owner/name{rest}" for rest in ("", "/revision/main", "/revision/v1")]:
            siblings = [{"rfilename": name, "size": size} for name, size in files]
            return {"id": "owner/name", "sha": COMMIT, "siblings": siblings}
        return None

    def _make_handler(hub) -> type[BaseHTTPRequestHandler]:  # noqa: N805
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path = self.path.partition("?")[0]
                hub.asked.append(f"{self.command} {path}")
                if hub.failures and "owner/name" in path:
                    hub.failures -= 1
                    self.answer(503, b"")
                elif hub.refusal:
                    self.answer(hub.refusal[0], b"", {"X-Error-Code": hub.refusal[1]})
                elif hub.token and self.headers.get("Authorization") != f"Bearer {hub.token}":
                    self.answer(401, b"", {"X-Error-Code": "RepoNotFound"})
                elif "/resolve/" in path:
                    self.send_file(hub.folder / path.rpartition("/")[2])
                elif (found := hub.describe(path)) is not None:
                    self.answer(200, json.dumps(found).encode())
                elif "/revision/" in path:
                    self.answer(404, b"", {"X-Error-Code": "RevisionNotFound"})
                else:
                    self.answer(404, b"", {"X-Error-Code": "RepoNotFound"})

            do_HEAD = do_GET  # noqa: N815

            def send_file(self, file: Path) -> None:
                if file.is_file():
                    self.answer(200, file.read_bytes(), {"ETag": f'"{digest(file.name)}"', "X-Repo-Commit": COMMIT})
                else:
                    self.answer(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})

            def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
                self.send_response(status)
                for name, value in (headers or {}).items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        return Handler


def digest(name: str) -> str:
    """What a git blob's id looks like."""
    return hashlib.sha1(name.encode()).hexdigest()
