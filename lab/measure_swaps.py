"""Measure how long a warm pipeline takes to exchange weights.

The table compares it with building diffusers' AnimateDiffPipeline anew. Files of
SD 1.5's keys and shapes, with random numbers, are written to a temporary folder, 8 GB,
and deleted in the end.
"""

import argparse
import gc
import hashlib
import os
import re
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import diffusers
import torch
import transformers
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.models.unets.unet_motion_model import MotionAdapter
from diffusers.pipelines.animatediff.pipeline_animatediff import AnimateDiffPipeline
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from safetensors.torch import save_file
from torch import Tensor

from animatediff.catalog import MOTION_MODULE_VERSIONS
from animatediff.checkpoints import diffusers_folder
from animatediff.checkpoints import files as weight_files
from animatediff.families import SD15
from animatediff.families.unet_config import read_unet_config
from animatediff.fetch.weight_file import WeightFile
from animatediff.models.unet import UNet3DConditionModel
from animatediff.pipeline import AnimationPipeline, load_weights

Shapes = Mapping[str, Sequence[int]]
Parts = Mapping[str, Any]
Results = dict[str, list["Measured"]]

SHAPEWORLD = Path(__file__).parents[1] / "models" / "shapeworld"
KINDS: Parts = {
    "unet": UNet2DConditionModel,
    "vae": AutoencoderKL,
    "text_encoder": transformers.CLIPTextModel,
}
SD15_UNET = {
    "block_out_channels": (320, 640, 1280, 1280),
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
    "norm_num_groups": 32,
}
SD15_VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "norm_num_groups": 32,
}
SD15_TEXT = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
}
PEER, OURS = "diffusers: pipeline built anew", "ours: pipeline built anew"
PEER_LORA = ("diffusers: LoRA loaded, fused", "diffusers: LoRA unfused, unloaded")
PAGE_BYTES, F16, F32 = 4096, torch.float16, torch.float32
WIDTH = 34
"""Characters of the table's first column."""


def build_parts(tiny: bool) -> Parts:
    """Return the models of SD 1.5, or of the embedded family, without memory."""
    unet = _config("unet", {} if tiny else SD15_UNET)
    vae = _config("vae", {} if tiny else SD15_VAE)
    text: Any = transformers.CLIPTextConfig
    changes = {} if tiny else SD15_TEXT
    text_config = text.from_pretrained(SHAPEWORLD / "text_encoder", **changes)
    with torch.device("meta"):
        return {
            "unet": UNet2DConditionModel.from_config(unet),
            "vae": AutoencoderKL.from_config(vae),
            "text_encoder": transformers.CLIPTextModel(text_config),
        }


