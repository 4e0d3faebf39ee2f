"""Downloads from a real HTTPS server on loopback."""

import errno
import gzip
import hashlib
import itertools
import json
import os
import signal
import socket
import ssl
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from web_site import (
    CONTENT,
    SECRET,
    SHA256,
    Answer,
    Site,
    failure,
    files_of,
    leftovers,
    running,
)

from animatediff.deadline import Deadline
from animatediff.errors import JobCancelled
from animatediff.fetch import byte_count, network
from animatediff.fetch.cache import fetch_url
from animatediff.fetch.network import fetch_bytes, is_public
from animatediff.fetch.rules import DownloadRules
from animatediff.progress import Progress
from lab.hostile.certificates import make_certificate


def test_a_file_is_named_by_its_content(site: Site, rules: DownloadRules) -> None:
    url = site.gives(Answer())
    path = fetch_url(url, rules, suffix=".safetensors")
    assert path == rules.cache_dir / "files" / f"{SHA256}.safetensors"
    assert path.read_bytes() == CONTENT
    index = f"urls/{hashlib.sha256(url.encode()).hexdigest()}.json"
    assert files_of(rules) == [
        f"downloads/{SHA256}",
        f"files/{SHA256}.safetensors",
        index,
    ]
    assert json.loads((rules.cache_dir / index).read_text()) == {
        "sha256": SHA256,
        "etag": None,
    }


def test_with_an_etag_the_second_call_brings_no_body(
    site: Site, rules: DownloadRules
) -> None:
    url = site.gives(Answer(headers={"ETag": '"one"'}))
    first = fetch_url(url, rules)
    changed = first.stat().st_mtime_ns
    assert fetch_url(url, rules) == first
    assert first.stat().st_mtime_ns == changed
    assert [headers.get("if-none-match") for _, _, headers in site.asked] == [
        None,
        '"one"',
    ]


def test_a_changed_file_is_fetched_and_the_old_one_stays(
    site: Site, rules: DownloadRules
) -> None:
    url = site.gives(
        Answer(headers={"ETag": '"one"'}), Answer(b"newer", headers={"ETag": '"two"'})
    )
    first, second = fetch_url(url, rules), fetch_url(url, rules)
    assert (first.read_bytes(), second.read_bytes()) == (CONTENT, b"newer")
    assert fetch_url(url, rules) == second
    assert site.asked[-1][2]["if-none-match"] == '"two"'


def test_without_an_etag_it_is_fetched_anew(site: Site, rules: DownloadRules) -> None:
    url = site.gives(Answer(), Answer(b"newer"))
    fetch_url(url, rules)
    assert fetch_url(url, rules).read_bytes() == b"newer"
    assert "if-none-match" not in site.asked[1][2]


@pytest.mark.parametrize(
    "damage", ["", "{", "[]", '{"sha256": 1}', '{"sha256": "", "etag": "x"}']
)
def test_a_damaged_index_is_fetched_over(
    damage: str, site: Site, rules: DownloadRules
) -> None:
    url = site.gives(Answer(headers={"ETag": '"one"'}))
    path = fetch_url(url, rules)
    next((rules.cache_dir / "urls").iterdir()).write_text(damage)
    assert fetch_url(url, rules) == path
    assert "if-none-match" not in site.asked[1][2]


def test_a_file_lost_from_the_cache_is_fetched_again(
    site: Site, rules: DownloadRules
) -> None:
    url = site.gives(Answer(headers={"ETag": '"one"'}))
    fetch_url(url, rules).unlink()
    assert fetch_url(url, rules).read_bytes() == CONTENT


def test_a_known_hash_is_not_asked_for_twice(site: Site, rules: DownloadRules) -> None:
    url = site.gives(Answer())
    path = fetch_url(url, rules, sha256=SHA256.upper(), suffix=".bin")
    assert fetch_url(url, rules, sha256=SHA256, suffix=".bin") == path
    assert len(site.asked) == 1


