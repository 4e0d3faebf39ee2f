"""What a job gives, field by field, against what reached the model and the file.

Each row gives one field a value that is not its default. It looks at the doors of the
text encoder, the sampler, the UNet, the SparseCtrl branch and the VAE, or at the file.
"""

import base64
import io
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from animatediff.conditioning import encoders
from animatediff.config import SPARSECTRL_SCRIBBLE
from animatediff.engine import Engine
from animatediff.job.clip import (
    ContextWindows,
    ControlFile,
    EmbeddingFile,
    GenerationRequest,
    LoraFile,
    PreviewRequest,
)
from animatediff.job.windows import LEAST_WEIGHT
from animatediff.models.context import ControlResiduals
from animatediff.models.sparse_controlnet import SparseControlNetModel
from animatediff.models.unet import UNet3DConditionModel
from animatediff.pipeline import AnimationPipeline
from animatediff.progress import Preview, Progress
from animatediff.sampling import predictor
from animatediff.sampling.steps import Steps
from animatediff.serving.job import JobRunner
from animatediff.serving.storage import LocalStorage
from animatediff.settings import Settings
from animatediff.video import read_metadata
from schemas import parse_job_input, render_job_output

EMBEDDED = Settings().models_dir / "shapeworld"
SMALL = {
    "prompt": "a red circle",
    "num_frames": 4,
    "num_inference_steps": 2,
    "guidance_scale": 4.0,
    "width": 64,
    "height": 64,
    "seed": 5,
    "format": "png_zip",
}
LAYER = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.weight"
PARTS = {
    "context": ContextWindows,
    "preview": PreviewRequest,
    "loras": LoraFile,
    "embeddings": EmbeddingFile,
    "controls": ControlFile,
}
ALPHA, RANK = 2.0, 4


@dataclass
class Seen:
    """What came through the doors of the models during one job, and its answer."""

    ids: list[Tensor] = field(default_factory=list[Tensor])
    clip_skips: list[int] = field(default_factory=list[int])
    vectors: list[Mapping[int, Tensor]] = field(
        default_factory=list[Mapping[int, Tensor]]
    )
    unet: Any = None
    weights: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    samples: list[Tensor] = field(default_factory=list[Tensor])
    windows: list[list[int]] = field(default_factory=list[list[int]])
    weights_of_frames: list[list[float]] = field(default_factory=list[list[float]])
    is_controlled: list[bool] = field(default_factory=list[bool])
    guidance_scales: list[float] = field(default_factory=list[float])
    scheduler: Any = None
    branch: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    condition: Tensor = field(default_factory=lambda: torch.zeros(1, 4, 4, 1, 1))
    strengths: list[float] = field(default_factory=list[float])
    vae: Any = None
    previews: list[Preview] = field(default_factory=list[Preview])
    output: dict[str, Any] = field(default_factory=dict[str, Any])

    def report(self, progress: Progress) -> None:
        if progress.preview is not None:
            self.previews.append(progress.preview)

    @property
    def file(self) -> Path:
        return Path(self.output["url"].removeprefix("file://"))


