from pathlib import Path

import pytest

from nowserving.errors import SettingsError
from nowserving.settings import document, load_settings


def test_every_setting_is_documented_as_it_is() -> None:
    assert document() in (Path(__file__).parents[2] / "docs/settings.md").read_text()


def test_a_wrong_setting_names_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOWSERVING_LEASE_SECONDS", "-1")
    with pytest.raises(SettingsError, match=r"NOWSERVING_LEASE_SECONDS='-1' is not allowed"):
        load_settings()
