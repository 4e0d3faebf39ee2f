"""Hosts that answer in any way, at any pace: no fetch outlives its deadline."""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import constants, file_download
from huggingface_hub.utils import _http
from hypothesis import given
from hypothesis import strategies as st

from animatediff.deadline import Deadline
from animatediff.errors import AnimateDiffError
from animatediff.fetch.cache import fetch_url
from animatediff.fetch.hub import HubFile, fetch_hub
from animatediff.fetch.network import fetch_bytes
from animatediff.fetch.rules import DownloadRules
from tests.fuzz.conftest import reachable
from tests.fuzz.service import TALLY, share
from tests.fuzz.slow_host import SCRIPTS, SlowHost, Step

LIMIT = 0.3
"""Seconds of a job whose downloads are odd."""


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> SlowHost:
    return SlowHost(tmp_path_factory.mktemp("host"))


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlowHost]:
    """A host that the hub's library asks; its pauses between retries are left out."""
    host = SlowHost(tmp_path_factory.mktemp("hub"), is_plain=True)
    url = f"http://127.0.0.1:{host.port}"
    cache = str(tmp_path_factory.mktemp("hub cache"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "ENDPOINT", url)
        template = url + "/{repo_id}/resolve/{revision}/{filename}"
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        patch.setattr(constants, "HF_HUB_CACHE", cache)
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        for module in (_http, file_download):
            patch.setattr(module, "time", SimpleNamespace(sleep=lambda _: None))
        yield host


@share(0.004)
@given(SCRIPTS, st.booleans())
def test_the_hub_may_answer_in_any_way(
    hub: SlowHost,
    tmp_path_factory: pytest.TempPathFactory,
    script: Sequence[Step],
    holds: bool,
) -> None:
    hub.script, hub.holds = script, holds
    cache: Path = tmp_path_factory.getbasetemp() / "fetched"
    rules = DownloadRules(cache, max_bytes=1_000_000, private_hosts=True)
    start, code = time.monotonic(), "fetched"
    with reachable(hub.certificate):
        try:
            fetch_hub(HubFile("a/b", "c.bin"), rules, deadline=Deadline(LIMIT))
        except AnimateDiffError as error:
            code = error.code
    assert code in ("fetched", "ASSET_UNAVAILABLE", "TIMED_OUT")
    assert time.monotonic() - start < LIMIT + 2
    TALLY["hub"][code] += 1


@share(0.008)
@given(SCRIPTS, st.booleans(), st.booleans())
def test_a_host_may_answer_in_any_way(
    host: SlowHost,
    tmp_path_factory: pytest.TempPathFactory,
    script: Sequence[Step],
    holds: bool,
    is_file: bool,
) -> None:
    host.script, host.holds = script, holds
    cache: Path = tmp_path_factory.getbasetemp() / "fetched"
    rules = DownloadRules(cache, max_bytes=1_000_000, private_hosts=True)
    url, start = f"https://127.0.0.1:{host.port}/x", time.monotonic()
    with reachable(host.certificate):
        try:
            if is_file:
                fetch_url(url, rules, deadline=Deadline(LIMIT))
            else:
                fetch_bytes(url, rules, deadline=Deadline(LIMIT))
            code = "fetched"
        except AnimateDiffError as error:
            code = error.code
    assert code in ("fetched", "ASSET_UNAVAILABLE", "TIMED_OUT")
    assert time.monotonic() - start < LIMIT + 2
    assert not list(cache.glob("files/.writing-*"))
    TALLY["hosts"][code] += 1
