"""The checks of scripts/check_golden.py, one function a kind of case folder. The layout
is the reference data's own.
"""

import math
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from animatediff.catalog import MOTION_MODULE_VERSIONS
from animatediff.conditioning.tokens import tokenize
from animatediff.config import MotionModuleConfig
from animatediff.controls.pictures import place_images
from animatediff.controls.sparsectrl import SparseControl
from animatediff.families import SD15
from animatediff.models.attention import attention_backend
from animatediff.models.motion_module import VanillaTemporalModule
from animatediff.pipeline import AnimationInputs
from animatediff.progress import Progress
from animatediff.sampling.schedulers import make_scheduler
from animatediff.video.grid import save_videos_grid, video_grid

from .loading import check_loading
from .reference import (
    LATENTS_LIMIT,
    RESIDUAL_LIMIT,
    SCHEDULER_LIMIT,
    TEXT_LIMIT,
    UNET_LIMIT,
    VIDEO_LIMIT,
    Comparison,
    Golden,
    compare,
    equal,
    read,
)


@torch.inference_mode()
def check_unet(golden: Golden, folder: Path) -> Iterator[Comparison]:
    io, _ = read(folder, "io.safetensors")
    config = MOTION_MODULE_VERSIONS[folder.name.removeprefix("unet_")]
    for case in sorted(
        key.removesuffix(".sample") for key in io if key.endswith(".sample")
    ):
        yield from _check_unet_case(golden, folder.name, io, case, config)


def _check_unet_case(
    golden: Golden,
    name: str,
    io: dict[str, Tensor],
    case: str,
    config: MotionModuleConfig,
) -> Iterator[Comparison]:
    arguments = [
        io[f"{case}.{key}"] for key in ("sample", "timestep", "encoder_hidden_states")
    ]
    arguments = [
        value if value.dtype == torch.int64 else value.to(golden.dtype)
        for value in arguments
    ]
    unet = golden.use_motion(config).unet
    hooks = {
        key.removeprefix(f"{case}.hook."): key
        for key in io
        if key.startswith(f"{case}.hook.")
    }
    seen: dict[str, Tensor] = {}
    handles = [
        unet.get_submodule(path).register_forward_hook(_keep(seen, path))
        for path in hooks
    ]
    yield golden.compare(
        f"{name}/{case}.out", unet(*arguments), io, f"{case}.out", UNET_LIMIT
    )
    for handle in handles:
        handle.remove()
    for path, key in sorted(hooks.items()):
        got = _first_frames(seen[path], io[key], num_frames=arguments[0].shape[2])
        yield compare(f"{name}/{key}", got, io[key], UNET_LIMIT)

    if f"{case}.out_other_groupnorm" in io:
        other = replace(
            config, use_inflated_groupnorm=not config.use_inflated_groupnorm
        )
        out = golden.use_motion(other).unet(*arguments)
        key = f"{case}.out_other_groupnorm"
        yield golden.compare(f"{name}/{key}", out, io, key, UNET_LIMIT)
    if f"{case}.out_no_motion" in io:
        unet.set_motion(None)
        unet.cross_frame_norm = (
            not config.use_inflated_groupnorm
        )  # of the config's version, though it has no motion
        key = f"{case}.out_no_motion"
        yield golden.compare(f"{name}/{key}", unet(*arguments), io, key, UNET_LIMIT)


def _keep(seen: dict[str, Tensor], path: str) -> Callable[..., None]:
    def hook(_module: Any, _arguments: Any, output: Any) -> None:
        seen[path] = output[0] if isinstance(output, tuple) else output

    return hook


def _first_frames(got: Tensor, wanted: Tensor, num_frames: int) -> Tensor:
    """(b f, c, h, w) -> the first video's first frames, as the data hold them: (1, c,
    f, h, w)
    """
    if wanted.ndim != 5:
        return got[: wanted.shape[0]]
    return _unfolded(got, num_frames)[: wanted.shape[0], :, : wanted.shape[2]]


