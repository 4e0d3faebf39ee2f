"""From a name in the catalog to files on this machine."""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from . import catalog
from .errors import AssetError

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
