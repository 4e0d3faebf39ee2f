"""The warm thing: models that stay loaded between jobs, and the one object of this
package that changes.
"""

import gc
import logging
import time
import warnings as python_warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from PIL import Image

from . import catalog
from .checkpoints.motion_module import read_motion_module
from .checkpoints.textual_inversion import read_textual_inversion
from .conditioning.prompts import uses
from .controls.pictures import read_picture
from .errors import (
    AssetError,
    CheckpointError,
    ConfigurationError,
    DeviceFailed,
    InvalidRequest,
    OutOfMemory,
)
from .fetch.assets import Assets
from .fetch.installed import installed_motion_modules
from .fetch.weight_file import Stamp, stamp
from .job.clip import Clip, ControlFile, EmbeddingFile, GenerationRequest, LoraFile
from .job.resolve import resolve
from .models.sparse_controlnet import SparseControlNetModel
from .pipeline import AnimationInputs, AnimationPipeline, SparseControl
from .preflight import check_room, device_room, fits_at_once
from .settings import Settings
from .video.clip import Video

log = logging.getLogger(__name__)

OnProgress = Callable[[int, int], None]
"""Called after each step with the number of steps done and their total. May raise,
which ends the job.
"""


@dataclass(frozen=True)
class StackKey:
    """What must be loaded for a job: the base model's folder, and the files that are
    put around and over it.
    """

    base: Path
    motion_module: Path
    motion_module_version: str | None = None
    dreambooth: Path | None = None
    vae: Path | None = None
    loras: tuple[LoraFile, ...] = ()
    stamps: tuple[Stamp, ...] = ()
    """Of the files above, in that order."""


@dataclass(frozen=True, eq=False)
class PreparedJob:
    """A request of which everything is decided, and everything it names is here.

    ``embeddings`` and ``controls`` are the files of the request's, ``pictures`` those
    of each control.
    """

    request: Clip
    stack: StackKey
    embeddings: tuple[Path, ...] = ()
    controls: tuple[Path, ...] = ()
    pictures: tuple[tuple[Image.Image, ...], ...] = ()

    @property
    def files(self) -> tuple[Path, ...]:
        """Everything whose content decides what the clip shows."""
        stack = self.stack
        single = (stack.base, stack.motion_module, stack.dreambooth, stack.vae)
        loras = (Path(lora.path) for lora in stack.loras)
        return (
            *(path for path in single if path),
            *loras,
            *self.embeddings,
            *self.controls,
        )


@dataclass(frozen=True)
class Loaded:
    """One part of the stack as it ran: its name, and the sha256 of its content."""

    name: str
    sha256: str


