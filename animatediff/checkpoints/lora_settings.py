"""The scale that the header of a LoRA file states.

diffusers writes the settings of PEFT into the header of a .safetensors file; such a
file has no alpha beside its matrices. Source of the names: ``LoraConfig`` of PEFT.
"""

import json
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from safetensors import SafetensorError, safe_open

from ..errors import CheckpointError
from ..fetch.weight_file import WeightFile

_HEADER = "lora_adapter_metadata"


@dataclass(frozen=True)
class AdapterSettings:
    """``values`` by PEFT's names, with or without a model's name and a dot before."""

    values: Mapping[str, object]

    def scale(self, model: str, module: str, rank: int) -> float:
        """The factor of a layer's change: alpha / rank, 1 if the header has no alpha.

        With ``use_rslora`` the divisor is the root of the rank (arXiv 2312.03732).
        """
        alpha = self._alpha(model, module)
        if alpha is None:
            return 1.0
        is_rooted = self._value(model, "use_rslora") is True
        return alpha / (math.sqrt(rank) if is_rooted else rank)

    def _alpha(self, model: str, module: str) -> float | None:
        alpha = self._value(model, "lora_alpha")
        pattern = self._value(model, "alpha_pattern")
        if isinstance(pattern, dict):
            exceptions = cast("dict[str, object]", pattern)
            for name, value in exceptions.items():
                if f".{module}".endswith("." + name.removeprefix("^")):
                    alpha = value
                    break
        if isinstance(alpha, int | float) and abs(alpha) < sys.float_info.max:
            return float(alpha)
        return None

    def _value(self, model: str, name: str) -> object:
        return self.values.get(f"{model}.{name}", self.values.get(name))


def adapter_settings(file: WeightFile) -> AdapterSettings:
    """The settings in the header of a file; none for a pickle.

    Raises CheckpointError if they are not a table in JSON.
    """
    try:
        untyped_open: Any = safe_open
        with untyped_open(file.path, framework="pt") as opened:
            header: Mapping[str, str] = opened.metadata() or {}
    except (SafetensorError, OSError):
        return AdapterSettings({})
    if _HEADER not in header:
        return AdapterSettings({})
    try:
        values: object = json.loads(header[_HEADER])
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise CheckpointError(
            f"{file.name}: {_HEADER} in its header is no table in JSON", file=file.name
        )
    return AdapterSettings(cast("dict[str, object]", values))
