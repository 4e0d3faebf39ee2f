"""From what a job or the catalog names to files on this machine.

A reference to a weight file is one of

    a name of ``catalog.PUBLISHED_FILES``          v3_sd15_mm.ckpt
    a path below the models folder                 loras/style.safetensors
    a file on the Hugging Face hub                 hf://owner/repo/folder/file.safetensors@revision
    an https URL                                   https://example.org/style.safetensors

or, for a motion module, a name of ``catalog.MOTION_MODULES``. Any of them may end in
``#sha256=<64 hex digits>``: the content must have that hash then.
"""

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from urllib.parse import SplitResult, urlsplit

from .. import catalog
from ..errors import AssetError, InvalidRequest, shorten
from ..settings import Settings
from .downloads import DownloadRules, fetch_bytes, fetch_hub, fetch_url
from .weight_file import Stamp, stamp

WEIGHT_FILE_SUFFIXES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif")
MAX_PICTURE_BYTES = 20_000_000
_WEIGHT_SUFFIXES = (".safetensors", ".ckpt", ".bin", ".json", ".txt")
_HUB = re.compile(
    r"hf://(?P<repo>[\w.-]+/[\w.-]+)/(?P<file>[^@#]+?)(?:@(?P<revision>[\w./-]+))?"
)
_SHA256 = re.compile(r"(?P<reference>.*)#sha256=(?P<sha256>[0-9a-fA-F]{64})", re.DOTALL)
_ALLOWED = (
    "a path below the models folder, the name of a published file,"
    " hf://owner/repo/file@revision or an https URL,"
    f" that ends in {', '.join(WEIGHT_FILE_SUFFIXES)}"
)


@dataclass(frozen=True)
class Source:
    """Where a referenced file is. ``path`` None: not here yet, and ``origin`` is from
    where it would be fetched.

    ``sha256`` is what the reference says that its content must have.
    """

    reference: str
    path: Path | None
    origin: str
    bytes: int | None = None
    sha256: str | None = None


