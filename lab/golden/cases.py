"""Check each kind of case folder of the reference data, one function a kind.

The folders have the layout of the reference data.
"""

import math
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from animatediff.autoencoder import downscale, encode_pixels
from animatediff.catalog import MOTION_MODULE_VERSIONS
from animatediff.conditioning.conditions import Conditions
from animatediff.conditioning.tokens import tokenize
from animatediff.config import MotionModuleConfig
from animatediff.controls.pictures import place_images
from animatediff.controls.sparsectrl import SparseControl
from animatediff.families import SD15
from animatediff.models.attention import attention_backend
from animatediff.models.motion_module import VanillaTemporalModule
from animatediff.models.sparse_controlnet import SparseControlNetModel
from animatediff.pipeline import AnimationPipeline
from animatediff.progress import Progress
from animatediff.sampling.inputs import AnimationInputs
from animatediff.sampling.run import draw_start
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
    """Compare the UNet's output, and that of some of its modules, in each case."""
    io, _ = read(folder, "io.safetensors")
    config = MOTION_MODULE_VERSIONS[folder.name.removeprefix("unet_")]
    for key in sorted(key for key in io if key.endswith(".sample")):
        case = UNetCase(golden, folder.name, key.removesuffix(".sample"), io, config)
        yield from case.check_layers()
        yield from case.check_other_groupnorm()
        yield from case.check_without_motion()


@dataclass(frozen=True)
class UNetCase:
    """One call of the UNet. The keys of ``io`` begin with the case's name."""

    golden: Golden
    folder: str
    name: str
    io: Mapping[str, Tensor]
    config: MotionModuleConfig

    @property
    def arguments(self) -> list[Tensor]:
        """Sample (b, c, f, h, w), timestep, and text (b, n, c)."""
        keys = ("sample", "timestep", "encoder_hidden_states")
        values = [self.io[f"{self.name}.{key}"] for key in keys]
        dtype = self.golden.dtype
        return [
            each if each.dtype == torch.int64 else each.to(dtype) for each in values
        ]

    def compare(self, got: Tensor, key: str) -> Comparison:
        """Compare an output with the one of that name."""
        key = f"{self.name}.{key}"
        name = f"{self.folder}/{key}"
        return self.golden.compare(name, got, self.io, key, UNET_LIMIT)

    def check_layers(self) -> Iterator[Comparison]:
        """Compare the output and the first frames of the modules that ``io`` lists."""
        unet, arguments = self.golden.use_motion(self.config).unet, self.arguments
        prefix = f"{self.name}.hook."
        listed = _below(self.io, prefix)
        outputs: dict[str, Tensor] = {}
        with ExitStack() as stack:
            for path in listed:
                module = unet.get_submodule(path)
                stack.enter_context(_kept(outputs, path, module))
            yield self.compare(unet(*arguments), "out")
        for path, expected in listed.items():
            got = _first_frames(outputs[path], expected, arguments[0].shape[2])
            yield compare(f"{self.folder}/{prefix}{path}", got, expected, UNET_LIMIT)

    def check_other_groupnorm(self) -> Iterator[Comparison]:
        """Compare the output with the group norm of the other published versions."""
        if f"{self.name}.out_other_groupnorm" in self.io:
            is_inflated = not self.config.use_inflated_groupnorm
            other = replace(self.config, use_inflated_groupnorm=is_inflated)
            unet = self.golden.use_motion(other).unet
            yield self.compare(unet(*self.arguments), "out_other_groupnorm")

    def check_without_motion(self) -> Iterator[Comparison]:
        """Compare the output without a motion module, with the config's group norm."""
        if f"{self.name}.out_no_motion" in self.io:
            unet = self.golden.pipeline.unet
            unet.set_motion(None)
            unet.cross_frame_norm = not self.config.use_inflated_groupnorm
            yield self.compare(unet(*self.arguments), "out_no_motion")


@contextmanager
def _kept(
    outputs: dict[str, Tensor], name: str, module: torch.nn.Module
) -> Iterator[None]:
    """Keep the last output of ``module`` in ``outputs``, as long as this lasts."""

    def hook(_module: Any, _arguments: Any, output: Any) -> None:
        outputs[name] = output[0] if isinstance(output, tuple) else output

    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def _first_frames(got: Tensor, expected: Tensor, num_frames: int) -> Tensor:
    """(b f, c, h, w) -> (1, c, f, h, w), as many frames as ``expected`` has."""
    count = expected.shape[0]
    if expected.ndim != 5:
        return got[:count]
    return _unfolded(got, num_frames)[:count, :, : expected.shape[2]]


