"""Text to video, end to end: prompts go in, and colour, shape, background and motion are read off the frames.

The bounds leave room for what the small embedded family has not learned (its card says how good it is), and lie far
above chance (colour 1/6, shape and background 1/3, motion 1/7): a broken sampler, text path or motion module fails.
"""

from dataclasses import asdict

import numpy as np
import pytest

from animatediff.engine import Engine
from animatediff.request import GenerationRequest
from animatediff.settings import Settings
from animatediff.training.shapeworld.judge import judge
from animatediff.training.shapeworld.world import MOTIONS, random_scene

CLIPS_A_MOTION = 3
BOUNDS = {"colour": 0.7, "shape": 0.7, "background": 0.9, "motion": 0.6}


def accuracy(engine: Engine, clips_a_motion: int) -> dict[str, float]:
    rng = np.random.default_rng(5)
    scenes = [random_scene(rng, motion) for motion in MOTIONS for _ in range(clips_a_motion)]
    right = dict.fromkeys(BOUNDS, 0)
    for seed, scene in enumerate(scenes):
        request = engine.prepare(GenerationRequest(scene.prompt, seed=seed, model="shapeworld"))
        seen = judge(engine.generate(request).video.frames)
        for name in right:
            right[name] += seen is not None and asdict(seen)[name] == asdict(scene)[name]
    return {name: round(count / len(scenes), 3) for name, count in right.items()}


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(Settings())


def test_frames_show_what_the_prompt_says(engine: Engine) -> None:
    got = accuracy(engine, CLIPS_A_MOTION)
    print(f"shapeworld, {CLIPS_A_MOTION * len(MOTIONS)} prompts: {got}")
    assert all(got[name] >= bound for name, bound in BOUNDS.items()), got


def test_without_its_motion_module_nothing_moves_as_told(engine: Engine) -> None:
    """The bound on motion is a check that can fail: the image model alone does not reach it."""
    pipeline = engine.configure(engine.prepare(GenerationRequest("", model="shapeworld")).stack)
    outputs = [
        module for name, module in pipeline.unet.named_modules() if name.endswith("temporal_transformer.proj_out")
    ]
    kept = [(module.weight.clone(), module.bias.clone()) for module in outputs]
    assert len(kept) == 20
    try:
        for module in outputs:
            module.weight.zero_()
            module.bias.zero_()
        got = accuracy(engine, 1)
    finally:
        for module, (weight, bias) in zip(outputs, kept, strict=True):
            module.weight.copy_(weight)
            module.bias.copy_(bias)
    print(f"image model alone: {got}")
    assert got["motion"] < BOUNDS["motion"]
