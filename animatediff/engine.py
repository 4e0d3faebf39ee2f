"""The engine: it prepares jobs, keeps the models loaded, and makes the clips."""

import gc
import logging
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial

import torch
from PIL import Image
from torch import Tensor

from . import catalog
from .checkpoints.diffusers_folder import weight_files
from .conditioning.conditions import Conditions
from .conditioning.inversions import read_embeddings
from .controls.kinds import ControlPictures
from .controls.reading import PictureReader, check_pictures
from .deadline import Deadline, Stopwatch
from .device import (
    Trouble,
    answers,
    choose_device,
    choose_dtype,
    device_room,
    free_memory,
    trouble_of,
)
from .errors import (
    AnimateDiffError,
    AssetError,
    CheckpointError,
    ConfigurationError,
    DeviceFailed,
    OutOfMemory,
)
from .fetch.assets import Assets, Source
from .fetch.installed import installed_motion_modules
from .fetch.weight_file import WeightFile
from .job.clip import Clip, GenerationRequest
from .job.files import NamedFile, named_files
from .job.notes import job_notes
from .job.prepared import Hashes, PreparedJob, StackKey
from .job.resolve import resolve
from .job.result import Generated, Loaded
from .kernels.choice import use_kernels
from .memory import Work
from .pipeline import AnimationPipeline
from .preflight import check_room, decode_chunk, work_of
from .previews import Previews, SketchMaker
from .progress import Progress, Report, ignore
from .sampling.inputs import AnimationInputs
from .settings import Settings
from .transfers import SideCopies
from .video.clip import Video
from .warm_models import JobModels, Placement, WarmModels

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Attempt:
    """One try at a job.

    ``lean``: one prompt and one frame at a time, which takes the least memory.
    """

    job: PreparedJob
    watch: Stopwatch
    report: Report
    lean: bool
    sketches: SketchMaker

    @property
    def deadline(self) -> Deadline:
        """When the job must end."""
        return self.watch.deadline

    def on_progress(self, progress: Progress) -> None:
        """End the job here if it must end; report the progress otherwise."""
        self.deadline.check()
        self.report(progress)

    def previews(self, pipeline: AnimationPipeline) -> Previews | None:
        """Return the previews that the job asks for."""
        clip = self.job.clip
        if clip.preview is None:
            return None
        row = catalog.BASE_MODELS.get(clip.model)
        sketch = self.sketches.sketch(pipeline.decoder, row and row.preview)
        copies, asked = SideCopies(pipeline.unet.device), clip.preview
        return Previews(sketch, copies, asked.every, clip.fps, asked.max_bytes)


@dataclass(frozen=True, eq=False)
class Frames:
    """The result of an attempt: frames (f, h, w, 3), uint8, and warnings."""

    pixels: Tensor
    warnings: tuple[str, ...]


