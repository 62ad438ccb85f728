"""Run by path between the worker and a server: the server, and whatever it has started, ends when the worker does.

The worker holds the other end of this process's standard input, so its death in whatever way is an end of file here. A
PR_SET_PDEATHSIG alone would reach the server but not its children. Standard library only, because it runs with -S.
"""

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys

PR_SET_PDEATHSIG = 1
TERM_SECONDS = 3.0
"""How long a server told to stop may take."""
NOT_RUN = 127


def die_with_parent() -> None:
    """In the server, before it is one, so that killing this process is no way out. Safe here: there are no threads."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), *[ctypes.c_ulong(0)] * 3)


def run(command: list[str]) -> int:
    """Run the command in a process group of its own until it ends or the worker does; its exit code, as of a shell."""
    ended, tell = os.pipe()
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    os.set_blocking(tell, False)
    signal.set_wakeup_fd(tell)
    try:
        server = subprocess.Popen(command, stdin=subprocess.DEVNULL, process_group=0, preexec_fn=die_with_parent)
    except OSError as error:
        sys.stderr.write(f"{command[0]} cannot be run: {error.strerror}\n")
        return NOT_RUN
    while server.poll() is None:
        ready, _, _ = select.select([sys.stdin.fileno(), ended], [], [])
        if sys.stdin.fileno() in ready:
            end(server)
        else:
            os.read(ended, 64)
    # What it had started stays in its group.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(server.pid, signal.SIGKILL)
    return server.returncode if server.returncode >= 0 else 128 - server.returncode


def end(server: "subprocess.Popen[bytes]") -> None:
    """Stop the server and its group: first politely."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(server.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(TERM_SECONDS)
        os.killpg(server.pid, signal.SIGKILL)
    server.wait()


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
