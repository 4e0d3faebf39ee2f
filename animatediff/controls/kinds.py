"""The kinds of control files. A file's content decides its kind."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image
from torch import Tensor, nn

from ..checkpoints.detect import described, detect
from ..checkpoints.files import read_weights
from ..checkpoints.sparse_controlnet import sparse_controlnet_weights
from ..errors import CheckpointError
from ..fetch.weight_file import WeightFile
from ..job.clip import ControlFile
from ..models.sparse_controlnet import SparseControlNetModel
from ..models.unet import UNet3DConditionModel
from .base import ControlCondition
from .sparsectrl import SparseControl, build_sparse_controlnet, control_images


@dataclass(frozen=True, eq=False)
class ControlPictures:
    """A job's request for one control: its fields, and the pictures that they name.

    ``width`` and ``height`` are those of the clip in pixels.
    """

    file: ControlFile
    pictures: tuple[Image.Image, ...]
    width: int
    height: int


Build = Callable[[str, Mapping[str, Tensor], UNet3DConditionModel, str], nn.Module]
"""Builds the model from a file's name and content, for a UNet and with an attention
backend. Raises CheckpointError.
"""

Describe = Callable[[Any, Any, ControlPictures], ControlCondition]
"""Makes the condition from the loaded model, the VAE and the job's pictures."""


@dataclass(frozen=True)
class ControlKind:
    """How the files of one kind become a model, and that a condition."""

    build: Build
    describe: Describe


@dataclass(frozen=True, eq=False)
class LoadedControl:
    """A control file that is loaded."""

    kind: ControlKind
    model: nn.Module

    def condition(self, vae: Any, pictures: ControlPictures) -> ControlCondition:
        """Return the condition that the job's pictures make of the model."""
        return self.kind.describe(self.model, vae, pictures)


def _build_sparsectrl(
    name: str,
    content: Mapping[str, Tensor],
    unet: UNet3DConditionModel,
    attention: str,
) -> nn.Module:
    weights = sparse_controlnet_weights(name, content)
    return build_sparse_controlnet(unet, weights, attention)


def _describe_sparsectrl(
    model: SparseControlNetModel, vae: Any, job: ControlPictures
) -> SparseControl:
    file = job.file
    size = job.width, job.height
    images = control_images(model, vae, job.pictures, *size, normalize=file.normalize)
    return SparseControl(
        model, images, file.frame_indices, file.strength, file.start, file.end
    )


CONTROL_KINDS: Mapping[str, ControlKind] = {
    "SparseCtrl": ControlKind(_build_sparsectrl, _describe_sparsectrl),
}
"""By the name that ``checkpoints.detect`` gives the files' content."""


def load_control(
    unet: UNet3DConditionModel, file: WeightFile, attention: str
) -> LoadedControl:
    """Load a control file of any kind for ``unet``.

    Raises AssetError if there is no file, CheckpointError for one of another kind.
    """
    content = read_weights(file)
    kind = CONTROL_KINDS.get(detect(content, file.name).kind)
    if kind is None:
        raise CheckpointError(
            f"{file.name} is no control ({', '.join(CONTROL_KINDS)}): it is"
            f" {described(content)}",
            file=file.name,
        )
    return LoadedControl(kind, kind.build(file.name, content, unet, attention))
