"""Hosts, pure: names and addresses, as settings, URLs and the header ``Host`` have them."""

import re
from ipaddress import IPv4Address, IPv6Address, ip_address

HIGHEST_PORT = 65535

#: A host, and perhaps a port (RFC 3986, section 3.2.2). HTTP needs a host (RFC 9110, section
#: 4.2.1).
_AUTHORITY = re.compile(
    r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<name>(?:[A-Za-z0-9._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})+))"
    r"(?::(?P<port>[0-9]{0,6}))?"
)
_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_NAME_CHARACTERS = 253


def host_in(authority: str) -> str | None:
    """Return the host that an authority such as ``example.com:80`` names; None if it is malformed.

    A name comes in lower case without a dot at its end, an address in its shortest form.
    """
    found = _AUTHORITY.fullmatch(authority)
    if found is None or int(found["port"] or 0) > HIGHEST_PORT:
        return None
    if found["v6"] is not None and not _is_ipv6(found["v6"]):
        return None
    address = address_in(found["v6"] or found["name"])
    return found["name"].lower().removesuffix(".") if address is None else str(address)


def bare_host(text: str) -> str | None:
    """Return the host in a setting, IPv6 without brackets; None if the text is not a host."""
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    is_host = _is_address(bare) or (bare == text and _is_name(text))
    return bare if is_host else None


def bracketed(host: str) -> str:
    """Return a host as URLs have it."""
    return f"[{host}]" if ":" in host else host


def address_in(text: str) -> IPv4Address | IPv6Address | None:
    """Return an IP address, or None. An IPv4 address written as IPv6 becomes IPv4."""
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def is_loopback(host: str) -> bool:
    """Return whether a name or an address is this machine, as seen from itself."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _is_name(text: str) -> bool:
    labels = text.removesuffix(".").split(".")
    return len(text) <= _NAME_CHARACTERS and all(map(_LABEL.fullmatch, labels))


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _is_ipv6(text: str) -> bool:
    try:
        IPv6Address(text)
    except ValueError:
        return False
    return True
