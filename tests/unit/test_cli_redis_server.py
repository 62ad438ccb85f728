import sys
from pathlib import Path

import pytest

from nowserving.cli.redis_server import find_server


def put_server(folder: Path) -> Path:
    program = folder / "redis-server"
    folder.mkdir(parents=True, exist_ok=True)
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    return program


def test_an_activated_environment_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_server(tmp_path / "venv" / "bin")
    theirs = put_server(tmp_path / "usr")
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "venv"))
    for path in (f"{tmp_path}/venv/bin:{tmp_path}/usr", f"{tmp_path}/usr"):
        monkeypatch.setenv("PATH", path)
        assert find_server() == theirs
