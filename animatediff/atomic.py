"""Files that appear complete or not at all."""

import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

PREFIX = ".writing-"


@contextmanager
def hidden_folder(parent: Path) -> Generator[Path]:
    """Yield a new hidden folder in ``parent``, and remove it afterwards.

    Its name is unique, so processes and threads do not disturb each other. A file
    inside it can take its place anywhere in ``parent`` by a rename.
    """
    with tempfile.TemporaryDirectory(
        dir=parent, prefix=PREFIX, ignore_cleanup_errors=True
    ) as folder:
        yield Path(folder)


@contextmanager
def written_whole(path: Path, *, parents: bool = True) -> Generator[Path]:
    """Yield a path to write to, which becomes ``path`` if the block succeeds.

    If the block fails, nothing is left, and a file that was at ``path`` before stays as
    it was. The yielded path has the suffix of ``path`` and lies in a hidden folder of
    its own, where a writer may put other files too. The file gets the rights of any new
    file; safetensors alone would make it readable by its owner only.

    ``parents`` creates missing folders. Raises OSError.
    """
    if parents:
        path.parent.mkdir(parents=True, exist_ok=True)
    with hidden_folder(path.parent) as folder:
        rights = _rights_of_new_files(folder)
        part = folder / f"part{path.suffix}"
        yield part
        part.chmod(rights)
        part.replace(path)


def _rights_of_new_files(folder: Path) -> int:
    example = folder / "rights"
    example.touch()
    rights = example.stat().st_mode
    example.unlink()
    return rights
