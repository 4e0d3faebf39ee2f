"""Motion modules put into a UNet's motion slots."""

from collections.abc import Collection
from dataclasses import dataclass

import torch

from ..checkpoints.files import check_keys_and_shapes
from ..checkpoints.motion_module import MotionModuleWeights
from ..models.motion_module import reset_positional_tables
from ..models.unet import UNet3DConditionModel
from ..transfers import send_weights


@dataclass(frozen=True, eq=False)
class FittedMotion:
    """A motion module whose weights fit a UNet.

    ``absent`` are the slots for which the file has no weights at all. They stay empty.
    """

    weights: MotionModuleWeights
    absent: tuple[str, ...] = ()

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings about absent slots, and about weights of other layers."""
        name, absent, unused = self.weights.name, self.absent, self.weights.unused
        messages: list[str] = []
        if absent:
            messages.append(
                f"{name} has no weights for {len(absent)} motion modules, which do"
                f" nothing: {', '.join(absent)}"
            )
        if unused:
            messages.append(
                f"{name}: {len(unused)} keys belong to no motion module and are not"
                f" used ({', '.join(unused[:3])})"
            )
        return tuple(messages)


def fit_motion_module(
    unet: UNet3DConditionModel, weights: MotionModuleWeights
) -> FittedMotion:
    """Check the weights against the slots of ``unet``, which is not changed.

    Raises CheckpointError unless every key and shape fits, absent slots aside.
    """
    with torch.device("meta"):
        model = UNet3DConditionModel(unet.config, weights.config)
    slots = {
        key: tensor
        for key, tensor in model.state_dict().items()
        if ".motion_modules." in key
    }
    present = _slots_of(weights.tensors)
    expected = {key: tensor for key, tensor in slots.items() if _slot(key) in present}
    check_keys_and_shapes(weights.name, weights.tensors, expected)
    return FittedMotion(weights, tuple(sorted(_slots_of(slots) - present)))


def install_motion_module(unet: UNet3DConditionModel, motion: FittedMotion) -> None:
    """Replace the motion modules of ``unet``, on its device and in its dtype."""
    device, dtype = unet.device, unet.dtype
    weights = motion.weights
    tensors = send_weights(weights.tensors, device, dtype)
    with torch.device("meta"):
        unet.set_motion(weights.config)
    for slot in motion.absent:
        modules, _, i = slot.rpartition(".")
        setattr(unet.get_submodule(modules), i, None)
    unet.load_state_dict(tensors, strict=False, assign=True)
    reset_positional_tables(unet, device, dtype)
    unet.eval().requires_grad_(False)


def _slots_of(keys: Collection[str]) -> set[str]:
    return {_slot(key) for key in keys}


def _slot(key: str) -> str:
    """Return ``down_blocks.0.motion_modules.1`` for a key below it."""
    return key.partition(".temporal_transformer.")[0]
