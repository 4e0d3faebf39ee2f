"""From what a job or the catalog names to files on this machine."""

from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from .. import catalog
from ..catalog.files import TABLE, PublishedFile
from ..deadline import Deadline
from ..errors import AssetError, DiskFull, InvalidRequest, shorten
from ..progress import Report, ignore
from ..settings import Settings
from .cache import fetch_url, tidy
from .hashes import ContentHashes
from .hub import HubFile, fetch_hub, has_token, sweep_leftovers
from .installed import (
    LocalFolder,
    find_published,
    installed_base_models,
    installed_motion_modules,
    is_base_model,
)
from .network import fetch_bytes
from .references import (
    CatalogModule,
    LocalFile,
    WebFile,
    WeightReference,
    decode_picture,
    is_picture_path,
    is_url,
    parse_weight_reference,
)
from .room import has_room, keep_in_use, make_room
from .rules import DownloadRules
from .weight_file import Stamp, WeightFile

MAX_PICTURE_BYTES = 20_000_000
_PIECE = 1 << 22
"""Bytes of a file that are read between two looks at the deadline."""


@dataclass(frozen=True)
class Source:
    """Where a referenced weight file is.

    ``reference`` is the job's name for it, without secrets. ``path`` is None if the
    file is not here yet; then it will be fetched from ``remote``, which ``origin``
    shows. ``sha256`` is the hash that its content must have.
    """

    reference: str
    path: Path | None
    origin: str
    bytes: int | None = None
    sha256: str | None = None
    remote: HubFile | WebFile | None = None


