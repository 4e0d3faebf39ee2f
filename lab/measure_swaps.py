"""How long a warm pipeline takes to exchange weights, next to building diffusers'
AnimateDiffPipeline anew.

Files of SD 1.5's keys and shapes, with random numbers, are written to a temporary
folder, 8 GB, and deleted in the end.
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
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import diffusers
import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor

from animatediff.catalog import MOTION_MODULE_VERSIONS
from animatediff.checkpoints import diffusers_folder
from animatediff.checkpoints import files as weight_files
from animatediff.families import SD15
from animatediff.families.unet_config import read_unet_config
from animatediff.models.unet import UNet3DConditionModel
from animatediff.pipeline import AnimationPipeline, load_weights

Shapes = Mapping[str, Sequence[int]]
Parts = Mapping[str, Any]
Results = dict[str, list["Measured"]]

SHAPEWORLD = Path(__file__).parents[1] / "models" / "shapeworld"
UNET, VAE, TEXT = (
    diffusers.UNet2DConditionModel,
    diffusers.AutoencoderKL,
    transformers.CLIPTextModel,
)
KINDS: Parts = {"unet": UNET, "vae": VAE, "text_encoder": TEXT}
SD15_UNET = {
    "block_out_channels": (320, 640, 1280, 1280),
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
}
SD15_VAE = {"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2}
SD15_TEXT = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
}
PEER, OWN = "diffusers: pipeline built anew", "ours: pipeline built anew"
PEER_LORA = ("diffusers: LoRA loaded, fused", "diffusers: LoRA unfused, unloaded")
PAGE_BYTES, F16, F32 = 4096, torch.float16, torch.float32


def build_parts(tiny: bool) -> Parts:
    """The models of the embedded family, or of SD 1.5. Without memory."""
    unet, vae = (
        UNET.load_config(SHAPEWORLD / "unet"),
        VAE.load_config(SHAPEWORLD / "vae"),
    )
    if not tiny:
        unet, vae = (
            {**config, "norm_num_groups": 32}
            for config in (unet | SD15_UNET, vae | SD15_VAE)
        )
    text = transformers.CLIPTextConfig.from_pretrained(
        SHAPEWORLD / "text_encoder", **({} if tiny else SD15_TEXT)
    )
    with torch.device("meta"):
        return {
            "unet": UNET.from_config(unet),
            "vae": VAE.from_config(vae),
            "text_encoder": TEXT(text),
        }


def shapes_of(model: torch.nn.Module) -> Shapes:
    return {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}


def motion_shapes(unet: Any, version: str) -> Shapes:
    with torch.device("meta"):
        model = UNet3DConditionModel(
            read_unet_config(dict(unet.config), SD15),
            MOTION_MODULE_VERSIONS[version],
        )
    return {
        key: shape
        for key, shape in shapes_of(model).items()
        if ".motion_modules." in key
    }


def processor_lora_shapes(weights: Shapes, rank: int) -> Shapes:
    """A LoRA of every attention projection among ``weights``, in the layout of
    AnimateDiff's own files.
    """
    found: dict[str, Sequence[int]] = {}
    for key, shape in weights.items():
        if match := re.fullmatch(r"(.+)\.(to_q|to_k|to_v|to_out)(\.0)?\.weight", key):
            layer = f"{match[1]}.processor.{match[2]}_lora"
            found |= {
                f"{layer}.down.weight": (rank, shape[1]),
                f"{layer}.up.weight": (shape[0], rank),
            }
    return found


def kohya_lora_shapes(parts: Parts, rank: int) -> Shapes:
    """What kohya's trainer changes: every layer of the UNet's spatial transformers and
    of the text encoder's.
    """
    found: dict[str, Sequence[int]] = {}
    places = {
        "unet": ("lora_unet_", ".attentions."),
        "text_encoder": ("lora_te_text_model_", "encoder.layers."),
    }
    for part, (prefix, place) in places.items():
        for key, (c_out, *c_in) in shapes_of(parts[part]).items():
            if place in key and c_in:
                layer = prefix + key.removesuffix(".weight").replace(".", "_")
                found |= {
                    f"{layer}.lora_down.weight": (rank, *c_in),
                    f"{layer}.alpha": (),
                }
                found[f"{layer}.lora_up.weight"] = (c_out, rank, *[1] * (len(c_in) - 1))
    return found


def dreambooth_shapes(parts: Parts) -> Shapes:
    """In the layout of SD's first release, where the projections of the VAE's attention
    are convolutions.
    """
    found: dict[str, Sequence[int]] = {}
    for part, model in parts.items():
        for key, shape in shapes_of(model).items():
            is_convolution = part == "vae" and ".attentions." in key and len(shape) == 2
            found[ldm_key(part, key)] = (*shape, 1, 1) if is_convolution else shape
    return found


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
    """What SD's first release calls a weight of a model that has four levels, and in
    the UNet two layers in each.
    """
    if part == "text_encoder":
        return f"cond_stage_model.transformer.text_model.{key}"
    if part == "unet":
        return f"model.diffusion_model.{_ldm_unet_key(key)}"
    for rename in _LDM_VAE.split():
        key = key.replace(*rename.split("="))
    return f"first_stage_model.{key}"


def _ldm_unet_key(key: str) -> str:
    match = re.fullmatch(
        r"(?:(down|mid|up)_block(?:s\.(\d))?\.(\w+)\.(\d)\.)?(.+)\.(weight|bias)", key
    )
    side, level, kind, i, name, suffix = match.groups("0") if match else [""] * 6
    renames = dict(rename.split("=") for rename in _LDM_UNET.split())
    name = "op" if kind == "downsamplers" else renames.get(name, name)
    first, number = 3 * int(level), 2 if kind.endswith("samplers") else int(i)
    slot = {"attentions": 1, "upsamplers": 2 if first else 1}.get(kind, 0)
    places = {
        "down": f"input_blocks.{first + number + 1}.{slot}.",
        "up": f"output_blocks.{first + number}.{slot}.",
    }
    return {**places, "mid": f"middle_block.{slot or 2 * number}."}.get(
        side, ""
    ) + f"{name}.{suffix}"


class RandomFiles:
    """Every file of the measurement, below ``folder``. Half precision but for
    AnimateDiff's own LoRAs.
    """

    def __init__(self, folder: Path, parts: Parts) -> None:
        self._random = torch.Generator().manual_seed(0)
        unet, channels = parts["unet"], parts["unet"].config.block_out_channels
        self.motion = {
            name: self._write(folder / name, motion_shapes(unet, name))
            for name in ("v2", "v3")
        }
        self.lora = self._write(folder / "lora", kohya_lora_shapes(parts, 32))
        self.motion_lora = self._write(
            folder / "camera", processor_lora_shapes(motion_shapes(unet, "v2"), 64), F32
        )
        self.adapter = self._write(
            folder / "adapter", processor_lora_shapes(shapes_of(unet), 128), F32
        )
        self.dreambooth = self._write(folder / "dreambooth", dreambooth_shapes(parts))
        self.base, self.peer_motion = folder / "base", folder / "peer_motion"
        with torch.device("meta"):
            motion = diffusers.MotionAdapter(
                channels, use_motion_mid_block=False, motion_max_seq_length=32
            )
        for path, model in (
            (self.peer_motion, motion),
            *((self.base / part, parts[part]) for part in parts),
        ):
            for tensor in model.half().to_empty(device="cpu").state_dict().values():
                self._draw(tensor)
            model.save_pretrained(path)
        shutil.copytree(SHAPEWORLD / "tokenizer", self.base / "tokenizer")

    def _write(self, folder: Path, shapes: Shapes, dtype: torch.dtype = F16) -> Path:
        folder.mkdir()
        path = folder / "weights.safetensors"
        save_file(
            {
                key: self._draw(torch.empty(shape, dtype=dtype))
                for key, shape in shapes.items()
            },
            path,
        )
        return path

    def _draw(self, tensor: Tensor) -> Tensor:
        return (
            tensor.normal_(0, 0.05, generator=self._random)
            if tensor.ndim
            else tensor.fill_(16.0)
        )


class Measured(NamedTuple):
    """Bytes: ``read`` from files, ``written`` to weights, ``held`` on the host
    afterwards to undo it.
    """

    seconds: float
    read: int
    written: int
    held: int


def _weights(pipeline: Any) -> dict[tuple[str, str], Tensor]:
    return {
        (part, key): tensor
        for part in KINDS
        for key, tensor in getattr(pipeline, part).state_dict().items()
    }


def fingerprint(pipeline: Any) -> str:
    digest = hashlib.sha256()
    for _, tensor in sorted(_weights(pipeline).items(), key=lambda item: item[0]):
        digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def measure(
    act: Callable[[], Any], pipeline: Any = None, folders: Sequence[Path] = ()
) -> tuple[Measured, Any]:
    """``act``, which builds a pipeline from ``folders`` or changes ``pipeline``.
    Returns that too.

    A number of every page that changed is read: a file that is mapped into memory has
    to be there, not only promised.
    """
    if pipeline is None:
        gc.collect()
    before = (
        {key: (w.data_ptr(), w._version) for key, w in _weights(pipeline).items()}
        if pipeline
        else {}
    )
    with patch.object(weight_files, "_read", wraps=weight_files._read) as read:
        start = time.perf_counter()
        pipeline = act()
        changed = [
            w
            for key, w in _weights(pipeline).items()
            if before.get(key) != (w.data_ptr(), w._version)
        ]
        for w in changed:
            w.as_strided(
                (-(-w.nbytes // PAGE_BYTES),),
                (PAGE_BYTES // w.itemsize,),
                w.storage_offset(),
            ).sum()
        if pipeline.unet.device.type == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - start
    paths = {call.args[0] for call in read.call_args_list}.union(
        *(f.rglob("*.safetensors") for f in folders)
    )
    held = pipeline.weights.host_bytes if isinstance(pipeline, AnimationPipeline) else 0
    sizes = (sum(path.stat().st_size for path in paths), sum(w.nbytes for w in changed))
    return Measured(seconds, *sizes, held), pipeline


def measure_peer(
    files: RandomFiles, device: str, dtype: torch.dtype, repeat: int
) -> Results:
    def build() -> Any:
        parts = {
            part: kind.from_pretrained(files.base / part, torch_dtype=dtype)
            for part, kind in KINDS.items()
        }
        parts["motion_adapter"] = diffusers.MotionAdapter.from_pretrained(
            files.peer_motion, torch_dtype=dtype
        )
        parts["tokenizer"] = transformers.CLIPTokenizer.from_pretrained(
            files.base / "tokenizer"
        )
        return diffusers.AnimateDiffPipeline(
            **parts, scheduler=diffusers.DDIMScheduler()
        ).to(device)

    results: Results = {PEER: [], **{name: [] for name in PEER_LORA}}
    for _ in range(repeat):
        pipeline = None
        measured, pipeline = measure(build, folders=[files.base, files.peer_motion])
        results[PEER].append(measured)
    put = [
        partial(pipeline.load_lora_weights, files.lora),
        partial(pipeline.fuse_lora, lora_scale=0.8),
    ]
    take = [pipeline.unfuse_lora, pipeline.unload_lora_weights]
    for name, calls in [*zip(PEER_LORA, (put, take), strict=True)] * (
        repeat if find_spec("peft") else 0
    ):
        read = [files.lora.parent] if calls is put else []
        results[name].append(
            measure(
                lambda calls=calls: [call() for call in calls] and pipeline,
                pipeline,
                read,
            )[0]
        )
    return results


def measure_own(
    files: RandomFiles, device: str, dtype: torch.dtype, repeat: int
) -> tuple[Results, bool]:
    """The numbers, and whether all weights were in the end what they were before the
    first swap.
    """
    v2, v3 = (
        {"motion_module_path": path, "motion_module_version": name}
        for name, path in files.motion.items()
    )
    dreambooth, lora = (
        {"dreambooth_model_path": files.dreambooth},
        {"lora_model_path": files.lora},
    )
    swaps: dict[str, dict[str, Any]] = {
        "kohya LoRA: on": lora,
        "kohya LoRA: off": {},
        "v3 domain adapter: on": {"adapter_lora_path": files.adapter},
        "v3 domain adapter: off": {},
        "motion module: v3 to v2": v2,
        "v2 MotionLoRA: on": {
            "motion_module_lora_configs": [{"path": files.motion_lora}]
        },
        "v2 MotionLoRA: off": {},
        "motion module: v2 to v3": v3,
        "DreamBooth: on": dreambooth,
        "DreamBooth stays, LoRA: on": {**dreambooth, **lora},
        "DreamBooth stays, LoRA: off": dreambooth,
        "DreamBooth: off": {},
    }

    from_folder = partial(
        AnimationPipeline.from_pretrained, files.base, device=device, dtype=dtype
    )
    measured, pipeline = measure(
        lambda: load_weights(from_folder(), **v3), folders=[files.base]
    )
    results, before = (
        {OWN: [measured], **{name: [] for name in swaps}},
        fingerprint(pipeline),
    )
    for name, kwargs in [*swaps.items()] * repeat:
        results[name].append(
            measure(partial(load_weights, pipeline, **kwargs), pipeline)[0]
        )
    return results, fingerprint(pipeline) == before


def table(results: Results) -> Iterator[str]:
    yield (
        " "
        * 34
        + "     median s       best s of a rebuild      read MB   written MB   "
        " copies MB"
    )
    rebuild = statistics.median(row.seconds for row in results[PEER])
    for name, rows in results.items():
        if not rows:
            yield f"{name:34} not measured: peft, which diffusers needs for it, is not installed"
            continue
        median, best = (
            function(row.seconds for row in rows)
            for function in (statistics.median, min)
        )
        sizes = "".join(f"{size / 1e6:>13,.1f}" for size in rows[-1][1:])
        yield f"{name:34}{median:>13.3f}{best:>13.3f}{median / rebuild:>13.4f}{sizes}"


def machine(device: str, dtype: str) -> str:
    where = (
        torch.cuda.get_device_name(device)
        if "cuda" in device
        else "the CPU, so this is not a GPU measurement"
    )
    load = f"{torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    accelerate = "with" if find_spec("accelerate") else "without"
    versions = f"torch {torch.__version__}, diffusers {diffusers.__version__} {accelerate} accelerate"
    return f"Measured on {where}: {dtype}, {load}, {versions}; the files had just been written."


def main(argv: Sequence[str] | None = None) -> int:
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
        with diffusers_folder._quiet():
            files = RandomFiles(Path(folder), build_parts(options.tiny))
            results = measure_peer(files, *rest)
        own, same = measure_own(files, *rest)
    print(*table(results | own), machine(options.device, options.dtype), sep="\n")
    print(
        f"All weights after the last swap are {'' if same else 'NOT '}those before"
        f" the first one, bit for bit."
    )
    return 0 if same else 1


if __name__ == "__main__":
    raise SystemExit(main())
