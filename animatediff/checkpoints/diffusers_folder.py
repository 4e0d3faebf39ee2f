"""A model in diffusers' folder layout: unet/, vae/, text_encoder/, tokenizer/."""

import json
import logging
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch

from ..errors import AssetError, CheckpointError
from ..families import FAMILIES, Family, TextEncoder
from ..families.base import DIFFUSERS_WEIGHTS
from ..families.config_file import ConfigFile
from ..families.unet_config import read_unet_config
from ..memory import MemoryModel
from ..models.norm import use_own_group_norm
from ..models.unet import UNet3DConditionModel
from .files import check_keys_and_shapes, count_values, in_words, read_weights


def read_family(folder: Path) -> Family:
    """The family of the model in ``folder``, by the configuration of its UNet.

    Raises AssetError if there is no unet/config.json, CheckpointError if it fits no
    family.
    """
    config = _read_json(folder / "unet" / "config.json")
    errors: list[str] = []
    for family in FAMILIES.values():
        try:
            read_unet_config(config, family)
        except CheckpointError as error:
            errors.append(error.message)
        else:
            return family
    raise CheckpointError("; ".join(errors), file="config.json")


def load_unet(
    folder: Path,
    family: Family,
    device: torch.device,
    dtype: torch.dtype,
    attention: str,
) -> UNet3DConditionModel:
    """The image UNet with empty motion slots.

    It is built without memory, and the file's tensors become its parameters.
    """
    config = read_unet_config(_read_json(folder / "config.json"), family)
    with torch.device("meta"):
        unet = UNet3DConditionModel(config, attention=attention)
    weights = read_weights(_first_file(folder, family.unet.weight_files, dtype))
    check_keys_and_shapes("unet", weights, unet.state_dict())
    unet.load_state_dict(
        {key: tensor.to(device, dtype) for key, tensor in weights.items()}, assign=True
    )
    unet.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    return unet.eval().requires_grad_(False)


def load_vae(folder: Path, device: torch.device, dtype: torch.dtype) -> Any:
    """The VAE in ``folder``; older names of attention layers are accepted."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    model_class: Any = AutoencoderKL
    variant = _variant(_first_file(folder, DIFFUSERS_WEIGHTS, dtype))
    with _quiet():
        vae, info = model_class.from_pretrained(
            folder,
            torch_dtype=dtype,
            variant=variant,
            low_cpu_mem_usage=False,
            output_loading_info=True,
        )
    _check_loading("vae", info)
    use_own_group_norm(vae)
    vae = vae.to(device, memory_format=torch.channels_last)
    return vae.eval().requires_grad_(False)


def load_text_encoder(
    folder: Path, encoder: TextEncoder, device: torch.device, dtype: torch.dtype
) -> Any:
    """The text encoder in ``folder``, of the class that ``encoder`` names."""
    variant = _variant(_first_file(folder, encoder.weight_files, dtype))
    with _quiet():
        model, info = _transformers_class(encoder.model_class).from_pretrained(
            folder, dtype=dtype, variant=variant, output_loading_info=True
        )
    _check_loading(encoder.name, info)
    return model.to(device).eval().requires_grad_(False)


def load_tokenizer(folder: Path, encoder: TextEncoder) -> Any:
    """The tokenizer in ``folder``, of the class that ``encoder`` names."""
    if not (folder / "vocab.json").is_file():
        raise AssetError(
            f"there is no {folder.name}/vocab.json", file=f"{folder.name}/vocab.json"
        )
    return _transformers_class(encoder.tokenizer_class).from_pretrained(folder)


def _transformers_class(name: str) -> Any:
    import transformers

    return getattr(transformers, name)


def read_memory_model(folder: Path, dtype: torch.dtype) -> MemoryModel:
    """The memory that the model in ``folder`` takes in ``dtype``; nothing is loaded.

    Configurations and the headers of the weight files suffice. Raises AssetError for
    missing files, CheckpointError for damaged ones and for another architecture.
    """
    family = read_family(folder)
    files = [
        _first_file(folder / part.name, part.weight_files, dtype)
        for part in family.parts
    ]
    unet = read_unet_config(_read_json(folder / "unet" / "config.json"), family)
    vae = ConfigFile("vae/config.json", _read_json(folder / "vae" / "config.json"))
    return MemoryModel(
        family=family,
        unet_width=unet.block_out_channels[0],
        vae_width=vae.integers("block_out_channels")[0],
        value_bytes=dtype.itemsize,
        weight_bytes=sum(map(count_values, files)) * dtype.itemsize,
    )


def _read_json(path: Path) -> dict[str, object]:
    name = f"{path.parent.name}/{path.name}"
    try:
        content: object = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise AssetError(f"there is no {name}", file=path.name) from error
    except ValueError as error:
        raise CheckpointError(f"{name} is not JSON", file=path.name) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{name} is not a JSON object", file=path.name)
    return cast("dict[str, object]", content)


def _first_file(folder: Path, names: tuple[str, ...], dtype: torch.dtype) -> Path:
    """The weight file to read: the variant that suits ``dtype``, else any that exists.

    ``names`` starts with the half-precision variant.
    """
    if dtype not in (torch.float16, torch.bfloat16):
        names = (*names[1:], names[0])
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise AssetError(
        f"no weights in {folder.name}/, looked for {', '.join(names)}", file=folder.name
    )


def _variant(file: Path) -> str | None:
    return "fp16" if ".fp16." in file.name else None


def _check_loading(name: str, info: dict[str, Any]) -> None:
    kinds = ("missing_keys", "unexpected_keys", "mismatched_keys")
    differences = {
        kind.replace("_", " "): sorted(map(str, info.get(kind, ()))) for kind in kinds
    }
    differences["unexpected keys"] = [
        key
        for key in differences["unexpected keys"]
        if not key.endswith("position_ids")
    ]
    if any(differences.values()):
        raise CheckpointError(
            f"{name} does not fit its config: {in_words(differences)}", file=name
        )


@contextmanager
def _quiet() -> Generator[None]:
    """Keep the libraries' progress bars and hints out of the log.

    Problems that matter are checked and raised.
    """
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    libraries: tuple[Any, ...] = (diffusers_logging, transformers_logging)
    before = [library.get_verbosity() for library in libraries]
    for library in libraries:
        library.set_verbosity(logging.ERROR)
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library, level in zip(libraries, before, strict=True):
            library.set_verbosity(level)
            library.enable_progress_bar()
