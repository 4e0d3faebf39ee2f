"""Weight files from disk: .safetensors, and .ckpt / .pt / .bin pickles opened so that they cannot run code."""

import pickle
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ..errors import AssetError, CheckpointError

SAFETENSORS = (".safetensors",)
PICKLES = (".ckpt", ".pt", ".pth", ".bin")


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Every tensor of a weight file by its key, on the CPU; a ``state_dict`` around them is taken off.

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
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict):
        raise CheckpointError(f"{path.name} holds no table of weights", file=path.name)
    return {str(key): value for key, value in content.items() if isinstance(value, Tensor)}


def check_keys_and_shapes(name: str, got: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    """Raise CheckpointError unless ``got`` has exactly the keys and shapes of ``wanted``; names the first few."""
    problems = {
        "missing": sorted(wanted.keys() - got.keys()),
        "unexpected": sorted(got.keys() - wanted.keys()),
        "of another shape": sorted(
            f"{key} {tuple(got[key].shape)} instead of {tuple(wanted[key].shape)}"
            for key in wanted.keys() & got.keys()
            if got[key].shape != wanted[key].shape
        ),
    }
    said = [f"{len(keys)} {kind} ({', '.join(keys[:3])})" for kind, keys in problems.items() if keys]
    if said:
        raise CheckpointError(f"{name} does not fit this model: {'; '.join(said)}", file=name)
