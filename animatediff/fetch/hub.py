"""The project's client of the Hugging Face hub: for jobs, profiles and pins.

The hub's own library makes the requests and repeats them. It reads HF_ENDPOINT,
HF_TOKEN, HF_TOKEN_PATH and HF_HUB_OFFLINE. Every failure is an AssetError.
"""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ..deadline import Deadline
from ..errors import AssetError, shorten
from ..progress import Report, ignore
from .byte_count import ByteCount
from .leftovers import sweep_hub
from .room import full_disk_named, make_room, record_hub_file, touch
from .rules import (
    NOT_HERE,
    DownloadRules,
    http_failure,
    is_about_room,
    reason_of,
    too_large,
    unavailable,
)
from .transfers import Transfer, shared

if TYPE_CHECKING:
    from huggingface_hub import DryRunFileInfo
    from tqdm import tqdm

_NEEDS_TOKEN = "set HF_TOKEN to a token that may read it"  # noqa: S105 - no token


@dataclass(frozen=True)
class HubFile:
    """A file of a model repository. ``revision`` None means its main branch."""

    repo: str
    path: str
    revision: str | None = None

    @property
    def reference(self) -> str:
        """The file as a job names it."""
        revision = f"@{self.revision}" if self.revision else ""
        return f"hf://{self.repo}/{self.path}{revision}"

    @property
    def name(self) -> str:
        """The file as messages show it."""
        revision = self.revision or "main"
        return (
            f"{shorten(self.path)} of {shorten(self.repo)} at revision"
            f" {shorten(revision)}"
        )


@dataclass(frozen=True)
class Repository:
    """A repository at one commit: size and sha256 of its files.

    Both are None where the hub does not list them; it lists no hash of small files.
    """

    commit: str
    files: Mapping[str, tuple[int | None, str | None]]


def fetch_hub(
    file: HubFile,
    rules: DownloadRules,
    report: Report = ignore,
    deadline: Deadline | None = None,
) -> Path:
    """Return ``file`` in the cache of the hub's library, fetched if need be.

    The allowed hosts are compared with the hub's own host, not with those of the stores
    that it sends downloads to. Raises AssetError, DiskFull, and what ``report`` and
    ``deadline`` raise.
    """
    # The library makes a path of the revision.
    if ".." in (file.revision or "") or (file.revision or "").startswith("/"):
        raise unavailable(file.name, "cannot be found: no revision has such a name")
    if not _may_ask(rules):
        return _cached(file)

    def start() -> Transfer[Path]:
        return Transfer(file.name, rules, partial(_fetch, file, rules))

    return shared((file, rules), start, report, deadline or Deadline())


def has_token() -> bool:
    """Whether this machine has a token, with which the hub shows private files."""
    from huggingface_hub import get_token

    return get_token() is not None


def sweep_leftovers() -> None:
    """Remove what killed downloads left in the cache of the hub's library."""
    from huggingface_hub import constants

    sweep_hub(Path(constants.HF_HUB_CACHE))


def _fetch(file: HubFile, rules: DownloadRules, transfer: Transfer[Path]) -> Path:
    from huggingface_hub import constants

    from .hub_client import watch_client

    watch_client()
    state = _look(file)
    if state.file_size is None or state.file_size > rules.max_bytes:
        raise too_large(file.name, rules)
    if not state.will_download:
        return touch(download(file))
    cache = Path(constants.HF_HUB_CACHE)
    make_room(state.file_size, rules, cache)
    with full_disk_named(cache):
        path = download(file, report=transfer.report)
    record_hub_file(path, rules)
    return path


def download(
    file: HubFile, *, folder: Path | None = None, report: Report = ignore
) -> Path:
    """Download ``file`` into ``folder``, or into the cache of the hub's library.

    A download that was cut off goes on where it stopped. Raises AssetError.
    """
    from huggingface_hub import (
        hf_hub_download,  # pyright: ignore[reportUnknownVariableType]
    )

    with _failures_named(file.name):
        path = hf_hub_download(
            file.repo,
            file.path,
            revision=file.revision,
            local_dir=folder,
            tqdm_class=_bar_that_reports(report),
        )
        return Path(path)


def download_watched(
    file: HubFile, rules: DownloadRules, *, folder: Path, report: Report = ignore
) -> Path:
    """Download ``file`` into ``folder``, within the time and at the rate of ``rules``.

    Raises AssetError.
    """

    def fetched(transfer: Transfer[Path]) -> Path:
        from .hub_client import watch_client

        watch_client()
        return download(file, folder=folder, report=transfer.report)

    def start() -> Transfer[Path]:
        return Transfer(file.name, rules, fetched)

    return shared((file, folder), start, report, Deadline())