def _below(io: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose keys begin with ``prefix``, by the rest of the key."""
    keys = sorted(key for key in io if key.startswith(prefix))
    return {key.removeprefix(prefix): io[key] for key in keys}


@torch.inference_mode()
def check_temporal(golden: Golden, folder: Path) -> Iterator[Comparison]:
    """Compare single motion modules, and their tables of positions."""
    io, case = read(folder, "temporal.safetensors")
    for name, described in case["cases"].items():
        tensors = _below(io, f"{name}.")
        module = _temporal_module(described["kwargs"], tensors).to(golden.dtype)
        out = _through(module, tensors["input"].to(golden.dtype))
        key = f"{name}.output"
        yield golden.compare(f"temporal/{name}", out, io, key, UNET_LIMIT)
        if "pe" in tensors:
            error = _position_error(module, tensors["pe"])
            yield Comparison(f"temporal/{name}.pe", error, UNET_LIMIT)


def _temporal_module(
    described: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> VanillaTemporalModule:
    """Return a motion module, by the parameters of the published class."""
    length = described.get("temporal_position_encoding_max_len")
    config = MotionModuleConfig(
        num_attention_heads=described["num_attention_heads"],
        num_transformer_blocks=described["num_transformer_block"],
        num_attention_blocks=len(described["attention_block_types"]),
        use_positional_encoding=described["temporal_position_encoding"],
        max_length=length or MotionModuleConfig.max_length,
    )
    module = VanillaTemporalModule(described["in_channels"], config)
    weights = _below(tensors, "weight.")
    tables = {key for key in weights if key.endswith("pos_encoder.pe")}
    module.load_state_dict({key: weights[key] for key in weights.keys() - tables})
    return module


def _through(module: VanillaTemporalModule, video: Tensor) -> Tensor:
    """Apply ``module`` to a video (b, c, f, h, w)."""
    batch, _, frames, _, _ = video.shape
    folded = video.transpose(1, 2).flatten(0, 1)
    folded = folded.contiguous(memory_format=torch.channels_last)
    out = module(folded, frames, attention_backend("sdpa").attend)
    return out.unflatten(0, (batch, frames)).transpose(1, 2)


def _position_error(module: torch.nn.Module, expected: Tensor) -> float:
    """Return the largest error of the module's tables; without one it is infinite."""
    buffers = module.named_buffers()
    tables = [table for name, table in buffers if name.endswith(".pe")]
    errors = [compare("", table, expected, 0).error for table in tables]
    return max(errors, default=math.inf)


@torch.inference_mode()
def check_sparse_controlnet(golden: Golden, folder: Path) -> Iterator[Comparison]:
    """Compare the keys of a SparseCtrl branch, its residuals, and the UNet's output."""
    io, described = read(folder, "io.safetensors")
    name, model = folder.name, golden.control(folder.name)
    golden.use_motion(MOTION_MODULE_VERSIONS["v3"])
    shapes = {key: list(tensor.shape) for key, tensor in model.state_dict().items()}
    yield equal(f"{name}/keys", shapes, described["keys"])
    for case, parameters in described["cases"].items():
        yield from _check_branch(golden, model, f"{name}/{case}", io, parameters)


def _check_branch(
    golden: Golden,
    model: SparseControlNetModel,
    name: str,
    io: Mapping[str, Tensor],
    parameters: Mapping[str, Any],
) -> Iterator[Comparison]:
    """Compare one case, whose tensors lie below the last part of ``name``."""
    tensors = _below(io, name.rpartition("/")[2] + ".")
    unet = golden.pipeline.unet
    sample, states = io["sample"].to(golden.dtype), io["encoder_hidden_states"]
    frames = sample.shape[2]
    placed = place_images(tensors["images"], parameters["indexes"], frames)
    timesteps = torch.tensor([parameters["timestep"]])
    residuals = model.predict(
        model.embed_condition(placed),
        model.embed_timesteps(timesteps),
        model.encode_text(states),
    ).scaled(parameters["scale"])
    shapes = [list(_unfolded(tensor, frames).shape) for tensor in residuals.down]
    yield equal(f"{name}.down_shapes", shapes, parameters["down_shapes"])
    for level, expected in _below(tensors, "down.").items():
        got = _first_frames(residuals.down[int(level)], expected, frames)
        yield compare(f"{name}.down.{level}", got, expected, RESIDUAL_LIMIT)
    middle = _unfolded(residuals.mid, frames)
    yield compare(f"{name}.mid", middle, tensors["mid"], RESIDUAL_LIMIT)
    out = unet.predict(
        sample, unet.embed_timesteps(timesteps), unet.encode_text(states), residuals
    )
    yield compare(f"{name}.unet_out", out, tensors["unet_out"], UNET_LIMIT)


def _unfolded(x: Tensor, num_frames: int) -> Tensor:
    """(b f, c, h, w) -> (b, c, f, h, w)."""
    return x.unflatten(0, (-1, num_frames)).transpose(1, 2)


def check_scheduler(_golden: Golden, folder: Path) -> Iterator[Comparison]:
    """Compare DDIM's tables, timesteps, steps and noise."""
    (file,) = folder.glob("*.safetensors")
    io, _ = read(folder, file.name)
    limit = SCHEDULER_LIMIT
    scheduler = make_scheduler("ddim", 25, SD15.noise_schedule)
    for key in ("betas", "alphas_cumprod", "final_alpha_cumprod"):
        table = getattr(scheduler, key).reshape(io[key].shape)
        yield compare(f"scheduler/{key}", table, io[key], limit)
    for count, expected in _below(io, "timesteps_").items():
        steps = make_scheduler("ddim", int(count), SD15.noise_schedule).timesteps
        yield compare(f"scheduler/timesteps_{count}", steps, expected, 0)
    sample, eps = io["step.sample"], io["step.eps"]
    for timestep, expected in _below(io, "step.prev_").items():
        before = scheduler.step(eps, int(timestep), sample).prev_sample
        yield compare(f"scheduler/step.prev_{timestep}", before, expected, limit)
    times = io["add_noise.t"].reshape(-1)
    count = (len(times), *[1] * (sample.ndim - 1))
    noisy = scheduler.add_noise(sample.repeat(count), eps.repeat(count), times)
    yield compare("scheduler/add_noise", noisy, io["add_noise.out"], limit)


@torch.inference_mode()
def check_pipeline(golden: Golden, folder: Path) -> Iterator[Comparison]:
    """Compare a clip step by step, from the prompts' tokens to the video."""
    io, case = read(folder, "io.safetensors")
    version = str(case["version"]).removeprefix("v")
    pipeline = golden.use_motion(MOTION_MODULE_VERSIONS[f"v{version}"])
    clip = ClipCase(golden, folder, pipeline, io, case)
    yield from clip.check_prompts()
    yield clip.check_timesteps()
    conditions = pipeline.encode(clip.inputs)
    yield from clip.check_embeds(conditions)
    yield from clip.check_encoded_pixels()
    yield from clip.check_initial_noise()
    yield from clip.check_denoised(conditions)


@dataclass(frozen=True)
class ClipCase:
    """One clip of the published pipeline, with all numbers on the way to it."""

    golden: Golden
    folder: Path
    pipeline: AnimationPipeline
    io: Mapping[str, Tensor]
    case: Mapping[str, Any]

    @property
    def inputs(self) -> AnimationInputs:
        """The parameters of the published pipeline in our names."""
        case = self.case
        return AnimationInputs(
            prompt=case["prompt"],
            negative_prompt=case["negative_prompt"],
            num_frames=case["video_length"],
            width=case["width"],
            height=case["height"],
            num_inference_steps=case["num_inference_steps"],
            guidance_scale=case["guidance_scale"],
            seeds=(case.get("generator_seed") or 0,),
        )

    def compare(self, key: str, got: Any, limit: float) -> Comparison:
        """Compare ``got`` with the tensor of that name."""
        return compare(f"{self.folder.name}/{key}", got, self.io[key], limit)

    def check_prompts(self) -> Iterator[Comparison]:
        """Compare the tokens of both prompts."""
        inputs, tokenizer = self.inputs, self.pipeline.texts.models[0].tokenizer
        yield self.compare("prompt_ids", tokenize(tokenizer, inputs.prompt).ids, 0)
        negative = tokenize(tokenizer, inputs.negative_prompt)
        yield self.compare("negative_ids", negative.ids, 0)

    def check_timesteps(self) -> Comparison:
        """Compare the timesteps of the schedule."""
        inputs, schedule = self.inputs, self.pipeline.family.noise_schedule
        count = inputs.num_inference_steps
        steps = make_scheduler(inputs.scheduler, count, schedule).timesteps.tolist()
        return equal(f"{self.folder.name}/timesteps", steps, self.case["timesteps"])

    def check_embeds(self, conditions: Conditions) -> Iterator[Comparison]:
        """Compare the text embeddings, (1, n, c)."""
        *negative, positive = conditions.embeds
        yield self.compare("prompt_embeds", positive[None], TEXT_LIMIT)
        for embeds in negative:
            yield self.compare("negative_embeds", embeds[None], TEXT_LIMIT)

    def check_encoded_pixels(self) -> Iterator[Comparison]:
        """Compare the latents of pictures, where the case has some."""
        path = self.folder / "vae_encode.safetensors"
        if path.is_file():
            encoded = load_file(path)
            latents = encode_pixels(self.pipeline.vae, encoded["pixels_0_1"])[0]
            scale = self.pipeline.vae.config.scaling_factor
            means, expected = latents.transpose(0, 1) / scale, encoded["posterior_mean"]
            name = f"{self.folder.name}/vae_encode.posterior_mean"
            yield compare(name, means, expected, VIDEO_LIMIT)

    def check_initial_noise(self) -> Iterator[Comparison]:
        """Compare the noise that a seed draws, where the case has a seed."""
        seed = self.case.get("generator_seed")
        if seed is not None:
            sources = [torch.Generator().manual_seed(seed)]
            channels, vae = self.pipeline.unet.config.in_channels, self.pipeline.vae
            noise = draw_start(self.inputs, channels, downscale(vae), sources)
            yield self.compare("init_latents", noise, 0)

    def check_denoised(self, conditions: Conditions) -> Iterator[Comparison]:
        """Compare the UNet's first output, the latents of some steps, and the video."""
        has_seed = self.case.get("generator_seed") is not None
        steps: list[Tensor] = []
        predictions: list[Tensor] = []
        handle = self.pipeline.unet.conv_out.register_forward_hook(
            lambda _module, _arguments, output: predictions.append(output.clone())
        )
        latents = self.pipeline.denoise(
            self.inputs,
            replace(conditions, controls=self._controls()),
            latents=None if has_seed else self.io["init_latents"],
            report=lambda progress: steps.append(_latents_of(progress)),
        )
        handle.remove()
        first = _unfolded(predictions[0], self.inputs.num_frames)
        yield self.compare("unet_out.step0", first, UNET_LIMIT)
        yield from self._check_latents(steps)
        yield self._check_video(latents)

    def _controls(self) -> list[SparseControl]:
        described = self.case.get("controlnet")
        if not described:
            return []
        model = self.golden.control(self.folder.name.removeprefix("pipeline_"))
        images = self.io["controlnet_images"]
        control = SparseControl(model, images, described["indexes"], described["scale"])
        return [control]

    def _check_latents(self, steps: list[Tensor]) -> Iterator[Comparison]:
        is_double = self.golden.dtype == torch.float64
        prefix = "latents_f64.step" if is_double else "latents.step"
        listed = {int(step): each for step, each in _below(self.io, prefix).items()}
        name, limit = f"{self.folder.name}/latents", self.golden.limit(LATENTS_LIMIT)
        if not listed or len(steps) != self.inputs.num_inference_steps:
            yield Comparison(name, math.inf, 0.0, "no latents to compare")
        for step, expected in sorted(listed.items()):
            yield compare(f"{name}.step{step}", steps[step], expected, limit)

    def _check_video(self, latents: Tensor) -> Comparison:
        """Compare all frames, or the first and the last where only these are listed."""
        video = self.pipeline.decode(latents)
        if self.io["video"].shape[2] != video.shape[2]:
            video = video[:, :, [0, -1]]
        return self.compare("video", video, VIDEO_LIMIT)


def _latents_of(progress: Progress) -> Tensor:
    assert progress.latents is not None
    return progress.latents.clone()


def check_save_videos(_golden: Golden, folder: Path) -> Iterator[Comparison]:
    """Compare a grid of videos, and the files that are written of it."""
    (file,) = folder.glob("*.safetensors")
    io, case = read(folder, file.name)
    rows, videos = case.get("n_rows", 4), io["videos"]
    grid = video_grid(videos, n_rows=rows)
    yield compare("save_videos/grid_uint8", grid, io["grid_uint8"].numpy(), 0)
    with tempfile.TemporaryDirectory() as scratch:
        yield from _check_gif(Path(scratch), folder / "grid.gif", videos, rows, False)
        signed, name = videos * 2 - 1, "rescaled.gif"
        yield from _check_gif(Path(scratch), folder / name, signed, rows, True)


def _check_gif(
    scratch: Path, reference: Path, videos: Tensor, rows: int, rescale: bool
) -> Iterator[Comparison]:
    """Write a GIF and compare it with the published one.

    Both have 256 colours, and choose and dither them differently: each pixel may be
    twice as far from the grid as the published file's.
    """
    path = scratch / reference.name
    save_videos_grid(videos, path, rescale=rescale, n_rows=rows)
    facts, frames = _gif(path)
    expected_facts, expected = _gif(reference)
    name = f"save_videos/{reference.name}"
    yield equal(name, facts, expected_facts)
    grid = video_grid(videos, rows, rescale).astype(np.float64)
    limit = 2 * np.abs(expected - grid).mean()
    error = np.abs(frames - grid).mean()
    yield Comparison(f"{name} pixels", float(error), float(limit))


def _gif(path: Path) -> tuple[dict[str, Any], np.ndarray]:
    """Return facts about a GIF, and its frames (f, h, w, 3), 0..255."""
    frames: list[np.ndarray] = []
    durations: set[int] = set()
    with Image.open(path) as image:
        for index in range(getattr(image, "n_frames", 1)):
            image.seek(index)
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
