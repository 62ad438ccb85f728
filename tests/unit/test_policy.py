"""What the allow-list opens, and that every address of a name is judged."""

from __future__ import annotations

import socket
from ipaddress import ip_address

import pytest

from nowserving.errors import SettingsError, WebhookUrlError
from nowserving.target import Policy, Target, parse_target, resolve


def check(url: str) -> Target:
    target = parse_target(url)
    ALLOW.check(target)
    return target


ALLOW = Policy(["Hooks.Internal", "bücher.example", "10.1.0.0/16", "127.0.0.1", "fd12::/48"], (443,))


@pytest.mark.parametrize(
    "url",
    [
        "http://hooks.internal/",
        "http://HOOKS.internal:9000/",
        "https://hooks.internal:22/",
        "http://xn--bcher-kva.example/",
        "http://10.1.2.3:8080/",
        "http://127.0.0.1:8080/",
        "http://[fd12::7]:8080/",
        "https://example.com/",
    ],
)
def test_an_allowed_host_or_network_is_reached_on_any_port_and_by_http(url: str) -> None:
    check(url)


@pytest.mark.parametrize(
    "url", ["http://10.2.0.1/", "https://127.0.0.2/", "https://[fd13::1]/", "https://1.1.1.1:8443/"]
)
def test_an_address_beside_the_allowed_networks_keeps_the_rules(url: str) -> None:
    with pytest.raises(WebhookUrlError):
        check(url)


@pytest.mark.parametrize(
    ("url", "addresses", "word"),
    [
        ("http://hooks.internal:9000", ["127.0.0.5", "1.1.1.1"], None),  # allowed by name, whatever it leads to
        ("http://inside.example:9000", ["10.1.0.1", "fd12::1"], None),  # all of it within allowed networks
        ("https://both.example", ["10.1.0.1", "1.1.1.1"], None),
        ("http://both.example", ["10.1.0.1", "1.1.1.1"], "https only"),
        ("https://both.example:9000", ["10.1.0.1", "1.1.1.1"], "port 9000"),
        ("https://half.example", ["10.1.0.1", "10.2.0.1"], "10.2.0.1 is a private address"),
        (
            "https://half.example",
            ["1.1.1.1", "::1"],
            "::1 is a loopback address; NOWSERVING_WEBHOOK_ALLOW can allow it",
        ),
        ("https://example.com", ["1.1.1.1", "2606:4700::1111"], None),
        ("https://example.com", ["fe80::1%2"], "link-local"),
        ("https://sub.hooks.internal", ["10.2.0.1"], "private"),
        ("http://example.com", ["1.1.1.1"], "https only"),
        ("http://example.com", [], "https only"),
        ("http://10.1.0.1:9000", ["10.1.0.1"], None),
    ],
)
def test_every_address_of_a_name_is_judged(url: str, addresses: list[str], word: str | None) -> None:
    target = check(url)
    if word is None:
        assert ALLOW.check_addresses(target, addresses) == [ip_address(address) for address in addresses]
        return
    with pytest.raises(WebhookUrlError, match=word):
        ALLOW.check_addresses(target, addresses)


@pytest.mark.parametrize(
    "entry",
    [
        "",
        "10.0.0.1/8",
        "10.0.0.0/33",
        "https://a.example",
        "a.example:8080",
        "*.example",
        "[::1]",
        "0x7f.1",
        "a b",
        "127.1",
    ],
)
def test_an_entry_of_the_allow_list_that_is_none_is_named(entry: str) -> None:
    with pytest.raises(SettingsError, match="NOWSERVING_WEBHOOK_ALLOW") as caught:
        Policy([entry], (443,))
    assert repr(entry) in caught.value.message


def test_the_systems_resolver_gives_each_address_once(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(2, 1, 6, "", ("1.1.1.1", 443)), (10, 1, 6, "", ("2606::1", 443, 0, 0)), (2, 1, 6, "", ("1.1.1.1", 443))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    assert resolve("example.com", 443) == ["1.1.1.1", "2606::1"]
    monkeypatch.undo()
    assert resolve("127.0.0.1", 443) == ["127.0.0.1"]
