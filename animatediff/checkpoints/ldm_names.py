"""diffusers' keys of a UNet -> those of the first latent-diffusion release (LDM).

The inverse of ``ldm.convert_unet``, for UNets of any width.
"""

import re
from collections.abc import Iterable

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
_UNET_ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_UNET_LAYER = re.compile(
    r"(?P<side>down|up|mid)_blocks?\.(?:(?P<level>\d+)\.)?"
    r"(?P<kind>resnets|attentions|downsamplers|upsamplers)"
    r"\.(?P<i>\d+)\.(?P<rest>.+)"
)


class LdmUNetKeys:
    """Renames the keys of one UNet, without motion modules."""

    def __init__(self, keys: Iterable[str], layers_per_block: int) -> None:
        self._layers = layers_per_block
        self._attentive = {
            key.partition(".attentions.")[0] for key in keys if ".attentions." in key
        }

    def renamed(self, key: str) -> str:
        """The LDM name of a weight. Raises ValueError if there is none."""
        name, _, end = key.rpartition(".")
        if name in _UNET_ENDS:
            return f"{_UNET_ENDS[name]}.{end}"
        match = _UNET_LAYER.fullmatch(key)
        if match is None:
            raise ValueError(f"unknown UNet layer: {key}")
        kind, i, rest = match["kind"], int(match["i"]), match["rest"]
        if kind == "resnets":
            part, _, end = rest.partition(".")
            rest = f"{_RESNET[part]}.{end}"
        if match["side"] == "mid":
            return f"middle_block.{2 * i if kind == 'resnets' else 1}.{rest}"
        rename = self._down if match["side"] == "down" else self._up
        return rename(int(match["level"]), kind, i, rest)

    def _down(self, level: int, kind: str, i: int, rest: str) -> str:
        first = 1 + level * (self._layers + 1)
        if kind == "downsamplers":
            rest = rest.replace("conv.", "op.", 1)
            return f"input_blocks.{first + self._layers}.0.{rest}"
        return f"input_blocks.{first + i}.{_place(kind)}.{rest}"

    def _up(self, level: int, kind: str, i: int, rest: str) -> str:
        first = level * (self._layers + 1)
        if kind == "upsamplers":
            place = 2 if f"up_blocks.{level}" in self._attentive else 1
            return f"output_blocks.{first + self._layers}.{place}.{rest}"
        return f"output_blocks.{first + i}.{_place(kind)}.{rest}"


def _place(kind: str) -> int:
    return 1 if kind == "attentions" else 0
