"""An SD 1.5 model in diffusers' folder layout: unet/, vae/, text_encoder/, tokenizer/."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ..config import unet_config_from_diffusers
from ..errors import AssetError, CheckpointError
from ..memory import MemoryModel
from ..models.unet import UNet3DConditionModel
from .files import check_keys_and_shapes, count_values, read_weights

_UNET_FILES = (
    "diffusion_pytorch_model.fp16.safetensors",
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.bin",
)
_TEXT_FILES = ("model.fp16.safetensors", "model.safetensors", "pytorch_model.bin")


def load_unet(
    folder: Path, device: torch.device, dtype: torch.dtype, attention: str
) -> UNet3DConditionModel:
    """The image UNet with empty motion slots. Built without memory; the file's tensors
    become its parameters.
    """
    config = unet_config_from_diffusers(_read_json(folder / "config.json"))
    with torch.device("meta"):
        unet = UNet3DConditionModel(config, attention=attention)
    weights = read_weights(_first_file(folder, _UNET_FILES, dtype))
    check_keys_and_shapes("unet", weights, unet.state_dict())
    unet.load_state_dict(
        {key: tensor.to(device, dtype) for key, tensor in weights.items()}, assign=True
    )
    return unet.to(memory_format=torch.channels_last).eval().requires_grad_(False)  # pyright: ignore[reportCallIssue]


def load_vae(folder: Path, device: torch.device, dtype: torch.dtype) -> Any:
    """diffusers' AutoencoderKL; files with the older attention names are understood."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    variant = _variant(_first_file(folder, _UNET_FILES, dtype))
    with _quiet():
        loaded: Any = AutoencoderKL.from_pretrained(
            folder,
            torch_dtype=dtype,
            variant=variant,
            low_cpu_mem_usage=False,
            output_loading_info=True,
        )
    vae, info = loaded
    _check_loading("vae", info)
    return (
        vae.to(device, memory_format=torch.channels_last).eval().requires_grad_(False)
    )


def load_text_encoder(folder: Path, device: torch.device, dtype: torch.dtype) -> Any:
    """transformers' CLIPTextModel."""
    from transformers import CLIPTextModel

    variant = _variant(_first_file(folder, _TEXT_FILES, dtype))
    with _quiet():
        loaded: Any = CLIPTextModel.from_pretrained(
            folder, dtype=dtype, variant=variant, output_loading_info=True
        )
    encoder, info = loaded
    _check_loading("text_encoder", info)
    return encoder.to(device).eval().requires_grad_(False)


def load_tokenizer(folder: Path) -> Any:
    """transformers' CLIPTokenizer."""
    from transformers import CLIPTokenizer

    if not (folder / "vocab.json").is_file():
        raise AssetError(
            f"there is no {folder.name}/vocab.json", file=f"{folder.name}/vocab.json"
        )
    return CLIPTokenizer.from_pretrained(folder)


def read_memory_model(folder: Path, dtype: torch.dtype) -> MemoryModel:
    """What the model in ``folder`` takes of a device in ``dtype``, from its configs and
    headers: nothing is loaded.

    Raises AssetError for missing files, CheckpointError for damaged ones and for
    another architecture.
    """
    unet, vae, text = folder / "unet", folder / "vae", folder / "text_encoder"
    files = [_first_file(part, _UNET_FILES, dtype) for part in (unet, vae)] + [
        _first_file(text, _TEXT_FILES, dtype)
    ]
    try:
        vae_width = int(_read_json(vae / "config.json")["block_out_channels"][0])
        unet_width = unet_config_from_diffusers(
            _read_json(unet / "config.json")
        ).block_out_channels[0]
    except (LookupError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{folder.name}: a config.json is not SD 1.5's", file=folder.name
        ) from error
    return MemoryModel(
        unet_width,
        vae_width,
        dtype.itemsize,
        sum(map(count_values, files)) * dtype.itemsize,
    )


def _read_json(path: Path) -> dict:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise AssetError(
            f"there is no {path.parent.name}/{path.name}", file=path.name
        ) from error
    except ValueError as error:
        raise CheckpointError(
            f"{path.parent.name}/{path.name} is not JSON", file=path.name
        ) from error


def _first_file(folder: Path, names: tuple[str, ...], dtype: torch.dtype) -> Path:
    """The file to read: the half-precision variant for half precision, the full one
    otherwise; else what is there.
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
    wrong = {
        kind: sorted(map(str, keys))
        for kind, keys in info.items()
        if keys and kind in ("missing_keys", "unexpected_keys", "mismatched_keys")
    }
    wrong["unexpected_keys"] = [
        k for k in wrong.get("unexpected_keys", []) if not k.endswith("position_ids")
    ]
    said = [
        f"{len(keys)} {kind.replace('_', ' ')} ({', '.join(keys[:3])})"
        for kind, keys in wrong.items()
        if keys
    ]
    if said:
        raise CheckpointError(
            f"{name} does not fit its config: {'; '.join(said)}", file=name
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the libraries' progress bars and hints out of the worker's log; what matters
    is checked and raised.
    """
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    libraries = (diffusers_logging, transformers_logging)
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
