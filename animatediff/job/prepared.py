"""A job of which everything is decided and everything it names is on this machine."""

from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field

from PIL import Image

from ..fetch.weight_file import AnyFile, WeightFile
from ..memory import Work
from .clip import Clip
from .files import JobFiles

Hashes = Mapping[WeightFile, Future[str]]
"""The coming sha256 of files."""


@dataclass(frozen=True)
class LoraUse:
    """A LoRA file, used as the fields of ``job.clip.LoraFile`` say."""

    file: AnyFile
    strength: float = 1.0
    ignore_file_alpha: bool = False


@dataclass(frozen=True)
class MotionUse:
    """A motion-module file, and its version where the file leaves that open."""

    file: AnyFile
    version: str | None = None


@dataclass(frozen=True)
class StackKey:
    """The files to load: a base model's folder, and the files around and over it."""

    base: WeightFile
    motion_module: WeightFile
    motion_module_version: str | None = None
    dreambooth: WeightFile | None = None
    vae: WeightFile | None = None
    loras: tuple[LoraUse, ...] = ()

    @property
    def motion(self) -> MotionUse:
        """Return the motion module, and the version that is stated for it."""
        return MotionUse(self.motion_module, self.motion_module_version)


@dataclass(frozen=True, eq=False)
class PreparedJob:
    """A decided clip, its files, and the pictures of each of its controls.

    ``motion_module_version`` is the version that the job or the catalog states. The
    pictures have the clip's size. ``hashes`` are computed beside the frames.
    ``warnings`` are about the fields and the pictures.
    """

    clip: Clip
    work: Work
    base: WeightFile
    files: JobFiles[WeightFile]
    motion_module_version: str | None = None
    pictures: tuple[tuple[Image.Image, ...], ...] = ()
    warnings: tuple[str, ...] = ()
    hashes: Hashes = field(default_factory=dict[WeightFile, Future[str]])

    @property
    def stack(self) -> StackKey:
        """The files to load for the job, apart from controls and embeddings."""
        pairs = zip(self.clip.loras, self.files.loras, strict=True)
        return StackKey(
            base=self.base,
            motion_module=self.files.motion_module,
            motion_module_version=self.motion_module_version,
            dreambooth=self.files.dreambooth,
            vae=self.files.vae,
            loras=tuple(
                LoraUse(file, lora.strength, lora.ignore_file_alpha)
                for lora, file in pairs
            ),
        )
