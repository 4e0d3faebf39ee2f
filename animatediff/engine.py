"""The warm thing: models that stay loaded between jobs, and the one object of this package that changes."""

import time
import warnings as python_warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch

from . import assets, catalog
from .checkpoints.motion_module import read_motion_module
from .errors import AssetError, CheckpointError, ConfigurationError, OutOfMemory
from .pipeline import AnimationInputs, AnimationPipeline, LoraFile
from .request import GenerationRequest, LoraRef, ResolvedRequest, resolve
from .settings import Settings
from .video.clip import Video

OnProgress = Callable[[int, int], None]
"""Called after each step with the number of steps done and their total. May raise, which ends the job."""


@dataclass(frozen=True)
class StackKey:
    """What must be loaded for a job: the base model, the motion module, and the LoRAs in their order."""

    model: str
    motion_module: str
    loras: tuple[LoraRef, ...] = ()


@dataclass(frozen=True)
class Loaded:
    """One part of the stack as it ran: its name, and the sha256 of its content."""

    name: str
    sha256: str


@dataclass(frozen=True, eq=False)
class Generated:
    """A finished clip and what it takes to repeat it. ``timings`` are seconds by phase."""

    video: Video
    request: ResolvedRequest
    model: Loaded
    motion_module: Loaded
    loras: tuple[Loaded, ...]
    """In the order of ``request.loras``, which has their strengths."""
    timings: dict[str, float]
    warnings: tuple[str, ...]


