"""`vislib.fetching.addresses`: no connection leaves for an address that is not public, asserted on
real sockets.
"""

import asyncio
import os
import socket
import ssl
import subprocess
import threading
from contextlib import suppress
from ipaddress import ip_network

import pytest

from tests.test_fetching import allowing, fetch
from tests.web_server import answer, web_server
from vislib.fetching.addresses import is_public
from vislib.runs import InputError

PUBLIC = """
8.8.8.8 1.1.1.1 172.15.0.1 172.32.0.1 100.128.0.1 2606:4700::1111 2a00:1450:4001::200e ::ffff:8.8.8.8 64:ff9b::808:808
"""  # noqa: E501
INNER = """
127.0.0.1 127.9.9.9 0.0.0.0 0.1.2.3 10.0.0.1 172.16.0.1 172.31.255.255 192.168.1.1 169.254.169.254 100.64.0.1
100.100.100.200 168.63.129.16 192.0.0.1 192.0.2.1 192.88.99.1 198.18.0.1 203.0.113.1 224.0.0.1 239.1.1.1 240.0.0.1
255.255.255.255 :: ::1 ::7f00:1 fe80::1 fe80::1%eth0 fc00::1 fd00:ec2::254 fec0::1 ff02::1 ::ffff:127.0.0.1
::ffff:10.0.0.1 ::ffff:0:a00:1 64:ff9b::7f00:1 64:ff9b::a9fe:a9fe 64:ff9b:1::808:808 2002:7f00:1::1
2002:808:808::1 2001:0:808:808::f7f7:f7f7 2001:0:808:808::80ff:fffe 2001:0:7f00:1::f7f7:f7f7 2002:a9fe:a9fe::1 2001::1
2001:0:7f00:1:: 2001:db8::1 3fff::1 100::1 4000::1 5f00::1
"""  # noqa: E501


# IANA's special-purpose registries, as of 2025-10-09, by "globally reachable" (no value: False).
NOT_REACHABLE = """
0.0.0.0/8 0.0.0.0/32 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 192.0.0.0/24 192.0.0.0/29
192.0.0.8/32 192.0.0.170/32 192.0.0.171/32 192.0.2.0/24 192.88.99.0/24 192.88.99.2/32 192.168.0.0/16 198.18.0.0/15
198.51.100.0/24 203.0.113.0/24 240.0.0.0/4 255.255.255.255/32
::1/128 ::/128 64:ff9b:1::/48 100::/64 100:0:0:1::/64 2001::/23 2001:2::/48 2001:10::/28 2001:db8::/32 3fff::/20
2002::/16 5f00::/16 fc00::/7 fe80::/10
"""  # noqa: E501
REACHABLE = """
192.0.0.9/32 192.0.0.10/32 192.31.196.0/24 192.52.193.0/24 192.175.48.0/24
2001:1::1/128 2001:1::2/128 2001:1::3/128 2001:3::/32 2001:4:112::/48 2001:20::/28 2001:30::/28 2620:4f:8000::/48
"""  # noqa: E501


def test_what_is_public():
    assert [address for address in PUBLIC.split() if not is_public(address)] == []
    assert [address for address in INNER.split() if is_public(address)] == []


def test_public_is_what_the_registries_say():
    """Not what the interpreter's patch release knows of them: 192.0.0.192 serves a cloud's
    metadata.
    """
    ends = {
        name: (ip_network(name)[0], ip_network(name)[-1])
        for name in (NOT_REACHABLE + REACHABLE).split()
    }
    public = {name for name, both in ends.items() if all(is_public(str(ip)) for ip in both)}
    inner = {name for name, both in ends.items() if not any(is_public(str(ip)) for ip in both)}
    assert public == set(REACHABLE.split())
    assert inner == set(NOT_REACHABLE.split())
    assert not any(
        map(
            is_public,
            ("192.0.0.192", "192.0.0.11", "192.0.0.255", "2001:1::4", "::ffff:192.0.0.192"),
        )
    )


