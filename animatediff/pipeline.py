"""AnimationPipeline: encode, denoise, decode (arXiv 2307.04725, figure 2)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from . import autoencoder
from .adapters.stack import WeightStack
from .checkpoints.diffusers_folder import load_image_model
from .checkpoints.motion_module import MotionModuleWeights
from .conditioning.conditions import Conditions, TextStack
from .controls.base import ControlCondition
from .fetch.weight_file import AnyFile
from .job.prepared import LoraUse, MotionUse
from .kernels.choice import kernel_warning
from .models.image_model import ImageModel
from .previews import Previews
from .progress import Report, ignore
from .sampling.inputs import AnimationInputs
from .sampling.run import SamplerRun


@dataclass(frozen=True, eq=False)
class Animation:
    """A finished clip.

    ``videos`` (b, 3, f, h, w) have values 0..1 and are float32 on the CPU. ``latents``
    are (b, 4, f, h / 8, w / 8).
    """

    videos: Tensor
    latents: Tensor
    warnings: tuple[str, ...] = ()


class AnimationPipeline:
    """A UNet with motion modules, a VAE and text encoders: from words to a clip.

    ``decode_chunk`` is the number of frames that the VAE decodes at once. More are
    faster, fewer need less memory.
    """

    def __init__(self, models: ImageModel, *, decode_chunk: int = 4) -> None:
        self.models, self.family = models, models.family
        self.unet, self.vae = models.unet, models.vae
        self.texts = TextStack(models.texts)
        self.weights = WeightStack(models)
        self.decode_chunk = decode_chunk
        self.decoder = autoencoder.Decoder(models.vae)
        self._vae_files: tuple[AnyFile | None, AnyFile | None] = (None, None)

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        *,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        attention: str = "sdpa",
        decode_chunk: int = 4,
    ) -> "AnimationPipeline":
        """Load an image model in diffusers' folder layout.

        Its motion slots are empty; ``load_weights`` fills them. Raises AssetError for
        missing files and CheckpointError for files of another model.
        """
        models = load_image_model(Path(folder), torch.device(device), dtype, attention)
        return cls(models, decode_chunk=decode_chunk)

    def __repr__(self) -> str:
        backend, dtype = self.unet.attention.name, str(self.unet.dtype)
        place = f"{dtype.removeprefix('torch.')} on {self.unet.device}"
        loaded = f"{self.models.name}; {self.weights.names}".strip("; ")
        return f"AnimationPipeline({loaded}; {place}; attention {backend})"

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings about what is loaded."""
        obstacles = filter(None, (self.unet.attention.warning, kernel_warning()))
        return (*obstacles, *self.weights.motion_warnings)

    def configure_weights(
        self,
        motion: MotionUse | MotionModuleWeights | None,
        base: AnyFile | None,
        loras: Sequence[LoraUse],
        *,
        vae: AnyFile | None = None,
    ) -> tuple[str, ...]:
        """Load a single file ``base`` over the folder's weights, changed by ``loras``.

        None for ``base`` means the folder's own weights. ``vae`` replaces the VAE of
        either, ``motion`` the motion module. Every file is read and checked first:
        AssetError and CheckpointError leave the pipeline as it was. A failure after
        that leaves it without base, VAE and LoRA. Returns warnings about all files but
        ``motion``; ``warnings`` has those. An unchanged file of the last call is not
        read again.
        """
        if (base, vae) != self._vae_files:
            self._vae_files, self.decoder = (base, vae), autoencoder.Decoder(self.vae)
        return self.weights.configure(motion, base, loras, vae)

    @torch.inference_mode()
    def __call__(
        self,
        inputs: AnimationInputs,
        *,
        controls: Sequence[ControlCondition] = (),
        latents: Tensor | None = None,
        report: Report = ignore,
    ) -> Animation:
        """Make the videos of ``inputs``; several ``controls`` add up.

        They start from ``latents`` (b, 4, f, h, w; standard normal), or from noise
        drawn by the seeds. ``report`` is called after each step.

        Raises InvalidRequest for inputs that this model cannot handle, NonFiniteLatents
        if NaN or infinity appears.
        """
        conditions = self.encode(inputs, controls)
        done = self.denoise(inputs, conditions, latents=latents, report=report)
        return Animation(self.decode(done), done, conditions.warnings)

    @torch.inference_mode()
    def encode(
        self, inputs: AnimationInputs, controls: Sequence[ControlCondition] = ()
    ) -> Conditions:
        """Encode the prompt, and the negative prompt if guidance needs it."""
        texts, skip = inputs.texts, inputs.clip_skip
        embeds, warnings = self.texts.encode(texts, skip, inputs.embeddings)
        return Conditions(embeds, controls, warnings)

    @torch.inference_mode()
    def denoise(
        self,
        inputs: AnimationInputs,
        conditions: Conditions,
        *,
        latents: Tensor | None = None,
        report: Report = ignore,
        previews: Previews | None = None,
    ) -> Tensor:
        """Run all steps: latents (b, 4, f, h / 8, w / 8), float32 or better."""
        size, schedule = autoencoder.downscale(self.vae), self.weights.noise_schedule
        run = SamplerRun(self.unet, size, schedule, inputs, conditions)
        return run.denoise(latents, report, previews)

    def decode(self, latents: Tensor) -> Tensor:
        """Decode latents (b, 4, f, h, w) to videos (b, 3, f, 8 h, 8 w), on the CPU.

        Values are 0..1, in float32 or better.
        """
        return self.decoder.video(latents, self.decode_chunk)

    def decode_frames(
        self, latents: Tensor, *, chunk: int | None = None, report: Report = ignore
    ) -> Tensor:
        """Decode latents (b, 4, f, h, w) to frames (b, f, 8 h, 8 w, 3), uint8.

        The frames are on the CPU. ``chunk`` frames are decoded at once (None:
        ``decode_chunk``); ``report`` is called when a chunk is finished.
        """
        chunk = chunk or self.decode_chunk
        return self.decoder.frames(latents, chunk, report)
