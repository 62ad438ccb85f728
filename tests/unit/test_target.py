"""Which URLs a webhook may have: those that keep the rules, each read in one way only."""

from __future__ import annotations

import ssl
from ipaddress import ip_address

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nowserving.errors import WebhookUrlError
from nowserving.target import Policy, Target, parse_target

STRICT = Policy([], (443, 8443))

REFUSED = [  # the URL, and a word of the reason
    ("http://example.com/", "https only"),
    ("http://1.1.1.1/", "https only"),
    ("ftp://example.com/", "begins with"),
    ("file:///etc/passwd", "begins with"),
    ("gopher://127.0.0.1:6379/_FLUSHALL", "begins with"),
    ("javascript:alert(1)", "begins with"),
    ("//example.com/", "begins with"),
    ("example.com", "begins with"),
    ("https:/example.com", "begins with"),
    ("https:example.com", "begins with"),
    ("unix:///run/docker.sock", "begins with"),
    ("", "begins with"),
    ("https://", "names a host"),
    ("https:///hook", "names a host"),
    ("https://:443/hook", "names a host"),
    ("https://?host=example.com", "names a host"),
    ("https://user:password@example.com/", "user name"),
    ("https://@example.com/", "user name"),
    ("https://example.com@127.0.0.1/", "user name"),
    ("https://example.com:443@127.0.0.1/", "user name"),
    ("https://example.com/#top", "fragment"),
    ("https://example.com/#", "fragment"),
    ("https://127.0.0.1#@example.com/", "fragment"),
    ("https://example.com\\@127.0.0.1/", "backslashes"),
    ("https:\\\\example.com\\", "backslashes"),
    (" https://example.com/", "spaces"),
    ("https://exa mple.com/", "spaces"),
    ("https://example.com/a b", "spaces"),
    ("https://example.com/\r\nhost: evil", "control"),
    ("https://exam\tple.com/", "control"),
    ("https://example.com\x00.evil.com/", "control"),
    ("https://example.com/\ud800", "control"),
    ("https://exam\u200bple.com/", "control"),
    ("https://" + "a" * 2041, "2,048"),
    ("https://example.com/" + "ü" * 400, "percent-encoded"),
    ("https://example.com:0/", "1 to 65535"),
    ("https://example.com:65536/", "1 to 65535"),
    ("https://example.com:-1/", "1 to 65535"),
    ("https://example.com:+443/", "1 to 65535"),
    ("https://example.com:4_43/", "1 to 65535"),
    ("https://example.com:４４３/", "1 to 65535"),
    ("https://example.com:0443/", "1 to 65535"),
    ("https://example.com:/", "1 to 65535"),
    ("https://example.com:443:80/", "1 to 65535"),
    ("https://[2606:4700::1]evil.com/", "1 to 65535"),
    ("https://example.com:22/", "port 22"),
    ("https://1.1.1.1:6379/", "port 6379"),
    ("https://127.0.0.1/", "loopback"),
    ("https://127.255.255.254:8443/", "loopback"),
    ("https://2130706433/", "four decimal"),
    ("https://0x7f000001/", "four decimal"),
    ("https://0x7f.1/", "four decimal"),
    ("https://0X7F.0.0.1/", "four decimal"),
    ("https://017700000001/", "four decimal"),
    ("https://0177.0.0.1/", "four decimal"),
    ("https://127.1/", "four decimal"),
    ("https://127.0.1/", "four decimal"),
    ("https://127.0.0.1./", "four decimal"),
    ("https://127.0.0.01/", "four decimal"),
    ("https://127.0.0.1.1/", "four decimal"),
    ("https://256.0.0.1/", "four decimal"),
    ("https://0/", "four decimal"),
    ("https://0x/", "four decimal"),
    ("https://example.0x1/", "four decimal"),
    ("https://１２７.0.0.1/", "four decimal"),
    ("https://①②⑦.⓪.⓪.①/", "four decimal"),
    ("https://127。0。0。1/", "four decimal"),
    ("https://127．0｡0．1/", "four decimal"),
    ("https://١٢٧.٠.٠.١/", "four decimal"),
    ("https://%31%32%37.0.0.1/", "percent-encoding"),
    ("https://127.0.0.1%2f.example.com/", "percent-encoding"),
    ("https://exam%70le.com/", "percent-encoding"),
    ("https://ｅｘａｍｐｌｅ.com/", "labels"),
    ("https://example.com./", "labels"),
    ("https://example..com/", "labels"),
    ("https://-example.com/", "labels"),
    ("https://*.example.com/", "labels"),
    ("https://$(id).example.com/", "labels"),
    ("https://" + "a" * 64 + ".com/", "labels"),
    ("https://" + "a." * 126 + "com/", "labels"),
    ("https://[::1]/", "loopback"),
    ("https://[0:0:0:0:0:0:0:1]/", "loopback"),
    ("https://[::]/", "unspecified"),
    ("https://[::ffff:127.0.0.1]/", "IPv4-mapped"),
    ("https://[::ffff:7f00:1]/", "IPv4-mapped"),
    ("https://[::ffff:1.1.1.1]/", "IPv4-mapped"),
    ("https://[::127.0.0.1]/", "IPv4-compatible"),
    ("https://[::ffff:0:127.0.0.1]/", "IPv4-translated"),
    ("https://[64:ff9b::7f00:1]/", "NAT64"),
    ("https://[64:ff9b::10.0.0.1]/", "NAT64"),
    ("https://[64:ff9b:1::a00:1]/", "NAT64"),
    ("https://[2002:7f00:1::]/", "6to4"),
    ("https://[2001:0:7f00:1::]/", "Teredo"),
    ("https://[2001:20::1]/", "ORCHID"),
    ("https://[fe80::1]/", "link-local"),
    ("https://[fe80::1%25eth0]/", "zone"),
    ("https://[fe80::1%eth0]/", "zone"),
    ("https://[fec0::1]/", "site-local"),
    ("https://[fc00::1]/", "private"),
    ("https://[fd00:ec2::254]/", "metadata"),
    ("https://[ff02::1]/", "multicast"),
    ("https://[2001:db8::1]/", "documentation"),
    ("https://[v1.fe80::1]/", "RFC 4291"),
    ("https://[127.0.0.1]/", "RFC 4291"),
    ("https://[::1/", "1 to 65535"),
    ("https://[]/", "RFC 4291"),
    ("https://169.254.169.254/latest/meta-data/", "metadata"),
    ("https://169.254.1.1/", "link-local"),
    ("https://168.63.129.16/", "metadata"),
    ("https://100.100.100.200/", "shared"),
    ("https://10.0.0.1/", "private"),
    ("https://172.16.0.1/", "private"),
    ("https://192.168.1.1/", "private"),
    ("https://0.0.0.0/", "unspecified"),
    ("https://0.1.2.3/", "this network"),
    ("https://192.0.0.192/", "reserved"),
    ("https://192.0.2.1/", "documentation"),
    ("https://198.18.0.1/", "benchmarking"),
    ("https://224.0.0.1/", "multicast"),
    ("https://239.255.255.255/", "multicast"),
    ("https://240.0.0.1/", "reserved"),
    ("https://255.255.255.255/", "broadcast"),
    ("https://192.88.99.1/", "6to4"),
    ("https://198.51.100.1/", "documentation"),
    ("https://203.0.113.1/", "documentation"),
    ("https://[100::1]/", "discard"),
    ("https://[1000::1]/", "reserved"),
    ("https://[2001:2::1]/", "benchmarking"),
    ("https://[2001:10::1]/", "ORCHID"),
    ("https://[2001:100::1]/", "reserved"),
    ("https://[3fff::1]/", "documentation"),
    ("https://[4000::1]/", "reserved"),
    ("https://[8000::1]/", "reserved"),
    ("https://[fd20:ce::254]/", "metadata"),
]

