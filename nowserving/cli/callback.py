"""The demo's webhook: one chat names a receiver in this very process, which verifies the signature of what comes."""

from __future__ import annotations

import threading
import time
from datetime import datetime
from queue import SimpleQueue
from types import TracebackType
from typing import Self

from nowserving.cli.receiver import Received, Receiver
from nowserving.cli.stack import TICK_SECONDS
from nowserving.cli.stage import Stage
from nowserving.secret import new_secret

HOST = "127.0.0.1"
WAIT_SECONDS = 20.0


class Callback:
    """Listens while it is entered, on any free port; `secret` is what the deliverer is to sign with."""

    def __init__(self) -> None:
        self.secret = new_secret()
        self._came: SimpleQueue[Received] = SimpleQueue()
        self._receiver = Receiver(HOST, 0, [self.secret], self._came.put)
        self.url = f"http://{HOST}:{self._receiver.server_port}/"

    def __enter__(self) -> Self:
        threading.Thread(target=self._receiver.serve_forever, args=(TICK_SECONDS,), daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._receiver.shutdown()
        self._receiver.server_close()

    def run(self, stage: Stage, job_id: str) -> list[str]:
        """Wait for the webhook of the first chat, which is this job, and print that it came; or what is wrong.

        Raises PartError or Interrupted.
        """
        until = time.monotonic() + WAIT_SECONDS
        while self._came.empty():
            if time.monotonic() > until:
                return [f"no webhook for the first chat arrived within {WAIT_SECONDS:g} s"]
            stage.tick(TICK_SECONDS)
        received = self._came.get()
        if received.fault or received.data.get("id") != job_id:
            return [f"the first chat's webhook is not genuine: {received.fault or 'it is about another job'}"]
        later_seconds = (received.at - datetime.fromisoformat(received.data["finished_at"])).total_seconds()
        later = f"{1000 * later_seconds:.0f} ms after its end"
        stage.console.print(f"\nA webhook for the first chat arrived {later}, signature verified.")
        return []
