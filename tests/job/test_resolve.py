import pytest

from animatediff.errors import InvalidRequest
from animatediff.job.clip import Clip, ContextWindows, GenerationRequest
from animatediff.job.resolve import resolve

WIDE = ContextWindows(length=32)


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
            {"motion_module": "mm_sd_v15", "num_frames": 40, "context": WIDE},
            "context.length",
            "at most 24 with this motion module",
        ),
        (
            {"context": ContextWindows(length=8, overlap=8)},
            "context.overlap",
            "fewer than context.length, 8",
        ),
        (
            {"loop": True, "context": ContextWindows(schedule="static")},
            "context.schedule",
            "looped with loop",
        ),
        (
            {"motion_module": "mm_sd_v15_v2", "num_frames": 160},
            "num_frames, width",
            "at most 1000 megapixel steps",
        ),
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


@pytest.mark.parametrize(
    ("motion_module", "most"),
    [("mm_sd_v15", 24), ("v3_sd15_mm", 32), ("modules/mine.ckpt", 64)],
)
def test_a_clip_longer_than_its_module_is_made_in_windows(
    motion_module: str, most: int
) -> None:
    """Of a file, only the content shows what it can take; the most is assumed."""
    fits = resolved(limit=1e9, motion_module=motion_module, num_frames=most)
    longer = resolved(limit=1e9, motion_module=motion_module, num_frames=most + 1)
    assert fits.context is None
    assert longer.context == ContextWindows()


def test_a_loop_has_looped_windows() -> None:
    assert resolved(loop=True).context == ContextWindows(schedule="looped")
    context = ContextWindows(length=12, fuse="flat")
    looped = resolved(loop=True, context=context).context
    assert looped == context.model_copy(update={"schedule": "looped"})


def test_windows_count_as_work() -> None:
    context = ContextWindows(schedule="static")
    single, windowed = resolved(num_frames=32), resolved(num_frames=32, context=context)
    assert windowed.megapixel_steps == pytest.approx(1.5 * single.megapixel_steps)
