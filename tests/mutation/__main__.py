"""`python -m tests.mutation [WORD …]`: takes each promise's mechanism out, one by one, and sees its test fail.

mutants.toml names for each what is replaced and by what. The checkout is copied, never changed. With words only those
mutants are run whose name has one of them. Exit code 1 if a test does not notice.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.mutation.mutant import ROOT, Mutant, read_mutants

LEFT_OUT = (".*", "__pycache__", "docs", "bench")


def main(words: list[str]) -> int:
    """Run the mutants and print a line for each."""
    unnoticed = 0
    mutants = [mutant for mutant in read_mutants() if not words or any(word in mutant.name for word in words)]
    for mutant in mutants:
        began = time.monotonic()
        noticed = run(mutant)
        unnoticed += not noticed
        said = "noticed by" if noticed else "NOT NOTICED BY"
        print(f"{mutant.promise}  {mutant.name}: {said} {mutant.test} ({time.monotonic() - began:.0f} s)", flush=True)
    print(f"{len(mutants)} mutants, {unnoticed} not noticed")
    return 1 if unnoticed else 0


def run(mutant: Mutant) -> bool:
    """Whether the test fails on a copy with the mechanism taken out."""
    with TemporaryDirectory(prefix="mutant-") as folder:
        copy = Path(folder) / "checkout"
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*LEFT_OUT))
        mutant.apply(copy)
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", mutant.test]
        env = {**os.environ, "PYTHONPATH": str(copy)}
        ended = subprocess.run(command, cwd=copy, env=env, capture_output=True, text=True, check=False)
    # 1: a test failed. Anything else (no such test, a broken copy) shows nothing.
    return ended.returncode == 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