@dataclass
class Stopwatch:
    """Seconds by phase, on the wall clock."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = round(time.perf_counter() - start, 3)


class Engine:
    """Loads what a job needs, keeps it, and makes the clip. For one thread at a time.

    Raises ConfigurationError for settings that cannot work on this machine.
    """

    def __init__(self, settings: Settings) -> None:
        _check_default_model(settings.default_model)
        self.settings = settings
        self.device = _device(settings.device)
        self.dtype = _dtype(settings.dtype, self.device)
        self.stack: StackKey | None = None
        self._pipeline: AnimationPipeline | None = None
        self._load_warnings: tuple[str, ...] = ()
        self._lora_warnings: tuple[str, ...] = ()
        self._hashes: dict[Path, Future[str]] = {}
        self._hasher = ThreadPoolExecutor(1, thread_name_prefix="sha256")

    def default_model(self) -> str:
        """The model of jobs that name none: the one of the settings, or else the first that is installed."""
        if self.settings.default_model:
            return self.settings.default_model
        installed = assets.installed_base_models(self.settings.models_dir)
        if not installed:
            raise AssetError(f"no model is installed; there could be {', '.join(catalog.BASE_MODELS)}")
        return installed[0]

    def resolve(self, request: GenerationRequest) -> ResolvedRequest:
        """Decide what ``request`` leaves open, as this installation does. Raises InvalidRequest, AssetError."""
        self._lora_files(request.loras)
        return resolve(
            request,
            model=request.model or self.default_model(),
            installed_motion=assets.installed_motion_modules(self.settings.models_dir),
            max_megapixel_steps=self.settings.max_megapixel_steps,
        )

    def warm(self) -> None:
        """Load what a job that names nothing will need, before there is one."""
        request = self.resolve(GenerationRequest(prompt=""))
        self.configure(StackKey(request.model, request.motion_module))

    def configure(self, wanted: StackKey) -> AnimationPipeline:
        """The pipeline with ``wanted`` loaded; only what differs from what is there is loaded anew.

        Raises AssetError and CheckpointError; the parts that were not reached are as before then. After any other
        error, all is loaded anew the next time.
        """
        models = self.settings.models_dir
        folder = assets.base_model_folder(models, wanted.model)
        file = assets.motion_module_file(models, wanted.motion_module)
        if self._pipeline is None or self.stack is None or self.stack.model != wanted.model:
            self.stack, self._pipeline = None, None  # the old one makes room first: two need not fit the device
            with python_warnings.catch_warnings(record=True) as caught:
                python_warnings.simplefilter("always")
                self._pipeline = AnimationPipeline.from_pretrained(
                    folder,
                    device=self.device,
                    dtype=self.dtype,
                    attention=self.settings.attention_backend,
                    decode_chunk=self.settings.vae_decode_chunk,
                )
            self._load_warnings = tuple(str(w.message) for w in caught if "xformers" in str(w.message))
        if self.stack != wanted:
            self._exchange(self._pipeline, wanted, file)
        self._sha256_later(folder)
        self._sha256_later(file)
        for lora in self._lora_files(wanted.loras):
            self._sha256_later(lora)
        return self._pipeline

    def _exchange(self, pipeline: AnimationPipeline, wanted: StackKey, motion_file: Path) -> None:
        """Make the motion module and the LoRAs those of ``wanted``, on the base model that is loaded."""
        motion = None
        files = [
            LoraFile(path, lora.strength, lora.ignore_file_alpha)
            for path, lora in zip(self._lora_files(wanted.loras), wanted.loras, strict=True)
        ]
        if self.stack is None or self.stack.motion_module != wanted.motion_module:
            motion = read_motion_module(motion_file, version=catalog.MOTION_MODULES[wanted.motion_module].version)
        try:
            self._lora_warnings = pipeline.configure_weights(motion, None, files)
        except (AssetError, CheckpointError):
            raise  # found before anything was changed
        except BaseException:
            self.stack, self._pipeline = None, None
            raise
        self.stack = wanted

    def _lora_files(self, loras: tuple[LoraRef, ...]) -> list[Path]:
        folder = self.settings.models_dir
        return [assets.weight_file(folder, lora.path, f"loras.{i}.path") for i, lora in enumerate(loras)]

    def generate(self, request: ResolvedRequest, on_progress: OnProgress | None = None) -> Generated:
        """Make the clip of ``request``. The frames are on the CPU, and the device is idle, when this returns.

        Raises InvalidRequest, AssetError, CheckpointError, NonFiniteLatents, OutOfMemory, and whatever
        ``on_progress`` raises.
        """
        watch = Stopwatch()
        try:
            with watch.phase("load"):
                pipeline = self.configure(StackKey(request.model, request.motion_module, request.loras))
            frames, warnings = _run(pipeline, request, watch, on_progress)
        except torch.OutOfMemoryError as error:
            torch.cuda.empty_cache()
            raise OutOfMemory(
                f"no room on {self.device.type} for {request.num_frames} frames of {request.width}x{request.height}"
            ) from error
        folder = assets.base_model_folder(self.settings.models_dir, request.model)
        file = assets.motion_module_file(self.settings.models_dir, request.motion_module)
        note = catalog.BASE_MODELS[request.model].note
        with watch.phase("hash"):
            files = (folder, file, *self._lora_files(request.loras))
            hashes = [self._sha256_later(path).result() for path in files]
        return Generated(
            video=Video(frames.numpy(), request.fps),
            request=request,
            model=Loaded(request.model, hashes[0]),
            motion_module=Loaded(request.motion_module, hashes[1]),
            loras=tuple(Loaded(lora.path, sha256) for lora, sha256 in zip(request.loras, hashes[2:], strict=True)),
            timings=watch.seconds,
            warnings=(
                *((note,) if note else ()),
                *self._load_warnings,
                *pipeline.motion_warnings,
                *self._lora_warnings,
                *warnings,
            ),
        )

    def _sha256_later(self, path: Path) -> Future[str]:
        """The hash of weights, computed beside the first job and kept: weights do not change under a worker."""
        if path not in self._hashes:
            self._hashes[path] = self._hasher.submit(assets.content_sha256, path)
        return self._hashes[path]


def _run(
    pipeline: AnimationPipeline, request: ResolvedRequest, watch: Stopwatch, on_progress: OnProgress | None
) -> tuple[torch.Tensor, tuple[str, ...]]:
    """Frames (f, h, w, 3), uint8, and warnings."""
    inputs = AnimationInputs(
        prompt=request.prompt,
        negative_prompt=request.negative_prompt,
        num_frames=request.num_frames,
        width=request.width,
        height=request.height,
        num_inference_steps=request.num_inference_steps,
        guidance_scale=request.guidance_scale,
        scheduler=request.scheduler,
        seeds=(request.seed,),
        clip_skip=request.clip_skip,
    )
    total = request.num_inference_steps

    def on_step(i: int, _latents: torch.Tensor) -> None:
        if on_progress is not None:
            on_progress(i + 1, total)

    with watch.phase("encode"):
        condition = pipeline.encode(inputs)
    with watch.phase("denoise"):
        latents = pipeline.denoise(inputs, condition, on_step=on_step)
    with watch.phase("decode"):
        frames = pipeline.decode_frames(latents)[0]
    return frames, condition.warnings


def _check_default_model(name: str | None) -> None:
    if name is not None and name not in catalog.BASE_MODELS:
        raise ConfigurationError(
            f"ANIMATEDIFF_DEFAULT_MODEL is {name!r}, must be one of {', '.join(catalog.BASE_MODELS)}",
            setting="ANIMATEDIFF_DEFAULT_MODEL",
        )


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigurationError(
            f"ANIMATEDIFF_DEVICE is {name!r}, which cannot be used on this machine", setting="ANIMATEDIFF_DEVICE"
        ) from error
    return device


def _dtype(name: str, device: torch.device) -> torch.dtype:
    if name == "auto":
        return torch.float16 if device.type == "cuda" else torch.float32
    return getattr(torch, name)
