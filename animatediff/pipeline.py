"""AnimationPipeline: encode, prepare, denoise, decode (arXiv 2307.04725, figure 2)."""

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from .adapters.motion import fit_motion_module, install_motion_module
from .adapters.patcher import Change, WeightPatcher
from .checkpoints import diffusers_folder
from .checkpoints.lora import Address, read_lora
from .checkpoints.motion_module import MotionModuleWeights, read_motion_module
from .checkpoints.single_file import SingleFile, read_single_file
from .checkpoints.sparse_controlnet import read_sparse_controlnet
from .checkpoints.vae import read_vae
from .conditioning.prompts import Embeddings, encode_prompt
from .controls.pictures import fit_picture, normalize_picture, place_images
from .controls.sparsectrl import ControlBranch, build_sparse_controlnet
from .errors import CheckpointError, InvalidRequest, NonFiniteLatents
from .fetch.weight_file import Stamp, stamp
from .job.clip import LoraFile
from .models.context import ControlResiduals
from .models.sparse_controlnet import SparseControlNetModel
from .models.unet import UNet3DConditionModel
from .sampling.denoise import OnStep, denoise
from .sampling.guidance import guide, needs_unconditional
from .sampling.noise import draw_latents, generators
from .sampling.schedulers import make_scheduler


@dataclass(frozen=True)
class AnimationInputs:
    """What to draw. Sizes in pixels, multiples of 8; every seed makes one video of the
    batch.
    """

    prompt: str
    negative_prompt: str = ""
    num_frames: int = 16
    width: int = 512
    height: int = 512
    num_inference_steps: int = 25
    guidance_scale: float = 7.5
    scheduler: str = "ddim"
    seeds: Sequence[int] = (0,)
    clip_skip: int = 0
    embeddings: Embeddings = field(default_factory=dict)
    sequential_guidance: bool = False
    """Run the UNet on the negative prompt and on the prompt one after the other: half
    the memory, a little slower.
    """


@dataclass(frozen=True, eq=False)
class SparseControl:
    """Images that single frames should follow (SparseCtrl, arXiv 2311.16933).

    ``images`` (1, c, n, h, w), as ``AnimationPipeline.control_images`` makes them; the
    n ``frame_indices`` say where they belong, negative ones counted from the end.
    ``start`` and ``end`` are fractions of the steps.
    """

    model: SparseControlNetModel
    images: Tensor
    frame_indices: Sequence[int] = (0,)
    strength: float = 1.0
    start: float = 0.0
    end: float = 1.0


@dataclass(frozen=True, eq=False)
class TextCondition:
    """``embeds`` (1, n, d), or (2, n, d) as [negative, prompt] where guidance needs
    both.
    """

    embeds: Tensor
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Animation:
    """``videos`` (b, 3, f, h, w), values 0..1, float32 on the CPU; ``latents`` (b, 4,
    f, h / 8, w / 8).
    """

    videos: Tensor
    latents: Tensor
    warnings: tuple[str, ...] = ()


