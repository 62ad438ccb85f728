"""Kubernetes' API server as far as a worker knows it: it takes patches of pods, over TLS, from who has the token."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

from nowserving.cli.port import find_free_port
from tests.authority import Authority

Annotations = dict[str, str]


@dataclass(frozen=True, slots=True)
class Patch:
    """One that was accepted. `at` is of the monotonic clock."""

    at: float
    path: str
    kind: str
    annotations: Mapping[str, str | None]


@dataclass
class PodServer:
    """Serves on one port of 127.0.0.1 from each `start` to each `stop`. `account` is what a pod finds mounted."""

    folder: Path
    status: int = 200
    """What it answers; a patch has effect only with 200."""
    delay_seconds: float = 0.0
    asked: int = 0
    """Requests, whatever came of them."""
    patches: list[Patch] = field(default_factory=list)
    pods: dict[str, Annotations] = field(default_factory=dict)
    """Pods by name, with the annotations they have by now."""

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._authority = Authority(self.folder)
        self._port = find_free_port()
        self._server: ThreadingHTTPServer | None = None
        self._lock = threading.Lock()
        self.account = self.folder / "account"
        self.account.mkdir()
        (self.account / "ca.crt").write_bytes((self.folder / "ca.pem").read_bytes())
        self.issue("first-token")

    def issue(self, token: str) -> None:
        """From now on this token is valid, and no other."""
        self._token = token
        (self.account / "token").write_text(token)

    def environment(self, pod: str) -> dict[str, str]:
        """What the manifest and Kubernetes put into a pod's environment, and where tests say the account is."""
        return {
            "KUBERNETES_SERVICE_HOST": "127.0.0.1",
            "KUBERNETES_SERVICE_PORT": str(self._port),
            "POD_NAME": pod,
            "POD_NAMESPACE": "team-a",
            "TEST_ACCOUNT": str(self.account),
        }

    def start(self) -> Self:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_PATCH(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                status, answer = server.take(self.path, self.headers, body)
                self.send_response(status)
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *said: Any) -> None:
                pass

        self._server = _Server(("127.0.0.1", self._port), Handler)
        context = self._authority.server("IP:127.0.0.1")
        # The handshake is the handler's: who does not shake hands keeps nobody else out.
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def stop(self) -> None:
        """Be gone: nobody listens."""
        if self._server:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def take(self, path: str, headers: Message, body: bytes) -> tuple[int, bytes]:
        """What it answers to a PATCH."""
        with self._lock:
            self.asked += 1
        time.sleep(self.delay_seconds)
        if headers["authorization"] != f"Bearer {self._token}":
            return 401, b"{}"
        if self.status != 200:
            return self.status, b"{}"
        annotations = json.loads(body)["metadata"]["annotations"]
        with self._lock:
            pod = self.pods.setdefault(path.partition("?")[0].rpartition("/")[2], {})
            for name, value in annotations.items():
                if value is None:
                    pod.pop(name, None)
                else:
                    pod[name] = value
            self.patches.append(Patch(time.monotonic(), path, headers["content-type"], annotations))
            return 200, json.dumps({"metadata": {"annotations": pod}}).encode()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that does not trust it, or has not waited, is no error of the test's."""