@dataclass
class Doors:
    """Notes in ``seen`` what passes through the functions of the models."""

    seen: Seen
    patch: pytest.MonkeyPatch

    def watch(self, place: Any, name: str, note: Callable[..., None]) -> None:
        """Call ``note`` with the arguments of each call of a function."""
        real = getattr(place, name)

        def watched(*arguments: Any, **named: Any) -> Any:
            note(*arguments)
            return real(*arguments, **named)

        self.patch.setattr(place, name, watched)

    def text(self, _encoder: Any, ids: Tensor, skip: int, vectors: Any) -> None:
        self.seen.ids.append(ids)
        self.seen.clip_skips.append(skip)
        self.seen.vectors.append(vectors or {})

    def step(
        self, unet: Any, sample: Tensor, _row: Any, _text: Any, *rest: Any
    ) -> None:
        if self.seen.unet is None:
            weights = unet.state_dict().items()
            self.seen.unet = unet
            self.seen.weights = {key: tensor.clone() for key, tensor in weights}
        self.seen.samples.append(sample.clone())
        self.seen.is_controlled.append(any(each is not None for each in rest))

    def window(self, _unet: Any, _sample: Any, _step: int, frames: Any) -> None:
        self.seen.windows.append(list(frames))

    def average(self, values: Any, _like: Tensor) -> None:
        self.seen.weights_of_frames.append(list(values))

    def condition(self, model: Any, placed: Tensor) -> None:
        self.seen.branch, self.seen.condition = model.state_dict(), placed

    def strength(self, _residuals: Any, strength: float) -> None:
        self.seen.strengths.append(strength)

    def scale(self, _pair: Any, guidance_scale: float) -> None:
        self.seen.guidance_scales.append(guidance_scale)

    def advance(self, steps: Steps, *_: Any) -> None:
        self.seen.scheduler = steps.scheduler

    def decode(self, pipeline: AnimationPipeline, *_: Any) -> None:
        self.seen.vae = pipeline.vae


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    doors = Doors(Seen(), monkeypatch)
    doors.watch(encoders, "encode_ids", doors.text)
    doors.watch(UNet3DConditionModel, "predict", doors.step)
    doors.watch(SparseControlNetModel, "embed_condition", doors.condition)
    doors.watch(ControlResiduals, "scaled", doors.strength)
    doors.watch(predictor, "guide", doors.scale)
    doors.watch(predictor.UNetPredictor, "__call__", doors.window)
    doors.watch(predictor, "_for_frames", doors.average)
    doors.watch(Steps, "advance", doors.advance)
    doors.watch(AnimationPipeline, "decode_frames", doors.decode)
    return doors.seen


def picture(colour: str) -> str:
    content = io.BytesIO()
    Image.new("RGB", (64, 64), colour).save(content, "PNG")
    return base64.b64encode(content.getvalue()).decode()


