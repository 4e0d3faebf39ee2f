"""The models that draw pictures together: UNet, VAE and text encoders of one family."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from ..families import DEFAULT, Family
from .unet import UNet3DConditionModel


@dataclass(frozen=True, eq=False)
class TextModel:
    """A text encoder and its tokenizer; ``name`` is that of the family's row."""

    name: str
    tokenizer: Any
    encoder: Any


@dataclass(frozen=True, eq=False)
class ImageModel:
    """The models of ``family``, with a text model for each of its rows.

    ``name`` is the folder that they come from. ``noise`` is what its noise schedule
    has that differs from the family's.
    """

    unet: UNet3DConditionModel
    vae: Any
    texts: Sequence[TextModel] = ()
    family: Family = DEFAULT
    name: str = ""
    noise: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def parts(self) -> dict[str, nn.Module]:
        """All models by the names of the family's parts."""
        parts = {self.family.unet.name: self.unet, self.family.vae.name: self.vae}
        return parts | {text.name: text.encoder for text in self.texts}

    @property
    def device_bytes(self) -> int:
        """Memory that the models take on their device."""
        return sum(map(bytes_of, self.parts.values()))


def bytes_of(model: nn.Module) -> int:
    """Return the memory of a model's parameters and buffers."""
    tensors = (*model.parameters(), *model.buffers())
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