@pytest.mark.parametrize("query", ["", f"?sig={SECRET}", f"?a=1&token={SECRET}"])
def test_who_knows_only_the_hash_gets_no_file_of_a_secret_url(
    query: str, site: Site, rules: DownloadRules
) -> None:
    """Neither by another host's URL, nor by the secret one without its query."""
    private = (
        site.gives(Answer(headers={"ETag": '"one"'}), path="/private/path") + query
    )
    path = fetch_url(private, rules, sha256=SHA256)
    site.gives(Answer(b"", 403), path="/private/path")
    other = site.gives(Answer(b"something else"), path="/other")
    stale = site.gives(Answer(b"", 304), path="/always-current")
    for url in (other, stale, site.url("/private/path?sig=guess")):
        failure(lambda url=url: fetch_url(url, rules, sha256=SHA256))
        failure(lambda url=url: fetch_url(url, replace(rules, offline=True)))
    if query:
        bare = site.url("/private/path")
        failure(lambda: fetch_url(bare, rules, sha256=SHA256))
    assert fetch_url(private, rules, sha256=SHA256) == path


def test_a_file_put_into_the_cache_by_hand_is_for_all_who_name_its_hash(
    site: Site, rules: DownloadRules
) -> None:
    path = rules.cache_dir / "files" / f"{SHA256}.safetensors"
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    url = site.url("/style.safetensors")
    assert fetch_url(url, rules, sha256=SHA256, suffix=".safetensors") == path
    assert site.asked == []
    other = site.url("/other.safetensors")
    failure(lambda: fetch_url(other, rules, suffix=".safetensors"))
    path.write_bytes(CONTENT + b"more")  # it is no longer what its name says
    failure(lambda: fetch_url(other, rules, sha256=SHA256, suffix=".safetensors"))


def test_a_url_that_was_signed_anew_brings_no_body_if_the_server_knows_it(
    site: Site, rules: DownloadRules
) -> None:
    site.gives(Answer(headers={"ETag": '"one"'}))
    first = fetch_url(site.url("/file.bin?sig=1"), rules, sha256=SHA256)
    changed = first.stat().st_mtime_ns
    assert fetch_url(site.url("/file.bin?sig=2"), rules, sha256=SHA256) == first
    assert first.stat().st_mtime_ns == changed
    assert site.asked[-1][2]["if-none-match"] == '"one"'
    # without the hash, the query may choose another file with the same ETag
    fetch_url(site.url("/file.bin?sig=3"), rules)
    assert "if-none-match" not in site.asked[-1][2]


def test_a_wrong_hash_keeps_nothing(site: Site, rules: DownloadRules) -> None:
    expected = "0" * 64
    error = failure(lambda: fetch_url(site.gives(Answer()), rules, sha256=expected))
    assert not error.retryable
    assert (error.details["expected"], error.details["got"]) == (expected, SHA256)
    assert expected in error.message
    assert SHA256 in error.message
    assert leftovers(rules) == []
    assert len(site.asked) == 1


@pytest.mark.parametrize("sha256", ["", "../../x", "g" * 64, "0" * 63, "0" * 64 + "\n"])
def test_what_is_no_hash_becomes_no_path(
    sha256: str, site: Site, rules: DownloadRules
) -> None:
    assert not failure(
        lambda: fetch_url(site.gives(Answer()), rules, sha256=sha256)
    ).retryable
    assert site.asked == []


@pytest.mark.parametrize(
    "length", [None, -1], ids=["Content-Length", "no Content-Length"]
)
@pytest.mark.parametrize("fetch", [fetch_url, fetch_bytes])
def test_the_size_is_capped(
    fetch: Callable, length: int | None, site: Site, rules: DownloadRules
) -> None:
    url = site.gives(Answer(length=length))
    fetch(url, replace(rules, max_bytes=len(CONTENT)))
    error = failure(
        lambda: fetch(
            url, DownloadRules(rules.cache_dir / "b", max_bytes=len(CONTENT) - 1)
        )
    )
    assert not error.retryable
    assert error.details["limit"] == len(CONTENT) - 1
    assert leftovers(DownloadRules(rules.cache_dir / "b", 0)) == []
    assert len(site.asked) == 2


def test_a_body_that_is_announced_as_too_large_is_not_read(
    site: Site, rules: DownloadRules
) -> None:
    sent_all = threading.Event()
    url = site.gives(Answer(length=10**12, hook=sent_all.wait))
    assert "larger" in failure(lambda: fetch_bytes(url, rules)).message
    sent_all.set()


def test_the_cap_counts_what_is_unpacked(site: Site, rules: DownloadRules) -> None:
    packed = gzip.compress(bytes(10_000_000))
    assert len(packed) < 20_000
    url = site.gives(Answer(packed, headers={"Content-Encoding": "gzip"}))
    assert "larger" in failure(lambda: fetch_url(url, rules)).message
    assert site.asked[0][2]["accept-encoding"] == "identity"
    assert leftovers(rules) == []