@torch.inference_mode()
def check_temporal(golden: Golden, folder: Path) -> Iterator[Comparison]:
    io, case = read(folder, "temporal.safetensors")
    for name, described in case["cases"].items():
        kwargs = described["kwargs"]
        config = MotionModuleConfig(
            num_attention_heads=kwargs["num_attention_heads"],
            num_transformer_blocks=kwargs["num_transformer_block"],
            num_attention_blocks=len(kwargs["attention_block_types"]),
            use_positional_encoding=kwargs["temporal_position_encoding"],
            max_length=kwargs.get(
                "temporal_position_encoding_max_len", MotionModuleConfig.max_length
            ),
        )
        module = VanillaTemporalModule(kwargs["in_channels"], config)
        prefix = f"{name}.weight."
        weights = {
            key.removeprefix(prefix): value
            for key, value in io.items()
            if key.startswith(prefix)
        }
        module.load_state_dict(
            {
                key: value
                for key, value in weights.items()
                if not key.endswith("pos_encoder.pe")
            }
        )
        module.to(golden.dtype)
        video = io[f"{name}.input"].to(golden.dtype)
        batch, _, frames, _, _ = video.shape
        folded = (
            video.transpose(1, 2)
            .flatten(0, 1)
            .contiguous(memory_format=torch.channels_last)
        )
        out = (
            module(folded, frames, attention_backend("sdpa").attend)
            .unflatten(0, (batch, frames))
            .transpose(1, 2)
        )
        yield golden.compare(f"temporal/{name}", out, io, f"{name}.output", UNET_LIMIT)
        if f"{name}.pe" in io:
            tables = [
                value for key, value in module.named_buffers() if key.endswith(".pe")
            ]
            error = max(
                (compare("", table, io[f"{name}.pe"], 0).error for table in tables),
                default=math.inf,
            )
            yield Comparison(f"temporal/{name}.pe", error, UNET_LIMIT)


@torch.inference_mode()
def check_sparse_controlnet(golden: Golden, folder: Path) -> Iterator[Comparison]:
    io, described = read(folder, "io.safetensors")
    name, model = folder.name, golden.control(folder.name)
    unet = golden.use_motion(MOTION_MODULE_VERSIONS["v3"]).unet
    sample, states = io["sample"].to(golden.dtype), io["encoder_hidden_states"]
    frames = sample.shape[2]
    keys = {key: list(tensor.shape) for key, tensor in model.state_dict().items()}
    yield equal(f"{name}/keys", keys, described["keys"])
    for case, given in described["cases"].items():
        placed = place_images(io[f"{case}.images"], given["indexes"], frames)
        timesteps = torch.tensor([given["timestep"]])
        residuals = model.predict(
            model.embed_condition(placed),
            model.embed_timesteps(timesteps),
            model.encode_text(states),
        ).scaled(given["scale"])
        shapes = [list(_unfolded(tensor, frames).shape) for tensor in residuals.down]
        yield equal(f"{name}/{case}.down_shapes", shapes, given["down_shapes"])
        for i, tensor in enumerate(residuals.down):
            if f"{case}.down.{i}" in io:
                got = _first_frames(tensor, io[f"{case}.down.{i}"], frames)
                yield compare(
                    f"{name}/{case}.down.{i}",
                    got,
                    io[f"{case}.down.{i}"],
                    RESIDUAL_LIMIT,
                )
        yield compare(
            f"{name}/{case}.mid",
            _unfolded(residuals.mid, frames),
            io[f"{case}.mid"],
            RESIDUAL_LIMIT,
        )
        out = unet.predict(
            sample, unet.embed_timesteps(timesteps), unet.encode_text(states), residuals
        )
        yield compare(
            f"{name}/{case}.unet_out", out, io[f"{case}.unet_out"], UNET_LIMIT
        )


def _latents_of(progress: Progress) -> Tensor:
    assert progress.latents is not None
    return progress.latents.clone()