@dataclass(frozen=True, eq=False)
class Generated:
    """A finished clip and what it takes to repeat it. ``timings`` are seconds by phase.

    ``loras``, ``embeddings`` and ``controls`` are in the order of the request's, which
    has their strengths.
    """

    video: Video
    request: Clip
    model: Loaded
    motion_module: Loaded
    dreambooth: Loaded | None
    vae: Loaded | None
    loras: tuple[Loaded, ...]
    embeddings: tuple[Loaded, ...]
    controls: tuple[Loaded, ...]
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
    """Loads what a job needs, keeps it, and makes the clip. For one thread at a time,
    but for ``prepare``.

    Raises ConfigurationError for settings that cannot work on this machine.
    """

    def __init__(self, settings: Settings) -> None:
        _check_default_model(settings.default_model)
        self.settings = settings
        self.assets = Assets(settings)
        self.device = choose_device(settings.device)
        self.dtype = _dtype(settings.dtype, self.device)
        self.stack: StackKey | None = None
        self._base: Path | None = None
        self._pipeline: AnimationPipeline | None = None
        self._branches: dict[tuple[Path, Stamp], SparseControlNetModel] = {}
        self._load_warnings: tuple[str, ...] = ()
        self._weight_warnings: tuple[str, ...] = ()

    def default_model(self) -> str:
        """The model of jobs that name none: the one of the settings, or else the first
        that is installed.
        """
        return self.settings.default_model or self.assets.first_base_model()

    def resolve(self, request: GenerationRequest) -> Clip:
        """Decide what ``request`` leaves open, as this installation does. Raises
        InvalidRequest, AssetError.
        """
        return resolve(
            request,
            model=request.model or self.default_model(),
            installed_motion=installed_motion_modules(self.settings.models_dir),
            max_megapixel_steps=self.settings.max_megapixel_steps,
        )

    def prepare(self, request: GenerationRequest) -> PreparedJob:
        """Decide what ``request`` leaves open, and find or fetch the files it names.
        The models are not touched.

        May run on another thread beside ``generate``. Raises InvalidRequest before
        anything is fetched; AssetError.
        """
        resolved = self.resolve(request)
        base = self.assets.base_model_folder(resolved.model)
        named = named_files(resolved)
        sources = {
            place: self.assets.locate(reference, place)
            for place, reference in named.items()
        }
        check_room(
            resolved, base, sources, self.dtype, device_room(self.settings, self.device)
        )
        found = {
            place: self.assets.fetch(source, place).path
            for place, source in sources.items()
        }
        motion, dreambooth, vae = (
            found["motion_module"],
            found.get("dreambooth"),
            found.get("vae"),
        )
        loras = tuple(
            lora.model_copy(update={"path": str(found[f"loras.{i}.path"])})
            for i, lora in enumerate(resolved.loras)
        )
        files = (
            motion,
            *(path for path in (dreambooth, vae) if path),
            *(Path(lora.path) for lora in loras),
        )
        return PreparedJob(
            request=resolved,
            stack=StackKey(
                base=base,
                motion_module=motion,
                motion_module_version=resolved.motion_module_version
                or catalog.motion_module_version(resolved.motion_module),
                dreambooth=dreambooth,
                vae=vae,
                loras=loras,
                stamps=tuple(stamp(path) for path in files),
            ),
            embeddings=tuple(
                found[f"embeddings.{i}.path"] for i in range(len(resolved.embeddings))
            ),
            controls=tuple(
                found[f"controls.{i}.path"] for i in range(len(resolved.controls))
            ),
            pictures=tuple(
                tuple(
                    self._picture(image, f"controls.{i}.images.{j}")
                    for j, image in enumerate(control.images)
                )
                for i, control in enumerate(resolved.controls)
            ),
        )

    def _picture(self, reference: str, place: str) -> Image.Image:
        return read_picture(self.assets.picture(reference, place), place)

    def warm(self) -> None:
        """Load what a job that names nothing will need, before there is one."""
        self.configure(self.prepare(GenerationRequest(prompt="")).stack)

    def configure(self, wanted: StackKey) -> AnimationPipeline:
        """The pipeline with ``wanted`` loaded; only what differs from what is there is
        loaded anew.

        Raises AssetError and CheckpointError; the parts that were not reached are as
        before then. After any other error, all is loaded anew the next time.
        """
        if self._pipeline is None or self._base != wanted.base:
            self._forget()  # the old one makes room first: two need not fit the device
            with python_warnings.catch_warnings(record=True) as caught:
                python_warnings.simplefilter("always")
                self._pipeline = AnimationPipeline.from_pretrained(
                    wanted.base,
                    device=self.device,
                    dtype=self.dtype,
                    attention=self.settings.attention_backend,
                    decode_chunk=self.settings.vae_decode_chunk,
                )
            self._base = wanted.base
            self._load_warnings = tuple(
                str(w.message) for w in caught if "xformers" in str(w.message)
            )
        if self.stack != wanted:
            self._exchange(self._pipeline, wanted)
        return self._pipeline

    def _exchange(self, pipeline: AnimationPipeline, wanted: StackKey) -> None:
        """Make the weights those of ``wanted``, on the base model that is loaded."""
        motion = None
        if self.stack is None or _motion(self.stack) != _motion(wanted):
            motion = read_motion_module(
                wanted.motion_module, version=wanted.motion_module_version
            )
        try:
            said = pipeline.configure_weights(
                motion, wanted.dreambooth, wanted.loras, vae=wanted.vae
            )
        except (AssetError, CheckpointError):
            raise  # found before anything was changed
        except BaseException:
            self._forget()
            raise
        self.stack, self._weight_warnings = wanted, said

    def _forget(self) -> None:
        self.stack, self._base, self._pipeline = None, None, None
        self._branches.clear()

    def _controls(
        self, pipeline: AnimationPipeline, job: PreparedJob
    ) -> list[SparseControlNetModel]:
        """The SparseCtrl branches of ``job``. Those of the job before that it does not
        need make room first.
        """
        keys = [(path, stamp(path)) for path in job.controls]
        self._branches = {
            key: branch for key, branch in self._branches.items() if key in keys
        }
        for key in keys:
            if key not in self._branches:
                self._branches[key] = pipeline.load_sparse_controlnet(
                    key[0], self.settings.attention_backend
                )
        return [self._branches[key] for key in keys]

    def generate(
        self,
        job: PreparedJob,
        on_progress: OnProgress | None = None,
        check: Callable[[], None] | None = None,
    ) -> Generated:
        """Make the clip of ``job``. The frames are on the CPU, and the device is idle,
        when this returns.

        Where memory runs out, it is given back and the job is run once more in a leaner
        way, which is the first way where the count says that it must be. ``check`` is
        called between phases, steps and decoded frames, to end the job by raising.
        Raises InvalidRequest, AssetError, CheckpointError, NonFiniteLatents,
        OutOfMemory, DeviceFailed, and whatever ``on_progress`` and ``check`` raise.
        """
        request, watch = job.request, Stopwatch()
        done = self._attempt(job, watch, on_progress, check, lean=False)
        if done is None:
            self._give_memory_back()
            done = self._attempt(job, watch, on_progress, check, lean=True)
        if done is None:
            self._give_memory_back()
            raise OutOfMemory(
                f"no room on {self.device.type} for {request.num_frames} frames of"
                f" {request.width}x{request.height},"
                " even one prompt and one frame at a time; lower width and height, or"
                " num_frames",
                num_frames=request.num_frames,
                width=request.width,
                height=request.height,
            )
        pipeline, frames, warnings = done
        with watch.phase("hash"):
            hashes = {
                path: self.assets.sha256_later(path).result() for path in job.files
            }

        def loaded(name: str | None, path: Path | None) -> Loaded | None:
            return (
                Loaded(name, hashes[path])
                if name is not None and path is not None
                else None
            )

        def each(
            references: Sequence[LoraFile | EmbeddingFile | ControlFile],
            files: Sequence[Path],
        ) -> tuple[Loaded, ...]:
            pairs = zip(references, files, strict=True)
            return tuple(
                Loaded(reference.path, hashes[path]) for reference, path in pairs
            )

        row = catalog.BASE_MODELS.get(request.model)
        return Generated(
            video=Video(frames.numpy(), request.fps),
            request=request,
            model=Loaded(request.model, hashes[job.stack.base]),
            motion_module=Loaded(
                request.motion_module, hashes[job.stack.motion_module]
            ),
            dreambooth=loaded(request.dreambooth, job.stack.dreambooth),
            vae=loaded(request.vae, job.stack.vae),
            loras=each(request.loras, [Path(lora.path) for lora in job.stack.loras]),
            embeddings=each(request.embeddings, job.embeddings),
            controls=each(request.controls, job.controls),
            timings=watch.seconds,
            warnings=(
                *((row.note,) if row and row.note else ()),
                *self._load_warnings,
                *pipeline.motion_warnings,
                *self._weight_warnings,
                *warnings,
            ),
        )

    def _attempt(
        self,
        job: PreparedJob,
        watch: "Stopwatch",
        on_progress: OnProgress | None,
        check: Callable[[], None] | None,
        *,
        lean: bool,
    ) -> tuple[AnimationPipeline, torch.Tensor, tuple[str, ...]] | None:
        """Pipeline, frames and warnings; None where memory ran out, or would."""
        check = check or _nothing
        try:
            with watch.phase("load"):
                check()
                pipeline = self.configure(job.stack)
                check()
                branches = self._controls(pipeline, job)
            room, chunk = (
                device_room(self.settings, self.device),
                self.settings.vae_decode_chunk,
            )
            if not lean and not fits_at_once(
                job.request, pipeline, branches, chunk, room
            ):
                return None
            for path in job.files:
                self.assets.sha256_later(path)
            return pipeline, *_run(
                pipeline, job, branches, watch, on_progress, check, lean=lean
            )
        except torch.OutOfMemoryError as error:
            log.warning(
                "out of memory", extra={"fields": {"lean": lean, "error": str(error)}}
            )
            return None
        except torch.AcceleratorError as error:
            raise DeviceFailed(
                "the device reported an error, so this worker has to be replaced"
            ) from error

    def _give_memory_back(self) -> None:
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def named_files(request: Clip) -> dict[str, str]:
    """Every weight file that ``request`` needs beside the base model, by the field that
    names it.
    """
    named = {
        "motion_module": request.motion_module,
        "dreambooth": request.dreambooth,
        "vae": request.vae,
        **{f"loras.{i}.path": lora.path for i, lora in enumerate(request.loras)},
        **{
            f"embeddings.{i}.path": embedding.path
            for i, embedding in enumerate(request.embeddings)
        },
        **{
            f"controls.{i}.path": control.path
            for i, control in enumerate(request.controls)
        },
    }
    return {
        place: reference for place, reference in named.items() if reference is not None
    }