@pytest.mark.parametrize("fetch", [fetch_url, fetch_bytes])
def test_a_body_that_ends_early_is_an_error(
    fetch: Callable, site: Site, rules: DownloadRules
) -> None:
    error = failure(lambda: fetch(site.gives(Answer(length=len(CONTENT) + 1)), rules))
    assert error.retryable
    assert len(site.asked) == 3
    assert leftovers(rules) == []


def test_a_chunked_body_that_ends_early_is_an_error(
    site: Site, rules: DownloadRules
) -> None:
    chunked = {"Transfer-Encoding": "chunked"}
    whole = site.gives(
        Answer(b"5\r\nhello\r\n0\r\n\r\n", headers=chunked, length=-1), path="/whole"
    )
    assert fetch_bytes(whole, rules) == b"hello"
    for cut in (b"5\r\nhello\r\n", b"5\r\nhel", b"5\r\nhello\r\nx\r\n"):
        url = site.gives(Answer(cut, headers=chunked, length=-1), path="/cut")
        assert failure(lambda url=url: fetch_url(url, rules)).retryable
    assert leftovers(rules) == []


@pytest.mark.parametrize(
    ("status", "retryable"),
    [(404, False), (403, False), (204, False), (304, False), (429, True), (500, True)],
)
def test_other_answers(
    status: int, retryable: bool, site: Site, rules: DownloadRules
) -> None:
    error = failure(lambda: fetch_url(site.gives(Answer(b"", status)), rules))
    assert error.retryable is retryable
    assert error.details["status"] == status
    assert len(site.asked) == (3 if retryable else 1)
    assert leftovers(rules) == []


def test_a_server_that_is_busy_twice_is_asked_three_times(
    site: Site, rules: DownloadRules
) -> None:
    busy = Answer(b"busy", 503)
    assert fetch_url(site.gives(busy, busy, Answer()), rules).read_bytes() == CONTENT
    assert fetch_bytes(site.gives(busy, Answer()), rules) == CONTENT


def test_a_server_that_is_always_busy(site: Site, rules: DownloadRules) -> None:
    error = failure(lambda: fetch_url(site.gives(Answer(b"busy", 503)), rules))
    assert error.retryable
    assert "503" in error.message
    assert len(site.asked) == 3


def test_redirects_are_followed(site: Site, rules: DownloadRules) -> None:
    site.gives(Answer(headers={"ETag": '"one"'}), path="/there/file.bin")
    for status in (301, 302, 303, 307, 308):
        url = site.gives(
            Answer(b"", status, {"Location": "there/file.bin"}), path=f"/{status}"
        )
        assert fetch_bytes(url, rules) == CONTENT
    first = fetch_url(url, rules)
    assert fetch_url(url, rules) == first
    assert site.asked[-1][1:] == ("/there/file.bin", site.asked[-1][2])
    assert site.asked[-1][2]["if-none-match"] == '"one"'


def test_redirects_end(site: Site, rules: DownloadRules) -> None:
    for number in range(6):
        site.gives(Answer(b"", 302, {"Location": f"/{number + 1}"}), path=f"/{number}")
    site.gives(Answer(), path="/6")
    assert fetch_bytes(site.url("/1"), rules) == CONTENT
    site.asked.clear()
    assert not failure(lambda: fetch_bytes(site.url("/0"), rules)).retryable
    assert len(site.asked) == 6
    assert not failure(
        lambda: fetch_bytes(site.gives(Answer(b"", 302)), rules)
    ).retryable


@pytest.mark.parametrize(
    "location",
    [
        "https://[",
        "https://user:pw@127.0.0.1/",
        "https://",
        "https://a b/",
        "//x:99999/",
    ],
)
def test_redirects_to_what_is_no_url(
    location: str, site: Site, rules: DownloadRules
) -> None:
    assert not failure(
        lambda: fetch_bytes(site.gives(Answer(b"", 302, {"Location": location})), rules)
    ).retryable


