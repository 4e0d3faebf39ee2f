import pytest

from animatediff.errors import InvalidRequest
from animatediff.job.clip import Clip, GenerationRequest
from animatediff.job.resolve import resolve


def resolved(model: str = "sd15", limit: float = 1000, **fields: object) -> Clip:
    request = GenerationRequest(prompt="a cat", **fields)
    return resolve(
        request,
        model=model,
        installed_motion=("mm_sd_v15_v2", "mm_sd_v15"),
        max_megapixel_steps=limit,
    )


def test_defaults_are_the_familys() -> None:
    sd15, shapeworld = resolved(), resolved("shapeworld")
    assert (sd15.width, sd15.height, sd15.num_frames) == (512, 512, 16)
    assert (
        sd15.num_inference_steps,
        sd15.guidance_scale,
        sd15.scheduler,
        sd15.fps,
    ) == (25, 7.5, "ddim", 8)
    assert (shapeworld.width, shapeworld.motion_module) == (64, "shapeworld_v3")


def test_motion_module_is_the_best_installed_one() -> None:
    assert resolved().motion_module == "mm_sd_v15_v2"
    assert resolved(motion_module="mm_sd_v14").motion_module == "mm_sd_v14"


def test_given_fields_win_even_if_falsy() -> None:
    got = resolved(guidance_scale=0.0, seed=0)
    assert (got.guidance_scale, got.seed) == (0.0, 0)


def test_seed_is_drawn_once_each_time() -> None:
    assert resolved().seed != resolved().seed
    assert 0 <= resolved().seed < 2**64


@pytest.mark.parametrize(
    ("fields", "field", "allowed"),
    [
        ({"motion_module": "shapeworld_v3"}, "motion_module", "for model sd15"),
        (
            {"motion_module": "mm_sd_v15", "num_frames": 25},
            "num_frames",
            "1 to 24 with mm_sd_v15",
        ),
        ({"num_frames": 33}, "num_frames", "1 to 32"),
        (
            {"scheduler": "lcm", "num_inference_steps": 51},
            "num_inference_steps",
            "1 to 50 with lcm",
        ),
        ({"format": "gif", "fps": 51}, "fps", "1 to 50 with gif"),
        (
            {"width": 2048, "height": 2048, "num_frames": 32},
            "num_frames, width",
            "at most 1000 megapixel steps",
        ),
    ],
)
def test_combinations_that_cannot_run(fields: dict, field: str, allowed: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        resolved(**fields)
    assert caught.value.details["field"].startswith(field)
    assert allowed in caught.value.details["allowed"]
