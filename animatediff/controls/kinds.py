"""The kinds of control files. A file's content decides its kind."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image
from torch import nn

from ..checkpoints.detect import described, detect
from ..checkpoints.files import read_weights
from ..checkpoints.sparse_controlnet import read_sparse_controlnet
from ..errors import CheckpointError
from ..fetch.weight_file import WeightFile
from ..job.clip import ControlFile
from ..models.sparse_controlnet import SparseControlNetModel
from ..models.unet import UNet3DConditionModel
from .base import ControlCondition
from .pictures import condition_images
from .sparsectrl import SparseControl, build_sparse_controlnet


@dataclass(frozen=True, eq=False)
class ControlPictures:
    """A job's request for one control: its fields, and the pictures that they name.

    ``width`` and ``height`` are those of the clip in pixels.
    """

    file: ControlFile
    pictures: tuple[Image.Image, ...]
    width: int
    height: int


Load = Callable[[UNet3DConditionModel, WeightFile, str], nn.Module]
"""Loads a file for a UNet, with an attention backend. Raises CheckpointError."""

Describe = Callable[[Any, Any, ControlPictures], ControlCondition]
"""Makes the condition from the loaded model, the VAE and the job's pictures."""


@dataclass(frozen=True)
class ControlKind:
    """How the files of one kind are loaded, and turned into a condition."""

    load: Load
    describe: Describe


@dataclass(frozen=True, eq=False)
class LoadedControl:
    """A control file that is loaded."""

    kind: ControlKind
    model: nn.Module

    def condition(self, vae: Any, pictures: ControlPictures) -> ControlCondition:
        """Return the condition that the job's pictures make of the model."""
        return self.kind.describe(self.model, vae, pictures)


def _load_sparsectrl(
    unet: UNet3DConditionModel, file: WeightFile, attention: str
) -> nn.Module:
    return build_sparse_controlnet(unet, read_sparse_controlnet(file), attention)


def _describe_sparsectrl(
    model: SparseControlNetModel, vae: Any, job: ControlPictures
) -> SparseControl:
    file = job.file
    images = condition_images(
        vae,
        job.pictures,
        job.width,
        job.height,
        normalize=file.normalize,
        takes_latents=model.control.takes_latents,
    )
    return SparseControl(
        model, images, file.frame_indices, file.strength, file.start, file.end
    )


CONTROL_KINDS: Mapping[str, ControlKind] = {
    "SparseCtrl": ControlKind(_load_sparsectrl, _describe_sparsectrl),
}
"""By the name that ``checkpoints.detect`` gives the files' content."""


def load_control(
    unet: UNet3DConditionModel, file: WeightFile, attention: str
) -> LoadedControl:
    """Load a control file of any kind for ``unet``.

    Raises AssetError if there is no file, CheckpointError for one of another kind.
    """
    weights = read_weights(file)
    kind = CONTROL_KINDS.get(detect(weights, file.name).kind)
    if kind is None:
        raise CheckpointError(
            f"{file.name} is no control ({', '.join(CONTROL_KINDS)}): it is"
            f" {described(weights)}",
            file=file.name,
        )
    return LoadedControl(kind, kind.load(unet, file, attention))
