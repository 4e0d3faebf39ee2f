"""A weight file on this machine, under the name that the job gave it."""

from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from ..errors import AssetError

Stamp = tuple[int, int]
"""Size and modification time: a file that was changed since is another file."""


def stamp(path: Path) -> Stamp:
    """Return the stamp of a file; a folder's is constant.

    The content of a base model's folder is taken to stay. Raises OSError where there is
    nothing.
    """
    stat = path.stat()
    return (0, 0) if path.is_dir() else (stat.st_size, stat.st_mtime_ns)


@dataclass(frozen=True)
class WeightFile:
    """A file whose ``path`` and ``stamp`` identify it.

    ``name`` is what the job calls it, fit to be shown: a path of this machine has only
    its last part, a URL has no query, and a hash that was asked for is left out.
    """

    name: str = field(compare=False)
    path: Path
    stamp: Stamp

    @classmethod
    def at(cls, path: str | Path, name: str | None = None) -> "WeightFile":
        """Return the file at ``path`` as it is now. Raises OSError if it is missing."""
        path = Path(path)
        return cls(_shown(name or path.name), path, stamp(path))

    @property
    def word(self) -> str:
        """The last part of the name without its suffix, for a file that names none."""
        name = self.name
        if name.startswith("hf://"):
            name = name.partition("@")[0]
        elif name.startswith("https://"):
            name = unquote(name)
        return PurePosixPath(name).stem

    @classmethod
    def of(cls, file: "AnyFile") -> "WeightFile":
        """Return ``file``, or the file at this path under its own name.

        Raises AssetError if there is none.
        """
        if isinstance(file, WeightFile):
            return file
        path = Path(file)
        if not path.is_file():
            raise AssetError(f"there is no weight file {path.name}", file=path.name)
        return cls.at(path)


AnyFile = WeightFile | str | Path
"""A weight file, or the path of one that is called by its own name."""


def _shown(name: str) -> str:
    name = name.partition("#sha256=")[0]
    return PurePosixPath(name).name if PurePosixPath(name).is_absolute() else name
