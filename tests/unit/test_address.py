"""Addresses that are not public are refused in any spelling, and public ones pass in theirs."""

from __future__ import annotations

import string
from ipaddress import IPv4Address, IPv6Address, IPv6Network

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from nowserving.address import NOT_PUBLIC, IPAddress, why_not_public
from nowserving.errors import WebhookUrlError
from nowserving.target import Policy, Target, parse_target

STRICT = Policy([], (443,))


def check(url: str) -> Target:
    target = parse_target(url)
    STRICT.check(target)
    return target


def carriers(address: IPv4Address) -> list[str]:
    """IPv6 addresses that lead to an IPv4 one."""
    number = int(address)
    return [
        f"[{IPv6Address(number)}]",
        f"[::{address}]",
        f"[::ffff:{address}]",
        f"[{IPv6Address(0xFFFF << 32 | number)}]",
        f"[64:ff9b::{address}]",
        f"[{IPv6Address(0x2002 << 112 | number << 80)}]",
    ]


def spellings(address: IPAddress) -> list[str]:
    """What libc, browsers or some library would take for this address."""
    if isinstance(address, IPv6Address):
        full = address.exploded
        return [f"[{address}]", f"[{full}]", f"[{full.upper()}]", f"[{full[:-9]}{IPv4Address(int(address) % 2**32)}]"]
    number, parts = int(address), str(address).split(".")
    a, b, c, d = (int(part) for part in parts)
    return [
        str(address),
        str(number),
        hex(number),
        f"0{number:o}",
        ".".join(hex(int(part)) for part in parts),
        ".".join(f"{int(part):04o}" for part in parts),
        f"{a}.{b}.{c << 8 | d}",
        f"{a}.{b << 16 | c << 8 | d}",
        "。".join(parts),
        str(address).translate({ord(digit): ord("０") + int(digit) for digit in string.digits}),
        f"{address}.",
        *carriers(address),
    ]


@st.composite
def not_public(draw: st.DrawFn) -> IPAddress:
    network, _ = draw(st.sampled_from(NOT_PUBLIC))
    offset = draw(st.integers(0, network.num_addresses - 1))
    return network[offset]


@given(not_public())
def test_an_address_that_is_not_public_is_refused_in_any_spelling(address: IPAddress) -> None:
    for host in spellings(address):
        with pytest.raises(WebhookUrlError):
            check(f"https://{host}/")
    with pytest.raises(WebhookUrlError):
        STRICT.check_addresses(parse_target("https://example.com"), ["1.1.1.1", str(address)])


@given(st.ip_addresses(v=4) | st.ip_addresses(v=6, network=IPv6Network("2000::/3")))
@example(IPv4Address("8.8.8.8"))
@example(IPv6Address("2a00:1450:4001::1"))
def test_a_public_address_passes_in_its_one_spelling(address: IPAddress) -> None:
    assume(why_not_public(address) is None)
    assert address.is_global
    assert not address.is_multicast
    host = f"[{address}]" if address.version == 6 else str(address)
    assert check(f"https://{host}/").address == address
    assert STRICT.check_addresses(parse_target("https://example.com"), [str(address)]) == [address]


@given(st.ip_addresses())
def test_whatever_python_calls_not_global_is_not_public(address: IPAddress) -> None:
    assert why_not_public(address) or address.is_global


def test_what_the_table_does_not_know_python_may_still_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nowserving.address.NOT_PUBLIC", ())
    assert why_not_public(IPv4Address("127.0.0.1")) == "not a public address"
    assert why_not_public(IPv4Address("1.1.1.1")) is None