def test_http_is_not_fetched_not_even_on_the_way(
    site: Site, rules: DownloadRules
) -> None:
    with running(Site(None)) as plain:
        plain.gives(
            Answer(b"", 302, {"Location": site.gives(Answer(), path="/final")}),
            path="/hop",
        )
        plain.gives(Answer())
        for url in (
            plain.url(),
            plain.url("/hop"),
            f"ftp://127.0.0.1:{plain.server_port}/x",
        ):
            assert "https" in failure(lambda url=url: fetch_url(url, rules)).message
            detour = site.gives(Answer(b"", 302, {"Location": url}))
            error = failure(lambda detour=detour: fetch_url(detour, rules))
            assert "https" in error.message
            assert not error.retryable
        assert plain.asked == []
    assert len(site.asked) == 3
    assert leftovers(rules) == []


@pytest.mark.parametrize(
    ("hosts", "host", "allowed"),
    [
        (None, "files.example.org", True),
        (("files.example.org",), "files.example.org", True),
        (("Files.Example.org",), "FILES.example.ORG", True),
        (("files.example.org",), "other.example.org", False),
        (("example.org",), "files.example.org", False),
        ((".example.org",), "files.example.org", True),
        ((".example.org",), "example.org", False),
        ((".ple.org",), "example.org", False),
        (("a.org", "example.org"), "example.org", True),
        ((), "example.org", False),
    ],
)
def test_hosts_of_urls(
    hosts: tuple[str, ...] | None,
    host: str,
    allowed: bool,
    site: Site,
    rules: DownloadRules,
    resolves: dict[str, list[str]],
) -> None:
    resolves[host.lower()] = ["127.0.0.1"]
    site.gives(Answer())
    rules = replace(rules, hosts=hosts)
    if allowed:
        assert fetch_bytes(site.url(host=host), rules) == CONTENT
        assert fetch_url(site.url(host=host), rules).read_bytes() == CONTENT
    else:
        for fetch in (fetch_bytes, fetch_url):
            assert (
                "not allowed"
                in failure(
                    lambda fetch=fetch: fetch(site.url(host=host), rules)
                ).message
            )
        assert site.asked == []


def test_hosts_of_redirects(
    site: Site, rules: DownloadRules, resolves: dict[str, list[str]]
) -> None:
    resolves.update(
        {
            name: ["127.0.0.1"]
            for name in ("example.org", "cdn.example.org", "localhost")
        }
    )
    rules = replace(rules, hosts=("example.org", "cdn.example.org"))
    site.gives(Answer(), path="/final")
    site.gives(
        Answer(b"", 302, {"Location": site.url("/final", "cdn.example.org")}),
        path="/good",
    )
    site.gives(
        Answer(b"", 302, {"Location": site.url("/good", "localhost")}), path="/detour"
    )
    assert fetch_bytes(site.url("/good", "example.org"), rules) == CONTENT
    site.asked.clear()
    error = failure(lambda: fetch_bytes(site.url("/detour", "example.org"), rules))
    assert (
        "https://localhost/good is not fetched: downloads from this host are not"
        " allowed" in error.message
    )
    assert [path for _, path, _ in site.asked] == ["/detour"]


INTERNAL = (
    "https://127.0.0.1/",
    "https://127.1/",
    "https://2130706433/",
    "https://169.254.169.254/latest/meta-data",
    "https://10.0.0.1/",
    "https://[::1]/",
    "https://[::ffff:10.0.0.1]/",
    "https://0.0.0.0/",
    "https://100.64.0.1/",
)


@pytest.mark.parametrize("url", INTERNAL)
def test_internal_addresses_are_refused(
    url: str, rules: DownloadRules, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "is_public", is_public)
    for fetch in (fetch_bytes, fetch_url):
        error = failure(lambda fetch=fetch: fetch(url, rules))
        assert "not a public one" in error.message
        assert not error.retryable


