"""What a worker says on its own pod at the edges between idle and busy: whoever stops pods is to stop an idle one.

It asks Kubernetes' API server for nothing else, and whatever comes of it, jobs run on.
"""

from __future__ import annotations

import logging
import os
import random
import ssl
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import quote

import httpx

log = logging.getLogger(__name__)

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where Kubernetes puts the service account's token and the API server's authority."""
LOOK_SECONDS = 0.2
"""How often it is looked whether something runs."""
IDLE_SECONDS = 5.0
"""So long nothing must have run before the pod is called idle: jobs that come and go cost the API server little."""
TIMEOUT_SECONDS = 5.0
LONGEST_PAUSE_SECONDS = 60.0

BUSY = {
    # Of a Deployment's pods the cheapest goes first. Not the number of jobs: Kubernetes asks for few changes of it.
    "controller.kubernetes.io/pod-deletion-cost": "100",
    "karpenter.sh/do-not-disrupt": "true",
    "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
}
IDLE = {
    "controller.kubernetes.io/pod-deletion-cost": "0",
    # None takes it away: Karpenter knows no other word than "true".
    "karpenter.sh/do-not-disrupt": None,
    # Without this word the cluster's autoscaler would keep a node for the sake of the pod's emptyDir.
    "cluster-autoscaler.kubernetes.io/safe-to-evict": "true",
}


def choose(written: bool | None, quiet_seconds: float | None) -> bool | None:
    """What to write now: that the pod is busy (True), or idle (False); None: nothing. Pure.

    `written` is what the pod says, None if that is not known; `quiet_seconds` how long nothing has run, None while
    something does.
    """
    if quiet_seconds is None:
        return None if written is True else True
    return False if written is not False and quiet_seconds >= IDLE_SECONDS else None


def pause_seconds(failures: int, chance: float) -> float:
    """Till the next try after so many failures on end; `chance`, from 0 to 1, keeps workers apart. Pure."""
    return float(min(LONGEST_PAUSE_SECONDS, 2.0 ** min(failures, 10)) * (0.5 + chance / 2))


class Pod:
    """Writes from a thread of its own, only ever the newest state. `quiet` says for how long nothing has run; `told` is
    told of each try: "ok", "refused", or "failed".
    """

    def __init__(self, url: str, account: Path, quiet: Callable[[], float | None], told: Callable[[str], None]) -> None:
        self.url = url
        self._account, self._quiet, self._told = account, quiet, told
        self._stopped = threading.Event()
        self._failures = 0
        self._thread = threading.Thread(target=self._run, name="pod", daemon=True)

    def start(self) -> None:
        """Begin to look. A first word is written in any case, and at once: an earlier container of this pod may have
        left one, and this one may not live long.
        """
        self._thread.start()

    def stop(self) -> None:
        """Write no more."""
        self._stopped.set()

    def _run(self) -> None:
        written: bool | None = None
        pause, first = 0.0, True
        while not self._stopped.wait(pause):
            pause, quiet_seconds = LOOK_SECONDS, self._quiet()
            busy = quiet_seconds is None if first else choose(written, quiet_seconds)
            first = False
            if busy is None:
                continue
            doubtful = self._failures > 0
            if not self._try(busy):
                written, pause = None, pause_seconds(self._failures, random.random())
            elif doubtful:
                # What was sent before, and not answered in time, may have effect after this: it is said once more.
                written, pause = None, TIMEOUT_SECONDS
            else:
                written = busy

    def _try(self, busy: bool) -> bool:
        try:
            status = self._patch(BUSY if busy else IDLE)
            why = "" if status == 200 else f"HTTP {status}"
        except Exception as error:
            status, why = 0, str(error) or repr(error)
        self._told("failed" if why and not 400 <= status < 500 else "refused" if why else "ok")
        if why and not self._failures:
            log.warning("the pod cannot be told that it is %s, and is tried again: %s", "busy" if busy else "idle", why)
        elif self._failures and not why:
            log.info("the pod is told again whether it is busy")
        self._failures = self._failures + 1 if why else 0
        return not why

    def _patch(self, annotations: Mapping[str, str | None]) -> int:
        """A client for each: there are few, and token and authority are changed now and then."""
        token = (self._account / "token").read_text().strip()
        authority = ssl.create_default_context(cafile=self._account / "ca.crt")
        headers = {"authorization": f"Bearer {token}", "content-type": "application/merge-patch+json"}
        body = {"metadata": {"annotations": annotations}}
        with (
            # No proxy of the environment: the API server is in the cluster.
            httpx.Client(verify=authority, trust_env=False, timeout=TIMEOUT_SECONDS) as client,
            client.stream("PATCH", self.url, json=body, headers=headers) as answer,
        ):
            return answer.status_code


def find_pod(quiet: Callable[[], float | None], told: Callable[[str], None]) -> Pod | None:
    """This process's pod, by what the manifest and Kubernetes put into the environment; None where that is missing."""
    host, name = os.environ.get("KUBERNETES_SERVICE_HOST"), os.environ.get("POD_NAME")
    namespace = os.environ.get("POD_NAMESPACE")
    if not host or not name or not namespace or not (ACCOUNT / "token").is_file():
        return None
    place = f"[{host}]" if ":" in host else host
    path = f"/api/v1/namespaces/{quote(namespace, safe='')}/pods/{quote(name, safe='')}"
    url = f"https://{place}:{os.environ.get('KUBERNETES_SERVICE_PORT', '443')}{path}?fieldManager=nowserving-worker"
    return Pod(url, ACCOUNT, quiet, told)