class Assets:
    """The weights and pictures that this installation can reach."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.models_dir = settings.models_dir
        self.rules = DownloadRules(
            cache_dir=settings.cache_dir,
            max_bytes=settings.max_download_bytes,
            hosts=settings.download_hosts,
            offline=settings.offline,
        )
        self._hashes: dict[tuple[Path, Stamp], Future[str]] = {}
        self._hasher = ThreadPoolExecutor(1, thread_name_prefix="sha256")

    def sha256_later(self, path: Path) -> Future[str]:
        """The hash of a file's or folder's content, computed on a thread of its own
        when first asked for, and kept.
        """
        key = (path, stamp(path))
        if key not in self._hashes:
            self._hashes[key] = self._hasher.submit(content_sha256, path)
        return self._hashes[key]

    def base_model_folder(self, name: str) -> Path:
        """The folder of base model ``name``, of the catalog or a path below the models
        folder.

        Raises AssetError that says where a model of the catalog is expected,
        InvalidRequest for any other name.
        """
        row = catalog.BASE_MODELS.get(name)
        folder = (
            self.models_dir / row.folder
            if row
            else self._path(name, "model", folder=True)
        )
        if folder is not None and (folder / "unet" / "config.json").is_file():
            return folder
        if row is None:
            names = ", ".join(catalog.BASE_MODELS)
            raise InvalidRequest(
                "model",
                name,
                f"one of {names}, or a folder in diffusers' layout below the models"
                f" folder",
            )
        raise AssetError(
            f"model {name} is not installed: a folder {row.folder} in diffusers'"
            f" layout is expected below the models"
            f" folder (installed: {_listed(installed_base_models(self.models_dir))})",
            asset=name,
        )

    def locate(self, reference: str, field: str) -> Source:
        """Where the weight file ``reference`` is, without fetching it.

        Raises InvalidRequest, for ``field``, if it is no such reference; AssetError if
        it can be nowhere.
        """
        plain, sha256 = _split(reference)
        return replace(self._locate(plain, field), sha256=sha256)

    def _locate(self, plain: str, field: str) -> Source:
        if field == "motion_module" and plain in catalog.MOTION_MODULES:
            return self._known_file(
                PurePosixPath(catalog.MOTION_MODULES[plain].file),
                f"motion module {plain}",
            )
        allowed = (
            f"{', '.join(catalog.MOTION_MODULES)}; {_ALLOWED}"
            if field == "motion_module"
            else _ALLOWED
        )
        if match := _HUB.fullmatch(plain):
            if PurePosixPath(match["file"]).suffix not in WEIGHT_FILE_SUFFIXES:
                raise InvalidRequest(field, plain, allowed)
            return Source(plain, None, plain)
        if "://" in plain:
            url = _split_url(plain)
            if (
                url is None
                or PurePosixPath(url.path).suffix not in WEIGHT_FILE_SUFFIXES
            ):
                raise InvalidRequest(field, shorten(plain.partition("?")[0]), allowed)
            return Source(plain, None, f"https://{url.hostname}{url.path}")
        if PurePosixPath(plain).suffix not in WEIGHT_FILE_SUFFIXES:
            raise InvalidRequest(field, plain, allowed)
        if found := self._path(plain, field):
            return _here(plain, found)
        if PurePosixPath(plain).name in catalog.PUBLISHED_FILES:
            return self._known_file(PurePosixPath(plain), field)
        shown = shorten(plain)
        raise AssetError(
            f"{field}: there is no file {shown} below the models folder", asset=shown
        )

    def weight_file(self, reference: str, field: str) -> Path:
        """The weight file ``reference``, fetched if need be.

        Raises InvalidRequest as ``locate`` does, AssetError if it is not to be had or
        has another sha256.
        """
        return self.fetch(self.locate(reference, field), field)

    def picture(self, reference: str, field: str) -> bytes:
        """The content of a picture file: an https URL, base64 (a data: URI or bare), or
        a path below the input folder.

        Raises InvalidRequest, for ``field``, if it is none of these, AssetError if it
        cannot be had.
        """
        if _is_url(reference):
            rules = DownloadRules(
                self.rules.cache_dir,
                MAX_PICTURE_BYTES,
                self.rules.hosts,
                self.rules.offline,
            )
            return fetch_bytes(reference, rules)
        if is_picture_path(reference):
            path = self._path(reference, field, base=self.settings.input_dir)
            if path is None:
                raise AssetError(
                    f"{field}: there is no picture {shorten(reference)} below the"
                    f" input folder"
                )
            if path.stat().st_size > MAX_PICTURE_BYTES:
                raise InvalidRequest(
                    field,
                    f"{path.stat().st_size} bytes",
                    f"at most {MAX_PICTURE_BYTES} bytes",
                )
            return path.read_bytes()
        try:
            return base64.b64decode(
                reference.partition("base64,")[2] or reference, validate=True
            )
        except (binascii.Error, ValueError):
            allowed = f"an https URL, base64, or a path below the input folder ({', '.join(PICTURE_SUFFIXES)})"
            raise InvalidRequest(field, shorten(reference, 40), allowed) from None

    def _path(
        self,
        reference: str,
        field: str,
        *,
        base: Path | None = None,
        folder: bool = False,
    ) -> Path | None:
        """The path ``reference`` if something is there. Only command lines may name one
        outside of ``base``.
        """
        path = PurePosixPath(reference)
        base = base or self.models_dir
        candidates = [base / path]
        if path.parts[:1] == ("models",):  # as the published configs write it
            candidates.append(base / path.relative_to("models"))
        if self.settings.any_path:
            candidates.insert(0, Path(reference).expanduser())
        elif (
            path.is_absolute()
            or ".." in path.parts
            or "\\" in reference
            or not reference.isprintable()
        ):
            raise InvalidRequest(
                field,
                reference,
                "a path below the models folder"
                if base == self.models_dir
                else "a path below the input folder",
            )
        try:
            return next(
                (
                    found
                    for found in candidates
                    if (found.is_dir() if folder else found.is_file())
                ),
                None,
            )
        except (
            OSError,
            ValueError,
        ):  # a name longer than file systems take, or one with a NUL
            return None

    def _known_file(self, path: PurePosixPath, what: str) -> Source:
        """A file of the catalog's tables: in its folder or the published code's, in
        either format; or on the hub.
        """
        published = catalog.PUBLISHED_FILES.get(path.name)
        for folder in (path.parent, *(published.folders if published else ())):
            for suffix in (".safetensors", ".ckpt"):
                candidate = self.models_dir / folder / path.with_suffix(suffix).name
                if candidate.is_file():
                    return _here(path.name, candidate)
        if (
            published
            and not self.settings.offline
            and self.settings.download_hosts != ()
        ):
            return Source(
                path.name, None, f"hf://{published.repo}/{path.name}", published.bytes
            )
        folder, source = path.parent, ""
        if published:
            folder, source = (
                PurePosixPath(published.folders[0]),
                f" from https://huggingface.co/{published.repo}",
            )
        raise AssetError(
            f"{what} is not installed: put {path.name} (or .safetensors){source} into"
            f" the folder {folder} below the"
            f" models folder (installed motion modules:"
            f" {_listed(installed_motion_modules(self.models_dir))})",
            asset=shorten(path.name),
        )

    def fetch(self, source: Source, field: str) -> Path:
        """The file at ``source``. Raises AssetError if it is not to be had or has
        another sha256.
        """
        path, sha256 = source.path, source.sha256
        if path is None and (match := _HUB.fullmatch(source.origin)):
            path = fetch_hub(
                match["repo"], match["file"], match["revision"], self.rules
            )
        elif path is None:
            suffix = PurePosixPath(urlsplit(source.reference).path).suffix
            return fetch_url(source.reference, self.rules, sha256=sha256, suffix=suffix)
        if sha256 is not None and (found := self.sha256_later(path).result()) != sha256:
            raise AssetError(
                f"{field}: {path.name} has the sha256 {found}, expected {sha256}",
                asset=path.name,
            )
        return path


def _here(reference: str, path: Path) -> Source:
    return Source(reference, path, "here", path.stat().st_size)


def is_picture_path(reference: str) -> bool:
    """Whether ``Assets.picture`` takes ``reference`` as a path, and not as base64."""
    return reference.lower().endswith(PICTURE_SUFFIXES) and not reference.startswith(
        "data:"
    )


def _is_url(reference: str) -> bool:
    return reference.startswith("https://")


def _split_url(reference: str) -> SplitResult | None:
    """An https URL in its parts; None for anything else, one with a malformed host
    among it.
    """
    try:
        return urlsplit(reference) if _is_url(reference) else None
    except ValueError:
        return None


def _split(reference: str) -> tuple[str, str | None]:
    """A reference without its hash, and the hash."""
    match = _SHA256.fullmatch(reference)
    return (match["reference"], match["sha256"].lower()) if match else (reference, None)


def installed_base_models(models_dir: Path) -> tuple[str, ...]:
    """Names of the base models whose files are here, in the catalog's order."""
    return tuple(
        name
        for name, row in catalog.BASE_MODELS.items()
        if (models_dir / row.folder / "unet/config.json").is_file()
    )


def installed_motion_modules(models_dir: Path) -> tuple[str, ...]:
    """Names of the motion modules whose files are here, in the catalog's order."""
    files = {
        name: models_dir / row.file for name, row in catalog.MOTION_MODULES.items()
    }
    return tuple(
        name
        for name, file in files.items()
        if file.with_suffix(".safetensors").is_file()
        or file.with_suffix(".ckpt").is_file()
    )


def content_sha256(path: Path) -> str:
    """sha256 of a file's content; of a folder, of its weight and config files' names
    and hashes, in order.
    """
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    lines = (
        f"{content_sha256(file)}  {file.relative_to(path).as_posix()}\n"
        for file in _weight_files(path)
    )
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _weight_files(folder: Path) -> Iterator[Path]:
    """What a pipeline reads of a model folder; not its README, nor motion modules that
    lie beside.
    """
    for part in ("text_encoder", "tokenizer", "unet", "vae"):
        for path in sorted((folder / part).iterdir()):
            if path.suffix in _WEIGHT_SUFFIXES and path.is_file():
                yield path


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"