@pytest.mark.parametrize("url", INTERNAL)
def test_redirects_to_internal_addresses_are_refused(
    url: str, site: Site, rules: DownloadRules, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first hop is on loopback and must be allowed; from its answer on nothing
    internal is.
    """
    moved = Answer(
        b"",
        302,
        {"Location": url},
        hook=lambda: monkeypatch.setattr(network, "is_public", is_public),
    )
    error = failure(lambda: fetch_bytes(site.gives(moved), rules))
    assert "not a public one" in error.message
    assert not error.retryable
    assert len(site.asked) == 1


def test_a_name_of_an_internal_address_is_refused(
    site: Site,
    rules: DownloadRules,
    resolves: dict[str, list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(network, "is_public", is_public)
    site.gives(Answer())
    for addresses in (["127.0.0.1"], ["93.184.215.14", "127.0.0.1"]):
        resolves["example.org"] = addresses
        error = failure(
            lambda: fetch_url(
                site.url(host="example.org"), replace(rules, hosts=("example.org",))
            )
        )
        assert "not a public one" in error.message
    assert site.asked == []


def test_the_first_address_that_answers_is_taken(
    site: Site, rules: DownloadRules, resolves: dict[str, list[str]]
) -> None:
    resolves["example.org"] = ["127.0.0.2", "127.0.0.1"]  # nothing listens at the first
    site.gives(Answer())
    assert fetch_bytes(site.url(host="example.org"), rules) == CONTENT


def test_a_name_is_looked_up_once(
    site: Site,
    rules: DownloadRules,
    resolves: dict[str, list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The name is resolved once, so the checked address is the one that is used."""
    resolves["example.org"] = ["127.0.0.1"]
    names, real = [], socket.getaddrinfo

    def look_up(host: str, *rest: Any, **options: Any) -> list:
        names.append(host)
        return real(host, *rest, **options)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    site.gives(Answer())
    assert fetch_bytes(site.url(host="example.org"), rules) == CONTENT
    assert names.count("example.org") == 1


def test_a_name_without_an_address(
    rules: DownloadRules, resolves: dict[str, list[str]]
) -> None:
    assert resolves == {}
    error = failure(lambda: fetch_bytes("https://nowhere.example.org/x", rules))
    assert "no address" in error.message
    assert error.retryable


def test_a_proxy_is_not_used(
    site: Site, rules: DownloadRules, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(Site(None)) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url(""))
        assert (
            "proxy" in failure(lambda: fetch_bytes(site.gives(Answer()), rules)).message
        )
        assert proxy.asked == []


@pytest.mark.parametrize(
    "url",
    [
        "",
        "https://",
        "https:///path",
        "file.bin",
        "https://user:pw@example.org/",
        "https://user@example.org/",
        "https://example.org\\@other.org/",
        "https://example.org/a\nb",
        "https://exam\tple.org/",
        " https://example.org/",
        "https://example.org/a b",
        "https://example.org:99999/",
        "https://example.org:x/",
        "https://[::1/",
        "https://[fe80::1%25eth0]/",
        "https://exämple.org/",
        "https://example.org/\udc80",
        "https://example.org/\x00",
    ],
)
def test_malformed_urls(url: str, rules: DownloadRules) -> None:
    for fetch in (fetch_bytes, fetch_url):
        error = failure(lambda fetch=fetch: fetch(url, rules))
        assert "malformed" in error.message
        assert "pw" not in error.message.replace("password", "")
        assert not error.retryable


@pytest.mark.parametrize("host", ["a..b", "x" * 64 + ".org", "-", "..."])
def test_hosts_that_can_have_no_address(host: str, rules: DownloadRules) -> None:
    failure(lambda: fetch_bytes(f"https://{host}/", rules))


@pytest.mark.parametrize("offline_again", [False, True])
def test_offline(offline_again: bool, site: Site, rules: DownloadRules) -> None:
    offline = replace(rules, offline=True)
    url = site.gives(Answer(headers={"ETag": '"one"'} if offline_again else {}))
    for fetch in (fetch_bytes, fetch_url):
        error = failure(lambda fetch=fetch: fetch(url, offline))
        assert "may not be downloaded" in error.message
        assert not error.retryable
    assert site.asked == []
    path = fetch_url(url, rules)
    assert fetch_url(url, offline) == fetch_url(url, offline, sha256=SHA256) == path
    failure(lambda: fetch_url(url, offline, sha256="0" * 64))
    failure(lambda: fetch_url(url, offline, suffix=".other"))
    assert len(site.asked) == 1


def test_nobody_there(rules: DownloadRules) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    error = failure(lambda: fetch_url(f"https://127.0.0.1:{port}/x?{SECRET}", rules))
    assert error.retryable
    assert error.message == "https://127.0.0.1/x could not be fetched: ConnectionError"


def test_a_server_that_falls_silent(
    site: Site, rules: DownloadRules, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "TIMEOUTS", (5, 0.1))
    over = threading.Event()
    error = failure(lambda: fetch_url(site.gives(Answer(hook=over.wait)), rules))
    over.set()
    assert error.retryable
    assert len(site.asked) == 3
    assert leftovers(rules) == []


def test_a_certificate_nobody_vouches_for(
    site: Site, rules: DownloadRules, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(make_certificate(tmp_path)))
    error = failure(lambda: fetch_bytes(site.gives(Answer()), rules))
    assert not error.retryable
    assert "SSLError" in error.message
    assert site.asked == []


def test_a_certificate_of_another_host(
    site: Site, rules: DownloadRules, resolves: dict[str, list[str]]
) -> None:
    resolves["other.org"] = ["127.0.0.1"]
    assert not failure(lambda: fetch_bytes(site.url(host="other.org"), rules)).retryable
    assert site.asked == []


@pytest.mark.usefixtures("resolves")
def test_secrets_of_urls_are_never_shown(
    site: Site, rules: DownloadRules, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``failure`` looks for the secret; here are the ways to fail."""
    monkeypatch.setattr(network, "TIMEOUTS", (5, 0.05))
    over = threading.Event()
    query = f"?X-Amz-Signature={SECRET}#{SECRET}"
    answers = {
        "/missing": Answer(b"", 404),
        "/busy": Answer(SECRET.encode(), 503),
        "/large": Answer(length=10**9),
        "/endless": Answer(bytes(2_000_000), length=-1),
        "/short": Answer(length=10**5),
        "/silent": Answer(hook=over.wait),
        "/loop": Answer(b"", 302, {"Location": f"/loop{query}"}),
        "/http": Answer(b"", 302, {"Location": f"http://127.0.0.1/x{query}"}),
        "/unknown": Answer(
            b"", 302, {"Location": f"https://nowhere.example.org/x{query}"}
        ),
        "/user": Answer(b"", 302, {"Location": f"https://user:{SECRET}@127.0.0.1/x"}),
        "/garbled": Answer(b"no gzip", headers={"Content-Encoding": "gzip"}),
    }
    for path, answer in answers.items():
        site.gives(answer, path=path)
        for fetch in (fetch_bytes, fetch_url):
            error = failure(
                lambda fetch=fetch, path=path: fetch(site.url(path + query), rules)
            )
            assert (
                path == "/user"
                or "https://127.0.0.1/" in error.message
                or "/x" in error.message
            )
    over.set()
    site.gives(Answer())
    failure(lambda: fetch_url(site.url() + query, rules, sha256="0" * 64))
    failure(lambda: fetch_url(site.url() + query, replace(rules, offline=True)))
    failure(lambda: fetch_url(site.url() + query, replace(rules, hosts=("a.org",))))
    failure(lambda: fetch_url(f"http://127.0.0.1/{query}", rules))
    failure(lambda: fetch_url(f"https://user:{SECRET}@127.0.0.1/", rules))
    monkeypatch.setattr(network, "is_public", is_public)
    failure(lambda: fetch_url(site.url() + query, rules))
    assert leftovers(rules) == []


def test_a_cache_folder_that_cannot_be_written(site: Site, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("not a folder")
    error = failure(
        lambda: fetch_url(
            site.gives(Answer()), DownloadRules(tmp_path / "cache" / "x", 10**6)
        )
    )
    assert error.retryable
    assert error.message.endswith(f": {os.strerror(errno.ENOTDIR)}")
    assert str(tmp_path) not in json.dumps(error.to_dict())


def test_two_at_once_fetch_once(site: Site, rules: DownloadRules) -> None:
    go_on = threading.Event()
    url = site.gives(Answer(headers={"ETag": '"one"'}, hook=lambda: go_on.wait(5)))
    reports: list[Progress] = []
    with ThreadPoolExecutor(3) as pool:
        jobs = [pool.submit(fetch_url, url, rules, report=reports.append)]
        while not reports:
            time.sleep(0.01)
        jobs += [pool.submit(fetch_url, url, rules, report=reports.append)] * 2
        while sum(report.step == 0 for report in reports) < 2:
            time.sleep(0.01)
        go_on.set()
        paths = {job.result(5) for job in jobs}
    assert [path.read_bytes() for path in paths] == [CONTENT]
    assert len(files_of(rules)) == 3
    assert len(leftovers(rules)) == 3
    assert len(site.asked) == 1
    assert sum(report.step == len(CONTENT) for report in reports) == 2


def test_a_job_that_leaves_does_not_end_the_transfer_of_another(
    site: Site, rules: DownloadRules
) -> None:
    go_on, deadline = threading.Event(), Deadline()
    url = site.gives(Answer(hook=lambda: go_on.wait(5)))
    with ThreadPoolExecutor(2) as pool:
        leaving = pool.submit(fetch_url, url, rules, deadline=deadline)
        while not site.asked:
            time.sleep(0.01)
        staying = pool.submit(fetch_url, url, rules)
        time.sleep(0.1)
        deadline.cancel()
        with pytest.raises(JobCancelled):
            leaving.result(5)
        go_on.set()
        assert staying.result(5).read_bytes() == CONTENT
    assert len(site.asked) == 1


def test_an_interrupted_download_leaves_nothing(
    site: Site, rules: DownloadRules
) -> None:
    over = threading.Event()

    def interrupt() -> None:
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        over.wait()

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            fetch_url(site.gives(Answer(hook=interrupt)), rules)
    finally:
        over.set()
        signal.signal(signal.SIGINT, before)
    assert leftovers(rules) == []


def test_the_host_is_named_to_the_server(
    site: Site,
    rules: DownloadRules,
    resolves: dict[str, list[str]],
    tls: ssl.SSLContext,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In the TLS handshake and in the request, though an address is dialled."""
    asked: list[str | None] = []
    monkeypatch.setattr(
        tls, "sni_callback", lambda _socket, name, _: asked.append(name)
    )
    resolves["files.example.org"] = ["127.0.0.1"]
    site.gives(Answer())
    assert fetch_bytes(site.url(host="files.example.org"), rules) == CONTENT
    assert asked == ["files.example.org"]
    assert site.asked[0][2]["host"] == f"files.example.org:{site.server_port}"


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.215.14", True),
        ("2606:2800:21f:cb07:6820:80da:af6b:8b2c", True),
        ("::ffff:93.184.215.14", True),
        ("127.0.0.1", False),
        ("::1", False),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.0.1", False),
        ("::ffff:192.168.0.1", False),
        ("169.254.169.254", False),
        ("fe80::1", False),
        ("fe80::1%eth0", False),
        ("fc00::1", False),
        ("100.64.0.1", False),
        ("::ffff:100.127.255.254", False),
        ("0.0.0.0", False),
        ("::", False),
        ("224.0.0.1", False),
        ("ff0e::1", False),
        ("240.0.0.1", False),
        ("255.255.255.255", False),
        ("192.0.2.1", False),
        ("64:ff9b::a9fe:a9fe", False),
        ("64:ff9b::5db8:d70e", False),
        ("64:ff9b:1::a9fe:a9fe", False),
        ("2002:a9fe:a9fe::1", False),
        ("2002:5db8:d70e::1", False),
        ("2001:0:a9fe:a9fe::1", False),
        ("::a9fe:a9fe", False),
        ("::ffff:0:10.0.0.1", False),
        ("::ffff:169.254.169.254", False),
        ("fec0::1", False),
        ("fd00:ec2::254", False),
        ("192.88.99.1", False),
        ("198.18.0.1", False),
        ("168.63.129.16", False),
        ("::ffff:168.63.129.16", False),
        ("168.63.129.17", True),
        ("2a00:1450:4001:80b::200e", True),
        ("no address", False),
        ("", False),
    ],
)
def test_public_addresses(address: str, public: bool) -> None:
    assert is_public(address) is public


