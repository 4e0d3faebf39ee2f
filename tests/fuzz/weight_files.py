"""A valid file of every kind for the embedded family, and the fields that name one."""

import io
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st
from safetensors.torch import load_file, save
from torch import Tensor

from animatediff.checkpoints.diffusers_folder import load_unet, read_architecture
from animatediff.config import SPARSECTRL_RGB, SPARSECTRL_SCRIBBLE
from animatediff.models.sparse_controlnet import SparseControlNetModel
from animatediff.settings import Settings
from lab.bench.weight_names import ldm_key
from lab.hostile.pickles import (
    BOMBS,
    INERT,
    RUNNING,
    in_dict,
    pickled,
    text,
)
from tests.fuzz.odd_values import PIXEL

EMBEDDED = Settings().models_dir / "shapeworld"
Weights = dict[str, Any]

FIELDS: Mapping[str, Callable[[str], dict[str, Any]]] = {
    "motion_module": lambda path: {
        "motion_module": path,
        "motion_module_version": "v3",
    },
    "dreambooth": lambda path: {"dreambooth": path},
    "vae": lambda path: {"vae": path},
    "loras": lambda path: {"loras": [{"path": path}]},
    "embeddings": lambda path: {"embeddings": [{"path": path, "token": "red"}]},
    "controls": lambda path: {"controls": [{"path": path, "images": [PIXEL]}]},
}
KINDS: Mapping[str, str] = {
    "motion module": "motion_module",
    "single file": "dreambooth",
    "VAE": "vae",
    "LoRA": "loras",
    "MotionLoRA": "loras",
    "textual inversion": "embeddings",
    "inversion of AUTOMATIC1111": "embeddings",
    "SparseCtrl rgb": "controls",
    "SparseCtrl scribble": "controls",
}
"""The field of a job for each kind of file."""


@cache
def weights(kind: str) -> Weights:
    """Return a valid file's content; random if the embedded family has no such file."""
    torch.manual_seed(3)
    if kind == "motion module":
        return dict(load_file(EMBEDDED / "motion_module_v3.safetensors"))
    if kind == "single file":  # without the text encoder, which is half of it
        parts = {"unet": "unet", "vae": "vae"}
        return {
            ldm_key(part, key): tensor
            for part, folder in parts.items()
            for key, tensor in _part(folder).items()
        }
    if kind == "VAE":
        return _part("vae")
    if kind == "LoRA":
        layers = [
            key
            for key, tensor in _part("unet").items()
            if ".attn" in key and tensor.ndim == 2
        ]
        names = {
            "lora_unet_" + key.removesuffix(".weight").replace(".", "_"): _part("unet")[
                key
            ]
            for key in layers[:8]
        }
        return {
            name: part
            for layer, weight in names.items()
            for name, part in _kohya(layer, weight).items()
        }
    if kind == "MotionLoRA":
        module = "down_blocks.0.motion_modules.0.temporal_transformer"
        block = f"{module}.transformer_blocks.0.attention_blocks"
        names = [
            f"{block}.{i}.processor.to_{to}_lora" for i in range(2) for to in "qkv"
        ]
        shapes = {"down": (4, 32), "up": (32, 4)}
        return {
            f"{name}.{part}.weight": torch.randn(shape) / 9
            for name in names
            for part, shape in shapes.items()
        }
    if kind == "textual inversion":
        return {"emb_params": torch.randn(2, 64)}
    if kind == "inversion of AUTOMATIC1111":
        return {
            "string_to_token": {"*": 265},
            "string_to_param": {"*": torch.randn(1, 64)},
            "name": "x",
            "step": 3,
        }
    control = SPARSECTRL_RGB if kind == "SparseCtrl rgb" else SPARSECTRL_SCRIBBLE
    unet = load_unet(
        EMBEDDED / "unet",
        *read_architecture(EMBEDDED),
        torch.device("cpu"),
        torch.float32,
        "sdpa",
    )
    branch = SparseControlNetModel(
        unet.config, replace(control, embedding_channels=(8, 16, 24, 32))
    )
    return {key: tensor.half() for key, tensor in branch.state_dict().items()}


def _part(folder: str) -> dict[str, Tensor]:
    (file,) = (EMBEDDED / folder).glob("*.safetensors")
    return load_file(file)


def _kohya(layer: str, weight: Tensor) -> dict[str, Tensor]:
    rows, columns = weight.shape
    parts = {
        "lora_down.weight": torch.randn(4, columns) / 9,
        "lora_up.weight": torch.randn(rows, 4) / 9,
    }
    return {
        f"{layer}.{part}": tensor
        for part, tensor in {**parts, "alpha": torch.tensor(2.0)}.items()
    }


def packed(content: Weights, suffix: str) -> bytes:
    """Return ``content`` as the bytes of a file.

    The suffix selects safetensors, PyTorch's old container (.pt) or its new one.
    """
    if suffix == ".safetensors":
        return save(content)
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=suffix != ".pt")
    return file.getvalue()


@cache
def good_file(kind: str, suffix: str) -> bytes:
    return packed(weights(kind), suffix)


_PIECES = [
    *(
        bytes([code])
        for code in b"()]}NaesutblR012Q\x81\x85\x86\x87\x88\x8f\x90\x91\x93\x94"
    ),
    *(b"q\x00", b"h\x00", b"q\x01", b"h\x01", b"K\x02", b"J\xff\xff\xff\xff"),
    *(text("storage"), text("0"), text("cpu"), text("state_dict"), text("torch")),
    *(b"ctorch\nFloatStorage\n", b"ctorch._utils\n_rebuild_tensor_v2\n"),
    *(b"ccollections\nOrderedDict\n", b"ctorch.nn\nParameter\n", b"cm\nc\n"),
    *(b"\x8a\x0c" + bytes(11) + b"\x20", text("x" * 1000)),
    text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + b"K\x04t",
]
"""Operations, and their arguments, from which programs of a pickle are drawn."""


def hostile_pickles() -> st.SearchStrategy[bytes]:
    """Known attacks, and programs of operations in any order."""
    known = [*BOMBS.values(), *map(in_dict, (*RUNNING.values(), *INERT.values()))]
    program = st.lists(st.sampled_from(_PIECES), max_size=40).map(b"".join)
    return st.sampled_from(known) | program.map(pickled) | program.map(in_dict)


def write_control(path: Path) -> None:
    path.write_bytes(good_file("SparseCtrl rgb", ".safetensors"))
