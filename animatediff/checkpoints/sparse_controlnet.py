"""SparseCtrl files, published or diffusers', -> weights and architecture."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from ..config import SPARSECTRL_RGB, SPARSECTRL_SCRIBBLE, SparseControlNetConfig
from ..errors import CheckpointError
from ..fetch.weight_file import AnyFile, WeightFile
from .detect import described
from .files import check_finite, read_weights
from .motion_layout import motion_layers

_EMBEDDING = "controlnet_cond_embedding"


@dataclass(frozen=True, eq=False)
class SparseControlNetWeights:
    """``tensors`` by the model's own keys, without positional tables.

    ``config`` is the architecture they belong to.
    """

    name: str
    config: SparseControlNetConfig
    tensors: Mapping[str, Tensor]


def read_sparse_controlnet(file: AnyFile) -> SparseControlNetWeights:
    """Read a SparseCtrl file, see ``sparse_controlnet_weights``.

    Raises AssetError if there is no file, CheckpointError if it is damaged or of
    another kind.
    """
    file = WeightFile.of(file)
    return sparse_controlnet_weights(file.name, read_weights(file))


def sparse_controlnet_weights(
    name: str, content: Mapping[str, Tensor]
) -> SparseControlNetWeights:
    """The branch in the ``content`` of the file ``name``, with its architecture.

    It takes latents (rgb) or pixels (scribble). Raises CheckpointError for a file of
    another kind, and for numbers that are not finite.
    """
    tensors, layout = motion_layers(name, content)
    config = _recognise(name, tensors)
    check_finite(name, tensors)
    if layout.length:
        motion = replace(config.motion, max_length=layout.length)
        config = replace(config, motion=motion)
    return SparseControlNetWeights(name, config, tensors)


def _recognise(name: str, tensors: Mapping[str, Tensor]) -> SparseControlNetConfig:
    of_latents = _convolution(name, f"{_EMBEDDING}.weight", tensors)
    of_pixels = _convolution(name, f"{_EMBEDDING}.conv_in.weight", tensors)
    if any(".motion_modules." in key for key in tensors):
        if of_latents is not None:
            return replace(
                SPARSECTRL_RGB, conditioning_channels=of_latents.shape[1] - 1
            )
        if of_pixels is not None:
            return replace(
                SPARSECTRL_SCRIBBLE,
                conditioning_channels=of_pixels.shape[1] - 1,
                embedding_channels=_widths(of_pixels, tensors),
            )
    raise CheckpointError(
        f"{name} is not a SparseCtrl branch: it is {described(tensors)}", file=name
    )


def _convolution(name: str, key: str, tensors: Mapping[str, Tensor]) -> Tensor | None:
    """The weight (c_out, c_in + 1, h, w) under ``key``; one input is the mask."""
    weight = tensors.get(key)
    if weight is not None and (weight.ndim != 4 or weight.shape[1] < 2):
        raise CheckpointError(
            f"{name}: {key} has the shape {tuple(weight.shape)}", file=name
        )
    return weight


def _widths(of_pixels: Tensor, tensors: Mapping[str, Tensor]) -> tuple[int, ...]:
    blocks = (tensors.get(f"{_EMBEDDING}.blocks.{i}.weight") for i in range(1, 64, 2))
    widths = (block.shape[0] for block in blocks if block is not None)
    return (of_pixels.shape[0], *widths)
