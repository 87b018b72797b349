"""Connecting to public addresses alone: links come from strangers' pages, and may point into the machine's own network.

A name is resolved once, all its addresses are checked, and exactly a checked one is connected to. Redirects, names
that change their address and odd ways to write a number all end here. TLS goes on to verify the name.
"""

import asyncio
import socket
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any

import httpcore2

from vislib.pixels import ImageError

_UNICAST, _TRANSLATED = ip_network("2000::/3"), ip_network("64:ff9b::/96")
# What Python's is_global leaves in: tunnels (IPv6 that hides IPv4, relays), documentation, a cloud's own services.
_SPECIAL = [
    ip_network(network)
    for network in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20", "192.88.99.0/24", "168.63.129.16/32")
]
_TRIED = 3  # addresses of one name


def is_public(address: str) -> bool:
    """Whether an IPv4 or IPv6 address is of the public network; one that stands for an IPv4 address counts as that."""
    ip = ip_address(address.partition("%")[0])
    if isinstance(ip, IPv6Address) and (ip.ipv4_mapped or ip in _TRANSLATED):
        ip = IPv4Address(int(ip) & 0xFFFFFFFF)
    usual = ip in _UNICAST if ip.version == 6 else ip.is_global and not ip.is_multicast
    return usual and not any(ip in network for network in _SPECIAL)


class PublicNetwork(httpcore2.AsyncNetworkBackend):
    """Opens connections to public addresses, and for the `allowed` `host:port` to any."""

    def __init__(self, allowed: Collection[str], *, resolvers: int) -> None:
        self._allowed = {entry.lower().replace("[", "").replace("]", "") for entry in allowed}
        self._inner = httpcore2.AnyIOBackend()
        self._resolvers = ThreadPoolExecutor(resolvers, "resolve")  # the loop's own are few: names would queue

    async def connect_tcp(
        self, host: str, port: int, timeout: float | None = None, local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:  # fmt: skip
        """Connect to the first address that takes it, each given its share of `timeout` seconds.

        Raises ImageError `not_public` if any address of `host` is not, `no_address` if there is none.
        """
        addresses = await self._resolve(host, port)
        private = [address for address in addresses if not is_public(address)]
        if private and f"{host}:{port}" not in self._allowed:
            raise ImageError("not_public", f"{host}:{port} is {private[0]}, not a public address")
        for address in (tried := addresses[:_TRIED]):
            try:
                share = timeout and timeout / len(tried)
                return await self._inner.connect_tcp(address, port, share, local_address, socket_options)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout):
                if address == tried[-1]:
                    raise
        raise ImageError("no_address", host)

    async def _resolve(self, host: str, port: int) -> list[str]:
        """All addresses of a name, in the system's order of preference."""
        loop = asyncio.get_running_loop()
        try:
            found = await loop.run_in_executor(self._resolvers, _lookup, host, port)
        except socket.gaierror as error:
            if error.errno == socket.EAI_AGAIN:  # the resolver's fault, not the name's
                raise httpcore2.ConnectError(f"{host}: {error.strerror}") from error
            raise ImageError("no_address", f"{host}: {error.strerror}") from error
        except (ValueError, OverflowError) as error:  # a label too long, a port too high
            raise ImageError("bad_url", f"{host}:{port}: {error}") from error
        return list(dict.fromkeys(str(entry[4][0]) for entry in found))

    def close(self) -> None:
        """Resolve no more names."""
        self._resolvers.shutdown(wait=False, cancel_futures=True)


def _lookup(host: str, port: int) -> list[Any]:
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
