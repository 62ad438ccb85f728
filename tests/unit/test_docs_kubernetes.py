"""What docs/kubernetes.md names is there: files, settings, metrics, reasons."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from api.outlook import EXPLANATIONS
from api.problem import STATUSES
from nowserving.settings import Settings

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGE = (DOCS / "kubernetes.md").read_text()
YOURS = "keda/overlays/mine"
"""What the page has its reader make."""


def test_each_path_of_a_command_is_there() -> None:
    paths = set(re.findall(r"\b(?:keda|api|workers|docs)/[\w./-]*\w", PAGE))
    assert {"keda/overlays/local", "api/Dockerfile", "workers/Dockerfile", "keda/base/models.toml"} <= paths
    assert [path for path in paths if not path.startswith(YOURS) and not (ROOT / path).exists()] == []
    overlays = set(re.findall(r"(?<![\w/])\.\./(\w[\w-]*)", PAGE)) - {"keda"}
    assert overlays
    assert all((ROOT / "keda/overlays" / name).is_dir() for name in overlays)


def test_each_setting_is_one() -> None:
    named = set(re.findall(r"NOWSERVING_[A-Z_]+[A-Z]", PAGE))
    assert len(named) > 5
    assert named <= {f"NOWSERVING_{name.upper()}" for name in Settings.model_fields}


def test_each_metric_is_one() -> None:
    """docs/metrics.md is held against what is answered by tests of its own."""
    named = set(re.findall(r"nowserving_[a-z_]+", PAGE))
    assert len(named) >= 5
    assert named <= set(re.findall(r"^\| `(\w+)`", (DOCS / "metrics.md").read_text(), re.MULTILINE))


@pytest.mark.parametrize("reason", EXPLANATIONS)
def test_each_reason_to_wait_is_told(reason: str) -> None:
    assert re.search(rf"^\| .*`{reason}`", PAGE, re.MULTILINE)


def test_errors_have_the_apis_codes() -> None:
    assert STATUSES["redis_full"] == 503
    assert STATUSES["invalid_input"] == 422
    assert "503 `redis_full`" in PAGE