ACCEPTED = [  # as given, as sent, the host, what keys it
    ("https://example.com", "https://example.com", "example.com", "example.com:443"),
    ("HTTPS://EXAMPLE.com:443/A?b=C", "https://example.com/A?b=C", "example.com", "example.com:443"),
    ("https://example.com:8443/a/../b", "https://example.com:8443/b", "example.com", "example.com:8443"),
    ("https://bücher.example/ü", "https://xn--bcher-kva.example/%C3%BC", "xn--bcher-kva.example", None),
    ("https://my_hook.example/?q=%20", "https://my_hook.example/?q=%20", "my_hook.example", None),
    ("https://1.1.1.1/x", "https://1.1.1.1/x", "1.1.1.1", "1.1.1.1:443"),
    ("https://1.1.1.1.example.com/", "https://1.1.1.1.example.com/", "1.1.1.1.example.com", None),
    (
        "https://[2606:4700:0:0::1111]:8443/",
        "https://[2606:4700::1111]:8443/",
        "2606:4700::1111",
        "[2606:4700::1111]:8443",
    ),
    ("https://example.com/@a:b", "https://example.com/@a:b", "example.com", None),
]


def ask(url: str, policy: Policy = STRICT) -> Target:
    target = parse_target(url)
    policy.check(target)
    return target


@pytest.mark.parametrize(("url", "word"), REFUSED)
def test_a_url_that_must_not_get_through_is_refused_with_its_reason(url: str, word: str) -> None:
    with pytest.raises(WebhookUrlError, match=word) as caught:
        ask(url)
    assert caught.value.code == "invalid_webhook_url"


@pytest.mark.parametrize(("url", "sent", "host", "authority"), ACCEPTED)
def test_a_url_that_keeps_the_rules_is_sent_as_it_was_checked(
    url: str, sent: str, host: str, authority: str | None
) -> None:
    target = ask(url)
    assert (target.url, target.host, target.authority) == (sent, host, authority or f"{host}:443")
    assert (parse_target(target.url), httpx.URL(target.url).raw_host.decode()) == (target, host)


def test_a_host_that_the_sending_parser_reads_in_another_way_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nowserving.target._read_host", lambda _: ("example.com", None))
    with pytest.raises(WebhookUrlError, match="one way only"):
        parse_target("https://example.net/")


def test_a_url_may_have_2048_characters() -> None:
    ask("https://example.com/".ljust(2048, "a"))


HOSTS = st.text(st.sampled_from("aZ019.-_:[]@%/?#\\x。１ü\u0130\u212a\xad\t ") | st.characters(), max_size=20)


@given(st.sampled_from(["https://", "http://", "HTTPS://", ""]), HOSTS, st.sampled_from(["", "/", ":443/x", ".com/ü"]))
def test_any_text_is_refused_or_leads_where_it_says(start: str, host: str, end: str) -> None:
    try:
        target = parse_target(start + host + end)
    except WebhookUrlError:
        return
    sent = httpx.URL(target.url)
    assert target.url.isascii()
    assert parse_target(target.url) == target
    assert (sent.raw_host.decode(), sent.userinfo, sent.fragment) == (target.host, b"", "")
    try:
        ip_address(target.host)
    except ValueError:
        assert target.address is None
    context = ssl.create_default_context()
    context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname=target.host)
