"""Low-rank layers: injected into a model by peft, exported in the published layouts.

peft wraps whole layers, but ``models.blocks.PointwiseConv``, our 1x1 convolution on
tokens, uses its weight in a special way. So only ``nn.Linear`` takes a LoRA: the
projections of attention and the feed-forward layers.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import Linear
from torch import Tensor, nn

from .config import LoraSection
from .libraries import named_modules

ADAPTER = "trained"
ATTENTION = r"(to_q|to_k|to_v|to_out\.0)"
SPATIAL_ATTENTION = rf".+\.attentions\.\d+\..+\.attn[12]\.{ATTENTION}"
SPATIAL_LAYERS = rf"({SPATIAL_ATTENTION}|.+\.attentions\.\d+\..+\.ff\.net\.(0\.proj|2))"
TEMPORAL_ATTENTION = rf".+\.motion_modules\.\d+\..+\.attention_blocks\.\d+\.{ATTENTION}"


def inject(model: nn.Module, section: LoraSection, targets: str) -> None:
    """Add a LoRA to every layer whose full name ``targets`` matches.

    It starts as the identity, and is all that trains.
    """
    settings: dict[str, Any] = {"lora_alpha": section.scaled_alpha}
    config = LoraConfig(
        r=section.rank, target_modules=targets, lora_dropout=0.0, **settings
    )
    inject_adapter_in_model(config, model, adapter_name=ADAPTER)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".lora_" in name)


class ItemStrengths:
    """How strongly a model's LoRA acts on each item of a batch.

    ``values`` (b,), or None for full strength on all. Only for layers whose input has
    the batch outermost, like the motion module's tokens (b h w, f, c).
    """

    def __init__(self, model: nn.Module) -> None:
        self.values: Tensor | None = None
        for _, module in _lora_modules(model):
            module.lora_B.get_submodule(ADAPTER).register_forward_hook(self._scaled)

    def _scaled(self, _layer: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        if self.values is None:
            return output
        count = len(output) // len(self.values)
        repeated = self.values.to(output).repeat_interleave(count)
        return output * repeated.view(-1, *[1] * (output.ndim - 1))


def _lora_modules(model: nn.Module) -> Iterator[tuple[str, Linear]]:
    for name, module in named_modules(model):
        if isinstance(module, Linear):
            yield name, module


def layers(model: nn.Module) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Yield the name, down matrix (r, c_in) and up matrix (c_out, r) of each LoRA."""
    for name, module in _lora_modules(model):
        yield name, _weight(module.lora_A), _weight(module.lora_B)


def _weight(adapters: nn.ModuleDict) -> Tensor:
    return adapters.get_parameter(f"{ADAPTER}.weight").detach()


def kohya(model: nn.Module, section: LoraSection) -> Mapping[str, Tensor]:
    """Weights in the layout of kohya's trainer, with alpha next to the two matrices."""
    weights: dict[str, Tensor] = {}
    for name, down, up in layers(model):
        flat = "lora_unet_" + name.replace(".", "_")
        weights[f"{flat}.lora_down.weight"] = down
        weights[f"{flat}.lora_up.weight"] = up
        weights[f"{flat}.alpha"] = torch.tensor(float(section.scaled_alpha))
    return weights


def processors(model: nn.Module, section: LoraSection) -> Mapping[str, Tensor]:
    """Weights in the layout of the published v3 adapter and MotionLoRAs.

    It has no alpha, so ``up`` is multiplied by alpha / rank.
    """
    scale = section.scaled_alpha / section.rank
    weights: dict[str, Tensor] = {}
    for name, down, up in layers(model):
        attention, _, layer = name.removesuffix(".0").rpartition(".")
        weights[f"{attention}.processor.{layer}_lora.down.weight"] = down
        weights[f"{attention}.processor.{layer}_lora.up.weight"] = up * scale
    return weights