@pytest.fixture(scope="module")
def folder(
    shapeworld: AnimationPipeline, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The embedded family, a second model, and a file of each kind."""
    folder = tmp_path_factory.mktemp("models")
    (folder / "shapeworld").symlink_to(EMBEDDED)
    (folder / "other" / "unet").mkdir(parents=True)
    for part in ("vae", "text_encoder", "tokenizer"):
        (folder / "other" / part).symlink_to(EMBEDDED / part)
    name = "diffusion_pytorch_model.safetensors"
    unet = load_file(EMBEDDED / "unet" / name)
    save_file({**unet, LAYER: unet[LAYER] * 2}, folder / "other" / "unet" / name)
    config = (EMBEDDED / "unet" / "config.json").read_text()
    (folder / "other" / "unet" / "config.json").write_text(config)

    torch.manual_seed(3)
    control = replace(SPARSECTRL_SCRIBBLE, embedding_channels=(8, 16, 24, 32))
    branch = SparseControlNetModel(shapeworld.unet.config, control)
    tensors = {
        key: tensor if tensor.any() else torch.randn_like(tensor) * 0.05
        for key, tensor in branch.state_dict().items()
    }
    save_file(tensors, folder / "scribble.safetensors")
    vae = load_file(EMBEDDED / "vae" / name).items()
    save_file({key: tensor * 0.9 for key, tensor in vae}, folder / "vae.safetensors")
    save_file({"emb_params": torch.randn(1, 64)}, folder / "azure.safetensors")
    layer = "lora_unet_" + LAYER.removesuffix(".weight").replace(".", "_")
    lora = {
        f"{layer}.lora_down.weight": torch.randn(RANK, 32),
        f"{layer}.lora_up.weight": torch.randn(32, RANK),
        f"{layer}.alpha": torch.tensor(ALPHA),
    }
    save_file(lora, folder / "style.safetensors")
    motion = load_file(EMBEDDED / "motion_module_v3.safetensors")
    without_table = {key: t for key, t in motion.items() if not key.endswith(".pe")}
    save_file(without_table, folder / "motion.safetensors")
    return folder


@pytest.fixture(scope="module")
def runner(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> JobRunner:
    settings = Settings(models_dir=folder, device="cpu")
    storage = LocalStorage(tmp_path_factory.mktemp("out"))
    return JobRunner(
        Engine(settings), storage, settings, parse_job_input, render_job_output
    )


def rate_of(file: Path) -> float:
    """Frames a second of a video file."""
    frames, seconds = imageio_ffmpeg.count_frames_and_secs(file)
    assert frames
    assert seconds
    return frames / seconds


def in_file(folder: Path, name: str, key: str) -> Tensor:
    return load_file(folder / name)[key]


def reads(seen: Seen, text: str) -> bool:
    """Whether the text encoder read ``text``."""
    from transformers import CLIPTokenizer

    tokenizer: Any = CLIPTokenizer.from_pretrained(EMBEDDED / "tokenizer")
    ids = tokenizer(text, padding="max_length", max_length=77, return_tensors="pt")
    return any(torch.equal(each, ids.input_ids) for each in seen.ids)


def lora_change(folder: Path, strength: float) -> Tensor:
    lora = load_file(folder / "style.safetensors")
    up, down = (
        next(lora[key] for key in lora if f"lora_{part}." in key)
        for part in ("up", "down")
    )
    return strength * (up @ down)


def changed_by(seen: Seen, change: Tensor) -> bool:
    original = in_file(EMBEDDED, "unet/diffusion_pytorch_model.safetensors", LAYER)
    return torch.allclose(seen.weights[LAYER], original + change, atol=1e-6)


STYLE = {"path": "style.safetensors"}
AZURE = {"path": "azure.safetensors"}
SCRIBBLE = {"path": "scribble.safetensors", "images": [picture("white")]}


WINDOWS = {"length": 4, "overlap": 2, "schedule": "static", "fuse": "flat"}


def in_windows(**context: Any) -> dict[str, Any]:
    """The fields of a clip of 8 frames in windows."""
    return {"num_frames": 8, "context": {**WINDOWS, **context}}


def noise_of(seen: Seen, frames: set[int]) -> list[float]:
    """Sums of the noise of frames in the first window that holds them, in order."""
    window = next(places for places in seen.windows if frames <= set(places))
    sample = seen.samples[seen.windows.index(window)]
    sums = [sample[0, :, window.index(frame)].sum().item() for frame in frames]
    return sorted(sums)


def colour_of(seen: Seen, frame: int) -> list[float]:
    """The red, green and blue of a frame's image."""
    return [seen.condition[0, channel, frame].mean().item() for channel in range(3)]


def placed(seen: Seen) -> list[int]:
    """The frames that have an image."""
    frames = seen.condition[0, :3].abs().sum((0, 2, 3))
    return frames.nonzero().flatten().tolist()


Check = Callable[[Seen, Path], bool]
ROWS: dict[str, tuple[dict[str, Any], Check]] = {
    "prompt": (
        {"prompt": "a blue square"},
        lambda seen, _: reads(seen, "a blue square"),
    ),
    "negative_prompt": (
        {"negative_prompt": "a green triangle"},
        lambda seen, _: reads(seen, "a green triangle"),
    ),
    "num_frames": ({"num_frames": 3}, lambda seen, _: seen.samples[0].shape[2] == 3),
    "width": ({"width": 128}, lambda seen, _: seen.samples[0].shape[4] == 16),
    "height": ({"height": 128}, lambda seen, _: seen.samples[0].shape[3] == 16),
    "num_inference_steps": (
        {"num_inference_steps": 3},
        lambda seen, _: len(seen.samples) == 3,
    ),
    "guidance_scale": (
        {"guidance_scale": 3.5},
        lambda seen, _: seen.guidance_scales == [3.5, 3.5],
    ),
    "seed": (
        {"seed": 7},
        lambda seen, _: torch.equal(
            seen.samples[0][0],
            torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(7)),
        ),
    ),
    "scheduler": (
        {"scheduler": "euler"},
        lambda seen, _: type(seen.scheduler).__name__ == "EulerDiscreteScheduler",
    ),
    "fps": (
        {"fps": 5, "format": "mp4"},
        lambda seen, _: rate_of(seen.file) == 5,
    ),
    "format": (
        {"format": "webp"},
        lambda seen, _: seen.file.read_bytes()[8:12] == b"WEBP",
    ),
    "file_metadata": (
        {"file_metadata": "no_prompts"},
        lambda seen, _: "prompt" not in read_metadata(seen.file)["request"],
    ),
    "preview.every": (
        {"preview": {"every": 2}, "num_inference_steps": 4},
        lambda seen, _: len(seen.previews) == 2,
    ),
    "preview.max_bytes": (
        {"preview": {"every": 1, "max_bytes": 5000}},
        lambda seen, _: {preview.max_bytes for preview in seen.previews} == {5000},
    ),
    "context.length": (
        in_windows(length=6),
        lambda seen, _: {len(window) for window in seen.windows} == {6},
    ),
    "context.overlap": (
        {**in_windows(length=6, overlap=0), "num_frames": 12},
        lambda seen, _: len(seen.windows) == 2 * 2,
    ),
    "context.stride": (
        in_windows(schedule="looped", stride=2),
        lambda seen, _: [0, 2, 4, 6] in seen.windows,
    ),
    "context.schedule": (
        in_windows(schedule="looped"),
        lambda seen, _: [6, 7, 0, 1] in seen.windows,
    ),
    "context.fuse": (
        in_windows(overlap=1, fuse="overlap_linear", length=4),
        lambda seen, _: seen.weights_of_frames[0] == [1, 1, 1, LEAST_WEIGHT],
    ),
    "context.noise": (
        in_windows(noise="repeated"),
        lambda seen, _: noise_of(seen, {4, 5}) == noise_of(seen, {0, 1}),
    ),
    "loop": (
        {"loop": True},
        lambda seen, _: seen.windows[-1] != sorted(seen.windows[-1]),
    ),
    "clip_skip": ({"clip_skip": 1}, lambda seen, _: set(seen.clip_skips) == {1}),
    "model": (
        {"model": "other", "motion_module": "shapeworld/motion_module_v3.safetensors"},
        lambda seen, folder: torch.equal(
            seen.weights[LAYER],
            in_file(folder, "other/unet/diffusion_pytorch_model.safetensors", LAYER),
        ),
    ),
    "motion_module": (
        {"motion_module": "shapeworld_v2"},
        lambda seen, _: seen.unet.motion.use_mid_block,
    ),
    "motion_module_version": (
        {"motion_module": "motion.safetensors", "motion_module_version": "v1"},
        lambda seen, _: not seen.unet.motion.use_inflated_groupnorm,
    ),
    "dreambooth": (
        {"dreambooth": "shapeworld/dreambooth.safetensors"},
        lambda seen, folder: torch.equal(
            seen.weights["conv_in.weight"],
            in_file(
                folder,
                "shapeworld/dreambooth.safetensors",
                "model.diffusion_model.input_blocks.0.0.weight",
            ).float(),
        ),
    ),
    "vae": (
        {"vae": "vae.safetensors"},
        lambda seen, folder: torch.equal(
            seen.vae.decoder.conv_in.weight,
            in_file(folder, "vae.safetensors", "decoder.conv_in.weight"),
        ),
    ),
    "loras.path": (
        {"loras": [STYLE]},
        lambda seen, folder: changed_by(seen, lora_change(folder, ALPHA / RANK)),
    ),
    "loras.strength": (
        {"loras": [{**STYLE, "strength": -0.3}]},
        lambda seen, folder: changed_by(seen, lora_change(folder, -0.3 * ALPHA / RANK)),
    ),
    "loras.ignore_file_alpha": (
        {"loras": [{**STYLE, "ignore_file_alpha": True}]},
        lambda seen, folder: changed_by(seen, lora_change(folder, 1)),
    ),
    "embeddings.path": (
        {"prompt": "a azure circle", "embeddings": [AZURE]},
        lambda seen, folder: reads_vector(seen, folder, position=2),
    ),
    "embeddings.token": (
        {"prompt": "one a <x>", "embeddings": [{**AZURE, "token": "<x>"}]},
        lambda seen, folder: reads_vector(seen, folder, position=3),
    ),
    "controls.path": (
        {"controls": [SCRIBBLE]},
        lambda seen, folder: (
            seen.branch.keys() == load_file(folder / "scribble.safetensors").keys()
        ),
    ),
    "controls.images": (
        {"controls": [{**SCRIBBLE, "images": [picture("lime")]}]},
        lambda seen, _: colour_of(seen, frame=0) == [0, 1, 0],
    ),
    "controls.frame_indices": (
        {"controls": [{**SCRIBBLE, "frame_indices": [2]}]},
        lambda seen, _: placed(seen) == [2],
    ),
    "controls.strength": (
        {"controls": [{**SCRIBBLE, "strength": 0.5}]},
        lambda seen, _: set(seen.strengths) == {0.5},
    ),
    "controls.start": (
        {"controls": [{**SCRIBBLE, "start": 0.5}]},
        lambda seen, _: seen.is_controlled == [False, True],
    ),
    "controls.end": (
        {"controls": [{**SCRIBBLE, "end": 0.5}]},
        lambda seen, _: seen.is_controlled == [True, False],
    ),
    "controls.normalize": (
        {"controls": [{**SCRIBBLE, "images": [picture("lime")], "normalize": True}]},
        lambda seen, _: torch.equal(seen.condition[0, 0], seen.condition[0, 1]),
    ),
}
"""By field: a job's values, and whether the value is there behind the doors."""


