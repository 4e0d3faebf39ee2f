"""Which addresses may be fetched from: those of the public internet, and no others."""

import ipaddress

_NO_HOSTS = tuple(
    map(
        ipaddress.ip_network,
        (
            "100.64.0.0/10",  # RFC 6598; Python calls them private from 3.12.4 on
            "192.88.99.0/24",  # relays of 6to4
            "168.63.129.16/32",  # Azure's platform, in public space
            "2001::/23",  # Teredo, and other tunnels and protocols
            "2002::/16",  # 6to4: an IPv4 address in IPv6
            "2001:db8::/32",
            "3fff::/20",
        ),
    )
)
"""Networks where no public host is, though some of them look global."""
_GLOBAL_IPV6 = ipaddress.ip_network("2000::/3")
"""All of IPv6 that is assigned to hosts.

Outside are the addresses that translate to IPv4 (64:ff9b::/96), site-local ones, and
IPv4 addresses in IPv6 notation.
"""


def is_public(address: str) -> bool:
    """Whether an IP address is one host's, reachable from the whole internet.

    An IPv4 address that is mapped into IPv6 is judged as IPv4. Other notations in which
    an IPv6 address stands for an IPv4 one are not public: whoever translates them may
    reach what only this machine can.
    """
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped:
        ip = ip.ipv4_mapped
    return not _is_special(ip) and not any(ip in network for network in _NO_HOSTS)


def _is_special(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Whether an address is of a kind that is never a public host's."""
    if ip.version == 6 and ip not in _GLOBAL_IPV6:
        return True
    kinds = (ip.is_private, ip.is_loopback, ip.is_link_local, ip.is_reserved)
    return any(kinds) or ip.is_multicast or ip.is_unspecified or not ip.is_global
