"""Motion modules put into a UNet's empty slots and taken out again."""

import torch

from ..checkpoints.files import check_keys_and_shapes
from ..checkpoints.motion_module import MotionModuleWeights
from ..models.motion_module import reset_positional_tables
from ..models.unet import UNet3DConditionModel


def fit_motion_module(
    unet: UNet3DConditionModel, weights: MotionModuleWeights
) -> tuple[str, ...]:
    """Motion slots of ``unet`` for which ``weights`` have nothing at all, by their
    places. ``unet`` is not touched.

    Raises CheckpointError unless every other key and shape fits.
    """
    with torch.device("meta"):
        wanted = UNet3DConditionModel(unet.config, weights.config).state_dict()
    wanted = {
        key: tensor for key, tensor in wanted.items() if ".motion_modules." in key
    }
    filled = {_slot(key) for key in weights.tensors}
    present = {key: tensor for key, tensor in wanted.items() if _slot(key) in filled}
    check_keys_and_shapes(weights.name, weights.tensors, present)
    return tuple(sorted({_slot(key) for key in wanted} - filled))


def install_motion_module(
    unet: UNet3DConditionModel,
    weights: MotionModuleWeights,
    absent: tuple[str, ...] | None = None,
) -> tuple[str, ...]:
    """Fill every motion slot of ``unet`` with ``weights``, on its device and in its
    dtype.

    Whatever motion module was there is replaced. ``absent``, if it was asked already,
    is what ``fit_motion_module`` said: these slots stay empty, and what is returned are
    warnings that say so. Raises what that does, before ``unet`` is touched.
    """
    if absent is None:
        absent = fit_motion_module(unet, weights)
    device, dtype = unet.device, unet.dtype
    tensors = {key: tensor.to(device, dtype) for key, tensor in weights.tensors.items()}
    with torch.device("meta"):
        unet.set_motion(weights.config)
    for slot in absent:
        modules, _, i = slot.rpartition(".")
        unet.get_submodule(modules)._modules[i] = None
    unet.load_state_dict(tensors, strict=False, assign=True)
    reset_positional_tables(unet, device, dtype)
    unet.eval().requires_grad_(False)
    if not absent:
        return ()
    return (
        f"{weights.name} has no weights for {len(absent)} motion modules, which do"
        f" nothing: {', '.join(absent)}",
    )


def _slot(key: str) -> str:
    """``down_blocks.0.motion_modules.1`` of a key below it."""
    return key.partition(".temporal_transformer.")[0]


def remove_motion_module(unet: UNet3DConditionModel) -> None:
    """Empty every motion slot: what is left is the image model, untouched."""
    unet.set_motion(None)
