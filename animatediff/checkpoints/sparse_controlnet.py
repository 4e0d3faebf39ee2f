"""SparseCtrl files, published or diffusers' -> weights and architecture, told from
their keys and shapes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from ..config import SPARSECTRL_RGB, SPARSECTRL_SCRIBBLE, SparseControlNetConfig
from ..errors import CheckpointError
from .detect import described
from .motion_layout import read_motion_layers

_EMBEDDING = "controlnet_cond_embedding"


@dataclass(frozen=True, eq=False)
class SparseControlNetWeights:
    """``tensors`` by the model's own keys, without positional tables; ``config`` is
    what they need around them.
    """

    name: str
    config: SparseControlNetConfig
    tensors: Mapping[str, Tensor]


def read_sparse_controlnet(path: str | Path) -> SparseControlNetWeights:
    """Read a SparseCtrl file: one that takes latents (rgb) or one that takes pixels
    (scribble).

    Raises AssetError where there is none, CheckpointError for a file that is damaged or
    something else.
    """
    name = Path(path).name
    tensors, layout = read_motion_layers(path)
    config = _recognise(name, tensors)
    if layout.length:
        config = replace(
            config, motion=replace(config.motion, max_length=layout.length)
        )
    return SparseControlNetWeights(name, config, tensors)


def _recognise(name: str, tensors: Mapping[str, Tensor]) -> SparseControlNetConfig:
    simple, full = (
        tensors.get(f"{_EMBEDDING}.weight"),
        tensors.get(f"{_EMBEDDING}.conv_in.weight"),
    )
    for weight in (simple, full):
        if weight is not None and (weight.ndim != 4 or weight.shape[1] < 2):
            raise CheckpointError(
                f"{name}: {_EMBEDDING} has the shape {tuple(weight.shape)}", file=name
            )
    if not any(".motion_modules." in key for key in tensors) or (
        simple is None and full is None
    ):
        raise CheckpointError(
            f"{name} is not a SparseCtrl branch: it is {described(tensors)}", file=name
        )
    if simple is not None:
        return replace(SPARSECTRL_RGB, conditioning_channels=simple.shape[1] - 1)
    assert full is not None
    blocks = (tensors.get(f"{_EMBEDDING}.blocks.{i}.weight") for i in range(1, 64, 2))
    widths = (full.shape[0], *(block.shape[0] for block in blocks if block is not None))
    return replace(
        SPARSECTRL_SCRIBBLE,
        conditioning_channels=full.shape[1] - 1,
        embedding_channels=widths,
    )
