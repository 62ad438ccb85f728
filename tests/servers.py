"""`python -m tests.servers [PYTEST ARGUMENT …]`: the tests that Redis's version may matter to, on every server found.

Found are redis-server and valkey-server on the PATH and in the wheels that bring one, and what
NOWSERVING_TEST_REDIS_SERVERS names (paths, with ':' between). Exit code 1 if a test fails on any of them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

from nowserving.cli.redis_server import WHEELS
from tests.redis_server import PROGRAM

ROOT = Path(__file__).parent.parent
TESTS = (
    *sorted(str(file.relative_to(ROOT)) for file in (ROOT / "tests/integration").glob("test_store*.py")),
    "tests/integration/test_events.py",
    "tests/integration/test_worker.py",
    "tests/integration/test_durability.py",
    "tests/integration/test_failover.py",
    "tests/integration/test_redis_trouble.py",
    "tests/e2e/test_up.py",
    "tests/e2e/test_up_words.py",
    "tests/chaos",
)


def find_programs() -> dict[str, Path]:
    """Each server found, by what it says it is; of two of one version the first."""
    named = [Path(path) for path in os.environ.get("NOWSERVING_TEST_REDIS_SERVERS", "").split(os.pathsep) if path]
    on_path = [shutil.which(name) for name in ("redis-server", "valkey-server")]
    in_wheels = [
        Path(spec.origin).parent / "bin" / name
        for module, name in WHEELS
        if (spec := find_spec(module)) and spec.origin
    ]
    found: dict[str, Path] = {}
    for program in (*named, *(Path(path) for path in on_path if path), *in_wheels):
        # "Redis server v=7.0.15 sha=…"
        words = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout.split()
        found.setdefault(f"{words[0]} {words[2].removeprefix('v=')}", program)
    return found


def main(arguments: list[str]) -> int:
    """Run the tests on each and print a line for each."""
    failed = 0
    said = []
    for version, program in find_programs().items():
        print(f"=== {version} ({program})", flush=True)
        began = time.monotonic()
        command = [sys.executable, "-m", "pytest", "-q", *TESTS, *arguments]
        ended = subprocess.run(command, cwd=ROOT, env={**os.environ, PROGRAM: str(program)}, check=False)
        failed += ended.returncode != 0
        said.append(f"{version}: {'FAILED' if ended.returncode else 'passed'} ({time.monotonic() - began:.0f} s)")
    print("\n".join(said))
    return 1 if failed or not said else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