def _motion(stack: StackKey) -> tuple[Path, str | None, Stamp]:
    return stack.motion_module, stack.motion_module_version, stack.stamps[0]


def _nothing() -> None:
    pass


def _run(
    pipeline: AnimationPipeline,
    job: PreparedJob,
    branches: list[SparseControlNetModel],
    watch: Stopwatch,
    on_progress: OnProgress | None,
    check: Callable[[], None],
    *,
    lean: bool,
) -> tuple[torch.Tensor, tuple[str, ...]]:
    """Frames (f, h, w, 3), uint8, and warnings. ``lean``: one prompt and one frame at a
    time.
    """
    request = job.request
    embeddings, warnings = _embeddings(pipeline, job)
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
        embeddings=embeddings,
        sequential_guidance=lean,
    )
    total = request.num_inference_steps

    def on_step(i: int, _latents: torch.Tensor) -> None:
        check()
        if on_progress is not None:
            on_progress(i + 1, total)

    with watch.phase("encode"):
        condition = pipeline.encode(inputs)
        controls = [
            SparseControl(
                branch,
                pipeline.control_images(
                    branch,
                    pictures,
                    request.width,
                    request.height,
                    normalize=reference.normalize,
                ),
                reference.frame_indices,
                reference.strength,
                reference.start,
                reference.end,
            )
            for branch, pictures, reference in zip(
                branches, job.pictures, request.controls, strict=True
            )
        ]
    with watch.phase("denoise"):
        latents = pipeline.denoise(
            inputs, condition, controls=controls, on_step=on_step
        )
    with watch.phase("decode"):
        frames = pipeline.decode_frames(
            latents, chunk=1 if lean else None, on_chunk=check
        )[0]
    if lean:
        warnings = (
            *warnings,
            "memory is short, so the prompts and the frames were taken one by one",
        )
    return frames, (*warnings, *condition.warnings)