class Engine:
    """Loads and caches the models that jobs need, and makes the clips.

    ``prepare`` may run on any thread; ``generate`` runs one job at a time. Raises
    ConfigurationError for settings that cannot work on this machine.
    """

    def __init__(self, settings: Settings) -> None:
        _check_default_model(settings.default_model)
        self.settings = settings
        use_kernels(settings.kernels)
        self.assets = Assets(settings)
        self.device = choose_device(settings.device)
        self.dtype = choose_dtype(settings.dtype, self.device)
        self.models = WarmModels(
            Placement(
                self.device,
                self.dtype,
                settings.attention_backend,
            )
        )
        self._sketches = SketchMaker(
            settings.cache_dir / "previews", settings.models_dir / "taesd"
        )
        self._lock = threading.Lock()

    def default_model(self) -> str:
        """Return the model of jobs that name none.

        It is the one of the settings, or else the first that is installed.
        """
        return self.settings.default_model or self.assets.first_base_model()

    def resolve(self, request: GenerationRequest) -> Clip:
        """Decide the fields that ``request`` leaves out, for this installation.

        Raises InvalidRequest and AssetError.
        """
        return resolve(
            request,
            model=request.model or self.default_model(),
            installed_motion=installed_motion_modules(self.settings.models_dir),
            max_megapixel_steps=self.settings.max_megapixel_steps,
        )

    def prepare(
        self,
        request: GenerationRequest,
        report: Report = ignore,
        deadline: Deadline | None = None,
    ) -> PreparedJob:
        """Decide all fields of ``request``, and find or fetch the files it names.

        The models are not touched, so this may run beside ``generate``. Raises
        InvalidRequest before anything is fetched; AssetError; and what ``deadline``
        raises.
        """
        deadline = deadline or Deadline()
        job = self._prepare(request, report, deadline)
        self._read_base_ahead(job.base, deadline)
        files = (job.base, *job.files)
        hashes = {file: self.assets.sha256_later(file.path) for file in files}
        return replace(job, hashes=hashes)

    def _prepare(
        self, request: GenerationRequest, report: Report, deadline: Deadline
    ) -> PreparedJob:
        """Prepare a job whose files are not hashed."""
        clip = self.resolve(request)
        check_pictures(clip, self.settings)
        base = WeightFile.at(self.assets.base_model_folder(clip.model), clip.model)
        located = named_files(clip).map(self._locate)
        additional = [source for _, source in located.additional]
        room, work = device_room(self.settings, self.device), work_of(clip)
        check_room(work, base.path, additional, self.dtype, room)
        version = catalog.motion_module_version(clip.motion_module)
        files = located.map(
            lambda pair: self.assets.fetch(pair[1], pair[0].field, report, deadline)
        )
        with PictureReader(clip, self.settings) as reader:
            pictures = self._pictures(clip, reader, report, deadline)
        return PreparedJob(
            clip=clip,
            work=work,
            base=base,
            files=files,
            motion_module_version=clip.motion_module_version or version,
            pictures=pictures,
            warnings=(*job_notes(clip, request), *reader.notes),
        )

    def _read_base_ahead(self, base: WeightFile, deadline: Deadline) -> None:
        """Read the files of a base model that is not loaded. Loading reports faults."""
        if self.models.holds(base):
            return
        with suppress(AssetError, CheckpointError):
            for file in weight_files(base.path, self.dtype):
                self.assets.read_ahead(file, deadline)

    def _locate(self, file: NamedFile) -> tuple[NamedFile, Source]:
        return file, self.assets.locate(file.reference, file.field)

    def _pictures(
        self, clip: Clip, reader: PictureReader, report: Report, deadline: Deadline
    ) -> tuple[tuple[Image.Image, ...], ...]:
        """Fetch and read one picture after the other; only its pixels are kept."""

        def read(reference: str, field: str) -> Image.Image:
            content = self.assets.picture(reference, field, report, deadline)
            return reader.read(content, field, deadline.check)

        return tuple(
            tuple(
                read(image, f"controls.{i}.images.{j}")
                for j, image in enumerate(control.images)
            )
            for i, control in enumerate(clip.controls)
        )

    def warm(self) -> None:
        """Load what a job that names nothing will need, before there is one.

        On a GPU it also runs one step of such a job: the first run of a kernel loads
        it, and the libraries choose their algorithms. Raises as ``generate`` does.
        """
        request = GenerationRequest(prompt="", num_inference_steps=1)
        job = self._prepare(request, ignore, Deadline())
        self.configure(job.stack)
        if self.device.type == "cuda":
            with self._lock, _device_failures(self.device):
                self._frames(job, Stopwatch(Deadline()), ignore)

    def configure(self, stack: StackKey) -> AnimationPipeline:
        """Load the weights of ``stack``, see ``WarmModels.load``.

        Raises DeviceFailed too.
        """
        with self._lock, _device_failures(self.device):
            return self.models.configure(stack)

    def generate(
        self,
        job: PreparedJob,
        report: Report = ignore,
        deadline: Deadline | None = None,
    ) -> Generated:
        """Make the clip of ``job``. On return the device is idle.

        Where memory runs out, it is freed and the job runs once more in the lean way.
        It runs that way at once if the counted memory demands it. ``deadline`` is
        checked between phases, files, steps and decoded frames.

        Raises InvalidRequest, AssetError, CheckpointError, NonFiniteLatents,
        OutOfMemory, DeviceFailed, and whatever ``report`` and ``deadline`` raise.
        """
        deadline = deadline or Deadline()
        watch = Stopwatch(deadline)
        with deadline.holding(self._lock), _device_failures(self.device):
            frames = self._frames(job, watch, report)
        with watch.phase("hash"):
            loaded = partial(_loaded, job.hashes, deadline)
            model, files = loaded(job.base), job.files.map(loaded)
        video = Video(frames.pixels.numpy(), job.clip.fps)
        warnings = (*job.warnings, *frames.warnings)
        return Generated(video, job.clip, model, files, watch.seconds, warnings)

    def _frames(self, job: PreparedJob, watch: Stopwatch, report: Report) -> Frames:
        """Make the frames, in the lean way if there is no other. Raises OutOfMemory."""
        for lean in self._ways():
            frames = self._attempt(Attempt(job, watch, report, lean, self._sketches))
            if frames is not None:
                return frames
            self._collect()
        raise _out_of_memory(job.clip, self.device)

    def _ways(self) -> Generator[bool]:
        """Yield whether the next attempt is lean.

        Copies of weights leave the device before the lean way is tried.
        """
        yield False
        if self.models.move_copies_to_host():
            yield False
        yield True

    def _collect(self) -> None:
        gc.collect()
        free_memory(self.device)

    def _attempt(self, attempt: Attempt) -> Frames | None:
        """Try once; None if memory runs out, or would."""
        try:
            with attempt.watch.phase("load"):
                models = self._load(attempt)
            chunk = 1 if attempt.lean else self._decode_chunk(attempt.job.work, models)
            if chunk is None:
                return None
            return make_frames(models, attempt, chunk)
        except (RuntimeError, MemoryError) as error:
            if trouble_of(error) is not Trouble.MEMORY:
                raise
            fields = {"lean": attempt.lean, "error": str(error)}
            log.warning("out of memory", extra={"fields": fields})
            return None

    def _load(self, attempt: Attempt) -> JobModels:
        attempt.on_progress(Progress("load", 0, 1))
        stack, controls = attempt.job.stack, attempt.job.files.controls
        models = self.models.load(stack, controls, attempt.deadline.check)
        attempt.on_progress(Progress("load", 1, 1))
        return models

    def _decode_chunk(self, work: Work, models: JobModels) -> int | None:
        """Return the frames to decode at once; None if the job fits only lean ways.

        On a CPU they are the same for every job: larger batches are not faster there,
        and round differently.
        """
        chunk, pipeline = self.settings.vae_decode_chunk, models.pipeline
        if chunk is None and self.device.type == "cpu":
            chunk = pipeline.decode_chunk
        branches = [control.model for control in models.controls]
        room = device_room(self.settings, self.device)
        return decode_chunk(work, pipeline, branches, room, chunk)


