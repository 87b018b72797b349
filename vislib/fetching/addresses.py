"""Connecting to public addresses alone: links come from strangers' pages, and may point into the
machine's own network.

A name is resolved once, all its addresses are checked, and exactly a checked one is connected to.
Redirects, names that change their address and odd ways to write a number all end here. TLS goes on
to verify the name.
"""

import asyncio
import socket
import ssl
from asyncio import StreamReader, StreamWriter
from collections.abc import Collection
from ipaddress import IPv6Address, ip_address, ip_network

import httpcore2
from ada_url import URL

from vislib.media.pixels import ImageError, Reason

# What IANA's special-purpose address registries (of 2025-10-09) do not call globally reachable. As
# facts of our own, because Python's `is_global` differs between patch releases (gh-113171).
_NOT_REACHABLE = """
0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 192.0.0.0/24
192.0.2.0/24 192.88.99.0/24 192.168.0.0/16 198.18.0.0/15 198.51.100.0/24 203.0.113.0/24 240.0.0.0/4
::/127 ::ffff:0:0/96 64:ff9b:1::/48 100::/64 100:0:0:1::/64 2001::/23 2001:db8::/32 2002::/16
3fff::/20 5f00::/16 fc00::/7 fe80::/10
"""
# What they call reachable within those ranges.
_BUT_REACHABLE = """
192.0.0.9/32 192.0.0.10/32 2001:1::1/128 2001:1::2/128 2001:1::3/128 2001:3::/32 2001:4:112::/48
2001:20::/28 2001:30::/28
"""
# Without a registered special purpose: multicast, and a cloud's own services at a public address.
_OTHERS = """
224.0.0.0/4 168.63.129.16/32
"""
_CLOSED = [ip_network(range_) for range_ in (_NOT_REACHABLE + _OTHERS).split()]
_OPEN = [ip_network(range_) for range_ in _BUT_REACHABLE.split()]
_UNICAST = ip_network("2000::/3")  # all that is assigned of IPv6
_NAT64 = ip_network("64:ff9b::/96")
_TRIED = 3  # addresses of one name
_BUFFER = 256 * 1024  # bytes that wait to be read; the longest line of a head, as in Chromium


def is_public(address: str) -> bool:
    """Whether an IPv4 or IPv6 address is of the public network.

    One that is translated to an IPv4 address (mapped, NAT64) is as public as that. Tunnels (6to4,
    Teredo) are not: the registry leaves them open, and no server of pictures lives there.
    """
    ip = ip_address(address.partition("%")[0])
    if isinstance(ip, IPv6Address):
        inner = ip_address(int(ip) & 0xFFFFFFFF) if ip in _NAT64 else ip.ipv4_mapped
        if inner:
            return is_public(str(inner))
        if ip not in _UNICAST:
            return False
    return any(ip in range_ for range_ in _OPEN) or not any(ip in range_ for range_ in _CLOSED)


class PublicNetwork:
    """Opens connections to public addresses, and for the `allowed` `host:port` to any."""

    def __init__(self, allowed: Collection[str]) -> None:
        self._allowed = {entry.lower().replace("[", "").replace("]", "") for entry in allowed}
        self._tls = httpcore2.default_ssl_context()

    async def connect(self, url: URL, seconds: float) -> tuple[StreamReader, StreamWriter]:
        """Connect to the first address of `url` that takes it, each given its share of `seconds`.

        Raises ImageError: `not_public` if any address is not, `no_address` if there is none,
        `bad_certificate` or `unreachable`.
        """
        host, secure = url.hostname.strip("[]"), url.protocol == "https:"
        port = int(url.port or (443 if secure else 80))
        addresses = await _resolve(host, port)
        private = [address for address in addresses if not is_public(address)]
        if private and f"{host}:{port}" not in self._allowed:
            raise ImageError("not_public", f"{host}:{port} is {private[0]}, not a public address")
        # The certificate is for the name that the link has, not for the address found.
        tls, name = (self._tls, host) if secure else (None, None)
        failure = ImageError("no_address", host)
        for address in addresses[:_TRIED]:
            try:
                async with asyncio.timeout(seconds / min(len(addresses), _TRIED)):
                    return await asyncio.open_connection(
                        address, port, limit=_BUFFER, ssl=tls, server_hostname=name
                    )
            except OSError as error:  # an SSLError and a TimeoutError too
                certificate = isinstance(error, ssl.SSLError)
                reason: Reason = "bad_certificate" if certificate else "unreachable"
                failure = ImageError(reason, f"{type(error).__name__}: {error}"[:200])
        raise failure


async def _resolve(host: str, port: int) -> list[str]:
    """All addresses of a name, in the system's order of preference."""
    try:
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        # "Try again" is the resolver's fault, not the name's.
        reason: Reason = "unreachable" if error.errno == socket.EAI_AGAIN else "no_address"
        raise ImageError(reason, f"{host}: {error.strerror}") from error
    except (ValueError, OverflowError) as error:  # a label too long, a port too high
        raise ImageError("bad_url", f"{host}:{port}: {error}") from error
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))
