"""The files on the disk: base models, motion modules, published files, other paths."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from .. import catalog
from ..errors import InvalidRequest


def is_base_model(folder: Path) -> bool:
    """Whether a folder holds an image model in diffusers' layout."""
    return (folder / "unet" / "config.json").is_file()


def installed_base_models(models_dir: Path) -> tuple[str, ...]:
    """Return the names of the base models that are here, in the catalog's order."""
    return tuple(
        name
        for name, row in catalog.BASE_MODELS.items()
        if is_base_model(models_dir / row.folder)
    )


def installed_motion_modules(models_dir: Path) -> tuple[str, ...]:
    """Return the names of the motion modules that are here, in the catalog's order.

    Only our own folders are searched, not those of the published code.
    """
    return tuple(
        name
        for name, row in catalog.MOTION_MODULES.items()
        if _either_format(models_dir / row.file)
    )


def find_published(models_dir: Path, path: PurePosixPath) -> Path | None:
    """Return where a file of the catalog is, or None.

    It may be in its own folder or in the one that the published code uses, and in
    either format. ``path`` is its place below the models folder.
    """
    row = catalog.PUBLISHED_FILES.get(path.name)
    folders = (path.parent, *(row.folders if row else ()))
    files = (_either_format(models_dir / folder / path.name) for folder in folders)
    return next((file for file in files if file), None)


def _either_format(path: Path) -> Path | None:
    files = (path.with_suffix(suffix) for suffix in (".safetensors", ".ckpt"))
    return next((file for file in files if file.is_file()), None)


@dataclass(frozen=True)
class LocalFolder:
    """A folder that jobs may name paths in.

    ``title`` is its name in messages. With ``any_path`` paths elsewhere are allowed
    too: that is for command lines.
    """

    path: Path
    title: str
    any_path: bool = False

    def find_file(self, reference: str, field: str) -> Path | None:
        """Return the file that ``reference`` names, or None.

        Raises InvalidRequest for a path that may lead out of the folder.
        """
        return self._find(reference, field, Path.is_file)

    def find_folder(self, reference: str, field: str) -> Path | None:
        """Return the folder that ``reference`` names, or None; see ``find_file``."""
        return self._find(reference, field, Path.is_dir)

    def _find(
        self, reference: str, field: str, is_right: Callable[[Path], bool]
    ) -> Path | None:
        if not self.any_path and not _stays_below(reference):
            raise InvalidRequest(field, reference, f"a path below {self.title}")
        try:
            return next(filter(is_right, self._candidates(reference)), None)
        except (OSError, ValueError):  # too long for the file system, or with a NUL
            return None

    def _candidates(self, reference: str) -> list[Path]:
        path = PurePosixPath(reference)
        candidates = [self.path / path]
        if path.parts[:1] == ("models",):  # as the published configs write it
            candidates.append(self.path / path.relative_to("models"))
        if self.any_path:
            candidates.insert(0, Path(reference).expanduser())
        return candidates


def _stays_below(reference: str) -> bool:
    path = PurePosixPath(reference)
    leads_out = path.is_absolute() or ".." in path.parts
    return not leads_out and "\\" not in reference and reference.isprintable()
