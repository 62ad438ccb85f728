"""The receivers file: who is called back for whom, and every mistake in it one sentence that repeats no secret."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from nowserving.errors import ReceiversError
from nowserving.receiver import DEFAULT_EVENTS
from nowserving.receivers import Receivers, hash_key, load_receivers, parse_receivers
from nowserving.secret import new_secret
from nowserving.settings import Settings
from nowserving.target import Policy

SECRET, OTHER, SERVERS = new_secret(), new_secret(), new_secret()
URL = "https://shop.example/hooks"
SETTINGS = Settings(webhook_secret=(SecretStr(SERVERS),))
BARE = Settings(webhook_secret=())


def policy_of(settings: Settings) -> Policy:
    return Policy(settings.webhook_allow, settings.webhook_ports)


def parse(tables: dict[str, Any], settings: Settings = SETTINGS) -> Receivers:
    return parse_receivers({"receivers": tables}, "receivers.toml", settings, policy_of(settings))


def names(receivers: Receivers, api_key: str | None) -> list[str | None]:
    return [receiver.name for receiver in receivers.for_key(api_key)]


def test_without_a_file_nobody_is_called_and_the_server_signs() -> None:
    receivers = load_receivers(SETTINGS, policy_of(SETTINGS))
    assert receivers.for_key(None) == receivers.for_key("k") == ()
    assert receivers.secrets_of(None) == (SERVERS,)


def test_a_file_is_read(tmp_path: Path) -> None:
    file = tmp_path / "receivers.toml"
    file.write_text(
        f'[receivers.shop]\nurl = "{URL}"\nevents = ["job.started", "job.failed"]\nsecrets = ["{SECRET}", "{OTHER}"]\n'
        f'keys = ["{hash_key("k")}"]\nconcurrency = 3\n'
    )
    receivers = load_receivers(Settings(receivers_file=file), policy_of(SETTINGS))
    (shop,) = receivers.for_key("k")
    assert (shop.url, shop.host, shop.name, shop.limit) == (URL, "shop.example:443", "shop", 3)
    assert shop.events == ("job.started", "job.failed")
    assert shop.secret is None
    assert receivers.secrets_of("shop") == (SECRET, OTHER)
    assert receivers.for_key(None) == ()


def test_what_is_left_out_is_the_settings() -> None:
    (receiver,) = parse({"a": {"url": URL}}).for_key(None)
    assert (receiver.events, receiver.limit) == (DEFAULT_EVENTS, SETTINGS.webhook_host_concurrency)


def test_each_key_has_its_receivers_and_everyones() -> None:
    table = {"url": URL}
    keyed = {"one": [hash_key("1")], "both": [hash_key("1"), hash_key("2")]}
    receivers = parse({"all": table} | {name: {**table, "keys": hashes} for name, hashes in keyed.items()})
    assert names(receivers, None) == names(receivers, "3") == names(receivers, "") == ["all"]
    assert names(receivers, "1") == ["all", "one", "both"]
    assert names(receivers, "2") == ["all", "both"]
    assert names(receivers, hash_key("1")) == ["all"]


def test_the_files_secrets_come_before_a_receivers_own_and_the_servers() -> None:
    receivers = parse({"own": {"url": URL, "secrets": [SECRET]}, "none": {"url": URL}})
    assert receivers.secrets_of("own") == receivers.secrets_of("own", OTHER) == (SECRET,)
    assert receivers.secrets_of("none") == receivers.secrets_of("gone") == receivers.secrets_of(None) == (SERVERS,)
    assert receivers.secrets_of(None, OTHER) == (OTHER,)
    assert parse({"own": {"url": URL, "secrets": [SECRET]}}, BARE).secrets_of(None) == ()


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({}, r"receivers\.a\.url: .*required"),
        ({"url": 7}, r"receivers\.a\.url: .*string"),
        ({"url": "http://shop.example"}, r"receivers\.a\.url: .*https"),
        ({"url": "https://10.0.0.1/"}, r"receivers\.a\.url: "),
        ({"url": "https://shop.example:22/"}, r"receivers\.a\.url: .*22"),
        ({"url": URL, "events": []}, r"receivers\.a\.events: .*at least 1"),
        ({"url": URL, "events": "job.failed"}, r"receivers\.a\.events: .*tuple"),
        ({"url": URL, "events": ["job.done"]}, r"receivers\.a\.events\.0: .*'job\.started'"),
        ({"url": URL, "secrets": SECRET}, r"receivers\.a\.secrets: .*tuple"),
        ({"url": URL, "secrets": [SECRET[:20]]}, r"receivers\.a\.secrets\.0: a secret is whsec_ and 24 to 64"),
        ({"url": URL, "secrets": [SECRET] * 3}, r"receivers\.a\.secrets: .*at most 2"),
        ({"url": URL, "keys": []}, r"receivers\.a\.keys: .*at least 1"),
        ({"url": URL, "keys": ["my-api-key"]}, r"receivers\.a\.keys\.0: a key is sha256: and .*sha256sum"),
        ({"url": URL, "keys": [hash_key("k") + "\n"]}, r"receivers\.a\.keys\.0: a key is sha256:"),
        ({"url": URL, "concurrency": 0}, r"receivers\.a\.concurrency: .*greater than or equal to 1"),
        ({"url": URL, "secret": SECRET}, r"receivers\.a\.secret is not a key; allowed are .*secrets"),
        ("https", r"receivers\.a must be a table"),
    ],
)
def test_a_mistake_is_named_and_no_secret_repeated(table: object, says: str) -> None:
    with pytest.raises(ReceiversError, match=says) as caught:
        parse({"a": table})
    assert SECRET[:20] not in caught.value.message
    assert "my-api-key" not in caught.value.message


def test_a_receiver_that_nobody_signs_for_is_a_mistake() -> None:
    with pytest.raises(ReceiversError, match=r"receivers\.a\.secrets is missing.*NOWSERVING_WEBHOOK_SECRET"):
        parse({"a": {"url": URL}}, BARE)


def test_one_job_has_eight_receivers_at_most() -> None:
    everyones: dict[str, Any] = {f"e{i}": {"url": URL} for i in range(6)}
    mine = {f"m{i}": {"url": URL, "keys": [hash_key("1")]} for i in range(2)}
    others = {f"o{i}": {"url": URL, "keys": [hash_key("2")]} for i in range(2)}
    assert len(parse({**everyones, **mine, **others}).for_key("1")) == 8
    with pytest.raises(ReceiversError, match="9 receivers; 8 are allowed"):
        parse({**everyones, **mine, **others, "more": {"url": URL, "keys": [hash_key("1")]}})


@pytest.mark.parametrize("document", [{}, {"receivers": 1}, {"receivers": {}, "models": {}}])
def test_a_file_of_something_else_is_refused(document: dict[str, object]) -> None:
    with pytest.raises(ReceiversError, match=r"expected tables \[receivers\.NAME\]"):
        parse_receivers(document, "receivers.toml", SETTINGS, policy_of(SETTINGS))


@pytest.mark.parametrize("name", ["A", "-a", "a b", "x" * 65])
def test_names_are_plain(name: str) -> None:
    with pytest.raises(ReceiversError, match="receiver name"):
        parse({name: {"url": URL}})


def test_a_file_that_is_not_there_or_not_toml_is_named(tmp_path: Path) -> None:
    file = tmp_path / "receivers.toml"
    settings = Settings(receivers_file=file)
    with pytest.raises(ReceiversError, match=r"receivers\.toml cannot be read"):
        load_receivers(settings, policy_of(settings))
    file.write_bytes(b"[receivers.\xff")
    with pytest.raises(ReceiversError, match=r"receivers\.toml is not TOML"):
        load_receivers(settings, policy_of(settings))