def test_private_hosts_may_be_allowed(
    site: Site, rules: DownloadRules, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "is_public", is_public)
    url = site.gives(Answer())
    assert "not a public one" in failure(lambda: fetch_bytes(url, rules)).message
    assert fetch_bytes(url, replace(rules, private_hosts=True)) == CONTENT


@pytest.mark.parametrize("fetch", [fetch_url, fetch_bytes])
def test_a_download_reports_its_bytes(
    fetch: Callable, site: Site, rules: DownloadRules, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "CHUNK_BYTES", 1000)
    monkeypatch.setattr(byte_count, "INTERVAL", 0)
    reports: list[Progress] = []
    fetch(site.gives(Answer()), rules, report=reports.append)
    assert {(report.phase, report.total) for report in reports} == {
        ("download", len(CONTENT))
    }
    steps = [report.step for report in reports]
    assert (steps[0], steps[-1]) == (0, len(CONTENT))
    assert len(steps) > 10
    assert all(0 < b - a <= 1000 for a, b in itertools.pairwise(steps))


def test_reports_are_few(
    site: Site, rules: DownloadRules, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "CHUNK_BYTES", 10)
    monkeypatch.setattr(byte_count, "INTERVAL", 60)
    reports: list[Progress] = []
    fetch_bytes(site.gives(Answer()), rules, report=reports.append)
    assert [report.step for report in reports] == [0, len(CONTENT)]


