"""A field that the sampler reads is declared once, for jobs and for Python."""

from dataclasses import asdict, fields

from animatediff import catalog
from animatediff.job.clip import ContextWindows, GenerationRequest, SamplerFields
from animatediff.job.resolve import resolve
from animatediff.sampling.inputs import AnimationInputs

SHARED = [item.name for item in fields(SamplerFields)]


def test_what_is_left_out_in_python_is_the_default_models() -> None:
    inputs = asdict(AnimationInputs("a lighthouse"))
    defaults = asdict(catalog.base_model(catalog.DEFAULT_MODEL).defaults)
    model_fields = {name: inputs[name] for name in defaults if name in SHARED}
    assert model_fields == {name: defaults[name] for name in model_fields}
    assert len(model_fields) == 6


def test_inputs_take_every_shared_field_of_a_job() -> None:
    values = {
        **{"prompt": "a boat", "negative_prompt": "a house", "num_frames": 8},
        **{"width": 128, "height": 64, "num_inference_steps": 3, "clip_skip": 1},
        **{"guidance_scale": 2.5, "scheduler": "euler"},
        "context": ContextWindows(length=4, overlap=1),
    }
    assert sorted(values) == sorted(SHARED)
    request = GenerationRequest(**values)
    clip = resolve(
        request, model="shapeworld", installed_motion=(), max_megapixel_steps=1e9
    )
    inputs = AnimationInputs.of(clip, seeds=(7, 8), sequential_guidance=True)
    assert inputs == AnimationInputs(**values, seeds=(7, 8), sequential_guidance=True)
    assert inputs.texts == clip.texts


def test_only_a_job_is_checked() -> None:
    """The pipeline refuses what its models cannot do, see ``draw_start``."""
    assert AnimationInputs("", width=20, num_frames=1000).width == 20
