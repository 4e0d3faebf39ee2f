"""One run of the sampler: the start, the predictor, and all steps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..conditioning.conditions import Conditions
from ..controls.base import Run
from ..errors import InvalidRequest
from ..job.clip import INDEPENDENT
from ..job.guidance import needs_unconditional
from ..models.context import Schedule
from ..models.unet import UNet3DConditionModel
from ..previews import Previews
from ..progress import Report
from ..transfers import send
from .denoise import denoise
from .inputs import AnimationInputs
from .noise import draw_latents, generators, repeated
from .predictor import Guided, OneByOne, Predict, UNetPredictor, Windowed
from .steps import Steps, make_steps


def draw_start(
    inputs: AnimationInputs,
    channels: int,
    downscale: int,
    sources: Sequence[torch.Generator],
) -> Tensor:
    """Draw the random start, (b, channels, f, h, w), float32, on the CPU.

    ``downscale`` is the number of pixels along a latent's side. Raises InvalidRequest
    for a width or height between two latents.
    """
    for name, size in (("width", inputs.width), ("height", inputs.height)):
        if size % downscale:
            raise InvalidRequest(name, size, f"a multiple of {downscale}")
    height, width = inputs.height // downscale, inputs.width // downscale
    noise = draw_latents((channels, inputs.num_frames, height, width), sources)
    context = inputs.context
    if context is None or context.noise == INDEPENDENT:
        return noise
    return repeated(noise, context.layout(inputs.num_frames), sources)


@dataclass(frozen=True, eq=False)
class SamplerRun:
    """A UNet, what to draw, and what steers it.

    ``noise_schedule`` is the one that the motion modules were trained on.
    """

    unet: UNet3DConditionModel
    downscale: int
    noise_schedule: Mapping[str, Any]
    inputs: AnimationInputs
    conditions: Conditions

    def denoise(
        self, latents: Tensor | None, report: Report, previews: Previews | None = None
    ) -> Tensor:
        """Run all steps: latents (b, 4, f, h, w), float32 or better.

        The start is ``latents``, standard normal, or drawn by the seeds if None. Raises
        InvalidRequest for inputs that the model cannot handle, NonFiniteLatents.
        """
        inputs, unet = self.inputs, self.unet
        self._check_frames()
        sources = generators(inputs.seeds)
        # Noise is drawn even if it is not used: later draws must not depend on that.
        drawn = draw_start(inputs, unet.config.in_channels, self.downscale, sources)
        latents = drawn if latents is None else _checked(latents, drawn)
        steps = make_steps(
            inputs.scheduler, inputs.num_inference_steps, self.noise_schedule, sources
        )
        precision = torch.promote_types(unet.dtype, torch.float32)
        latents = send(latents.to(precision), unet.device) * steps.initial_scale
        return denoise(latents, steps, self._predictor(steps), report, previews)

    def _check_frames(self) -> None:
        num_frames, motion = self.inputs.num_frames, self.unet.motion
        limits = [control.max_frames for control in self.conditions.controls]
        limits.append(motion.max_length if motion else None)
        longest = min((limit for limit in limits if limit), default=num_frames)
        context = self.inputs.context
        if context is not None and num_frames > 0:
            _check_window(context.layout(num_frames).length, longest)
        elif not 1 <= num_frames <= longest:
            allowed = f"1 to {longest} with this motion module, or more with context"
            raise InvalidRequest("num_frames", num_frames, allowed)

    def _predictor(self, steps: Steps) -> Predict:
        """Return the predictor of all steps, with all that they share computed."""
        embeds, schedule = self.conditions.embeds, self.unet.schedule(steps.timesteps)
        passes = torch.split(embeds, 1) if self.inputs.sequential_guidance else [embeds]
        predict = OneByOne(
            [self._unet_predictor(texts, steps, schedule) for texts in passes]
        )
        if needs_unconditional(self.inputs.guidance_scale):
            predict = Guided(predict, self.inputs.guidance_scale)
        if self.inputs.context is None:
            return predict
        return Windowed(predict, self.inputs.context)

    def _unet_predictor(
        self, texts: Tensor, steps: Steps, schedule: Schedule
    ) -> UNetPredictor:
        inputs = self.inputs
        run = Run(
            texts,
            steps.timesteps,
            inputs.num_frames,
            inputs.height,
            inputs.width,
            self.downscale,
        )
        repeated = texts.repeat_interleave(len(inputs.seeds), dim=0)
        return UNetPredictor(
            self.unet,
            schedule,
            self.unet.encode_text(repeated),
            len(texts),
            [control.prepare(run) for control in self.conditions.controls],
        )


def _check_window(length: int, longest: int) -> None:
    if length > longest:
        allowed = f"at most {longest} with this motion module"
        raise InvalidRequest("context.length", length, allowed)


def _checked(latents: Tensor, drawn: Tensor) -> Tensor:
    if latents.shape != drawn.shape:
        shape, allowed = tuple(latents.shape), f"the shape {tuple(drawn.shape)}"
        raise InvalidRequest("latents", str(shape), allowed)
    return latents
