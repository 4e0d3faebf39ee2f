"""A VAE in a file of its own, in diffusers' layout or in that of the first release
(LDM).
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from .detect import described
from .files import check_keys_and_shapes, read_weights, renamed
from .ldm import as_linear, convert_vae, without_noise
from .lora import Shapes
from .single_file import SingleFile, split, wanted_of

_ATTENTION = re.compile(
    r"(?P<layer>.+\.attentions\.\d+)\.(?P<old>query|key|value|proj_attn)\.(?P<end>weight|bias)"
)
_NEW_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def read_vae(
    path: str | Path, shapes: Shapes, vae_config: Mapping[str, Any]
) -> SingleFile:
    """Every weight of a VAE file, for the model that has ``shapes`` and whose VAE has
    ``vae_config``.

    Raises AssetError where there is no file, CheckpointError for one of another kind or
    of another VAE.
    """
    name = Path(path).name
    raw = read_weights(path)
    kind = described(raw)
    if not kind.startswith("VAE"):
        raise CheckpointError(
            f"{name} is not a VAE, which is expected: it is {kind}", file=name
        )
    kept = {key: raw[key] for key in without_noise(raw)}
    wanted = wanted_of("vae", shapes)
    if kind == "VAE, LDM layout":
        weights, unused = convert_vae(name, kept, vae_config)
    else:
        weights, unused = split(renamed(name, kept, _new_name), wanted)
        weights = {
            key: as_linear(t) if ".attentions." in key else t
            for key, t in weights.items()
        }
    check_keys_and_shapes(name, weights, wanted)
    return SingleFile(
        name, {("vae", key): tensor for key, tensor in weights.items()}, unused=unused
    )


def _new_name(key: str) -> str:
    """Attention as diffusers has named it since version 0.17."""
    if (match := _ATTENTION.fullmatch(key)) is None:
        return key
    return f"{match['layer']}.{_NEW_NAMES[match['old']]}.{match['end']}"
