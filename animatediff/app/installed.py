"""What is installed: the choices of each row of a form that names weights."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from .. import catalog
from ..checkpoints.detect import detect, lora_in
from ..checkpoints.files import read_weights
from ..errors import AssetError, CheckpointError
from ..fetch.installed import (
    installed_base_models,
    installed_motion_modules,
    is_base_model,
)

Choices = Mapping[str, tuple[tuple[str, str], ...]]
"""Pairs of a title and a value, by the name of a row."""
MAX_FILES = 500
"""Weight files that are looked at."""
_SUFFIXES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")
_FIELDS = {
    "SparseCtrl": "controls",
    "single file (LDM)": "dreambooth",
    "motion module": "motion_module",
    "textual inversion": "embeddings",
    "VAE, diffusers layout": "vae",
    "VAE, LDM layout": "vae",
}
"""The row that names a kind of file, besides LoRAs and their kin."""


@dataclass(frozen=True)
class Installed:
    """The weights below a models folder, as a form names them.

    ``files`` are paths below the folder with their kinds, by the row that names them.
    """

    models: tuple[str, ...] = ()
    motion_modules: tuple[str, ...] = ()
    files: Mapping[str, tuple[tuple[str, str], ...]] = field(
        default_factory=dict[str, tuple[tuple[str, str], ...]]
    )

    def choices(self) -> dict[str, tuple[tuple[str, str], ...]]:
        """Return the choices of the rows that name weights."""
        rows: dict[str, tuple[tuple[str, str], ...]] = {
            name: tuple((f"{Path(path).stem} ({kind})", path) for path, kind in files)
            for name, files in self.files.items()
        }
        motion = rows.pop("motion_module", ())
        models, modules = catalog.BASE_MODELS, catalog.MOTION_MODULES
        titled = [(self._title(name, models), name) for name in self.models]
        moving = [(self._title(name, modules), name) for name in self.motion_modules]
        return {**rows, "model": tuple(titled), "motion_module": (*moving, *motion)}

    @staticmethod
    def _title(name: str, table: Mapping[str, object]) -> str:
        title: str = getattr(table.get(name), "title", name)
        return title if title.startswith(name) else f"{name}: {title}"


def look(models_dir: Path) -> Installed:
    """Look through the models folder. Files that were looked at before are cheap."""
    sorted_files: dict[str, list[tuple[str, str]]] = {}
    for path in _weight_files(models_dir):
        stat = path.stat()
        named = _kind(path, stat.st_mtime_ns, stat.st_size)
        if named is not None:
            place = path.relative_to(models_dir).as_posix()
            sorted_files.setdefault(named[0], []).append((place, named[1]))
    return Installed(
        (*installed_base_models(models_dir), *_other_models(models_dir)),
        installed_motion_modules(models_dir),
        {name: tuple(files) for name, files in sorted_files.items()},
    )


def published() -> Installed:
    """Return what an endpoint may have: the models and modules of the catalog."""
    return Installed(tuple(catalog.BASE_MODELS), tuple(catalog.MOTION_MODULES))


def _weight_files(folder: Path) -> list[Path]:
    """The weight files that are no parts of a model in diffusers' layout."""
    known = {Path(row.file).with_suffix("") for row in catalog.MOTION_MODULES.values()}
    files = (
        path
        for path in sorted(folder.rglob("*.*"))
        if path.suffix in _SUFFIXES
        and path.relative_to(folder).with_suffix("") not in known
        and not (path.parent / "config.json").is_file()
        and path.is_file()
    )
    return [path for path, _ in zip(files, range(MAX_FILES), strict=False)]


def _other_models(folder: Path) -> Iterator[str]:
    """Folders of base models that the catalog does not know."""
    known = {folder / row.folder for row in catalog.BASE_MODELS.values()}
    for config in sorted(folder.glob("*/unet/config.json")):
        model = config.parent.parent
        if model not in known and is_base_model(model):
            yield model.relative_to(folder).as_posix()


@lru_cache(maxsize=MAX_FILES)
def _kind(path: Path, _changed: int, _size: int) -> tuple[str, str] | None:
    """The row that names a file, and the file's kind in words; None for no row."""
    try:
        weights = read_weights(path)
        kind, lora = detect(weights, path.name), lora_in(weights)
    except (AssetError, CheckpointError):
        return None
    words = f"{kind.kind} {kind.version}".strip()
    if lora is not None and not lora.other:
        return "loras", words
    row = next((row for start, row in _FIELDS.items() if words.startswith(start)), "")
    return (row, words) if row else None
