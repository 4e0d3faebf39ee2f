"""A web site on loopback that counts as public, and a hub."""

import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_hub import table as table  # a fixture
from web_site import Site, running
from web_site import hub as hub  # the fixture

from animatediff.fetch import network
from animatediff.fetch.rules import DownloadRules
from lab.hostile.certificates import make_certificate


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture(scope="session")
def tls(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


@pytest.fixture(autouse=True)
def _environment(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    monkeypatch.setattr(network, "is_public", lambda _address: True)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setattr(network, "RETRY_DELAYS", (0.01, 0.02))


@pytest.fixture
def site(tls: ssl.SSLContext) -> Iterator[Site]:
    with running(Site(tls)) as site:
        yield site


@pytest.fixture
def rules(tmp_path: Path) -> DownloadRules:
    return DownloadRules(tmp_path / "cache", max_bytes=1_000_000)


@pytest.fixture
def resolves(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """Names that resolve to these addresses, like lines of a hosts file. No other name
    does.
    """
    known: dict[str, list[str]] = {}
    real = socket.getaddrinfo

    def look_up(host: str, port: int, *args: Any, **options: Any) -> list:
        if host.replace(".", "").isdigit():
            return real(host, port, *args, **options)
        if host not in known:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
            for address in known[host]
        ]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return known