class Assets:
    """The weights and pictures that this installation can reach."""

    def __init__(self, settings: Settings) -> None:
        self.rules = DownloadRules(
            cache_dir=settings.cache_dir,
            max_bytes=settings.max_download_bytes,
            hosts=settings.download_hosts,
            offline=settings.offline,
            private_hosts=settings.private_hosts,
            max_seconds=settings.download_seconds,
            min_rate=settings.min_download_rate,
            max_cache_bytes=settings.max_cache_bytes,
            tokens=settings.download_token_pairs,
            repositories=None if settings.any_path else settings.hub_repositories,
        )
        tidy(settings.cache_dir)
        if not settings.offline:
            sweep_leftovers()
        any_path = settings.any_path
        self.models = LocalFolder(settings.models_dir, "the models folder", any_path)
        self.inputs = LocalFolder(settings.input_dir, "the input folder", any_path)
        self._hashes = ContentHashes()
        self._read: set[tuple[Path, Stamp]] = set()

    def sha256_later(self, path: Path) -> Future[str]:
        """Return the coming hash of a file or a model folder, computed on a thread."""
        return self._hashes.later(path)

    def make_room(self, needed: int) -> None:
        """Remove old downloads so that ``needed`` bytes of their disk are free.

        If even that does not suffice, whoever needs the room reports it.
        """
        folder = self.rules.cache_dir
        if not has_room(needed, folder):
            with suppress(DiskFull):
                make_room(needed, self.rules, folder)

    def first_base_model(self) -> str:
        """Return the first base model that is installed. Raises AssetError for none."""
        names = installed_base_models(self.models.path)
        if names:
            return names[0]
        known = ", ".join(catalog.BASE_MODELS)
        raise AssetError(
            f"no model is installed in {self._shown_folder()}:"
            f"{_command(catalog.DEFAULT_MODEL)} put one of {known} there, in"
            f" diffusers' layout",
        )

    def base_model_folder(self, name: str) -> Path:
        """Return the folder of a base model: the catalog's name, or a path.

        Raises AssetError that names the folder where a model of the catalog is
        expected; InvalidRequest for any other name.
        """
        row = catalog.BASE_MODELS.get(name)
        if row is None:
            folder = self.models.find_folder(name, "model")
        else:
            folder = self.models.path / row.folder
        if folder is not None and is_base_model(folder):
            return folder
        if row is None:
            raise InvalidRequest(
                "model",
                name,
                f"one of {', '.join(catalog.BASE_MODELS)}, or a folder in diffusers'"
                f" layout below the models folder",
            )
        installed = ", ".join(installed_base_models(self.models.path)) or "none"
        raise AssetError(
            f"model {name} is not installed in {self._shown_folder(row.folder)}:"
            f"{_command(name)} put a model in diffusers' layout there"
            f" (installed: {installed})",
            asset=name,
        )

    def locate(self, reference: str, field: str) -> Source:
        """Return where the weight file ``reference`` is, without fetching it.

        Raises InvalidRequest for ``field`` if it is no reference; AssetError if there
        is no such file.
        """
        parsed = parse_weight_reference(reference, field)
        source = replace(self._source(parsed, field), reference=parsed.name)
        return replace(source, sha256=parsed.sha256 or source.sha256)

    def fetch(
        self,
        source: Source,
        field: str,
        report: Report = ignore,
        deadline: Deadline | None = None,
    ) -> WeightFile:
        """Return the file at ``source``, fetched if need be.

        Raises AssetError if it cannot be fetched or has another hash than expected, and
        what ``deadline`` raises.
        """
        deadline = deadline or Deadline()
        deadline.check()
        path = source.path or self._download(source, report, deadline)
        if source.sha256 is not None and not isinstance(source.remote, WebFile):
            self._check_hash(path, source.sha256, field, deadline)
        try:
            file = keep_in_use(WeightFile.at(path, source.reference))
        except FileNotFoundError:  # another worker has just made room
            raise AssetError(
                f"{field}: {path.name} has just been removed from this machine",
                retryable=True,
                asset=path.name,
            ) from None
        self.read_ahead(file, deadline)
        return file

    def read_ahead(self, file: WeightFile, deadline: Deadline) -> None:
        """Read a new file once, piece by piece.

        A slow disk then holds up this job, up to its deadline, and not the device:
        loading finds the file in the system's memory. What cannot be read is reported
        by loading.
        """
        key = (file.path, file.stamp)
        if key in self._read:
            return
        with (
            deadline.phase("read"),
            suppress(OSError),
            file.path.open("rb", buffering=0) as content,
        ):
            while content.read(_PIECE):
                deadline.check()
        self._read.add(key)

    def picture(
        self,
        reference: str,
        field: str,
        report: Report = ignore,
        deadline: Deadline | None = None,
    ) -> bytes:
        """Return the content of a picture file.

        Raises InvalidRequest for ``field`` if it is no reference to a picture;
        AssetError if the picture cannot be read or fetched; and what ``deadline``
        raises.
        """
        deadline = deadline or Deadline()
        deadline.check()
        if is_url(reference):
            rules = replace(self.rules, max_bytes=MAX_PICTURE_BYTES)
            return fetch_bytes(reference, rules, report, deadline)
        if is_picture_path(reference):
            return self._picture_file(reference, field)
        content = decode_picture(reference, field)
        _check_picture_size(len(content), field)
        return content

    def _picture_file(self, reference: str, field: str) -> bytes:
        path = self.inputs.find_file(reference, field)
        if path is None:
            raise AssetError(
                f"{field}: there is no picture {shorten(reference)} below the input"
                f" folder"
            )
        _check_picture_size(path.stat().st_size, field)
        return path.read_bytes()

    def _source(self, parsed: WeightReference, field: str) -> Source:
        place = parsed.place
        if isinstance(place, CatalogModule):
            path = PurePosixPath(catalog.MOTION_MODULES[place.name].file)
            return self._published(path, f"motion module {place.name}")
        if isinstance(place, LocalFile):
            return self._local(place, field)
        if isinstance(place, WebFile):
            return Source(place.shown, None, place.shown, remote=place)
        self._check_repository(place, field)
        return Source(parsed.name, None, place.reference, remote=place)

    def _check_repository(self, file: HubFile, field: str) -> None:
        """Raise InvalidRequest if the token of this machine is not for ``file``.

        With it, a job could read any private repository that its owner can.
        """
        rules = self.rules
        if rules.repositories == ("*",) or rules.may_name(file.repo):
            return
        if has_token():
            raise InvalidRequest(
                field,
                file.repo,
                "a repository that this service allows, because it has a token of the"
                " hub (ANIMATEDIFF_HUB_REPOSITORIES)",
            )

    def _local(self, place: LocalFile, field: str) -> Source:
        path = self.models.find_file(place.path, field)
        if path is not None:
            return _here(path)
        if place.filename in catalog.PUBLISHED_FILES:
            return self._published(PurePosixPath(place.path), field)
        shown = shorten(place.path)
        raise AssetError(
            f"{field}: there is no file {shown} below {self._shown_folder()}"
            f"{_hub_hint(place.path)}",
            asset=shown,
        )

    def _published(self, path: PurePosixPath, title: str) -> Source:
        """Return where a file of the catalog is: on the disk, or on the hub."""
        published = find_published(self.models.path, path)
        if published is not None:
            return _here(published)
        row = catalog.PUBLISHED_FILES.get(path.name)
        may_fetch = not self.rules.offline and self.rules.hosts != ()
        if row is not None and may_fetch:
            return _on_the_hub(row)
        raise self._not_installed(path, row, title)

    def _not_installed(
        self, path: PurePosixPath, row: PublishedFile | None, title: str
    ) -> AssetError:
        place = PurePosixPath(row.target) if row else path
        source = f" from https://huggingface.co/{row.repo}" if row else ""
        installed = ", ".join(installed_motion_modules(self.models.path)) or "none"
        profile = TABLE.profile_with(place.as_posix())
        command = f"; `animatediff fetch {profile}` does that" if profile else ""
        return AssetError(
            f"{title} is not installed: put {path.name} (or .safetensors){source} into"
            f" the folder {place.parent} of {self._shown_folder()}{command}"
            f" (installed motion modules: {installed})",
            asset=shorten(path.name),
        )

    def _shown_folder(self, folder: str = "") -> str:
        """Name the models folder, or a folder in it.

        Command lines show its path. Clients do not see paths of this machine.
        """
        path = self.models.path / folder
        missing = "" if self.models.path.is_dir() else ", which does not exist"
        if self.models.any_path:
            return f"{path}{missing}"
        inside = f"{folder} below " if folder else ""
        return (
            f"{inside}the models folder {self.models.path.name}"
            f" (ANIMATEDIFF_MODELS_DIR){missing}"
        )

    def _download(self, source: Source, report: Report, deadline: Deadline) -> Path:
        if isinstance(source.remote, WebFile):
            return fetch_url(
                source.remote.url,
                self.rules,
                sha256=source.sha256,
                suffix=source.remote.suffix or None,
                report=report,
                deadline=deadline,
            )
        assert source.remote is not None  # noqa: S101 - a source without path has one
        return fetch_hub(source.remote, self.rules, report, deadline)

    def _check_hash(
        self, path: Path, expected: str, field: str, deadline: Deadline
    ) -> None:
        digest = deadline.result(self.sha256_later(path))
        if digest != expected:
            raise AssetError(
                f"{field}: {path.name} has the sha256 {digest}, expected {expected}",
                asset=path.name,
            )


def _check_picture_size(size: int, field: str) -> None:
    if size > MAX_PICTURE_BYTES:
        allowed = f"at most {MAX_PICTURE_BYTES} bytes"
        raise InvalidRequest(field, f"{size} bytes", allowed)


def _here(path: Path) -> Source:
    return Source(path.name, path, "here", path.stat().st_size)


def _hub_hint(path: str) -> str:
    """Say how to name a file on the hub, if ``path`` looks like one."""
    owner, _, rest = path.partition("/")
    if owner and "/" in rest:
        return f"; a file on the hub would be hf://{shorten(path)}"
    return ""


def _on_the_hub(row: PublishedFile) -> Source:
    remote = HubFile(row.repo, row.file, row.revision)
    return Source(
        reference=row.file,
        path=None,
        origin=remote.reference,
        bytes=row.size,
        sha256=row.sha256,
        remote=remote,
    )


def _command(model: str) -> str:
    profile = TABLE.profile_with(catalog.BASE_MODELS[model].folder)
    return f" run `animatediff fetch {profile}`, or" if profile else ""