def _embeddings(
    pipeline: AnimationPipeline, job: PreparedJob
) -> tuple[Mapping[str, torch.Tensor], tuple[str, ...]]:
    """The textual inversions of ``job`` by their words, and a warning for each word
    that no prompt has.
    """
    found: dict[str, torch.Tensor] = {}
    unused = []
    width = pipeline.text_encoder.config.hidden_size
    for i, (reference, path) in enumerate(
        zip(job.request.embeddings, job.embeddings, strict=True)
    ):
        embedding = read_textual_inversion(path, width)
        word = reference.token or embedding.token or path.stem
        if word.lower() in (known.lower() for known in found):
            raise InvalidRequest(
                f"embeddings.{i}.token",
                word,
                "a word that no other embedding stands for",
            )
        found[word] = embedding.vectors
        if not any(
            uses(text, word)
            for text in (job.request.prompt, job.request.negative_prompt)
        ):
            unused.append(f"{path.name}: its word {word} is in neither prompt")
    return found, tuple(unused)


def _check_default_model(name: str | None) -> None:
    if name is not None and name not in catalog.BASE_MODELS:
        raise ConfigurationError(
            f"ANIMATEDIFF_DEFAULT_MODEL is {name!r}, must be one of"
            f" {', '.join(catalog.BASE_MODELS)}",
            setting="ANIMATEDIFF_DEFAULT_MODEL",
        )


def choose_device(name: str) -> torch.device:
    """The device that ``name`` (or "auto") means here. Raises ConfigurationError where
    it cannot be used.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigurationError(
            f"ANIMATEDIFF_DEVICE is {name!r}, which cannot be used on this machine",
            setting="ANIMATEDIFF_DEVICE",
        ) from error
    return device


def _dtype(name: str, device: torch.device) -> torch.dtype:
    if name == "auto":
        return torch.float16 if device.type == "cuda" else torch.float32
    return getattr(torch, name)