def test_no_inner_address_is_connected_to_however_it_is_written(tmp_path, monkeypatch):
    with web_server() as inner, web_server() as allowed:
        port = inner.port
        hosts = [
            "127.0.0.1",
            "127.1",
            "2130706433",
            "0x7f000001",
            "0x7f.1",
            "0177.0.0.1",
            "localhost",
            "LOCALHOST.",
            "[::1]",
            "[::ffff:127.0.0.1]",
            "[::ffff:7f00:1]",
            "0",
            "0.0.0.0",
            "①②⑦.⓪.⓪.①",
        ]
        links = [f"http://{host}:{port}/x" for host in hosts]
        raw = [link.encode().decode("latin-1") for link in links]
        locations = {f"/{n}": {"Location": link} for n, link in enumerate(raw)}
        allowed.script = lambda path, n: (
            answer(302, headers=locations[path]) if path in locations else None
        )
        urls = [
            *links,
            f"http://127.0.0.1@{allowed.host}/",
            f"http://localhost:{allowed.port}/",
            *(allowed.url + path for path in locations),
            f"{allowed.url}/fine",
        ]
        found, metrics = fetch(tmp_path, urls, monkeypatch, **allowing(allowed))
        assert inner.connections == 0
    reasons = list(found.values())
    assert reasons.pop() == "ok"
    assert set(reasons) <= {
        "not_public",
        "bad_url",
        "no_address",
    }  # odd notations may not resolve at all
    assert reasons.count("not_public") >= len(reasons) - 10
    assert metrics["details"][links[0]] == f"127.0.0.1:{port} is 127.0.0.1, not a public address"
    assert (
        found[f"http://localhost:{allowed.port}/"] == "not_public"
    )  # allow_hosts means the host as it is written


@pytest.fixture
def names(monkeypatch):
    """Names of the test's own, each with its addresses, or a list of answers in turn."""
    book: dict[str, list[list[str]]] = {}
    system = socket.getaddrinfo

    def lookup(host, port, *args, **kwargs):
        if host not in book:
            return system(host, port, *args, **kwargs)
        addresses = book[host].pop(0) if len(book[host]) > 1 else book[host][0]
        kind = [socket.AF_INET6 if ":" in address else socket.AF_INET for address in addresses]
        return [
            (k, socket.SOCK_STREAM, 6, "", (a, port)) for k, a in zip(kind, addresses, strict=True)
        ]

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    return book


@pytest.fixture
def dialled(monkeypatch):
    """Addresses that connections go to; public ones are not reached from here."""
    seen: list[str] = []
    connect = asyncio.open_connection

    async def open_connection(address, *args, **kwargs):
        seen.append(address)
        if is_public(address):
            raise OSError("far away")
        return await connect(address, *args, **kwargs)

    monkeypatch.setattr(asyncio, "open_connection", open_connection)
    return seen


def test_exactly_the_checked_address_is_connected_to(tmp_path, monkeypatch, names, dialled):
    with web_server() as server:
        names |= {
            "turning.example": [
                ["8.8.8.8"],
                ["127.0.0.1"],
            ],  # public when first asked, not when asked again
            "mixed.example": [["8.8.4.4", "127.0.0.1"]],
            "inner.example": [["127.0.0.1"]],
            "six.example": [["2606:4700::1111", "1.1.1.1", "1.0.0.1", "9.9.9.9"]],
        }
        urls = [f"http://{name}:{server.port}/" for name in names]
        found, _ = fetch(tmp_path, [*urls, f"{server.url}/fine"], monkeypatch, **allowing(server))
        assert server.connections == 1
    assert list(found.values()) == ["not_public", "not_public", "not_public", "unreachable", "ok"]
    assert sorted(dialled) == sorted(
        ["8.8.8.8", "127.0.0.1", *["2606:4700::1111", "1.1.1.1", "1.0.0.1"] * 2]
    )  # the second attempt at turning.example went nowhere


def test_allow_hosts_names_exact_hosts(tmp_path, monkeypatch, names):
    with web_server() as server, web_server() as other:
        names["archive.example"] = [["127.0.0.1"]]
        ports = [server.port, other.port]
        urls = [
            f"http://{host}:{port}/" for host in ("archive.example", "127.0.0.1") for port in ports
        ]
        found, _ = fetch(
            tmp_path, urls, monkeypatch, allow_hosts=[f"Archive.Example:{server.port}"]
        )
        assert other.connections == 0
        assert f"Host: archive.example:{server.port}" in server.heads[0]
    assert list(found.values()) == ["ok", *["not_public"] * 3]


