"""The declaration, and what is derived from it."""

import pickle
from pathlib import Path

import pytest
from pydantic import ValidationError

from animatediff.errors import InvalidRequest
from animatediff.job.clip import Clip, ControlFile, GenerationRequest, LoraFile
from animatediff.job.fields import echo, shown
from animatediff.job.validation import validated

DECIDED = {
    "prompt": "a cat",
    "num_frames": 8,
    "width": 64,
    "height": 128,
    "num_inference_steps": 5,
    "guidance_scale": 7.5,
    "seed": 1,
    "scheduler": "ddim",
    "fps": 8,
    "format": "mp4",
    "model": "sd15",
    "motion_module": "v3_sd15_mm",
}


def test_a_clip_leaves_nothing_open() -> None:
    clip = Clip(**DECIDED)
    assert clip.megapixel_steps == 8 * 64 * 128 * 5 / 1e6
    for name in DECIDED:
        with pytest.raises(ValidationError):
            Clip(**{key: value for key, value in DECIDED.items() if key != name})


def test_a_request_has_the_same_fields_and_needs_only_the_prompt() -> None:
    request = GenerationRequest(prompt="a cat")
    assert GenerationRequest.model_fields.keys() == Clip.model_fields.keys()
    left_open = {name for name, value in request if value is None}
    by_model = {name for name, _, mark in shown(Clip) if mark.by_model}
    optional = {"context", "motion_module_version", "dreambooth", "vae", "preview"}
    assert left_open == by_model | optional
    assert DECIDED.keys() == by_model | {"prompt"}


def test_every_field_says_where_it_is_shown() -> None:
    assert [name for name, _, _ in shown(Clip)] == list(Clip.model_fields)
    assert all(info.description for info in Clip.model_fields.values())
    assert GenerationRequest.__doc__


def test_values_cannot_be_changed_and_can_be_compared_and_pickled() -> None:
    request = GenerationRequest(prompt="a", loras=(LoraFile(path="a", strength=0.5),))
    with pytest.raises(ValidationError):
        request.prompt = "b"  # pyright: ignore[reportAttributeAccessIssue]
    assert pickle.loads(pickle.dumps(request)) == request
    assert hash(request) == hash(GenerationRequest(**dict(request)))


def test_lists_become_tuples_and_nothing_else_is_converted() -> None:
    control = ControlFile(path="a", images=["x.png"], frame_indices=[-1])  # pyright: ignore[reportArgumentType]
    assert (control.images, control.frame_indices) == (("x.png",), (-1,))
    for images in ("x.png", {"x.png": 1}, 5):
        with pytest.raises(ValidationError):
            ControlFile(path="a", images=images)  # pyright: ignore[reportArgumentType]


def test_a_path_object_becomes_text() -> None:
    lora = LoraFile(path=Path("loras") / "a.safetensors")  # pyright: ignore[reportArgumentType]
    assert lora == LoraFile(path=str(Path("loras", "a.safetensors")))


@pytest.mark.parametrize("text", ["a\0b", "a\ud800b"])
@pytest.mark.parametrize("field", ["prompt", "negative_prompt", "vae"])
def test_text_can_be_printed(field: str, text: str) -> None:
    with pytest.raises(InvalidRequest, match="text without NUL and lone surrogates"):
        validated(GenerationRequest, {"prompt": "a", field: text})


def test_prompts_are_not_echoed() -> None:
    repeated = echo(Clip(**DECIDED))
    assert repeated.keys() & {"prompt", "negative_prompt", "loras", "model"} == set()
    assert repeated["clip_skip"] == 0