def _loaded(hashes: Hashes, deadline: Deadline, file: WeightFile) -> Loaded:
    return Loaded(file.name, deadline.result(hashes[file]))


def make_frames(models: JobModels, attempt: Attempt, decode_chunk: int) -> Frames:
    """Run the phases encode, denoise and decode of one attempt.

    ``decode_chunk`` frames are decoded at once.
    """
    watch, pipeline, lean = attempt.watch, models.pipeline, attempt.lean
    with watch.phase("encode"):
        inputs, warnings = _inputs(models, attempt)
        conditions = _conditions(models, inputs, attempt)
        previews = attempt.previews(pipeline)
    with watch.phase("denoise"):
        latents = pipeline.denoise(
            inputs, conditions, report=attempt.on_progress, previews=previews
        )
    with watch.phase("decode"):
        frames = pipeline.decode_frames(
            latents, chunk=decode_chunk, report=attempt.on_progress
        )
    warnings = (*models.warnings, *warnings)
    if lean:
        note = (
            "memory is short, so the prompts and the frames were processed one by one"
        )
        warnings = (*warnings, note)
    return Frames(frames[0], (*warnings, *conditions.warnings))


def _inputs(
    models: JobModels, attempt: Attempt
) -> tuple[AnimationInputs, tuple[str, ...]]:
    """Return the pipeline's inputs, and warnings about the textual inversions."""
    job, clip = attempt.job, attempt.job.clip
    width = sum(models.pipeline.texts.widths)
    tokens = [embedding.token for embedding in clip.embeddings]
    named = zip(job.files.embeddings, tokens, strict=True)
    embeddings, warnings = read_embeddings(named, [*clip.texts.values()], width)
    inputs = AnimationInputs.of(
        clip,
        seeds=(clip.seed,),
        embeddings=embeddings,
        sequential_guidance=attempt.lean,
    )
    return inputs, warnings


def _conditions(
    models: JobModels, inputs: AnimationInputs, attempt: Attempt
) -> Conditions:
    job, vae = attempt.job, models.pipeline.vae
    clip = job.clip
    asked = [
        ControlPictures(file, pictures, clip.width, clip.height)
        for file, pictures in zip(clip.controls, job.pictures, strict=True)
    ]
    controls = [
        control.condition(vae, pictures)
        for control, pictures in zip(models.controls, asked, strict=True)
    ]
    attempt.deadline.check()
    return models.pipeline.encode(inputs, controls)


@contextmanager
def _device_failures(device: torch.device) -> Generator[None]:
    """Raise an error of ``device`` as DeviceFailed, however torch wraps it.

    After an error that says nothing about the device, the device itself is asked.
    """
    try:
        yield
    except AnimateDiffError:
        raise
    except Exception as error:
        if trouble_of(error) is Trouble.BROKEN or not answers(device):
            message = "the device reported an error, so this worker has to be replaced"
            raise DeviceFailed(message) from error
        raise


def _out_of_memory(clip: Clip, device: torch.device) -> OutOfMemory:
    size = f"{clip.num_frames} frames of {clip.width}x{clip.height}"
    return OutOfMemory(
        f"no room on {device.type} for {size}, even one prompt and one frame at a time;"
        " lower width and height, or num_frames",
        num_frames=clip.num_frames,
        width=clip.width,
        height=clip.height,
    )


def _check_default_model(name: str | None) -> None:
    if name is not None and name not in catalog.BASE_MODELS:
        raise ConfigurationError(
            f"ANIMATEDIFF_DEFAULT_MODEL is {name!r}, must be one of"
            f" {', '.join(catalog.BASE_MODELS)}",
            setting="ANIMATEDIFF_DEFAULT_MODEL",
        )