def test_a_size_that_is_not_announced_is_reported_as_0(
    site: Site, rules: DownloadRules
) -> None:
    reports: list[Progress] = []
    fetch_bytes(site.gives(Answer(length=-1)), rules, report=reports.append)
    assert {report.total for report in reports} == {0}


def test_a_report_may_end_the_download(site: Site, rules: DownloadRules) -> None:
    def cancel(_progress: Progress) -> None:
        raise JobCancelled("enough")

    go_on = threading.Event()
    with pytest.raises(JobCancelled):
        fetch_url(site.gives(Answer(hook=lambda: go_on.wait(5))), rules, report=cancel)
    go_on.set()
    assert len(site.asked) == 1
    assert leftovers(rules) == []


SAFETENSORS = (2).to_bytes(8, "little") + b"{}"


@pytest.mark.parametrize(
    ("content", "suffix"),
    [
        (SAFETENSORS, ".safetensors"),
        (b"PK\x03\x04 and more", ".ckpt"),
        (b"\x80\x02}q", ".ckpt"),
    ],
)
@pytest.mark.parametrize("named", [None, ".safetensors", ".ckpt", ".bin"])
def test_the_content_says_what_a_file_is(
    content: bytes, suffix: str, named: str | None, site: Site, rules: DownloadRules
) -> None:
    url = site.gives(Answer(content, headers={"ETag": '"one"'}))
    path = fetch_url(url, rules, suffix=named)
    assert path.suffix == suffix
    assert fetch_url(url, rules, suffix=named) == path
    assert site.asked[-1][2]["if-none-match"] == '"one"'


