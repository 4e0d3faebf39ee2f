"""AnimationPipeline: encode, prepare, denoise, decode (arXiv 2307.04725, figure 2)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import autoencoder
from .adapters.stack import WeightStack
from .checkpoints import diffusers_folder
from .checkpoints.motion_module import MotionModuleWeights
from .checkpoints.noise_schedule import Noise, noise_of_folder
from .conditioning.conditions import Conditions, TextStack
from .controls.base import ControlCondition
from .families import DEFAULT, Family
from .fetch.weight_file import AnyFile
from .job.prepared import LoraUse, MotionUse
from .kernels.choice import kernel_warning
from .models.unet import UNet3DConditionModel
from .previews import Previews
from .progress import Report, ignore
from .sampling.inputs import AnimationInputs
from .sampling.run import SamplerRun, draw_start


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
    """A UNet with motion modules, a VAE and a text encoder: from words to a clip.

    ``decode_chunk`` is the number of frames that the VAE decodes at once. More are
    faster, fewer need less memory.
    """

    def __init__(
        self,
        unet: UNet3DConditionModel,
        vae: Any,
        text_encoder: Any,
        tokenizer: Any,
        *,
        decode_chunk: int = 4,
        name: str = "",
        family: Family = DEFAULT,
        noise: Noise | None = None,
    ) -> None:
        self.family = family
        self.unet = unet
        self.vae = vae
        self.text_encoder = text_encoder
        self.tokenizer = tokenizer
        self.decode_chunk = decode_chunk
        self.decoder = autoencoder.Decoder(vae)
        self.name = name
        """The folder that the models come from, for ``repr``."""
        self.noise: Noise = noise or {}
        """The folder's noise schedule where it differs from the family's."""
        self.weights = WeightStack(family, unet, vae, text_encoder)
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
        folder, device = Path(folder), torch.device(device)
        family, config = diffusers_folder.read_architecture(folder)
        unet_folder, vae_folder = folder / family.unet.name, folder / family.vae.name
        (text,) = family.text_encoders
        return cls(
            diffusers_folder.load_unet(
                unet_folder, family, config, device, dtype, attention
            ),
            diffusers_folder.load_vae(vae_folder, device, dtype),
            diffusers_folder.load_text_encoder(folder / text.name, text, device, dtype),
            diffusers_folder.load_tokenizer(folder / text.tokenizer, text),
            decode_chunk=decode_chunk,
            name=folder.name,
            family=family,
            noise=noise_of_folder(folder),
        )

    def __repr__(self) -> str:
        backend, dtype = self.unet.attention.name, str(self.unet.dtype)
        place = f"{dtype.removeprefix('torch.')} on {self.unet.device}"
        loaded = f"{self.name}; {self.weights.names}".strip("; ")
        return f"AnimationPipeline({loaded}; {place}; attention {backend})"

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings about what is loaded."""
        obstacles = filter(None, (self.unet.attention.warning, kernel_warning()))
        return (*obstacles, *self.weights.motion_warnings)

    @property
    def noise_schedule(self) -> Noise:
        """The schedule that the image model was trained on, with the family's betas.

        A single file over the folder decides alone whether it predicts the velocity.
        """
        noise = self.noise if self.weights.noise is None else self.weights.noise
        return {**self.family.noise_schedule, **noise}

    @property
    def device_bytes(self) -> int:
        """Memory that the models, and copies of their weights, take on their device."""
        models = sum(map(bytes_of, (self.unet, self.vae, self.text_encoder)))
        return models + self.weights.patcher.device_bytes

    @property
    def downscale(self) -> int:
        """Pixels along the side of a latent."""
        return autoencoder.downscale(self.vae)

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

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        """Encode pixels (1, 3, n, H, W), 0..1, as latents (1, 4, n, H / 8, W / 8)."""
        return autoencoder.encode_pixels(self.vae, pixels)

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
        stack = TextStack(self.tokenizer, self.text_encoder)
        embeds, warnings = stack.encode(
            inputs.texts, inputs.clip_skip, inputs.embeddings
        )
        return Conditions(embeds, controls, warnings)

    def prepare(
        self, inputs: AnimationInputs, sources: Sequence[torch.Generator]
    ) -> Tensor:
        """Draw the random start, (b, 4, f, h / 8, w / 8), float32, on the CPU.

        Raises InvalidRequest for a width or height between two latents.
        """
        return draw_start(inputs, self.unet.config.in_channels, self.downscale, sources)

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
        run = SamplerRun(
            self.unet,
            self.downscale,
            self.noise_schedule,
            inputs,
            conditions,
        )
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


def bytes_of(model: torch.nn.Module) -> int:
    """Return the memory of a model's parameters and buffers."""
    tensors = (*model.parameters(), *model.buffers())
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