def reads_vector(seen: Seen, folder: Path, position: int) -> bool:
    """Whether the embedding's vector stands at ``position`` of one text alone."""
    (vector,) = load_file(folder / "azure.safetensors").values()
    replaced = [vectors for vectors in seen.vectors if vectors]
    places = [list(vectors) for vectors in replaced]
    return places == [[position]] and torch.equal(replaced[0][position], vector[0])


def run(runner: JobRunner, seen: Seen, **fields: Any) -> dict[str, Any]:
    job = {"id": "job", "input": {**SMALL, **fields}}
    return runner.run(job, seen.report, threading.Event())


def test_every_field_has_a_row() -> None:
    plain = {name for name in GenerationRequest.model_fields if name not in PARTS}
    nested = {
        f"{name}.{part}" for name, model in PARTS.items() for part in model.model_fields
    }
    lacking, unknown = (plain | nested) - ROWS.keys(), ROWS.keys() - plain - nested
    assert lacking == set(), f"ROWS in {__file__}: add a row for {lacking}"
    assert unknown == set(), f"ROWS in {__file__}: remove {unknown}"


@pytest.mark.slow
@pytest.mark.parametrize("name", ROWS)
def test_a_field_reaches_the_model(
    name: str, runner: JobRunner, folder: Path, seen: Seen
) -> None:
    fields, reached = ROWS[name]
    seen.output = run(runner, seen, **fields)
    assert "error" not in seen.output
    assert reached(seen, folder)


def without_part(value: Any, name: str) -> Any:
    """A table, or a list of one table, without one of its fields."""
    if isinstance(value, list):
        return [without_part(part, name) for part in value]
    return {key: each for key, each in value.items() if key != name}


@pytest.mark.slow
@pytest.mark.parametrize("name", ROWS)
def test_the_row_sees_when_the_field_is_left_out(
    name: str, runner: JobRunner, folder: Path, seen: Seen
) -> None:
    """Otherwise a row would pass whatever reaches the model."""
    fields, reached = ROWS[name]
    first, *rest = name.split(".")
    without = {key: value for key, value in fields.items() if key != first}
    if rest and rest[0] not in ("path", "images"):
        without[first] = without_part(fields[first], rest[0])
    seen.output = run(runner, seen, **without)
    assert "error" in seen.output or not reached(seen, folder)
