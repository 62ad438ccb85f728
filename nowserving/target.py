"""Where a webhook may go: the rules of its URL, and of the addresses that its host has.

What is checked is what is connected to: a host is read by the parser that sends (httpx), and a URL that another parser
might read in another way is refused. The way numbers are told from names is WHATWG's:
https://url.spec.whatwg.org/#ends-in-a-number-checker
"""

from __future__ import annotations

import re
import socket
import unicodedata
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

import httpx

from nowserving.address import IPAddress, why_not_public
from nowserving.errors import SettingsError, WebhookUrlError
from nowserving.receiver import MAX_URL_CHARACTERS

DEFAULT_PORTS = {"http": 80, "https": 443}

Resolver = Callable[[str, int], Sequence[str]]
"""A host and a port to the host's addresses as text; raises OSError if it has none."""

_AUTHORITY = re.compile(r"(https?)://([^/?#]*)", re.IGNORECASE)
_HOST_AND_PORT = re.compile(r"(\[[^\[\]]*\]|[^:\[\]]+)(?::([1-9][0-9]{0,4}))?")
_ENDS_IN_NUMBER = re.compile(r"(?:^|\.)(?:\d+|0x[0-9a-f]*)\.?$")
_LABEL = "[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})*")


@dataclass(frozen=True, slots=True)
class Target:
    """A URL that keeps the rules, in its parts."""

    url: str
    """As it is sent: ASCII, percent-encoded, its host in lower case."""
    scheme: str
    host: str
    """A name as DNS has it, or an address without brackets."""
    port: int
    address: IPAddress | None
    """The host, if it is an address."""

    @property
    def authority(self) -> str:
        """`host:port`: all that goes to the same one is sent to the same receiver."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_target(url: str) -> Target:
    """Read a webhook's URL. Raises WebhookUrlError, which says the rule that it breaks."""
    _demand(len(url) <= MAX_URL_CHARACTERS, f"has at most {MAX_URL_CHARACTERS:,} characters")
    _demand(all(c.isprintable() and c not in " \\" for c in url), "has no spaces, control characters or backslashes")
    match = _AUTHORITY.match(url)
    if match is None:
        raise WebhookUrlError("a webhook's URL begins with https:// or http://")
    scheme, authority = match[1].lower(), match[2]
    _demand("@" not in authority, "has no user name and no password")
    _demand("#" not in url, "has no fragment (#)")
    _demand(authority[:1] not in ("", ":"), "names a host")
    parts = _HOST_AND_PORT.fullmatch(authority)
    if parts is None or int(parts[2] or 1) > 65535:
        raise WebhookUrlError("a webhook's URL has after its host nothing but a colon and a port from 1 to 65535")
    host, address = _read_host(parts[1])
    port = int(parts[2] or DEFAULT_PORTS[scheme])
    try:
        sent = httpx.URL(scheme + url[len(scheme) :])
        if address is not None:
            sent = sent.copy_with(host=host)
    except httpx.InvalidURL as error:
        raise WebhookUrlError(f"a webhook's URL is one by RFC 3986: {error}") from None
    _demand(
        len(str(sent)) <= MAX_URL_CHARACTERS, f"has {MAX_URL_CHARACTERS:,} characters at most, percent-encoded, too"
    )
    if (sent.scheme, sent.raw_host, sent.port or DEFAULT_PORTS[scheme]) != (scheme, host.encode(), port):
        raise WebhookUrlError("a webhook's URL has a host that is read in one way only")
    return Target(str(sent), scheme, host, port, address)


class Policy:
    """Whom webhooks may reach. An entry of `allow` is a host's name, an address or a network.

    All public addresses may be reached by https on `ports`. Allowed hosts and networks may be reached on any port, by
    http, too, and so may a name with no other addresses than those of allowed networks: that is seen when it is looked
    up. Raises SettingsError for an entry that is none of the three.
    """

    def __init__(self, allow: Sequence[str], ports: Collection[int]) -> None:
        self._ports = frozenset(ports)
        self._names: set[str] = set()
        self._networks: list[IPv4Network | IPv6Network] = []
        for entry in allow:
            try:
                self._networks.append(ip_network(entry))
                continue
            except ValueError:
                pass
            try:
                name, address = _read_host(entry)
                if address is not None:
                    raise WebhookUrlError("an address has no brackets here")
            except WebhookUrlError:
                raise SettingsError(
                    f"NOWSERVING_WEBHOOK_ALLOW={entry!r} is not allowed: an entry is a host's name, an address or a "
                    "network such as 10.0.0.0/8"
                ) from None
            self._names.add(name)

    def check(self, target: Target) -> None:
        """Refuse what can be refused before the host is looked up. Raises WebhookUrlError."""
        if target.address is not None:
            self.check_addresses(target, [target.host])
        elif target.host not in self._names and not self._networks:
            self._check_way(target)

    def check_addresses(self, target: Target, addresses: Iterable[str]) -> list[IPAddress]:
        """The addresses to connect to, in their order. Raises WebhookUrlError if one of them may not be reached."""
        found = [ip_address(text) for text in addresses]
        if target.host in self._names:
            return found
        strange = [address for address in found if not any(address in network for network in self._networks)]
        if strange or not found:
            self._check_way(target)
        for address in strange:
            if what := why_not_public(address):
                raise WebhookUrlError(f"{address} is {what}; NOWSERVING_WEBHOOK_ALLOW can allow it")
        return found

    def _check_way(self, target: Target) -> None:
        if target.scheme != "https":
            raise WebhookUrlError(
                f"{target.host} may be reached by https only; NOWSERVING_WEBHOOK_ALLOW can allow it by http"
            )
        if target.port not in self._ports:
            ports = ", ".join(str(port) for port in sorted(self._ports))
            raise WebhookUrlError(f"port {target.port} is none of {ports}; NOWSERVING_WEBHOOK_PORTS can add it")


def resolve(host: str, port: int) -> list[str]:
    """The system's resolver: IPv4 and IPv6 addresses in its order, each once. Raises OSError. Blocks."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def _demand(kept: bool, rule: str) -> None:
    if not kept:
        raise WebhookUrlError(f"a webhook's URL {rule}")


def _read_host(text: str) -> tuple[str, IPAddress | None]:
    """The host as it is connected to, and its address if it is one. Raises WebhookUrlError."""
    if text.startswith("["):
        try:
            address = IPv6Address(text[1:-1])
        except AddressValueError:
            address = None
        if address is None or address.scope_id is not None:
            raise WebhookUrlError("an IPv6 address is written as RFC 4291 has it, in brackets and without a zone")
        return str(address), address
    _demand("%" not in text, "has a host without percent-encoding")
    mapped = unicodedata.normalize("NFKC", text).replace("。", ".").lower()
    if _ENDS_IN_NUMBER.search(mapped):
        try:
            return text, IPv4Address(text)
        except AddressValueError:
            raise WebhookUrlError(
                "a host that ends in a number is an IPv4 address: four decimal numbers, no leading zeros"
            ) from None
    try:
        host = httpx.URL(scheme="https", host=text).raw_host.decode()
    except httpx.InvalidURL:
        host = ""
    if not _NAME.fullmatch(host):
        raise WebhookUrlError(
            "a host's name has labels of letters, digits, - and _, 1 to 63 characters each, with single dots between"
        )
    return host, None
