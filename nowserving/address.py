"""Which IP addresses are of the public Internet, and what the others are for, by a table of our own.

`ipaddress` alone would not do: multicast counts as global there, and its answers changed between patch versions. The
rows are what IANA's registries do not call globally reachable, and addresses that carry an IPv4 address in an IPv6 one:
https://www.iana.org/assignments/iana-ipv4-special-registry, https://www.iana.org/assignments/iana-ipv6-special-registry
and https://www.iana.org/assignments/ipv6-address-space (only 2000::/3 is given out for unicast).
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_network

IPAddress = IPv4Address | IPv6Address

NOT_PUBLIC = tuple(
    (ip_network(network), what)
    for network, what in (  # the first that fits gives the word
        ("0.0.0.0/32", "the unspecified address"),
        ("0.0.0.0/8", "an address of this network"),
        ("10.0.0.0/8", "a private address"),
        ("100.64.0.0/10", "a shared address of a carrier's NAT"),
        ("127.0.0.0/8", "a loopback address"),
        ("168.63.129.16/32", "a metadata address"),  # Azure's, of a range that is public otherwise
        ("169.254.169.254/32", "a metadata address"),
        ("169.254.0.0/16", "a link-local address"),
        ("172.16.0.0/12", "a private address"),
        ("192.0.0.0/24", "a reserved address"),
        ("192.0.2.0/24", "a documentation address"),
        ("192.88.99.0/24", "a 6to4 address"),
        ("192.168.0.0/16", "a private address"),
        ("198.18.0.0/15", "a benchmarking address"),
        ("198.51.100.0/24", "a documentation address"),
        ("203.0.113.0/24", "a documentation address"),
        ("224.0.0.0/4", "a multicast address"),
        ("255.255.255.255/32", "the broadcast address"),
        ("240.0.0.0/4", "a reserved address"),
        ("::/128", "the unspecified address"),
        ("::1/128", "a loopback address"),
        ("::ffff:0:0/96", "an IPv4-mapped address"),
        ("::ffff:0:0:0/96", "an IPv4-translated address"),  # RFC 2765
        ("::/96", "an IPv4-compatible address"),  # RFC 4291, 2.5.5.1
        ("64:ff9b::/96", "a NAT64 address"),
        ("64:ff9b:1::/48", "a NAT64 address"),
        ("100::/64", "a discard address"),
        ("2001::/32", "a Teredo address"),
        ("2001:2::/48", "a benchmarking address"),
        ("2001:10::/28", "an ORCHID address"),
        ("2001:20::/28", "an ORCHID address"),
        ("2001:db8::/32", "a documentation address"),
        ("2001::/23", "a reserved address"),
        ("2002::/16", "a 6to4 address"),
        ("3fff::/20", "a documentation address"),
        ("fd00:ec2::254/128", "a metadata address"),  # Amazon's
        ("fd20:ce::254/128", "a metadata address"),  # Google's
        ("fc00::/7", "a private address"),
        ("fe80::/10", "a link-local address"),
        ("fec0::/10", "a site-local address"),
        ("ff00::/8", "a multicast address"),
        ("::/3", "a reserved address"),
        ("4000::/2", "a reserved address"),
        ("8000::/1", "a reserved address"),
    )
)


def why_not_public(address: IPAddress) -> str | None:
    """What the address is for, as in "10.0.0.1 is …"; None if it is a public one."""
    for network, what in NOT_PUBLIC:
        if address in network:
            return what
    return None if address.is_global else "not a public address"  # a second lock: what this table does not know yet
