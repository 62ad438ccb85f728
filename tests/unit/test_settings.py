from pathlib import Path

import pytest
import redis

from nowserving.errors import SettingsError
from nowserving.secret import RULE
from nowserving.settings import document, load_settings


def test_every_setting_is_documented_as_it_is() -> None:
    assert document() in (Path(__file__).parents[2] / "docs/settings.md").read_text()


def test_a_wrong_setting_names_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOWSERVING_LEASE_SECONDS", "-1")
    with pytest.raises(SettingsError, match=r"NOWSERVING_LEASE_SECONDS='-1' is not allowed"):
        load_settings()


def test_a_wrong_secret_is_one_sentence_that_does_not_repeat_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOWSERVING_WEBHOOK_SECRET", "hunter2")
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert caught.value.message == f"NOWSERVING_WEBHOOK_SECRET is not allowed: {RULE}"


@pytest.mark.parametrize(
    ("url", "made"),
    [
        ("redis://r:6379/0", "redis://:a%2Fb%40%3A%3D@r:6379/0"),
        ("rediss://me@r:6380/0", "rediss://me:a%2Fb%40%3A%3D@r:6380/0"),
        ("redis://:own@r/0", "redis://:own@r/0"),
        ("unix:///run/redis.sock", "unix://:a%2Fb%40%3A%3D@/run/redis.sock"),
    ],
)
def test_a_password_apart_is_put_into_the_url(monkeypatch: pytest.MonkeyPatch, url: str, made: str) -> None:
    monkeypatch.setenv("NOWSERVING_REDIS_URL", url)
    monkeypatch.setenv("NOWSERVING_REDIS_PASSWORD", "a/b@:=")
    settings = load_settings()
    assert settings.redis_url.get_secret_value() == made
    own = "own" if "own" in url else "a/b@:="
    assert redis.Redis.from_url(made).get_connection_kwargs()["password"] == own
    assert "a/b" not in repr(settings)


def test_a_password_belongs_to_the_default_url_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOWSERVING_REDIS_URL", raising=False)
    monkeypatch.setenv("NOWSERVING_REDIS_PASSWORD", "x")
    settings = load_settings()
    assert settings.redis_url.get_secret_value() == "redis://:x@127.0.0.1:6379/0"
    assert "redis_url" not in settings.model_fields_set
    monkeypatch.setenv("NOWSERVING_REDIS_PASSWORD", "")
    assert load_settings().redis_url.get_secret_value() == "redis://127.0.0.1:6379/0"
