"""Messages about wrong fields: what came, its type, and what is allowed."""

from typing import Annotated, Any

import pytest
from pydantic import BaseModel, ConfigDict, Field

from animatediff import catalog
from animatediff.errors import InvalidRequest
from animatediff.job.clip import GenerationRequest
from animatediff.job.resolve import resolve
from animatediff.job.validation import nearest, validated


def refusal(**fields: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        validated(GenerationRequest, {"prompt": "a cat", **fields})
    return caught.value


@pytest.mark.parametrize(
    ("fields", "got", "allowed"),
    [
        ({"seed": "8"}, '"8" (a string)', "an integer from 0 to 18446744073709551615"),
        ({"width": 64.0}, "64.0 (a number)", "an integer from 64 to 2048, a multiple"),
        ({"clip_skip": True}, "true (a boolean)", "an integer from 0 to 11"),
        ({"guidance_scale": [7]}, "[7] (a list)", "a finite number from 0 to 30"),
        ({"prompt": 5}, "5 (an integer)", "text of at most 4000 characters"),
        ({"prompt": {}}, "{} (an object)", "text of at most 4000 characters"),
        ({"vae": ""}, "", "text of 1 to 1000 characters"),
        ({"format": 4}, "4 (an integer)", "one of mp4, gif, webm"),
        ({"format": "avi"}, "avi", "one of mp4, gif, webm"),
        ({"seed": -1}, -1, "an integer from 0 to 18446744073709551615"),
        ({"loras": [{"path": "a", "ignore_file_alpha": 1}]}, "1 (an", "true or false"),
        ({"loras": None}, None, "a list of at most 8 items, each an object with path"),
        ({"controls": [{"path": "a", "images": []}]}, "[]", "a list of 1 to 64 items"),
    ],
)
def test_what_came_and_what_is_allowed(
    fields: dict[str, Any], got: Any, allowed: str
) -> None:
    details = refusal(**fields).details
    if isinstance(got, str):
        assert details["got"].startswith(got)
    else:
        assert details["got"] == got
    assert details["allowed"].startswith(allowed)


def test_a_list_whose_only_item_is_wrong_is_not_called_empty() -> None:
    error = refusal(controls=[{"path": "a", "images": [""]}])
    assert error.details["field"] == "controls.0.images.0"
    assert "problems" not in error.details


def test_the_message_quotes_text_and_names_its_type() -> None:
    message = 'fps: got "8" (a string), allowed: an integer from 1 to 60'
    assert refusal(fps="8").message == f"{message}; at most 50 with gif"
    assert refusal(fps="8", format="mp4").message == f"{message} with mp4"


def test_long_text_keeps_its_type() -> None:
    got = refusal(fps="x" * 10_000).details["got"]
    assert got.endswith('(10000 characters)" (a string)')


@pytest.mark.parametrize(
    ("fields", "guess"),
    [
        ({"promt": "a"}, "prompt"),
        ({"steps": 25}, "num_inference_steps"),
        ({"cfg_scale": 7}, "guidance_scale"),
        ({"loras": [{"path": "a", "strenght": 1.0}]}, "strength"),
    ],
)
def test_an_unknown_field_gets_a_guess(fields: dict[str, Any], guess: str) -> None:
    assert f"did you mean {guess}? there are " in refusal(**fields).message


def test_an_unknown_field_like_no_other_gets_none() -> None:
    assert refusal(zzz=1).message.startswith("zzz: no such field; there are prompt, ")
    assert nearest("zzz", ["prompt", "seed"]) is None


def test_a_missing_field_is_named() -> None:
    error = refusal(loras=[{"strength": 0.5}])
    assert error.message == "loras.0.path: this field is needed"
    assert error.details["got"] is None


NAMED = [
    ("scheduler", "num_inference_steps", 50, "lcm"),
    ("format", "fps", 50, "gif"),
]


def resolved(**fields: Any) -> Any:
    request = validated(GenerationRequest, {"prompt": "a cat", **fields})
    return resolve(
        request,
        model="sd15",
        installed_motion=catalog.MOTION_MODULES,
        max_megapixel_steps=1e9,
    )


@pytest.mark.parametrize(("by", "field", "most", "choice"), NAMED)
@pytest.mark.parametrize("excess", [1, 100, 10**6])
def test_a_job_meets_one_limit(
    by: str, field: str, most: int, choice: str, excess: int
) -> None:
    """However far off a value is, its message names the limit that then works."""
    with pytest.raises(InvalidRequest) as caught:
        resolved(**{by: choice, field: most + excess})
    assert caught.value.details["field"] == field
    assert caught.value.details["allowed"] == f"1 to {most} with {choice}"
    wrong_type = refusal(**{by: choice, field: str(most)})
    assert wrong_type.details["allowed"].endswith(f"from 1 to {most} with {choice}")
    assert getattr(resolved(**{by: choice, field: most}), field) == most


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")
    rate: Annotated[float, Field(gt=0, lt=1)] = 0.5


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid")
    inner: Inner | None = None
    counts: list[Annotated[int, Field(ge=1)]] = []
    most: Annotated[int, Field(le=3)] = 0


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"inner": {"rate": 0}}, "inner.rate: got 0, allowed: a finite number above 0"),
        ({"inner": 3}, "inner: got 3 (an integer), allowed: an object with rate"),
        ({"inner": {"rat": 1}}, "no such key; did you mean rate? there are rate"),
        ({"counts": [1, 0]}, "counts.1: got 0, allowed: an integer of at least 1"),
        ({"most": 4}, "most: got 4, allowed: an integer of at most 3"),
        (5, "input: got 5 (an integer), allowed: an object with inner, counts, most"),
    ],
)
def test_any_model_can_be_validated(raw: Any, message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        validated(Outer, raw, place="x.yaml", noun="key")
    assert caught.value.message.startswith("x.yaml: ")
    assert message in caught.value.message
