"""The weights that are loaded: a motion module, and the files over a base model."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from ..checkpoints.lora import read_lora
from ..checkpoints.lora_names import Shapes
from ..checkpoints.motion_module import MotionModuleWeights, read_motion_module
from ..checkpoints.noise_schedule import Noise
from ..checkpoints.single_file import SingleFile, read_single_file
from ..checkpoints.vae import read_vae
from ..checkpoints.weight_changes import Address
from ..device import spare_memory
from ..fetch.weight_file import AnyFile, WeightFile
from ..job.prepared import LoraUse, MotionUse
from ..models.image_model import ImageModel
from .motion import FittedMotion, fit_motion_module, install_motion_module
from .patcher import Change, WeightPatcher

COPIES_SHARE = 4
"""Copies of changed weights stay on a GPU while they take a quarter of its free memory.

The engine moves them to the host when a job needs that memory.
"""


@dataclass(frozen=True)
class StackNames:
    """The files that are loaded over a base model, by their names."""

    motion_module: str | None = None
    base: str | None = None
    vae: str | None = None
    loras: tuple[str, ...] = ()

    def __str__(self) -> str:
        parts = {
            "motion": self.motion_module,
            "dreambooth": self.base,
            "vae": self.vae,
            "loras": ", ".join(self.loras),
        }
        return "; ".join(f"{part} {name}" for part, name in parts.items() if name)


@dataclass
class _Content:
    """The content of a stack's files, collected before the first write."""

    files: dict[WeightFile, SingleFile] = field(
        default_factory=dict[WeightFile, SingleFile]
    )
    replacements: dict[Address, Tensor] = field(default_factory=dict[Address, Tensor])
    changes: list[Change] = field(default_factory=list[Change])
    warnings: list[str] = field(default_factory=list[str])

    def warn_of_unused(self, name: str, keys: Sequence[str]) -> None:
        """Add a warning about keys of a file that fit no layer."""
        if keys:
            shown = ", ".join(keys[:3])
            count = f"{len(keys)} keys fit no layer and are not used"
            self.warnings.append(f"{name}: {count} ({shown})")


class WeightStack:
    """The files that are loaded over the weights of one base model's folder."""

    def __init__(self, models: ImageModel) -> None:
        self.models = models
        self.family, self.unet, self.vae = models.family, models.unet, models.vae
        self.motion_warnings: tuple[str, ...] = ()
        """Warnings about the motion module that is loaded."""
        self.names = StackNames()
        self.patcher = WeightPatcher(models.parts)
        self.noise: Noise | None = None
        """The noise schedule of the single file; None without one."""
        self._files: Mapping[WeightFile, SingleFile] = {}

    @property
    def noise_schedule(self) -> Noise:
        """The schedule that the image model was trained on, with the family's betas.

        A single file over the folder decides alone whether it predicts the velocity.
        """
        noise = self.models.noise if self.noise is None else self.noise
        return {**self.family.noise_schedule, **noise}

    @property
    def device_bytes(self) -> int:
        """Memory that the models, and copies of their weights, take on their device."""
        return self.models.device_bytes + self.patcher.device_bytes

    @property
    def host_bytes(self) -> int:
        """Memory on the host: copies of changed weights, and replacing files.

        It is bounded by the size of the models and of the files of the last
        ``configure``.
        """
        files = self._files.values()
        tensors = [tensor for file in files for tensor in file.tensors.values()]
        size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        return self.patcher.host_bytes + size

    def configure(
        self,
        motion: MotionUse | MotionModuleWeights | None,
        base: AnyFile | None,
        loras: Sequence[LoraUse],
        vae: AnyFile | None,
    ) -> tuple[str, ...]:
        """Load a stack, see ``AnimationPipeline.configure_weights``."""
        if isinstance(motion, MotionUse):
            file, version = motion.file, motion.version
            motion = read_motion_module(file, self.family, version=version)
        fitted = None if motion is None else fit_motion_module(self.unet, motion)
        shapes = self._shapes(fitted)
        content = _Content()
        if base is not None:
            base = WeightFile.of(base)
            self._read_base(base, shapes, content, vae_follows=vae is not None)
        if vae is not None:
            vae = WeightFile.of(vae)
            self._read_vae(vae, shapes, content)
        for file in content.files.values():
            content.warn_of_unused(file.name, file.unused)
        for lora in sorted(loras, key=_place_in_sum):
            self._read_changes(lora, shapes, content)
        if fitted is not None:
            self._install(fitted)
        self._files = content.files
        spare = spare_memory(self.unet.device) // COPIES_SHARE
        self.patcher.apply(content.replacements, content.changes, spare)
        self.names = _names(motion, base, loras, vae, self.names)
        self.noise = None if base is None else content.files[base].noise
        return tuple(content.warnings)

    def _install(self, motion: FittedMotion) -> None:
        self.patcher.restore()
        install_motion_module(self.unet, motion)
        self.motion_warnings = motion.warnings

    def _shapes(self, motion: FittedMotion | None) -> Shapes:
        """Return the shapes of all weights once ``motion`` is installed."""
        shapes = self.patcher.shapes()
        if motion is None:
            return shapes
        others = {
            address: shape
            for address, shape in shapes.items()
            if ".motion_modules." not in address[1]
        }
        part, tensors = self.family.unet.name, motion.weights.tensors
        return others | {(part, key): tensor.shape for key, tensor in tensors.items()}

    def _read_base(
        self,
        file: WeightFile,
        shapes: Shapes,
        content: _Content,
        *,
        vae_follows: bool,
    ) -> None:
        layers, config = self.unet.config.layers_per_block, self.vae.config
        read = self._read(
            file,
            content,
            lambda: read_single_file(file, self.family, shapes, layers, config),
        )
        for part in read.absent:
            if part != self.family.vae.name or not vae_follows:
                warning = f"{file.name} has no {part}: the base model's is used"
                content.warnings.append(warning)

    def _read_vae(self, file: WeightFile, shapes: Shapes, content: _Content) -> None:
        config = self.vae.config
        self._read(file, content, lambda: read_vae(file, shapes, config))

    def _read(
        self, file: WeightFile, content: _Content, read: Callable[[], SingleFile]
    ) -> SingleFile:
        """Read a file, or take it from the last ``configure`` if it did not change."""
        kept = self._files.get(file)
        result = read() if kept is None else replace(kept, name=file.name)
        content.files[file] = result
        content.replacements |= result.tensors
        return result

    def _read_changes(self, use: LoraUse, shapes: Shapes, content: _Content) -> None:
        lora = read_lora(
            use.file,
            self.family,
            shapes,
            ignore_file_alpha=use.ignore_file_alpha,
        )
        content.warn_of_unused(lora.name, lora.unmatched)
        for change in lora.changes:
            content.changes.append(Change(change, use.strength))


def _place_in_sum(lora: LoraUse) -> tuple[str, float, bool]:
    """Sums of floating-point numbers depend on the order; clips must not."""
    path = WeightFile.of(lora.file).path
    return str(path), lora.strength, lora.ignore_file_alpha


def _names(
    motion: MotionModuleWeights | None,
    base: WeightFile | None,
    loras: Sequence[LoraUse],
    vae: WeightFile | None,
    before: StackNames,
) -> StackNames:
    return StackNames(
        motion_module=before.motion_module if motion is None else motion.name,
        base=None if base is None else base.name,
        vae=None if vae is None else vae.name,
        loras=tuple(
            f"{WeightFile.of(lora.file).name} ({lora.strength:g})" for lora in loras
        ),
    )
