"""Weight files from disk: .safetensors, and .ckpt / .pt / .bin pickles opened so that they cannot run code."""

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ..errors import AssetError, CheckpointError

SAFETENSORS = (".safetensors",)
PICKLES = (".ckpt", ".pt", ".pth", ".bin")
POSITIONAL_TABLE = ".pos_encoder.pe"
WRAPPERS = ("state_dict", "controlnet")
"""Keys under which trainers put the table of weights, beside counters and configs; SparseCtrl's has the second."""


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Every tensor of a weight file by its key, on the CPU; one of ``WRAPPERS`` around them is taken off.

    Raises AssetError where there is no such file, CheckpointError for one that is damaged or holds something else.
    Pickles are read with ``weights_only``: one that asks for anything but tensors and plain values is refused.
    """
    path = Path(path)
    if not path.is_file():
        raise AssetError(f"there is no weight file {path.name}", file=path.name)
    try:
        if path.suffix in SAFETENSORS:
            content = load_file(path)
        elif path.suffix in PICKLES:
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        else:
            raise CheckpointError(
                f"{path.name}: not a weight file, must end in {', '.join(SAFETENSORS + PICKLES)}", file=path.name
            )
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError, OSError) as error:
        raise CheckpointError(f"{path.name} cannot be read as weights", file=path.name) from error
    for wrapper in WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict):
        raise CheckpointError(f"{path.name} holds no table of weights", file=path.name)
    return {str(key): value for key, value in content.items() if isinstance(value, Tensor)}


def read_with_table_length(path: str | Path) -> tuple[dict[str, Tensor], int | None]:
    """The weights of a file of motion layers, and the frames that the positional tables in it cover, if it has any.

    A trainer's ``module.`` before the keys is taken off, and so are the tables: they are computed, not learned.
    Raises what ``read_weights`` does, and CheckpointError for tables that disagree.
    """
    raw = {key.removeprefix("module."): tensor for key, tensor in read_weights(path).items()}
    tables = {tuple(tensor.shape[:-1]) for key, tensor in raw.items() if key.endswith(POSITIONAL_TABLE)}
    if len(tables) > 1 or any(len(shape) != 2 or shape[0] != 1 for shape in tables):
        name = Path(path).name
        raise CheckpointError(f"{name} has positional tables of several or odd shapes: {sorted(tables)}", file=name)
    tensors = {key: tensor for key, tensor in raw.items() if not key.endswith(POSITIONAL_TABLE)}
    return tensors, tables.pop()[1] if tables else None


def check_keys_and_shapes(name: str, got: Mapping[str, Tensor], wanted: Mapping[str, Tensor | torch.Size]) -> None:
    """Raise CheckpointError unless ``got`` has exactly the keys and shapes of ``wanted``; names the first few."""
    shapes = {key: value.shape if isinstance(value, Tensor) else value for key, value in wanted.items()}
    problems = {
        "missing": sorted(shapes.keys() - got.keys()),
        "unexpected": sorted(got.keys() - shapes.keys()),
        "of another shape": sorted(
            f"{key} {tuple(got[key].shape)} instead of {tuple(shapes[key])}"
            for key in shapes.keys() & got.keys()
            if got[key].shape != shapes[key]
        ),
    }
    said = [f"{len(keys)} {kind} ({', '.join(keys[:3])})" for kind, keys in problems.items() if keys]
    if said:
        raise CheckpointError(f"{name} does not fit this model: {'; '.join(said)}", file=name)