def _config(part: str, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config of a part of the embedded family, with ``changes``."""
    config = KINDS[part].load_config(SHAPEWORLD / part)
    return {**config, **changes}


def shapes_of(model: torch.nn.Module) -> Shapes:
    """Return the shape of every weight by its key."""
    weights = model.state_dict()
    return {key: tuple(tensor.shape) for key, tensor in weights.items()}


def motion_shapes(unet: Any, version: str) -> Shapes:
    """Return the shapes of a motion module for ``unet``, in the published layout."""
    config = read_unet_config(dict(unet.config), SD15)
    with torch.device("meta"):
        model = UNet3DConditionModel(config, MOTION_MODULE_VERSIONS[version])
    shapes = shapes_of(model)
    return {key: shape for key, shape in shapes.items() if ".motion_modules." in key}


def processor_lora_shapes(weights: Shapes, rank: int) -> Shapes:
    """Return a LoRA of every attention projection among ``weights``.

    The keys have the layout of the published AnimateDiff files.
    """
    lora: dict[str, Sequence[int]] = {}
    for key, (c_out, *c_in) in weights.items():
        match = re.fullmatch(r"(.+)\.(to_q|to_k|to_v|to_out)(\.0)?\.weight", key)
        if match:
            layer = f"{match[1]}.processor.{match[2]}_lora"
            lora[f"{layer}.down.weight"] = (rank, *c_in)
            lora[f"{layer}.up.weight"] = (c_out, rank)
    return lora


def kohya_lora_shapes(parts: Parts, rank: int) -> Shapes:
    """Return a LoRA as kohya's trainer makes it.

    It has every layer of the UNet's spatial transformers and of the text encoder's.
    """
    unet, text = shapes_of(parts["unet"]), shapes_of(parts["text_encoder"])
    return {
        **_kohya_layers("lora_unet_", unet, ".attentions.", rank),
        **_kohya_layers("lora_te_text_model_", text, "encoder.layers.", rank),
    }


def _kohya_layers(prefix: str, weights: Shapes, place: str, rank: int) -> Shapes:
    lora: dict[str, Sequence[int]] = {}
    for key, (c_out, *c_in) in weights.items():
        if place in key and c_in:
            layer = prefix + key.removesuffix(".weight").replace(".", "_")
            ones = [1] * (len(c_in) - 1)
            lora[f"{layer}.lora_down.weight"] = (rank, *c_in)
            lora[f"{layer}.alpha"] = ()
            lora[f"{layer}.lora_up.weight"] = (c_out, rank, *ones)
    return lora


def dreambooth_shapes(parts: Parts) -> Shapes:
    """Return a whole model in the layout of SD's first release."""
    return {
        ldm_key(part, key): _ldm_shape(part, key, shape)
        for part, model in parts.items()
        for key, shape in shapes_of(model).items()
    }


def _ldm_shape(part: str, key: str, shape: Sequence[int]) -> Sequence[int]:
    """Return ``shape``; projections of the VAE's attention become convolutions."""
    is_linear = len(shape) == 2
    is_convolution = part == "vae" and ".attentions." in key and is_linear
    return (*shape, 1, 1) if is_convolution else shape


_LDM_UNET = (
    "time_embedding.linear_1=time_embed.0 time_embedding.linear_2=time_embed.2"
    " conv_in=input_blocks.0.0"
    " conv_norm_out=out.0 conv_out=out.2 norm1=in_layers.0 conv1=in_layers.2"
    " time_emb_proj=emb_layers.1"
    " norm2=out_layers.0 conv2=out_layers.3 conv_shortcut=skip_connection"
)
_LDM_VAE = (
    "mid_block.attentions.0=mid.attn_1 mid_block.resnets.0=mid.block_1"
    " mid_block.resnets.1=mid.block_2"
    " .resnets.=.block. down_blocks=down samplers.0=sample conv_shortcut=nin_shortcut"
    " conv_norm_out=norm_out"
    " group_norm=norm .to_q=.q .to_k=.k .to_v=.v .to_out.0=.proj_out"
    " up_blocks.0=up.3 up_blocks.1=up.2 up_blocks.2=up.1 up_blocks.3=up.0"
)


def ldm_key(part: str, key: str) -> str:
    """Return the name of a weight in SD's first release.

    The models have four levels, and in the UNet two layers in each.
    """
    if part == "text_encoder":
        return f"cond_stage_model.transformer.text_model.{key}"
    if part == "unet":
        return f"model.diffusion_model.{_ldm_unet_key(key)}"
    for before, after in _renames(_LDM_VAE).items():
        key = key.replace(before, after)
    return f"first_stage_model.{key}"


def _renames(table: str) -> dict[str, str]:
    """Return diffusers' names -> those of SD's first release, in the table's order."""
    names: dict[str, str] = {}
    for row in table.split():
        before, _, after = row.partition("=")
        names[before] = after
    return names


_UNET_KEY = re.compile(
    r"(?:(down|mid|up)_block(?:s\.(\d))?\.(\w+)\.(\d)\.)?(.+)\.(weight|bias)"
)


def _ldm_unet_key(key: str) -> str:
    match = _UNET_KEY.fullmatch(key)
    assert match is not None
    side, level, kind, layer, name, suffix = match.groups("0")
    if kind == "downsamplers":
        name = "op"
    name = _renames(_LDM_UNET).get(name, name)
    place = _ldm_place(side, int(level), kind, int(layer))
    return f"{place}{name}.{suffix}"


def _ldm_place(side: str, level: int, kind: str, layer: int) -> str:
    """Return the block of a layer: a level has three blocks, the last is a sampler."""
    first = 3 * level
    number = 2 if kind.endswith("samplers") else layer
    slots = {"attentions": 1, "upsamplers": 2 if level else 1}
    slot = slots.get(kind, 0)
    places = {
        "down": f"input_blocks.{first + number + 1}.{slot}.",
        "up": f"output_blocks.{first + number}.{slot}.",
        "mid": f"middle_block.{slot or 2 * number}.",
    }
    return places.get(side, "")


class RandomFiles:
    """Every file of the measurement, below ``folder``.

    Weights are float16; those of AnimateDiff's LoRAs are float32.
    """

    def __init__(self, folder: Path, parts: Parts) -> None:
        self._random = torch.Generator().manual_seed(0)
        unet = parts["unet"]
        v2, v3 = motion_shapes(unet, "v2"), motion_shapes(unet, "v3")
        camera = processor_lora_shapes(v2, 64)
        adapter = processor_lora_shapes(shapes_of(unet), 128)
        self.motion = {
            "v2": self._write(folder / "v2", v2),
            "v3": self._write(folder / "v3", v3),
        }
        self.lora = self._write(folder / "lora", kohya_lora_shapes(parts, 32))
        self.motion_lora = self._write(folder / "camera", camera, F32)
        self.adapter = self._write(folder / "adapter", adapter, F32)
        self.dreambooth = self._write(folder / "dreambooth", dreambooth_shapes(parts))
        self.base, self.peer_motion = folder / "base", folder / "peer_motion"
        self._save(_motion_adapter(unet), self.peer_motion)
        for part, model in parts.items():
            self._save(model, self.base / part)
        shutil.copytree(SHAPEWORLD / "tokenizer", self.base / "tokenizer")

    def _write(self, folder: Path, shapes: Shapes, dtype: torch.dtype = F16) -> Path:
        folder.mkdir()
        path = folder / "weights.safetensors"
        weights = {key: torch.empty(shapes[key], dtype=dtype) for key in shapes}
        for tensor in weights.values():
            self._draw(tensor)
        save_file(weights, path)
        return path

    def _save(self, model: Any, folder: Path) -> None:
        """Save ``model``, from the meta device, as diffusers does."""
        weights = model.half().to_empty(device="cpu").state_dict()
        for tensor in weights.values():
            self._draw(tensor)
        model.save_pretrained(folder)

    def _draw(self, tensor: Tensor) -> None:
        """Fill ``tensor`` with random numbers, or with 16 if it is a LoRA's alpha."""
        if tensor.ndim:
            tensor.normal_(0, 0.05, generator=self._random)
        else:
            tensor.fill_(16.0)


def _motion_adapter(unet: Any) -> Any:
    """Return diffusers' motion module v3 for ``unet``, without memory."""
    channels = unet.config.block_out_channels
    with torch.device("meta"):
        return MotionAdapter(
            channels, use_motion_mid_block=False, motion_max_seq_length=32
        )


class Measured(NamedTuple):
    """The time of one change of weights, and the bytes that it moves."""

    seconds: float
    read: int
    """Bytes of the files that are read."""
    written: int
    """Bytes of the weights that change."""
    held: int
    """Bytes on the host that serve to undo the change."""


def _weights(pipeline: Any) -> dict[tuple[str, str], Tensor]:
    return {
        (part, key): tensor
        for part in KINDS
        for key, tensor in getattr(pipeline, part).state_dict().items()
    }


def fingerprint(pipeline: Any) -> str:
    """Return a sha256 over every weight, in the order of the keys."""
    digest = hashlib.sha256()
    weights = _weights(pipeline)
    for key in sorted(weights):
        numbers = weights[key].cpu().contiguous().flatten()
        digest.update(numbers.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def measure(
    act: Callable[[], Any], pipeline: Any = None, folders: Sequence[Path] = ()
) -> tuple[Measured, Any]:
    """Measure ``act``, and return the numbers and the pipeline that it returns.

    ``act`` builds a pipeline from ``folders`` or changes ``pipeline``. A number of
    every page that changed is read: so the weights of a mapped file are in memory.
    """
    if pipeline is None:
        gc.collect()
    before = _states(pipeline)
    head = weight_files._head
    with patch.object(weight_files, "_head", wraps=head) as read:
        start = time.perf_counter()
        pipeline = act()
        after, weights = _states(pipeline), _weights(pipeline)
        changed = [weights[key] for key in weights if before.get(key) != after[key]]
        _touch(changed)
        _synchronize(pipeline)
        seconds = time.perf_counter() - start
    paths = {WeightFile.of(call.args[0]).path for call in read.call_args_list}
    for folder in folders:
        paths |= {*folder.rglob("*.safetensors")}
    measured = Measured(
        seconds=seconds,
        read=sum(path.stat().st_size for path in paths),
        written=sum(weight.nbytes for weight in changed),
        held=_held(pipeline),
    )
    return measured, pipeline


def _states(pipeline: Any) -> dict[tuple[str, str], tuple[int, int]]:
    """Return where each weight lies, and how often it was written to."""
    if pipeline is None:
        return {}
    weights = _weights(pipeline)
    return {key: (each.data_ptr(), each._version) for key, each in weights.items()}


def _touch(weights: Iterable[Tensor]) -> None:
    """Read one number of every page of each weight."""
    for weight in weights:
        pages = -(-weight.nbytes // PAGE_BYTES)
        stride = PAGE_BYTES // weight.itemsize
        weight.as_strided((pages,), (stride,), weight.storage_offset()).sum()


def _synchronize(pipeline: Any) -> None:
    if pipeline.unet.device.type == "cuda":
        torch.cuda.synchronize()


def _held(pipeline: Any) -> int:
    """Return the bytes on the host that serve to undo the changes."""
    if isinstance(pipeline, AnimationPipeline):
        return pipeline.weights.host_bytes
    return 0


def measure_peer(
    files: RandomFiles, device: str, dtype: torch.dtype, repeat: int
) -> Results:
    """Measure diffusers: a pipeline built anew, and a LoRA put on and taken off.

    Without peft, which diffusers needs for LoRAs, their lists are empty.
    """
    results: Results = {PEER: [], **{name: [] for name in PEER_LORA}}
    build = partial(_build_peer, files, device, dtype)
    pipeline: Any = None
    for _ in range(repeat):
        pipeline = None  # so that never two are in memory
        measured, pipeline = measure(build, folders=[files.base, files.peer_motion])
        results[PEER].append(measured)
    on, off = PEER_LORA
    for _ in range(repeat if find_spec("peft") else 0):
        put = partial(_put_lora, pipeline, files.lora)
        results[on].append(measure(put, pipeline, [files.lora.parent])[0])
        results[off].append(measure(partial(_take_lora, pipeline), pipeline)[0])
    return results


def _build_peer(files: RandomFiles, device: str, dtype: torch.dtype) -> Any:
    parts = {
        part: kind.from_pretrained(files.base / part, torch_dtype=dtype)
        for part, kind in KINDS.items()
    }
    motion: Any = MotionAdapter
    parts["motion_adapter"] = motion.from_pretrained(
        files.peer_motion, torch_dtype=dtype
    )
    tokenizer = transformers.CLIPTokenizer.from_pretrained(files.base / "tokenizer")
    pipeline = AnimateDiffPipeline(
        **parts, tokenizer=tokenizer, scheduler=DDIMScheduler()
    )
    return pipeline.to(device)


def _put_lora(pipeline: Any, path: Path) -> Any:
    pipeline.load_lora_weights(path)
    pipeline.fuse_lora(lora_scale=0.8)
    return pipeline


def _take_lora(pipeline: Any) -> Any:
    pipeline.unfuse_lora()
    pipeline.unload_lora_weights()
    return pipeline


def measure_ours(
    files: RandomFiles, device: str, dtype: torch.dtype, repeat: int
) -> tuple[Results, bool]:
    """Measure our pipeline.

    Returns the numbers, and whether all weights were in the end what they were before
    the first swap.
    """
    swaps = _swaps(files)

    def build() -> AnimationPipeline:
        pipeline = AnimationPipeline.from_pretrained(
            files.base, device=device, dtype=dtype
        )
        return load_weights(pipeline, **_motion_module(files, "v3"))

    measured, pipeline = measure(build, folders=[files.base])
    results: Results = {OURS: [measured], **{name: [] for name in swaps}}
    before = fingerprint(pipeline)
    for _ in range(repeat):
        for name, arguments in swaps.items():
            swap = partial(load_weights, pipeline, **arguments)
            results[name].append(measure(swap, pipeline)[0])
    return results, fingerprint(pipeline) == before


def _motion_module(files: RandomFiles, version: str) -> dict[str, Any]:
    return {
        "motion_module_path": files.motion[version],
        "motion_module_version": version,
    }


def _swaps(files: RandomFiles) -> dict[str, dict[str, Any]]:
    """Return the swaps in their order, each with the arguments of load_weights."""
    lora = {"lora_model_path": files.lora}
    dreambooth = {"dreambooth_model_path": files.dreambooth}
    camera = {"motion_module_lora_configs": [{"path": files.motion_lora}]}
    return {
        "kohya LoRA: on": lora,
        "kohya LoRA: off": {},
        "v3 domain adapter: on": {"adapter_lora_path": files.adapter},
        "v3 domain adapter: off": {},
        "motion module: v3 to v2": _motion_module(files, "v2"),
        "v2 MotionLoRA: on": camera,
        "v2 MotionLoRA: off": {},
        "motion module: v2 to v3": _motion_module(files, "v3"),
        "DreamBooth: on": dreambooth,
        "DreamBooth stays, LoRA: on": {**dreambooth, **lora},
        "DreamBooth stays, LoRA: off": dreambooth,
        "DreamBooth: off": {},
    }


def table(results: Results) -> Iterator[str]:
    """Return the lines of the table. Sizes are in 10^6 bytes."""
    names = "     median s       best s of a rebuild      read MB   written MB   "
    yield f"{'':{WIDTH}}{names} copies MB"
    rebuild = statistics.median(row.seconds for row in results[PEER])
    for name, rows in results.items():
        yield f"{name:{WIDTH}}{_cells(rows, rebuild)}"


def _cells(rows: Sequence[Measured], rebuild: float) -> str:
    """Return a line's numbers. ``rebuild``: seconds that diffusers takes to build."""
    if not rows:
        return " not measured: peft, which diffusers needs for it, is not installed"
    seconds = [row.seconds for row in rows]
    median, _, *sizes = (statistics.median(seconds), *rows[-1])
    cells = "".join(f"{size / 1e6:>13,.1f}" for size in sizes)
    share = median / rebuild
    return f"{median:>13.3f}{min(seconds):>13.3f}{share:>13.4f}{cells}"


def machine(device: str, dtype: str) -> str:
    """Return a sentence about the machine, its load and the versions."""
    place = "the CPU, so this is not a GPU measurement"
    if "cuda" in device:
        place = torch.cuda.get_device_name(device)
    threads, load = torch.get_num_threads(), os.getloadavg()[0]
    cores = f"{threads} threads, load {load:.1f} on {os.cpu_count()} cores"
    accelerate = "with" if find_spec("accelerate") else "without"
    versions = f"torch {torch.__version__}, diffusers {diffusers.__version__}"
    return (
        f"Measured on {place}: {dtype}, {cores}, {versions} {accelerate} accelerate;"
        f" the files had just been written."
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table. Return 1 if a swap left a trace."""
    parser = argparse.ArgumentParser(
        prog="python -m lab.measure_swaps",
        description=(__doc__ or "").split("\n")[0],
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--dtype", default="float16", choices=("float16", "bfloat16", "float32")
    )
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument(
        "--tiny",
        action="store_true",
        help="the embedded family's widths: seconds, for a test",
    )
    options = parser.parse_args(argv)
    rest = (options.device, getattr(torch, options.dtype), options.repeat)
    with tempfile.TemporaryDirectory() as folder:
        with diffusers_folder.quiet():
            files = RandomFiles(Path(folder), build_parts(options.tiny))
            peer = measure_peer(files, *rest)
        ours, are_equal = measure_ours(files, *rest)
    print(*table(peer | ours), machine(options.device, options.dtype), sep="\n")
    print(
        f"All weights after the last swap are {'' if are_equal else 'NOT '}those before"
        f" the first one, bit for bit."
    )
    return 0 if are_equal else 1


if __name__ == "__main__":
    raise SystemExit(main())
