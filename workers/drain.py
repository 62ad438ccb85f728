"""The end of a worker's work: running jobs get time to finish, the rest goes back, and the process ends in any case."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable

from workers.lease import Lease, Leases

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.1
HAND_BACK_SECONDS = 1.0
"""What tasks may take to hand back their jobs themselves, with the last tokens, before all is handed back at once."""
EXIT_SECONDS = 4.0
"""What Celery may take to stop after that: a thread that never returns would keep it for ever."""


class Drain:
    """Runs once. `turns` says whether the engine's loop still turns; `renews` whether the worker still answers for its
    jobs, as it does beside a loop that has died but not beside one that hangs; `give_back` releases a job that no task
    has begun; `sign_off` takes the worker's name out of all keys, which hands back whatever it still holds.
    """

    def __init__(
        self,
        leases: Leases,
        seconds: float,
        turns: Callable[[], bool],
        renews: Callable[[], bool],
        give_back: Callable[[Lease, str], None],
        sign_off: Callable[[], None],
    ) -> None:
        self.exit_code = 0
        self._leases, self._seconds = leases, seconds
        self._turns, self._renews = turns, renews
        self._give_back, self._sign_off = give_back, sign_off
        self._hurried = False
        self._over = threading.Event()

    def hurry(self) -> None:
        """Wait for no job any longer. Callable from a signal handler: it takes no lock."""
        self._hurried = True

    def run(self) -> None:
        """Let jobs finish, hand back the rest, sign off."""
        try:
            self._run()
        finally:
            self._over.set()

    def _run(self) -> None:
        until = time.monotonic() + self._seconds
        while self._begun() and time.monotonic() < until and not self._hurried and self._turns():
            self._leases.wait_for_change(LOOK_SECONDS)
        for lease in self._leases.jobs():
            lease.handed_back = True
            if lease.begun:
                lease.halt()
            else:
                self._give_back(lease, "drained")
        until = time.monotonic() + HAND_BACK_SECONDS
        while self._begun() and time.monotonic() < until and self._renews():
            self._leases.wait_for_change(LOOK_SECONDS)
        exit_timer = threading.Timer(EXIT_SECONDS, lambda: os._exit(self.exit_code))
        exit_timer.daemon = True
        exit_timer.start()
        if self._turns() or (self._renews() and not self._begun()):
            self._sign_off()
        else:
            # Its jobs go back when their leases lapse, with the charges that stand: one of them may have done this.
            log.error("the engine does not turn: its jobs are left to their leases")

    def wait(self) -> None:
        """Wait until another thread's run is over."""
        self._over.wait()

    def _begun(self) -> bool:
        return any(lease.begun for lease in self._leases.jobs())
