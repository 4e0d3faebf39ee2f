"""A weight file in words, for ``animatediff inspect``."""

from collections import Counter
from pathlib import Path

from ..fetch.hashes import content_sha256
from .detect import detect
from .files import read_weights


def describe(path: Path) -> str:
    """Several lines about the file at ``path``. Raises AssetError, CheckpointError."""
    weights = read_weights(path)
    kind = detect(weights, path.name)
    dtypes = Counter(
        str(tensor.dtype).removeprefix("torch.") for tensor in weights.values()
    )
    rows = {
        "file": path.name,
        "kind": kind.kind,
        "version": kind.version,
        "rank": ", ".join(map(str, kind.ranks)),
        "has": ", ".join(kind.parts),
        "dtype": ", ".join(
            f"{dtype} ({count})" for dtype, count in dtypes.most_common()
        ),
        "keys": str(len(weights)),
        "parameters": str(sum(tensor.numel() for tensor in weights.values())),
        "bytes": str(path.stat().st_size),
        "sha256": content_sha256(path),
    }
    return "\n".join(f"{name:10} {value}" for name, value in rows.items() if value)