def repository(repo: str, revision: str | None) -> Repository:
    """Return what the hub lists of a model repository. Raises AssetError."""
    from huggingface_hub import HfApi

    with _failures_named(f"{repo} at revision {revision or 'main'}"):
        info = HfApi().model_info(repo, revision=revision, files_metadata=True)
    if info.sha is None:
        raise unavailable(repo, "cannot be pinned: the hub names no commit")
    files = {
        file.rfilename: (file.lfs.size, file.lfs.sha256)
        if file.lfs
        else (file.size, None)
        for file in info.siblings or []
    }
    return Repository(info.sha, files)


def _may_ask(rules: DownloadRules) -> bool:
    from huggingface_hub import constants

    host = urlsplit(constants.ENDPOINT).hostname or ""
    return not rules.offline and rules.allows(host)


def _cached(file: HubFile) -> Path:
    """Return ``file`` from the cache; downloading it would use the network."""
    from huggingface_hub import constants, try_to_load_from_cache

    with _failures_named(file.name):
        path = try_to_load_from_cache(
            file.repo, file.path, revision=file.revision or constants.DEFAULT_REVISION
        )
    if not isinstance(path, str):
        raise unavailable(file.name, NOT_HERE)
    return Path(path)


def _look(file: HubFile) -> "DryRunFileInfo":
    """Return what the hub, or the cache of its library, says of ``file``."""
    from huggingface_hub import (
        hf_hub_download,  # pyright: ignore[reportUnknownVariableType]
    )

    with _failures_named(file.name):
        return hf_hub_download(
            file.repo, file.path, revision=file.revision, dry_run=True
        )


def _bar_that_reports(report: Report) -> "type[tqdm[Any]]":
    """Return a class of progress bars that the library fills and nobody sees."""
    from tqdm import tqdm

    count = ByteCount(report)

    class Bar(tqdm):  # pyright: ignore[reportMissingTypeArgument]
        def __init__(self, **options: Any) -> None:
            super().__init__(disable=True)  # pyright: ignore[reportUnknownMemberType]
            count.start(options.get("total"), options.get("initial") or 0)

        def update(self, n: float | None = 1) -> None:
            count.add(int(n or 0))

        def update_transfer(self, n: float) -> None:
            """Ignore bytes on the wire: ``update`` counts those on the disk."""

        def set_transfer_postfix_str(self, text: str, *, refresh: bool) -> None:
            """Ignore the rate on the wire, which the library shows beside the bar."""

    return Bar


@contextmanager
def _failures_named(name: str) -> Generator[None]:
    # The library depends on httpx2 itself, and its own errors are made from it.
    from httpx2 import HTTPError
    from huggingface_hub.errors import XetDownloadError

    try:
        yield
    except (HTTPError, XetDownloadError, OSError, ValueError, RuntimeError) as error:
        if isinstance(error, OSError) and is_about_room(error):
            raise
        raise _failure(_cause(error), name) from None


def _cause(error: Exception) -> BaseException:
    """Return the error behind the library's report that a file is not cached."""
    from huggingface_hub import errors

    if isinstance(error, errors.LocalEntryNotFoundError):
        return error.__cause__ or errors.OfflineModeIsEnabled()
    return error


def _failure(error: BaseException, name: str) -> AssetError:
    from huggingface_hub import errors

    texts = {
        errors.OfflineModeIsEnabled: NOT_HERE,
        errors.GatedRepoError: f"is in a gated repository: {_NEEDS_TOKEN}",
        errors.RepositoryNotFoundError: "is in no repository of the hub, or in a"
        f" private one: then {_NEEDS_TOKEN}",
        errors.RevisionNotFoundError: "cannot be found: the repository has no such"
        " revision",
        errors.RemoteEntryNotFoundError: "cannot be found: the repository has no such"
        " file",
    }
    for kind, text in texts.items():
        if isinstance(error, kind):
            return unavailable(name, text)
    if isinstance(error, errors.HfHubHTTPError):
        status = error.response.status_code
        return http_failure(
            name, status, f"; {_NEEDS_TOKEN}" if status in (401, 403) else ""
        )
    return unavailable(
        name,
        f"could not be fetched: {reason_of(error)}",
        retryable=not isinstance(error, ValueError),
    )
