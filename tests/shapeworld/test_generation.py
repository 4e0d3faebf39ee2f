"""Text to video, end to end: prompts go in, and colour, shape, background and motion
are read off the frames.

A slice of ``lab.evaluate``, in half of its steps, for every part of the embedded
family that is installed. The bounds leave room for what the family has not learned (its
card says how good it is) and for rounding on other machines, and lie far above chance
(colour 1/6, shape and background 1/3, motion 1/7): a broken sampler, text path or
motion module fails.
"""

import pytest

from animatediff.engine import Engine
from animatediff.job.clip import GenerationRequest
from animatediff.settings import Settings
from lab.evaluate import SUITES, evaluate, not_installed
from lab.shapeworld.scene import CAMERAS

CHANGES = ("domain_adapter", "style_lora", "dreambooth")
BOUNDS = {
    "scenes": {
        "colour": 0.8,
        "shape": 0.8,
        "background": 0.9,
        "motion": 0.7,
        "kept in all frames": 0.6,
    },
    "scenes_v2": {
        "colour": 0.7,
        "shape": 0.7,
        "background": 0.8,
        "motion": 0.7,
        "kept in all frames": 0.5,
    },
    "lcm_4": {"colour": 0.7, "shape": 0.7, "background": 0.8, "motion": 0.5},
    "lcm_8": {"colour": 0.7, "shape": 0.7, "background": 0.8, "motion": 0.5},
    **{f"camera_{move}": {"moved its way": 1.0} for move in CAMERAS},
    "sparsectrl_rgb": {
        "colour": 0.8,
        "shape": 0.8,
        "motion": 0.5,
        "first frame, dB": 17,
    },
    "sparsectrl_scribble": {"colour": 0.6, "shape": 0.6, "motion": 0.5},
    **{name: {"changed as it should": 0.6} for name in CHANGES},
}
EVERY = {"scenes": 3, **dict.fromkeys(CHANGES, 12)}
"""Which cases a slice has, where not every sixth. Of the scenes: two of each. Changes
take two clips a case.
"""
MOST_STEPS = 12
INSTALLED = [
    name for name in SUITES if name not in not_installed(Settings().models_dir)
]


def measured(engine: Engine, suite: str, every: int) -> dict[str, float]:
    figures, _ = evaluate(engine, suite, 1, every, most_steps=MOST_STEPS)
    print(
        "".join(
            f"\n{each.suite}: {each.measure} {each.value:.3f} of {each.count}"
            for each in figures
        )
    )
    return {each.measure: each.value for each in figures}


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(Settings())


@pytest.mark.slow
@pytest.mark.parametrize("suite", INSTALLED)
def test_frames_show_what_was_asked_for(engine: Engine, suite: str) -> None:
    got = measured(engine, suite, EVERY.get(suite, 6))
    assert all(got[measure] >= bound for measure, bound in BOUNDS[suite].items()), got


@pytest.mark.slow
def test_without_its_motion_module_nothing_moves_as_told(engine: Engine) -> None:
    """The bound on motion is a check that can fail: the image model alone does not
    reach it.
    """
    pipeline = engine.configure(
        engine.prepare(GenerationRequest(prompt="", model="shapeworld")).stack
    )
    parameters = [
        parameter
        for name, parameter in pipeline.unet.named_parameters()
        if ".temporal_transformer.proj_out." in name
    ]
    originals = [parameter.clone() for parameter in parameters]
    assert len(parameters) == 2 * 20
    try:
        for parameter in parameters:
            parameter.zero_()
        measures = measured(engine, "scenes", 6)
    finally:
        for parameter, original in zip(parameters, originals, strict=True):
            parameter.copy_(original)
    assert measures["motion"] < BOUNDS["scenes"]["motion"]
