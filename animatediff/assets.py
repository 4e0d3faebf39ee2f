"""From a name in the catalog to files on this machine."""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from . import catalog
from .errors import AssetError, InvalidRequest, shorten

WEIGHT_FILE_SUFFIXES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")
_WEIGHT_SUFFIXES = (".safetensors", ".ckpt", ".bin", ".json", ".txt")


def base_model_folder(models_dir: Path, name: str) -> Path:
    """The folder of base model ``name``. Raises AssetError that says where its files are expected."""
    folder = models_dir / catalog.BASE_MODELS[name].folder
    if not (folder / "unet" / "config.json").is_file():
        raise AssetError(
            f"model {name} is not installed: a folder {catalog.BASE_MODELS[name].folder} in diffusers' layout is"
            f" expected below the models folder (installed: {_listed(installed_base_models(models_dir))})",
            asset=name,
        )
    return folder


def motion_module_file(models_dir: Path, name: str) -> Path:
    """The weight file of motion module ``name``, as .ckpt or .safetensors. Raises AssetError likewise."""
    file = models_dir / catalog.MOTION_MODULES[name].file
    for candidate in (file.with_suffix(".safetensors"), file.with_suffix(".ckpt")):
        if candidate.is_file():
            return candidate
    raise AssetError(
        f"motion module {name} is not installed: {catalog.MOTION_MODULES[name].file} (or .safetensors) is expected"
        f" below the models folder (installed: {_listed(installed_motion_modules(models_dir))})",
        asset=name,
    )


def weight_file(models_dir: Path, reference: str, field: str) -> Path:
    """The file that ``reference`` names, a path below the models folder such as "loras/style.safetensors".

    Raises InvalidRequest, for ``field``, if it is no such path, AssetError if there is no such file.
    """
    path = PurePosixPath(reference)
    if (
        path.is_absolute()
        or ".." in path.parts
        or "\\" in reference
        or not reference.isprintable()
        or path.suffix not in WEIGHT_FILE_SUFFIXES
    ):
        allowed = f"a path below the models folder that ends in {', '.join(WEIGHT_FILE_SUFFIXES)}"
        raise InvalidRequest(field, reference, allowed)
    try:
        found = (models_dir / path).is_file()
    except OSError:  # a name longer than file systems take
        found = False
    if not found:
        shown = shorten(reference)
        raise AssetError(f"{field}: there is no file {shown} below the models folder", asset=shown)
    return models_dir / path


def installed_base_models(models_dir: Path) -> tuple[str, ...]:
    """Names of the base models whose files are here, in the catalog's order."""
    return tuple(
        name for name, row in catalog.BASE_MODELS.items() if (models_dir / row.folder / "unet/config.json").is_file()
    )


def installed_motion_modules(models_dir: Path) -> tuple[str, ...]:
    """Names of the motion modules whose files are here, in the catalog's order."""
    files = {name: models_dir / row.file for name, row in catalog.MOTION_MODULES.items()}
    return tuple(
        name
        for name, file in files.items()
        if file.with_suffix(".safetensors").is_file() or file.with_suffix(".ckpt").is_file()
    )


def content_sha256(path: Path) -> str:
    """sha256 of a file's content; of a folder, of its weight and config files' names and hashes, in order."""
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    lines = (f"{content_sha256(file)}  {file.relative_to(path).as_posix()}\n" for file in _weight_files(path))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _weight_files(folder: Path) -> Iterator[Path]:
    """What a pipeline reads of a model folder; not its README, nor motion modules that lie beside."""
    for part in ("text_encoder", "tokenizer", "unet", "vae"):
        for path in sorted((folder / part).iterdir()):
            if path.suffix in _WEIGHT_SUFFIXES and path.is_file():
                yield path


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"
