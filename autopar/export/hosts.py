"""Names and addresses of nodes: what is one, and how it stands before a port.

Sources: RFC 1123, 2.1 (labels of names, which may begin with a digit); RFC 3986, 3.2.2 (brackets
around an IPv6 address before a port); RFC 5952 (how one is written).
"""

import re
from ipaddress import IPv4Address, IPv6Address, ip_address

from autopar.errors import SpecError, shorten

# Labels of RFC 1123, underscores inside besides, as in names of containers. One of digits alone
# at the end is an address to resolvers (inet_aton(3)), so that only whole addresses may end so.
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_NAME = re.compile(rf"(?:{_LABEL}\.)*(?!\d+\Z){_LABEL}", re.ASCII)
_MOST_LETTERS = 253  # of a name: RFC 1123, 2.1, and RFC 1035, 2.3.4, less what only the wire has


def checked_host(text: str, option: str) -> str:
    """Return a host's name, or its address as RFC 5952 writes it.

    Raises SpecError, which names the option, for anything else.
    """
    address = _address(text)
    if address is not None:
        return str(address)
    if len(text) <= _MOST_LETTERS and _NAME.fullmatch(text):
        return text
    hint = ""
    if "[" in text and _address(text.strip("[]")) is None:
        hint = "; `scontrol show hostnames` writes out a list with brackets"
    raise SpecError(
        f"{option}: found {shorten(text)}, expected names of hosts, with commas between them: "
        "letters, digits, - and _ in labels of at most 63 with dots between them, or an IPv4 "
        f"address, or an IPv6 address without brackets and zone{hint}"
    )


def place(host: str, port: int) -> str:
    """Return a host and a port as URLs have them: an IPv6 address in brackets."""
    return f"{in_url(host)}:{port}"


def in_url(host: str) -> str:
    """Return a host as URLs have it before a port."""
    return f"[{host}]" if is_ipv6(host) else host


def is_ipv6(host: str) -> bool:
    """Whether a host is an IPv6 address; names and the variables of pods have no colon."""
    return ":" in host


def all_addresses(host: str) -> str:
    """Return the address at which a server listens on every network of its host.

    0.0.0.0 is IPv4 alone, so that nobody would reach a host that is known by an IPv6 address.
    """
    return "::" if is_ipv6(host) else "0.0.0.0"  # noqa: S104  clients are elsewhere


def _address(text: str) -> IPv4Address | IPv6Address | None:
    """Return the address that a text is; a zone (fe80::1%eth0) has no place in a URL."""
    try:
        return None if "%" in text else ip_address(text)
    except ValueError:
        return None
