"""SparseCtrl branches beside a UNet: built from files, and asked once a step."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..checkpoints.files import check_keys_and_shapes
from ..checkpoints.sparse_controlnet import SparseControlNetWeights
from ..models.context import ControlResiduals, TextContext, TimeContext
from ..models.motion_module import reset_positional_tables
from ..models.sparse_controlnet import SparseControlNetModel
from ..models.unet import UNet3DConditionModel


def build_sparse_controlnet(
    unet: UNet3DConditionModel,
    weights: SparseControlNetWeights,
    attention: str = "sdpa",
) -> SparseControlNetModel:
    """The branch that ``weights`` are, for ``unet``: its widths, device and dtype.
    ``unet`` is not changed.

    Raises CheckpointError unless every key and shape fits.
    """
    with torch.device("meta"):
        model = SparseControlNetModel(unet.config, weights.config, attention)
    check_keys_and_shapes(weights.name, dict(weights.tensors), model.state_dict())
    tensors = {
        key: tensor.to(unet.device, unet.dtype)
        for key, tensor in weights.tensors.items()
    }
    model.load_state_dict(tensors, assign=True)
    reset_positional_tables(model, unet.device, unet.dtype)
    return model.to(memory_format=torch.channels_last).eval().requires_grad_(False)  # pyright: ignore[reportCallIssue]


@dataclass(frozen=True, eq=False)
class ControlBranch:
    """A branch made ready for one run of the denoising loop: all that is the same in
    every step is in here.

    ``start`` and ``end`` are fractions of the steps; outside of them the branch is not
    computed.
    """

    model: SparseControlNetModel
    embedded: Tensor
    time: TimeContext
    text: TextContext
    strength: float
    start: float
    end: float

    def residuals(self, step: int, num_steps: int) -> ControlResiduals | None:
        """What to add at ``step`` (from 0), for every text of ``text``; None where the
        branch is at rest.
        """
        if (
            self.strength == 0
            or step / num_steps < self.start
            or (step + 1) / num_steps > self.end
        ):
            return None
        row = [table[step : step + 1] for table in self.time]
        return self.model.predict(self.embedded, row, self.text).scaled(self.strength)
