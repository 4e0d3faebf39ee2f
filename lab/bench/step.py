"""One guided step of the UNet."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from lab.bench import models
from lab.bench.figures import Act, Row
from lab.bench.sizes import Run

TEXTS, TOKENS = 2, 77
"""With guidance; a text's tokens."""


def measure(run: Run) -> Iterator[Row]:
    """Yield the time of a step. Texts and timesteps are prepared before, as in a job.

    diffusers computes the texts' keys in every step, and so does its measured step.
    """
    size = run.size
    latents, text = inputs(run)
    name = f"guided step, {size.frames} frames of {size.side}x{size.side}"
    yield run.compare(
        name, "s", step(run, latents, text), peer_step(run, latents, text)
    )


def inputs(run: Run) -> tuple[Tensor, Tensor]:
    """Return the latents of a clip (1, 4, f, h, w) and texts (2, 77, d)."""
    size, width = run.size, models.unet(run).config.cross_attention_dim
    generator = torch.Generator().manual_seed(3)
    side = size.side // 8
    latents = torch.randn(1, 4, size.frames, side, side, generator=generator)
    text = torch.randn(TEXTS, TOKENS, width, generator=generator)
    return latents.to(run.device, run.dtype), text.to(run.device, run.dtype)


def step(run: Run, latents: Tensor, text: Tensor) -> Act:
    """Return a step of ours as a job runs it."""
    unet = models.unet(run)
    with torch.inference_mode():
        row = unet.schedule(torch.arange(960, -1, -40)).row(5)
        context = unet.encode_text(text)

    def act() -> Tensor:
        with torch.inference_mode():
            return unet.predict(latents, row, context)

    return act


def peer_step(run: Run, latents: Tensor, text: Tensor) -> Callable[[], Act]:
    """Return what makes a step of diffusers' UNet, as its pipeline runs it."""

    def make() -> Act:
        unet = models.peer_unet(run)
        states = text.repeat_interleave(run.size.frames, dim=0)
        timestep = torch.tensor(760, device=run.device)

        def act() -> Tensor:
            with torch.inference_mode():
                both = torch.cat([latents] * TEXTS)
                return unet(both, timestep, encoder_hidden_states=states).sample

        return act

    return make
