"""A whole job, and its parts beside the steps: from words to frames."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import torch

from animatediff.sampling.inputs import AnimationInputs
from lab.bench import models
from lab.bench.figures import Act, Row
from lab.bench.sizes import Run

PROMPT, NEGATIVE = "a red circle on a white background, moving left", "blurry"
CHUNK = 4
"""Frames that the VAE decodes at once."""


def measure(run: Run) -> Iterator[Row]:
    """Yield the time of a job: texts, noise, all steps, decoding."""
    size = run.size
    name = f"job, {size.steps} steps, {size.frames} of {size.side}x{size.side}"
    yield run.compare(name, "s", job(run), lambda: peer_job(run))


def decode(run: Run) -> Iterator[Row]:
    """Yield the time of decoding a clip's latents to frames."""
    size, side = run.size, run.size.side // 8
    generator = torch.Generator().manual_seed(4)
    latents = torch.randn(1, 4, size.frames, side, side, generator=generator)
    latents = latents.to(run.device)
    pipeline = models.pipeline(run)

    def peer() -> Act:
        other = models.peer_pipeline(run)
        half = latents.to(run.dtype)

        def act() -> None:
            with torch.inference_mode():
                other.decode_latents(half, CHUNK)

        return act

    name = f"decode, {size.frames} frames of {size.side}x{size.side}"
    act = partial(pipeline.decode_frames, latents, chunk=CHUNK)
    yield run.compare(name, "s", act, peer)


def text(run: Run) -> Iterator[Row]:
    """Yield the time of encoding a prompt and a negative prompt."""
    pipeline, asked = models.pipeline(run), inputs(run)

    def peer() -> Act:
        other = models.peer_pipeline(run)

        def act() -> None:
            with torch.inference_mode():
                other.encode_prompt(PROMPT, run.device, 1, True, NEGATIVE)

        return act

    yield run.compare("text, two prompts", "s", lambda: pipeline.encode(asked), peer)


def inputs(run: Run) -> AnimationInputs:
    """Return the request of the measured job."""
    size = run.size
    return AnimationInputs(
        PROMPT,
        NEGATIVE,
        num_frames=size.frames,
        width=size.side,
        height=size.side,
        num_inference_steps=size.steps,
    )


def job(run: Run) -> Act:
    """Return a job of our pipeline."""
    pipeline, asked = models.pipeline(run), inputs(run)

    def act() -> None:
        latents = pipeline.denoise(asked, pipeline.encode(asked))
        pipeline.decode_frames(latents, chunk=CHUNK)

    return act


def peer_job(run: Run) -> Act:
    """Return the same job of diffusers' pipeline."""
    peer, size = models.peer_pipeline(run), run.size

    def act() -> None:
        peer(
            PROMPT,
            num_frames=size.frames,
            height=size.side,
            width=size.side,
            num_inference_steps=size.steps,
            guidance_scale=7.5,
            negative_prompt=NEGATIVE,
            output_type="np",
            decode_chunk_size=CHUNK,
        )

    return act


def family(run: Run) -> Iterator[Row]:
    """Yield the jobs of the embedded family in a minute, one after the other."""
    small = replace(run, size=run.embedded, made={})
    (row,) = measure(small)
    ours, peer = ([60 / each for each in values] for values in (row.ours, row.peer))
    name = f"embedded family, jobs of {small.size.steps} steps"
    yield Row(name, "jobs a minute", ours, peer, row.reason)
