"""A server of OpenAI's protocol whose prompts say how it is to fail. Its text goes on counting where a prompt stops:
after "say 9 w0 w1" comes " w2", a word a token.

`python -m tests.scripted_server PORT` is the same as a process; QUIRKS in its environment are its options as JSON.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

MODEL = "scripted"
STANDARD = {"model", "messages", "prompt", "max_tokens", "temperature", "top_p", "seed", "stop", "stream"}


class Quirks:
    """What is odd about it. All may be changed while it runs."""

    def __init__(self, **quirks: Any) -> None:
        self.extras: list[str] = [
            "stream_options",
            "return_token_ids",
            "continue_final_message",
            "add_generation_prompt",
        ]
        self.strict = True
        self.chat, self.completions = True, True
        self.ids = self.continues = self.usage = self.done = True
        self.health = 200
        self.health_path = "/health"
        self.metrics: str | None = None
        self.context: int | None = None
        self.key = ""
        self.seconds = 0.0
        """Between two tokens."""
        self.look_seconds = 0.0
        self.die_after_seconds: float | None = None
        self.busy = 0
        self.fail_warm_up = 0
        vars(self).update(quirks)


class ScriptedServer:
    """Serves in threads of this process from `with` on. `requests`: the bodies it got; `cut`: how many hung up."""

    def __init__(self, port: int = 0, **quirks: Any) -> None:
        self.quirks = Quirks(**quirks)
        self.requests: list[dict[str, Any]] = []
        self.cut = 0
        self.connections: list[socket.socket] = []
        server = self

        class Handler(_Handler):
            script = server

        self._http = _Quiet(("127.0.0.1", port), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_port}"

    def serve(self) -> None:
        """Until the process ends."""
        self._http.serve_forever(poll_interval=0.02)

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def stop(self) -> None:
        """Listen no more, and hang up on all."""
        self._http.shutdown()
        self._http.server_close()
        for connection in self.connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class _Quiet(ThreadingHTTPServer):
    request_queue_size = 128  # with http.server's 5 Linux resets some of those that connect at once, a second later

    def handle_error(self, request: object, client_address: object) -> None:
        """Hanging up is what it does: no news."""


class _Handler(BaseHTTPRequestHandler):
    script: ScriptedServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def setup(self) -> None:
        super().setup()
        self.script.connections.append(self.connection)

    def log_request(self, code: object = "-", size: object = "-") -> None:
        pass

    def do_GET(self) -> None:
        quirks = self.script.quirks
        if self.path == quirks.health_path:
            time.sleep(quirks.look_seconds)
            self._answer(quirks.health, {"status": quirks.health})
        elif self.path == "/v1/models":
            self._answer(200, {"data": [{"id": MODEL, "max_model_len": quirks.context}]})
        elif self.path == "/metrics" and quirks.metrics is not None:
            self._answer(200, quirks.metrics)
        elif self.path == "/environment":
            self._answer(200, dict(os.environ))
        else:
            self._answer(404, {"detail": "Not Found"})

    def do_POST(self) -> None:
        quirks = self.script.quirks
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.script.requests.append(body)
        strangers = set(body) - STANDARD - set(quirks.extras)
        if quirks.key and self.headers.get("authorization") != f"Bearer {quirks.key}":
            return self._answer(401, {"error": {"message": "no such key"}})
        if (self.path.endswith("/chat/completions") and not quirks.chat) or (
            self.path == "/v1/completions" and not quirks.completions
        ):
            return self._answer(404, {"detail": "Not Found"})
        if quirks.strict and strangers:
            return self._answer(422, {"detail": f"Unexpected fields in the request: {sorted(strangers)}"})
        return self._generate(body)

    def _generate(self, body: dict[str, Any]) -> None:
        quirks = self.script.quirks
        asked, said = self._read(body)
        command, _, rest = asked.partition(" ")
        if asked == "Hi" and quirks.fail_warm_up:
            return self._answer(quirks.fail_warm_up, {"error": {"message": "it is not loaded"}})
        if command == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if quirks.busy and command == "say":
            quirks.busy -= 1
            return self._answer(429, {"error": "too many"}, {"Retry-After": "0"})
        if command == "status":
            status, _, words = rest.partition(" ")
            return self._answer(int(status), {"error": {"message": words}})
        made = len(re.findall(r"\bw\d+", said))
        prompt_tokens = len(asked.split()) + made
        if not body.get("stream"):
            usage = {"prompt_tokens": prompt_tokens, "completion_tokens": 1}
            return self._answer(200, {"choices": [{"text": " w0", "finish_reason": "length"}], "usage": usage})
        return self._stream(body, command, rest, made, prompt_tokens)

    def _read(self, body: dict[str, Any]) -> tuple[str, str]:
        """What was asked, and the words said so far."""
        if "prompt" in body:
            match = re.match(r"(.*?)((?: w\d+)*)\Z", body["prompt"], re.DOTALL)
            assert match
            return match[1], match[2]
        *before, last = body["messages"]
        if last["role"] == "user":
            return last["content"], ""
        closed = not (body.get("continue_final_message") and self.script.quirks.continues)
        return before[-1]["content"] + (" end of turn" if closed else ""), last["content"].replace("x", "w0")

    def _stream(self, body: dict[str, Any], command: str, rest: str, made: int, prompt_tokens: int) -> None:
        quirks, chat = self.script.quirks, "messages" in body
        self.send_response(200)
        self.send_header("content-type", "text/plain" if command == "plain" else "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        wanted = int(rest.split()[0]) if rest[:1].isdigit() else 1_000
        last = wanted if command == "forever" else min(wanted, made + body["max_tokens"])
        if chat:
            self._send({"choices": [{"delta": {"role": "assistant", "content": ""}}]})
        try:
            for number in range(made, last):
                if command in _FAILURES and number == 3:
                    _FAILURES[command](self)
                    return
                time.sleep(quirks.seconds)
                text = rest.partition(" ")[2].encode().decode("unicode_escape") if command == "text" else f" w{number}"
                choice: dict[str, Any] = {"delta": {"content": text}} if chat else {"text": text}
                if quirks.ids and body.get("return_token_ids"):
                    choice["token_ids"] = [number]
                self._send({"choices": [{"index": 0, **choice}]})
            finish = "length" if last == made + body["max_tokens"] else "stop"
            self._send({"choices": [{"delta": {}, "text": "", "finish_reason": finish}]})
            if quirks.usage:
                counts = {"prompt_tokens": prompt_tokens, "completion_tokens": last - made + (finish == "stop")}
                self._send({"choices": [], "usage": counts})
            if quirks.done:
                self._raw(b"data: [DONE]\n\n")
            self._raw(b"")
        except OSError:
            self.script.cut += 1
            self.close_connection = True

    def _send(self, chunk: object) -> None:
        self._raw(b"data: " + json.dumps(chunk).encode() + b"\n\n")

    def _raw(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))
        self.wfile.flush()

    def cut(self) -> None:
        """Hang up in mid-stream."""
        self.close_connection = True
        self.connection.shutdown(2)

    def end(self) -> None:
        """End the stream as if all had been said."""
        self._raw(b"")

    def hang(self) -> None:
        """Say nothing more till the client hangs up."""
        self.connection.recv(1)
        self.close_connection = True
        self.script.cut += 1

    def _answer(self, status: int, body: object, headers: dict[str, str] | None = None) -> None:
        data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"content-length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)


_FAILURES: dict[str, Any] = {
    "cut": _Handler.cut,
    "end": _Handler.end,
    "hang": _Handler.hang,
    "garbage": lambda handler: handler._raw(b'data: {"error": "a "quote""}\n\n'),
    "list": lambda handler: handler._send([1]),
    "error": lambda handler: handler._send({"error": {"message": "out of range", "code": 400}}),
    "fault": lambda handler: handler._send({"error": "it broke"}),
    "abort": lambda handler: handler._send({"choices": [{"text": "", "finish_reason": "abort"}]}),
}


def main() -> None:
    """Serve at the port given, as long as the process lives."""
    quirks = json.loads(os.environ.get("QUIRKS", "{}"))
    server = ScriptedServer(int(sys.argv[1]), **quirks)
    if (seconds := server.quirks.die_after_seconds) is not None:
        threading.Timer(seconds, lambda: os._exit(3)).start()
    print("it serves", flush=True)
    server.serve()


if __name__ == "__main__":
    main()