def _unfolded(x: Tensor, num_frames: int) -> Tensor:
    """(b f, c, h, w) -> (b, c, f, h, w)"""
    return x.unflatten(0, (-1, num_frames)).transpose(1, 2)


def check_scheduler(_golden: Golden, folder: Path) -> Iterator[Comparison]:
    (file,) = folder.glob("*.safetensors")
    io, _ = read(folder, file.name)
    scheduler = make_scheduler("ddim", 25, SD15.noise_schedule)
    for key in ("betas", "alphas_cumprod", "final_alpha_cumprod"):
        yield compare(
            f"scheduler/{key}",
            getattr(scheduler, key).reshape(io[key].shape),
            io[key],
            SCHEDULER_LIMIT,
        )
    for key in sorted(key for key in io if key.startswith("timesteps_")):
        count = int(key.removeprefix("timesteps_"))
        steps = make_scheduler("ddim", count, SD15.noise_schedule).timesteps
        yield compare(f"scheduler/{key}", steps, io[key], 0)
    sample, eps = io["step.sample"], io["step.eps"]
    for key in sorted(key for key in io if key.startswith("step.prev_")):
        timestep = int(key.removeprefix("step.prev_"))
        yield compare(
            f"scheduler/{key}",
            scheduler.step(eps, timestep, sample).prev_sample,
            io[key],
            SCHEDULER_LIMIT,
        )
    times = io["add_noise.t"].reshape(-1)
    count = (len(times), *[1] * (sample.ndim - 1))
    noisy = scheduler.add_noise(sample.repeat(count), eps.repeat(count), times)
    yield compare("scheduler/add_noise", noisy, io["add_noise.out"], SCHEDULER_LIMIT)


@torch.inference_mode()
def check_pipeline(golden: Golden, folder: Path) -> Iterator[Comparison]:
    io, case = read(folder, "io.safetensors")
    name = folder.name
    version = str(case["version"])
    pipeline = golden.use_motion(
        MOTION_MODULE_VERSIONS[version if version.startswith("v") else f"v{version}"]
    )
    inputs = AnimationInputs(
        prompt=case["prompt"],
        negative_prompt=case["negative_prompt"],
        num_frames=case["video_length"],
        width=case["width"],
        height=case["height"],
        num_inference_steps=case["num_inference_steps"],
        guidance_scale=case["guidance_scale"],
        seeds=(case.get("generator_seed") or 0,),
    )
    for key, text in (
        ("prompt_ids", inputs.prompt),
        ("negative_ids", inputs.negative_prompt),
    ):
        yield compare(
            f"{name}/{key}", tokenize(pipeline.tokenizer, text).ids, io[key], 0
        )
    steps = make_scheduler(
        inputs.scheduler, inputs.num_inference_steps, pipeline.family.noise_schedule
    ).timesteps.tolist()
    yield equal(f"{name}/timesteps", steps, case["timesteps"])
    conditions = pipeline.encode(inputs)
    *negative, positive = conditions.embeds
    yield compare(
        f"{name}/prompt_embeds", positive[None], io["prompt_embeds"], TEXT_LIMIT
    )
    if negative:
        yield compare(
            f"{name}/negative_embeds",
            negative[0][None],
            io["negative_embeds"],
            TEXT_LIMIT,
        )

    controls = []
    if described := case.get("controlnet"):
        model = golden.control(name.removeprefix("pipeline_"))
        controls = [
            SparseControl(
                model, io["controlnet_images"], described["indexes"], described["scale"]
            )
        ]
    if (folder / "vae_encode.safetensors").is_file():
        encoded = load_file(folder / "vae_encode.safetensors")
        means = (
            pipeline.encode_pixels(encoded["pixels_0_1"])[0].transpose(0, 1)
            / pipeline.vae.config.scaling_factor
        )
        yield compare(
            f"{name}/vae_encode.posterior_mean",
            means,
            encoded["posterior_mean"],
            VIDEO_LIMIT,
        )

    given = io["init_latents"]
    if case.get("generator_seed") is not None:
        sources = [torch.Generator().manual_seed(case["generator_seed"])]
        yield compare(
            f"{name}/init_latents", pipeline.prepare(inputs, sources), given, 0
        )
        given = None
    seen: list[Tensor] = []
    predicted: list[Tensor] = []
    handle = pipeline.unet.conv_out.register_forward_hook(
        lambda _m, _a, output: predicted.append(output.clone())
    )
    latents = pipeline.denoise(
        inputs,
        replace(conditions, controls=controls),
        latents=given,
        report=lambda progress: seen.append(_latents_of(progress)),
    )
    handle.remove()
    first = _unfolded(predicted[0], inputs.num_frames)
    yield compare(f"{name}/unet_out.step0", first, io["unet_out.step0"], UNET_LIMIT)
    prefix = "latents_f64.step" if golden.dtype == torch.float64 else "latents.step"
    compared = sorted(
        int(key.removeprefix(prefix)) for key in io if key.startswith(prefix)
    )
    if not compared or len(seen) != inputs.num_inference_steps:
        yield Comparison(f"{name}/latents", math.inf, 0.0, "no latents to compare")
    for i in compared:
        yield compare(
            f"{name}/latents.step{i}",
            seen[i],
            io[f"{prefix}{i}"],
            golden.limit(LATENTS_LIMIT),
        )
    video = pipeline.decode(latents)
    wanted = io["video"]
    if wanted.shape[2] != video.shape[2]:
        video = video[:, :, [0, -1]]
    yield compare(f"{name}/video", video, wanted, VIDEO_LIMIT)


