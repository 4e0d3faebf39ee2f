import json
from collections.abc import Iterator

import pytest

from animatediff import errors
from animatediff.errors import (
    AnimateDiffError,
    InvalidRequest,
    NonFiniteLatents,
    shorten,
)
from schemas import JobError

BUILD = {
    "InvalidRequest": lambda c: c("width", 513, "a multiple of 8"),
    "NonFiniteLatents": lambda c: c(3, "latents"),
}


def tree(
    cls: type[AnimateDiffError] = AnimateDiffError,
) -> Iterator[type[AnimateDiffError]]:
    yield cls
    for child in cls.__subclasses__():
        yield from tree(child)


CLASSES = [cls for cls in tree() if cls.__module__ == errors.__name__]


def test_tree_is_as_drawn() -> None:
    drawn = [
        line.split("── ")[-1].split()[0]
        for line in (errors.__doc__ or "").splitlines()
        if "── " in line
    ]
    assert sorted(drawn) == sorted(
        cls.__name__ for cls in CLASSES if cls is not AnimateDiffError
    )


def test_codes_are_unique() -> None:
    codes = [cls.code for cls in CLASSES]
    assert len(set(codes)) == len(codes)


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_error_is_an_answer(cls: type[AnimateDiffError]) -> None:
    error = BUILD.get(cls.__name__, lambda c: c("what happened"))(cls)
    answer = json.loads(json.dumps(error.to_dict(), allow_nan=False))
    assert JobError.model_validate(answer).code == cls.code
    assert answer["message"] == str(error)
    assert "Traceback" not in answer["message"]


def test_invalid_request_names_all_problems() -> None:
    error = InvalidRequest(
        "width", 513, "a multiple of 8", [("seed", float("nan"), "a number")]
    )
    assert error.to_dict()["field"] == "width"
    assert error.to_dict()["problems"] == [
        {"field": "seed", "got": "nan", "allowed": "a number"}
    ]


def test_step_of_a_numeric_failure_is_named() -> None:
    assert (
        NonFiniteLatents(3, "latents").message
        == "NaN or infinity in the latents at denoising step 3"
    )
    assert (
        NonFiniteLatents(None, "decoded frames").message
        == "NaN or infinity in the decoded frames"
    )


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, None),
        (True, True),
        (7, 7),
        (2**70, "an integer of 71 bits"),
        (0.5, 0.5),
        (float("inf"), "inf"),
        ("x" * 100_000, "x" * 80 + "... (100000 characters)"),
        ([1, 2], "[1, 2]"),
        ("a\ud800b", "a\\ud800b"),
    ],
)
def test_values_are_shortened(value: object, shown: object) -> None:
    assert shorten(value) == shown