class AnimationPipeline:
    """A UNet with motion modules, a VAE and a text encoder, as one function from words
    to moving pictures.
    """

    def __init__(
        self,
        unet: UNet3DConditionModel,
        vae: Any,
        text_encoder: Any,
        tokenizer: Any,
        *,
        decode_chunk: int = 4,
    ) -> None:
        self.unet = unet
        self.vae = vae
        self.text_encoder = text_encoder
        self.tokenizer = tokenizer
        self.decode_chunk = decode_chunk
        """Frames that the VAE decodes at once: more are faster, fewer need less memory.
        """
        self.motion_warnings: tuple[str, ...] = ()
        """About the motion module that is loaded."""
        self._files: dict[tuple[Path, Stamp], SingleFile] = {}
        self.patcher = WeightPatcher(
            {"unet": unet, "vae": vae, "text_encoder": text_encoder}
        )

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
        """An SD 1.5 folder in diffusers' layout, its motion slots empty:
        ``load_weights`` fills them.

        Raises AssetError for missing files, CheckpointError for files of another model.
        """
        folder, device = Path(folder), torch.device(device)
        return cls(
            diffusers_folder.load_unet(folder / "unet", device, dtype, attention),
            diffusers_folder.load_vae(folder / "vae", device, dtype),
            diffusers_folder.load_text_encoder(folder / "text_encoder", device, dtype),
            diffusers_folder.load_tokenizer(folder / "tokenizer"),
            decode_chunk=decode_chunk,
        )

    @property
    def device_bytes(self) -> int:
        """Memory that the models take on their device."""
        return sum(map(bytes_of, (self.unet, self.vae, self.text_encoder)))

    @property
    def host_bytes(self) -> int:
        """Memory on the host beside the models: copies of changed weights, and the
        files they were replaced from.

        Bounded by the size of the models and of the files of the last
        ``configure_weights``.
        """
        kept = (
            tensor for file in self._files.values() for tensor in file.tensors.values()
        )
        return self.patcher.host_bytes + sum(
            tensor.numel() * tensor.element_size() for tensor in kept
        )

    @property
    def downscale(self) -> int:
        """Pixels per latent, along each side."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    def configure_weights(
        self,
        motion: MotionModuleWeights | None,
        base: str | Path | None,
        loras: Sequence[LoraFile],
        *,
        vae: str | Path | None = None,
    ) -> tuple[str, ...]:
        """Make the weights those of ``base``, an SD 1.5 single file (None: the folder's
        own), changed by ``loras``.

        ``vae`` replaces the VAE of either. ``motion`` replaces the motion module unless
        None. Every file is read and held against the models first: AssetError and
        CheckpointError leave the pipeline as it was. A failure after that leaves it
        without base, VAE and LoRA. Returns warnings about all but ``motion``; those
        about it are in ``motion_warnings``. A file that the call before used too, and
        that was not changed since, is not read again.
        """
        said: list[str] = []
        shapes, empty_slots = dict(self.patcher.shapes()), ()
        if motion is not None:
            empty_slots = fit_motion_module(self.unet, motion)
            shapes = {
                address: shape
                for address, shape in shapes.items()
                if ".motion_modules." not in address[1]
            }
            shapes |= {
                ("unet", key): tensor.shape for key, tensor in motion.tensors.items()
            }
        files: dict[tuple[Path, Stamp], SingleFile] = {}
        replacements: dict[Address, Tensor] = {}
        if base is not None:
            layers, config = self.unet.config.layers_per_block, self.vae.config
            file = self._read(
                base, files, lambda: read_single_file(base, shapes, layers, config)
            )
            kept = [part for part in file.absent if part != "vae" or vae is None]
            said += [
                f"{file.name} has no {part}: the base model's is used" for part in kept
            ]
            replacements |= file.tensors
        if vae is not None:
            file = self._read(
                vae, files, lambda: read_vae(vae, shapes, self.vae.config)
            )
            replacements |= file.tensors
        for file in files.values():
            said += _about_unused(file.name, file.unused)
        changes = []
        for file in loras:
            lora = read_lora(file.path, shapes)
            said += _about_unused(lora.name, lora.unmatched)
            factors = (
                (layer, file.strength * layer.scale(file.ignore_file_alpha))
                for layer in lora.layers
            )
            changes += [Change(layer, factor) for layer, factor in factors]
        if motion is not None:
            self.patcher.restore()
            self.motion_warnings = install_motion_module(self.unet, motion, empty_slots)
        self._files = files
        self.patcher.apply(replacements, changes)
        return tuple(said)

    def _read(
        self,
        path: str | Path,
        files: dict[tuple[Path, Stamp], SingleFile],
        read: Callable[[], SingleFile],
    ) -> SingleFile:
        """What ``read`` makes of ``path``, or made of it in the call before, put among
        ``files``.
        """
        try:
            state = (Path(path), stamp(Path(path)))
        except OSError:
            return read()  # which says what is wrong
        files[state] = self._files.get(state) or read()
        return files[state]

    def load_sparse_controlnet(
        self, path: str | Path, attention: str = "sdpa"
    ) -> SparseControlNetModel:
        """A SparseCtrl file as a branch for this pipeline's UNet. Raises AssetError,
        CheckpointError.
        """
        return build_sparse_controlnet(
            self.unet, read_sparse_controlnet(path), attention
        )

    @torch.inference_mode()
    def control_images(
        self,
        model: SparseControlNetModel,
        pictures: Sequence[Image.Image],
        width: int,
        height: int,
        *,
        normalize: bool = False,
    ) -> Tensor:
        """Pictures as ``model`` takes them, (1, c, n, h, w): pixels 0..1, or the means
        of their VAE latents.

        Each is cropped to the frames' aspect about its centre. ``normalize``: see
        ``normalize_picture``.
        """
        fitted = [fit_picture(picture, width, height) for picture in pictures]
        pixels = torch.stack(
            [
                normalize_picture(picture) if normalize else picture
                for picture in fitted
            ],
            dim=1,
        )[None]
        return self.encode_pixels(pixels) if model.control.takes_latents else pixels

    @torch.inference_mode()
    def encode_pixels(self, pixels: Tensor) -> Tensor:
        """Pixels (1, 3, n, H, W), 0..1 -> latents (1, 4, n, H / 8, W / 8): the
        posterior's mean, so without chance.
        """
        frames = (pixels[0].transpose(0, 1) * 2 - 1).to(self.vae.device, self.vae.dtype)
        means = torch.cat(
            [self.vae.encode(frame).latent_dist.mean for frame in frames.split(1)]
        )
        return (means * self.vae.config.scaling_factor).transpose(0, 1)[None]

    @torch.inference_mode()
    def __call__(
        self,
        inputs: AnimationInputs,
        *,
        controls: Sequence[SparseControl] = (),
        latents: Tensor | None = None,
        on_step: OnStep | None = None,
    ) -> Animation:
        """Videos of ``inputs``, from ``latents`` (b, 4, f, h, w; standard normal) if
        given and from the seeds if not. Several ``controls`` add up.

        Raises InvalidRequest for inputs that this model cannot do, NonFiniteLatents if
        the numbers went wrong.
        """
        condition = self.encode(inputs)
        done = self.denoise(
            inputs, condition, controls=controls, latents=latents, on_step=on_step
        )
        return Animation(self.decode(done), done, condition.warnings)

    @torch.inference_mode()
    def encode(self, inputs: AnimationInputs) -> TextCondition:
        """The prompt, and the negative prompt where guidance needs it, as text
        embeddings.
        """
        texts = {"prompt": inputs.prompt}
        if needs_unconditional(inputs.guidance_scale):
            texts = {"negative_prompt": inputs.negative_prompt, **texts}
        encoded = {
            name: encode_prompt(
                self.tokenizer,
                self.text_encoder,
                text,
                inputs.clip_skip,
                inputs.embeddings,
            )
            for name, text in texts.items()
        }
        room = self.tokenizer.model_max_length
        warnings = tuple(
            f"{name} is longer than the {room} tokens that CLIP reads; not used:"
            f" {prompt.cut}"
            for name, prompt in encoded.items()
            if prompt.cut
        )
        return TextCondition(
            torch.cat([prompt.embeds for prompt in encoded.values()]), warnings
        )

    def prepare(
        self, inputs: AnimationInputs, sources: Sequence[torch.Generator]
    ) -> Tensor:
        """The random start, (b, 4, f, h / 8, w / 8), float32, on the CPU. Raises
        InvalidRequest for sizes between.
        """
        for name, size in (("width", inputs.width), ("height", inputs.height)):
            if size % self.downscale:
                raise InvalidRequest(name, size, f"a multiple of {self.downscale}")
        height, width = inputs.height // self.downscale, inputs.width // self.downscale
        return draw_latents(
            (self.unet.config.in_channels, inputs.num_frames, height, width), sources
        )

    @torch.inference_mode()
    def denoise(
        self,
        inputs: AnimationInputs,
        condition: TextCondition,
        *,
        controls: Sequence[SparseControl] = (),
        latents: Tensor | None = None,
        on_step: OnStep | None = None,
    ) -> Tensor:
        """Latents (b, 4, f, h / 8, w / 8) without noise, on the model's device, float32
        or better.
        """
        unet, seeds = self.unet, inputs.seeds
        motions = [unet.motion, *(control.model.motion for control in controls)]
        longest = min(
            (motion.max_length for motion in motions if motion),
            default=inputs.num_frames,
        )
        if not 1 <= inputs.num_frames <= longest:
            raise InvalidRequest(
                "num_frames",
                inputs.num_frames,
                f"1 to {longest} with this motion module",
            )
        sources = generators(seeds)
        drawn = self.prepare(
            inputs, sources
        )  # drawn even if not used: later draws must not depend on it
        if latents is None:
            latents = drawn
        elif latents.shape != drawn.shape:
            raise InvalidRequest(
                "latents", str(tuple(latents.shape)), f"the shape {tuple(drawn.shape)}"
            )

        scheduler = make_scheduler(inputs.scheduler, inputs.num_inference_steps)
        precision = torch.promote_types(unet.dtype, torch.float32)
        latents = latents.to(unet.device, precision) * float(scheduler.init_noise_sigma)
        guided = needs_unconditional(inputs.guidance_scale)
        time = unet.embed_timesteps(scheduler.timesteps)
        passes = [
            (
                len(embeds),
                unet.encode_text(embeds.repeat_interleave(len(seeds), dim=0)),
                [
                    self._branch(control, inputs, embeds, scheduler.timesteps)
                    for control in controls
                ],
            )
            for embeds in (
                condition.embeds.split(1)
                if inputs.sequential_guidance
                else [condition.embeds]
            )
        ]

        def residuals(
            branches: Sequence[ControlBranch], i: int
        ) -> ControlResiduals | None:
            total = None
            for branch in branches:
                if (added := branch.residuals(i, len(scheduler.timesteps))) is not None:
                    total = added if total is None else total + added
            return (
                None if total is None else total.repeated(len(seeds), inputs.num_frames)
            )

        def predict(sample: Tensor, i: int) -> Tensor:
            sample = sample.to(unet.dtype)
            row = [table[i : i + 1] for table in time]
            noise_pred = torch.cat(
                [
                    unet.predict(
                        sample.repeat(texts, 1, 1, 1, 1),
                        row,
                        text,
                        residuals(branches, i),
                    ).to(precision)
                    for texts, text, branches in passes
                ]
            )
            return guide(noise_pred, inputs.guidance_scale) if guided else noise_pred

        return denoise(latents, scheduler, predict, sources, on_step)

    def _branch(
        self,
        control: SparseControl,
        inputs: AnimationInputs,
        embeds: Tensor,
        timesteps: Tensor,
    ) -> ControlBranch:
        model, images = control.model, control.images
        for name, value in (("start", control.start), ("end", control.end)):
            if not 0 <= value <= 1:
                raise InvalidRequest(f"controls.{name}", value, "0 to 1")
        if not math.isfinite(control.strength):
            raise InvalidRequest(
                "controls.strength", control.strength, "a finite number"
            )
        factor = self.downscale if model.control.takes_latents else 1
        wanted = (
            model.control.conditioning_channels,
            inputs.height // factor,
            inputs.width // factor,
        )
        if images.ndim != 5 or (images.shape[1], *images.shape[3:]) != wanted:
            shape = "(1, {}, n, {}, {})".format(*wanted)
            raise InvalidRequest(
                "controls.images", str(tuple(images.shape)), f"the shape {shape}"
            )
        placed = place_images(images, control.frame_indices, inputs.num_frames)
        return ControlBranch(
            model=model,
            embedded=model.embed_condition(placed),
            time=model.embed_timesteps(timesteps),
            text=model.encode_text(embeds),
            strength=control.strength,
            start=control.start,
            end=control.end,
        )

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Tensor:
        """Latents (b, 4, f, h, w) -> videos (b, 3, f, 8 h, 8 w), values 0..1, float32
        or better, on the CPU.
        """
        pictures = torch.cat([chunk.cpu() for chunk in self._decoded(latents)])
        return pictures.unflatten(0, (latents.shape[0], -1)).transpose(1, 2)

    @torch.inference_mode()
    def decode_frames(
        self,
        latents: Tensor,
        *,
        chunk: int | None = None,
        on_chunk: Callable[[], None] | None = None,
    ) -> Tensor:
        """Latents (b, 4, f, h, w) -> frames (b, f, 8 h, 8 w, 3), uint8, on the CPU.
        Rounded on the device.

        ``chunk`` frames at once (None: ``decode_chunk``). ``on_chunk`` is called after
        each, and may raise.
        """
        frames = []
        for decoded in self._decoded(latents, chunk):
            frames.append(
                (decoded * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu()
            )
            if on_chunk is not None:
                on_chunk()
        return torch.cat(frames).unflatten(0, (latents.shape[0], -1))

    def _decoded(
        self, latents: Tensor, chunk_size: int | None = None
    ) -> Iterator[Tensor]:
        """Pictures (n, 3, H, W), values 0..1, ``chunk_size`` at a time."""
        frames = (
            latents.transpose(1, 2).flatten(0, 1) / self.vae.config.scaling_factor
        )  # (b f, 4, h, w)
        for chunk in frames.split(chunk_size or self.decode_chunk):
            picture = self._decode_chunk(chunk)
            yield (picture / 2 + 0.5).clamp(0, 1)

    def _decode_chunk(self, chunk: Tensor) -> Tensor:
        dtype = self.vae.dtype
        precision = torch.promote_types(dtype, torch.float32)
        chunk = chunk.to(self.vae.device, memory_format=torch.channels_last)
        picture = self.vae.decode(chunk.to(dtype)).sample.to(precision)
        if (
            not picture.isfinite().all() and dtype != precision
        ):  # some SD 1.5 VAEs overflow in half precision
            try:
                torch.nn.Module.to(self.vae, torch.float32)
                picture = self.vae.decode(chunk.to(torch.float32)).sample
            finally:
                torch.nn.Module.to(self.vae, dtype)
        if not picture.isfinite().all():
            raise NonFiniteLatents(None, "decoded frames")
        return picture


def bytes_of(model: torch.nn.Module) -> int:
    """Memory of a model's parameters and buffers."""
    tensors = (*model.parameters(), *model.buffers())
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _about_unused(name: str, keys: Sequence[str]) -> list[str]:
    return (
        [
            f"{name}: {len(keys)} keys fit no layer and are not used"
            f" ({', '.join(keys[:3])})"
        ]
        if keys
        else []
    )


