"""compose.yaml as Docker Compose itself reads it: checked against its schema, all profiles, variables filled in."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.images.dockerfile import ROOT

Service = dict[str, Any]


def compose() -> str:
    """The Compose that `make install` brings."""
    ours = Path(sys.executable).parent / "docker-compose"
    found = str(ours) if ours.exists() else shutil.which("docker-compose")
    if found is None:
        pytest.fail("there is no docker-compose: make install")
    return found


def ask(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run it, with these variables and none of ours."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("NOWSERVING_", "COMPOSE_", "HF_"))
    }
    return subprocess.run([compose(), *arguments], cwd=ROOT, env=kept | env, capture_output=True, text=True, timeout=60)


def resolve(*files: Path, **env: str) -> dict[str, Any]:
    """What Compose would bring up."""
    named = [word for file in files or (ROOT / "compose.yaml",) for word in ("--file", str(file))]
    done = ask(*named, "--env-file", os.devnull, "--profile", "*", "config", "--format", "json", **env)
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr  # a variable that is not set
    return dict(json.loads(done.stdout))