def test_no_proxy_of_the_environment_is_used(tmp_path, monkeypatch):
    with web_server() as proxy, web_server() as server:
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        found, _ = fetch(tmp_path, [f"{server.url}/a"], monkeypatch, **allowing(server))
        assert proxy.connections == 0
    assert list(found.values()) == ["ok"]


def certified(folder, alternative: str) -> tuple[ssl.SSLContext, str]:
    """A server's TLS with a certificate of its own for that name, and the certificate's file."""
    files = [str(folder / name) for name in ("key.pem", "certificate.pem")]
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj"
        " /CN=t -keyout "
    )
    command += f"{files[0]} -out {files[1]} -addext subjectAltName={alternative}"
    subprocess.run(command.split(), check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files[1], files[0])
    return context, files[1]


def test_a_bad_tls_record_costs_its_link_alone(tmp_path, monkeypatch):
    context, file = certified(tmp_path, "IP:127.0.0.1")
    monkeypatch.setenv("SSL_CERT_FILE", file)
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        for _ in range(2):  # an attempt, and another
            with context.wrap_socket(listening.accept()[0], server_side=True) as stream:
                stream.recv(4000)
                stream.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\nabc")
                os.write(
                    stream.fileno(), b"\x17\x03\x03\x00\x20" + bytes(32)
                )  # past the encryption
                with suppress(ssl.SSLError):  # the client says what it thinks of it
                    stream.recv(1)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    host = f"127.0.0.1:{listening.getsockname()[1]}"
    with web_server() as plain, listening:
        found, metrics = fetch(
            tmp_path,
            [f"https://{host}/a", f"{plain.url}/b"],
            monkeypatch,
            allow_hosts=[host, plain.host],
        )
    assert list(found.values()) == ["disconnected", "ok"]
    assert metrics["requests"] == 3


def test_tls_verifies_the_name_that_the_link_has(tmp_path, monkeypatch, names):
    context, file = certified(tmp_path, "DNS:secure.example")
    names |= {name: [["127.0.0.1"]] for name in ("secure.example", "other.example")}
    with web_server(tls=context) as server, web_server() as plain:
        context.sni_callback = lambda socket, name, context: server.names.append(name)
        urls = [
            f"https://{name}:{server.port}/a"
            for name in ("secure.example", "other.example", "127.0.0.1")
        ]
        urls += [
            f"http://secure.example:{server.port}/",
            f"https://127.0.0.1:{plain.port}/",
            f"{plain.url}/a",
        ]
        allowed = {"allow_hosts": [url.split("/")[2] for url in urls]}
        unknown, _ = fetch(tmp_path / "unknown", urls, monkeypatch, **allowed)
        monkeypatch.setenv("SSL_CERT_FILE", file)
        known, metrics = fetch(tmp_path / "known", urls, monkeypatch, **allowed)
    assert list(unknown.values()) == [*["bad_certificate"] * 3, "disconnected", "unreachable", "ok"]
    assert list(known.values()) == [
        "ok",
        *["bad_certificate"] * 2,
        "disconnected",
        "unreachable",
        "ok",
    ]
    assert "Hostname mismatch" in metrics["details"][urls[1]]
    assert set(server.names) == {"secure.example", "other.example", None}


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({}, "2 as 'not_public'.*allow_hosts names them, as host:port"),
        (
            {"allow_hosts": ["http://127.0.0.1"]},
            "allow_hosts has 'http://127.0.0.1'; write host:port",
        ),
        ({"allow_hosts": [8765]}, "allow_hosts has 8765"),
        ({"user_agent": "name\r\nX-More: 1"}, "user_agent is 'name"),
        ({"user_agent": "name "}, "user_agent is 'name '"),
        ({"user_agent": ""}, "user_agent is ''"),
    ],
)
def test_one_message_says_what_to_mend(tmp_path, monkeypatch, parameters, message):
    with pytest.raises(InputError, match=message):
        fetch(tmp_path, ["http://127.0.0.1:9/a", "http://10.0.0.1/b"], monkeypatch, **parameters)
