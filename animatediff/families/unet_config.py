"""``unet/config.json`` in diffusers' layout -> UNet3DConfig."""

from collections.abc import Mapping

from ..config import UNet3DConfig
from ..errors import CheckpointError
from .base import Family
from .config_file import ConfigFile

_ATTENTION_BLOCK = "CrossAttnDownBlock2D"
_PLAIN_BLOCK = "DownBlock2D"


def read_unet_config(values: Mapping[str, object], family: Family) -> UNet3DConfig:
    """The UNet that ``values`` describe.

    Raises CheckpointError unless it is a UNet of ``family``.
    """
    _check_constants(values, family)
    file = ConfigFile("unet/config.json", values)
    channels = file.integers("block_out_channels")
    _check_inputs(file, family)
    return UNet3DConfig(
        in_channels=file.integer("in_channels"),
        out_channels=file.integer("out_channels"),
        block_out_channels=channels,
        attention_blocks=_attention_blocks(file, family),
        layers_per_block=file.integer("layers_per_block"),
        cross_attention_dim=file.integer("cross_attention_dim"),
        num_attention_heads=_attention_heads(file, len(channels)),
        norm_num_groups=file.integer("norm_num_groups"),
        norm_eps=file.number("norm_eps", 1e-5),
        sample_size=_sample_size(values),
    )


def _check_constants(values: Mapping[str, object], family: Family) -> None:
    for key, constant in family.unet_constants.items():
        if values.get(key, constant) != constant:
            raise CheckpointError(
                f"not an {family.name} UNet: {key} is {values[key]!r}, must be"
                f" {constant!r}",
                key=key,
            )


def _check_inputs(file: ConfigFile, family: Family) -> None:
    inputs, outputs = file.integer("in_channels"), file.integer("out_channels")
    if inputs != outputs:
        raise CheckpointError(
            f"not an {family.name} UNet that makes pictures from words alone:"
            f" in_channels is {inputs}, out_channels is {outputs}",
            key="in_channels",
        )


def _attention_blocks(file: ConfigFile, family: Family) -> tuple[bool, ...]:
    down, up = file.strings("down_block_types"), file.strings("up_block_types")
    mirrored = tuple(name.replace("Down", "Up") for name in reversed(down))
    if up != mirrored or not {_ATTENTION_BLOCK, _PLAIN_BLOCK}.issuperset(down):
        raise CheckpointError(
            f"not an {family.name} UNet: blocks {list(down)} / {list(up)}",
            key="block_types",
        )
    return tuple(name == _ATTENTION_BLOCK for name in down)


def _attention_heads(file: ConfigFile, levels: int) -> tuple[int, ...]:
    """The number of heads by level, under either of the keys that files use for it."""
    for key in ("num_attention_heads", "attention_head_dim"):
        heads = file.values.get(key)
        if isinstance(heads, int) and heads:
            return (heads,) * levels
        if heads:
            return file.integers(key)
    return (8,) * levels


def _sample_size(values: Mapping[str, object]) -> int:
    size = values.get("sample_size")
    return size if isinstance(size, int) and size else 64