@pytest.mark.parametrize(
    ("content", "suffix", "kind"),
    [
        (b"\xef\xbb\xbf <!DOCTYPE html><p>log in", None, "a web page"),
        (b"<html>", ".safetensors", "a web page"),
        (b'{"error": "no such model"}', None, "something else"),
        (b"", None, "something else"),
    ],
)
def test_what_is_no_weight_file_is_not_kept(
    content: bytes, suffix: str | None, kind: str, site: Site, rules: DownloadRules
) -> None:
    url = site.gives(Answer(content))
    error = failure(lambda: fetch_url(url, rules, suffix=suffix))
    assert error.message == f"https://127.0.0.1/file.bin is no weight file but {kind}"
    assert not error.retryable
    assert leftovers(rules) == []


def test_a_token_goes_to_its_host_alone(
    site: Site, rules: DownloadRules, resolves: dict[str, list[str]]
) -> None:
    resolves.update(
        {name: ["127.0.0.1"] for name in ("example.org", "cdn.example.org")}
    )
    place = f"example.org:{site.server_port}"
    rules = replace(rules, tokens=((place, "t0ken"), ("other.org", "another")))
    site.gives(Answer(), path="/final")
    moved = Answer(b"", 302, {"Location": site.url("/final", "cdn.example.org")})
    site.gives(moved, path="/api")
    assert fetch_bytes(site.url("/api", "EXAMPLE.org"), rules) == CONTENT
    assert fetch_url(site.url("/api", "example.org"), rules).read_bytes() == CONTENT
    sent = [(path, headers.get("authorization")) for _, path, headers in site.asked]
    assert sent == [("/api", "Bearer t0ken"), ("/final", None)] * 2
    assert "t0ken" not in repr(rules)


def test_a_token_is_for_one_port(rules: DownloadRules) -> None:
    rules = replace(rules, tokens=(("example.org", "t"),))
    assert rules.token_of("https://example.org/x") == "t"
    assert rules.token_of("https://Example.org:443/x") == "t"
    for url in ("https://example.org:8443/x", "https://www.example.org/x"):
        assert rules.token_of(url) is None


@pytest.mark.parametrize("status", [401, 403])
def test_a_host_that_wants_a_token(
    status: int, site: Site, rules: DownloadRules
) -> None:
    error = failure(lambda: fetch_url(site.gives(Answer(b"", status)), rules))
    assert "ANIMATEDIFF_DOWNLOAD_TOKENS" in error.message
