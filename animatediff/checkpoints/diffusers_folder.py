"""A model in diffusers' layout: a folder with one for each part, such as unet/."""

import json
import logging
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from ..config import UNet3DConfig
from ..errors import AssetError, CheckpointError
from ..families import DEFAULT, FAMILIES, Family, TextEncoder
from ..families.config_file import ConfigFile
from ..families.recognition import model_of_context_width
from ..families.unet_config import read_unet_config
from ..fetch.weight_file import WeightFile
from ..memory import MemoryModel
from ..models.image_model import ImageModel, TextModel
from ..models.unet import UNet3DConditionModel
from ..models.vae import use_own_layers
from ..transfers import send_weights
from .files import check_finite, check_keys_and_shapes, in_words
from .folder_weights import PartFiles, find_weights
from .noise_schedule import noise_of_folder
from .vae import as_named_today


def read_architecture(folder: Path) -> tuple[Family, UNet3DConfig]:
    """The family of the model in ``folder``, and the configuration of its UNet.

    The configuration decides the family. Raises AssetError if there is no
    unet/config.json, CheckpointError if it fits no family.
    """
    config = _read_json(folder / "unet" / "config.json")
    errors: list[str] = []
    for family in FAMILIES.values():
        try:
            return family, read_unet_config(config, family)
        except CheckpointError as error:
            errors.append(error.message)
    width = config.get("cross_attention_dim")
    other = model_of_context_width(width if isinstance(width, int) else None)
    if other is not None and not isinstance(other, Family):
        errors.insert(0, f"unet/config.json is of {other.name}")
    raise CheckpointError("; ".join(errors), file="config.json")


def load_image_model(
    folder: Path, device: torch.device, dtype: torch.dtype, attention: str
) -> ImageModel:
    """The models in ``folder``; the UNet's motion slots are empty.

    Raises AssetError for missing files and CheckpointError for files of another model.
    """
    family, config = read_architecture(folder)
    return ImageModel(
        load_unet(folder / family.unet.name, family, config, device, dtype, attention),
        load_vae(folder / family.vae.name, device, dtype),
        load_texts(folder, family, device, dtype),
        family,
        folder.name,
        noise_of_folder(folder),
    )


def load_texts(
    folder: Path, family: Family, device: torch.device, dtype: torch.dtype
) -> list[TextModel]:
    """A text model for each row of ``family``, from the folder of a whole model."""
    return [
        TextModel(
            row.name,
            tokenizer=load_tokenizer(folder / row.tokenizer, row),
            encoder=load_text_encoder(folder / row.name, row, device, dtype),
        )
        for row in family.text_encoders
    ]


def load_unet(
    folder: Path,
    family: Family,
    config: UNet3DConfig,
    device: torch.device,
    dtype: torch.dtype,
    attention: str,
) -> UNet3DConditionModel:
    """The image UNet in ``folder``, of architecture ``config``; motion slots are empty.

    It is built without memory, and the file's tensors become its parameters.
    """
    with torch.device("meta"):
        unet = UNet3DConditionModel(config, attention=attention)
    files = find_weights(folder, family.unet, dtype)
    _fill(unet, files, files.read(), device, dtype)
    unet.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    return unet.eval().requires_grad_(False)


def load_vae(folder: Path, device: torch.device, dtype: torch.dtype) -> Any:
    """The VAE in ``folder``; older names of attention layers are accepted."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    model_class: Any = AutoencoderKL
    _read_json(folder / "config.json")
    files = find_weights(folder, DEFAULT.vae, dtype)
    with quiet():
        config = model_class.load_config(folder)
        with torch.device("meta"):
            vae = model_class.from_config(config)
    _fill(vae, files, as_named_today(files.title, files.read()), device, dtype)
    use_own_layers(vae)
    vae = vae.to(memory_format=torch.channels_last)
    return vae.eval().requires_grad_(False)


def _fill(
    model: torch.nn.Module,
    files: PartFiles,
    weights: Mapping[str, Tensor],
    device: torch.device,
    dtype: torch.dtype,
) -> None:
    """Make ``weights`` the parameters of a model that was built without memory."""
    check_keys_and_shapes(files.title, weights, model.state_dict())
    tensors = send_weights(weights, device, dtype)
    check_finite(files.title, tensors)
    model.load_state_dict(tensors, assign=True)


def load_text_encoder(
    folder: Path, encoder: TextEncoder, device: torch.device, dtype: torch.dtype
) -> Any:
    """The text encoder in ``folder``, of the class that ``encoder`` names."""
    model_class = _transformers_class(encoder.model_class)
    _read_json(folder / "config.json")
    files = find_weights(folder, encoder, dtype)
    weights = {key: tensor.to(dtype) for key, tensor in _text_weights(files).items()}
    check_finite(files.title, weights)
    with quiet():
        model, info = model_class.from_pretrained(
            None,
            config=model_class.config_class.from_pretrained(folder),
            state_dict=weights,
            dtype=dtype,
            output_loading_info=True,
        )
    _check_loading(files.title, info)
    return model.to(device).eval().requires_grad_(False)


def _text_weights(files: PartFiles) -> dict[str, Tensor]:
    """Older files hold the numbers of the positions too."""
    return {
        key: tensor
        for key, tensor in files.read().items()
        if not key.endswith("position_ids")
    }


def load_tokenizer(folder: Path, encoder: TextEncoder) -> Any:
    """The tokenizer in ``folder``, of the class that ``encoder`` names.

    It is in ``tokenizer.json``, as today's transformers writes it, or in ``vocab.json``
    and ``merges.txt``.
    """
    if not (folder / "tokenizer.json").is_file():
        for name in ("vocab.json", "merges.txt"):
            if not (folder / name).is_file():
                raise AssetError(
                    f"there is no {folder.name}/tokenizer.json, and no"
                    f" {folder.name}/{name}",
                    file=f"{folder.name}/{name}",
                )
    return _transformers_class(encoder.tokenizer_class).from_pretrained(folder)


def _transformers_class(name: str) -> Any:
    import transformers

    return getattr(transformers, name)


def weight_files(folder: Path, dtype: torch.dtype) -> tuple[WeightFile, ...]:
    """The files that loading ``folder`` reads. Raises as loading does."""
    family, _ = read_architecture(folder)
    parts = (find_weights(folder / part.name, part, dtype) for part in family.parts)
    return tuple(file for part in parts for file in part.files)


def read_memory_model(folder: Path, dtype: torch.dtype) -> MemoryModel:
    """The memory that the model in ``folder`` takes in ``dtype``; nothing is loaded.

    Configurations and the headers of the weight files suffice. Raises AssetError for
    missing files, CheckpointError for damaged ones and for another architecture.
    """
    family, unet = read_architecture(folder)
    files = [find_weights(folder / part.name, part, dtype) for part in family.parts]
    vae = ConfigFile(
        "vae/config.json", _read_json(folder / family.vae.name / "config.json")
    )
    return MemoryModel(
        family=family,
        unet_width=unet.block_out_channels[0],
        vae_width=vae.integers("block_out_channels")[0],
        value_bytes=dtype.itemsize,
        weight_bytes=sum(file.count_values() for file in files) * dtype.itemsize,
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


def _check_loading(name: str, info: dict[str, Any]) -> None:
    kinds = ("missing_keys", "unexpected_keys", "mismatched_keys")
    differences = {
        kind.replace("_", " "): sorted(map(str, info.get(kind, ()))) for kind in kinds
    }
    if any(differences.values()):
        raise CheckpointError(
            f"{name} does not fit its config: {in_words(differences)}", file=name
        )


@contextmanager
def quiet() -> Generator[None]:
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