def check_save_videos(_golden: Golden, folder: Path) -> Iterator[Comparison]:
    (file,) = folder.glob("*.safetensors")
    io, case = read(folder, file.name)
    rows = case.get("n_rows", 4)
    wanted = io["grid_uint8"].numpy()
    got = video_grid(io["videos"], n_rows=rows)
    yield compare("save_videos/grid_uint8", got, wanted, 0)
    with tempfile.TemporaryDirectory() as scratch:
        for name, rescale in (("grid", False), ("rescaled", True)):
            videos = io["videos"] * 2 - 1 if rescale else io["videos"]
            save_videos_grid(
                videos, Path(scratch) / f"{name}.gif", rescale=rescale, n_rows=rows
            )
            ours, theirs = (
                _gif(Path(scratch) / f"{name}.gif"),
                _gif(folder / f"{name}.gif"),
            )
            yield equal(f"save_videos/{name}.gif", ours[0], theirs[0])
            grid = video_grid(videos, rows, rescale).astype(np.float64)
            allowed = (
                2 * np.abs(theirs[1] - grid).mean()
            )  # both have 256 colours, and choose and dither them their way
            yield Comparison(
                f"save_videos/{name}.gif pixels",
                float(np.abs(ours[1] - grid).mean()),
                float(allowed),
            )


def _gif(path: Path) -> tuple[dict[str, Any], np.ndarray]:
    frames, durations = [], set()
    with Image.open(path) as image:
        for i in range(getattr(image, "n_frames", 1)):
            image.seek(i)
            durations.add(image.info["duration"])
            frames.append(np.asarray(image.convert("RGB"), dtype=np.float64))
        facts = {
            "frames": len(frames),
            "size": image.size,
            "loop": image.info["loop"],
            "durations": durations,
        }
    return facts, np.stack(frames)


CASES: Mapping[str, Callable[[Golden, Path], Iterator[Comparison]]] = {
    "unet_v1": check_unet,
    "unet_v2": check_unet,
    "unet_v3": check_unet,
    "temporal": check_temporal,
    "scheduler": check_scheduler,
    "pipeline_v3": check_pipeline,
    "pipeline_v2_generator": check_pipeline,
    "sparsectrl_rgb": check_sparse_controlnet,
    "sparsectrl_scribble": check_sparse_controlnet,
    "pipeline_sparsectrl_rgb": check_pipeline,
    "pipeline_sparsectrl_scribble": check_pipeline,
    "loading": check_loading,
    "save_videos": check_save_videos,
}
