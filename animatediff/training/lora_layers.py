"""Low-rank layers put into a model by peft, and written as the published files have
them.

peft wraps whole layers, and our 1x1 convolutions on tokens
(``models.blocks.PointwiseConv``) use their weight in a way of their own, so only
``nn.Linear`` takes a LoRA: the projections of attention, and the feed-forward layers.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import Linear
from torch import Tensor, nn

from .config import LoraSection

ADAPTER = "trained"
ATTENTION = r"(to_q|to_k|to_v|to_out\.0)"
SPATIAL_ATTENTION = rf".+\.attentions\.\d+\..+\.attn[12]\.{ATTENTION}"
SPATIAL_LAYERS = rf"({SPATIAL_ATTENTION}|.+\.attentions\.\d+\..+\.ff\.net\.(0\.proj|2))"
TEMPORAL_ATTENTION = rf".+\.motion_modules\.\d+\..+\.attention_blocks\.\d+\.{ATTENTION}"


def inject(model: nn.Module, section: LoraSection, targets: str) -> None:
    """Put a LoRA into every layer whose whole name ``targets`` matches. It starts as no
    change; it alone trains.
    """
    config = LoraConfig(
        r=section.rank,
        lora_alpha=_alpha(section),
        target_modules=targets,
        lora_dropout=0.0,
    )
    inject_adapter_in_model(config, model, adapter_name=ADAPTER)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".lora_" in name)


def _alpha(section: LoraSection) -> Any:
    return section.rank if section.alpha is None else section.alpha


class ItemStrengths:
    """How strongly a model's LoRA acts on each item of a batch: ``values`` (b,), or
    None for all of it on all.

    For layers whose input has the batch outermost, as the motion module's tokens, (b h
    w, f, c).
    """

    def __init__(self, model: nn.Module) -> None:
        self.values: Tensor | None = None
        for module in model.modules():
            if isinstance(module, Linear):
                module.lora_B.get_submodule(ADAPTER).register_forward_hook(self._scaled)

    def _scaled(self, _layer: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        if self.values is None:
            return output
        repeated = self.values.to(output).repeat_interleave(
            len(output) // len(self.values)
        )
        return output * repeated.view(-1, *[1] * (output.ndim - 1))


def layers(model: nn.Module) -> Iterator[tuple[str, Tensor, Tensor]]:
    """The name of every layer that has a LoRA, its down matrix (r, c_in) and its up
    matrix (c_out, r).
    """
    for name, module in model.named_modules():
        if isinstance(module, Linear):
            down, up = (
                part.get_submodule(ADAPTER).weight
                for part in (module.lora_A, module.lora_B)
            )
            assert isinstance(down, Tensor)
            assert isinstance(up, Tensor)
            yield name, down.detach(), up.detach()


def kohya(model: nn.Module, section: LoraSection) -> Mapping[str, Tensor]:
    """The layout of kohya's trainer, which every program reads: alpha beside the two
    matrices.
    """
    weights = {}
    for name, down, up in layers(model):
        flat = "lora_unet_" + name.replace(".", "_")
        weights[f"{flat}.lora_down.weight"] = down
        weights[f"{flat}.lora_up.weight"] = up
        weights[f"{flat}.alpha"] = torch.tensor(float(_alpha(section)))
    return weights


def processors(model: nn.Module, section: LoraSection) -> Mapping[str, Tensor]:
    """The layout of the published v3 adapter and MotionLoRAs. It has no alpha: alpha
    / rank goes into ``up``.
    """
    weights = {}
    for name, down, up in layers(model):
        attention, _, layer = name.removesuffix(".0").rpartition(".")
        weights[f"{attention}.processor.{layer}_lora.down.weight"] = down
        weights[f"{attention}.processor.{layer}_lora.up.weight"] = up * (
            _alpha(section) / section.rank
        )
    return weights
