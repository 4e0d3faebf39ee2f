"""Motion modules put into a UNet's empty slots and taken out again."""

import torch

from ..checkpoints.files import check_keys_and_shapes
from ..checkpoints.motion_module import MotionModuleWeights
from ..models.motion_module import reset_positional_tables
from ..models.unet import UNet3DConditionModel


def install_motion_module(unet: UNet3DConditionModel, weights: MotionModuleWeights) -> None:
    """Fill every motion slot of ``unet`` with ``weights``, on its device and in its dtype.

    Whatever motion module was there is replaced. Raises CheckpointError, before ``unet`` is touched, unless every key
    and shape fits.
    """
    with torch.device("meta"):
        wanted = UNet3DConditionModel(unet.config, weights.config).state_dict()
    wanted = {key: tensor for key, tensor in wanted.items() if ".motion_modules." in key}
    check_keys_and_shapes(weights.name, dict(weights.tensors), wanted)
    device, dtype = unet.device, unet.dtype
    tensors = {key: tensor.to(device, dtype) for key, tensor in weights.tensors.items()}
    with torch.device("meta"):
        unet.set_motion(weights.config)
    unet.load_state_dict(tensors, strict=False, assign=True)
    reset_positional_tables(unet, device, dtype)
    unet.eval().requires_grad_(False)


def remove_motion_module(unet: UNet3DConditionModel) -> None:
    """Empty every motion slot: what is left is the image model, untouched."""
    unet.set_motion(None)
