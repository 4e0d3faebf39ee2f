"""The table of data sources, the lookup of those outside this package, and a look."""

import importlib
from collections.abc import Mapping
from typing import Any

from ..errors import ConfigurationError, shorten
from .file_data import ClipFolder, PictureFolder
from .source import DataSource, SourceDataset

SOURCES: Mapping[str, type[DataSource]] = {
    "clips": ClipFolder,
    "pictures": PictureFolder,
}


def open_source(source: DataSource) -> SourceDataset:
    """The items of ``source`` as a look at data needs them, before any training.

    Raises ConfigurationError or AssetError if the data cannot be read.
    """
    return source.open(source.num_frames)


def source_class(table: Mapping[str, Any]) -> type[DataSource]:
    """The class of a ``data`` table: by its ``source``, or else by its ``kind``.

    Raises ConfigurationError if there is no such kind, or no such class to import.
    """
    path = table.get("source")
    if path is not None:
        return _imported(path)
    kind = table.get("kind")
    if not isinstance(kind, str) or kind not in SOURCES:
        raise ConfigurationError(
            f"data.kind: got {shorten(kind)!r}, allowed: {', '.join(SOURCES)}, or the"
            " import path of another source as data.source",
            setting="data.kind",
        )
    return SOURCES[kind]


def _imported(path: Any) -> type[DataSource]:
    module, _, name = path.partition(":") if isinstance(path, str) else ("", "", "")
    if not module or not name:
        raise _no_source(path, 'allowed: an import path like "module:Class"')
    try:
        content = vars(importlib.import_module(module))
    except ModuleNotFoundError as error:
        reason = (
            f"but there is no module {error.name} here. A source outside the package"
            " must be importable: start in the folder that contains it, or add that"
            " folder to PYTHONPATH"
        )
        raise _no_source(path, reason) from error
    source = content.get(name)
    if not isinstance(source, type) or not issubclass(source, DataSource):
        raise _no_source(path, f"but {module} has no data source {name}")
    return source


def _no_source(path: Any, reason: str) -> ConfigurationError:
    return ConfigurationError(
        f"data.source: got {shorten(path)!r}, {reason}", setting="data.source"
    )