def load_weights(  # noqa: PLR0913 - the parameters that users of the published function know
    pipeline: AnimationPipeline,
    motion_module_path: str | Path = "",
    motion_module_version: str | None = None,
    *,
    motion_module_lora_configs: Sequence[Mapping[str, Any]] = (),
    adapter_lora_path: str | Path = "",
    adapter_lora_scale: float = 1.0,
    dreambooth_model_path: str | Path = "",
    lora_model_path: str | Path = "",
    lora_alpha: float = 0.8,
) -> AnimationPipeline:
    """Put published files into ``pipeline``, by the published code's rules, and return
    it.

    The motion module stays if none is named. Everything else is as this call says,
    whatever earlier calls loaded: a DreamBooth model that is not named is taken out
    again, bit for bit. ``motion_module_lora_configs`` are ``{"path", "alpha"}``;
    strengths multiply a LoRA without its file's own alpha. ``motion_module_version``
    ("v1", "v2", "v3") is needed only where the file leaves it open, see
    ``read_motion_module``; a motion module that is loaded already answers it too. Warns
    about keys of a file that fit nothing.

    Raises AssetError and CheckpointError, and the pipeline is as before then.
    """
    named = [(lora_model_path, lora_alpha), (adapter_lora_path, adapter_lora_scale)]
    named += [
        (lora["path"], lora.get("alpha", 1.0)) for lora in motion_module_lora_configs
    ]
    files = [
        LoraFile(path=str(path), strength=strength, ignore_file_alpha=True)
        for path, strength in named
        if path
    ]
    motion = (
        _read_motion(pipeline, motion_module_path, motion_module_version)
        if motion_module_path
        else None
    )
    said = pipeline.configure_weights(motion, dreambooth_model_path or None, files)
    for message in (pipeline.motion_warnings if motion else ()) + said:
        warnings.warn(message, stacklevel=2)
    return pipeline


def _read_motion(
    pipeline: AnimationPipeline, path: str | Path, version: str | None
) -> MotionModuleWeights:
    try:
        return read_motion_module(path, version=version)
    except CheckpointError:
        if (
            version
            or pipeline.unet.motion is None
            or pipeline.unet.motion.use_mid_block
        ):
            raise
        return read_motion_module(
            path, version="v3" if pipeline.unet.motion.use_inflated_groupnorm else "v1"
        )
