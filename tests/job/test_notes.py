"""What a job asks for and does not get is a warning, and nothing else is."""

from typing import Any

import pytest

from animatediff import catalog
from animatediff.job.clip import Clip, ContextWindows, GenerationRequest
from animatediff.job.foreign_words import foreign_words, foreign_words_warning
from animatediff.job.notes import job_notes
from animatediff.job.resolve import resolve

LCM_LORA = "AnimateLCM_sd15_t2v_lora.safetensors"


def clip(model: str = "sd15", **fields: Any) -> Clip:
    return resolve(
        GenerationRequest(**{"prompt": "a circle", **fields}),
        model=model,
        installed_motion=(),
        max_megapixel_steps=1e9,
    )


def notes(model: str = "sd15", **fields: Any) -> list[str]:
    request = GenerationRequest(**{"prompt": "a circle", **fields})
    return list(job_notes(clip(model, **fields), request))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a circle <lora:style:0.8>", ["<lora:style:0.8>"]),
        ("a circle <lora:style>, <lyco:a b:1>", ["<lora:style>", "<lyco:a b:1>"]),
        ("< LoRA:x:.5 >", ["< LoRA:x:.5 >"]),
        ("a (red:1.4) circle", ["(red:1.4)"]),
        ("(red:2), (blue : -0.5)", ["(red:2)", "(blue : -0.5)"]),
        ("((very) red, (hot:1.2) ball)", ["(hot:1.2)"]),
        ("(r2d2:1.3) and (ratio 16:9.5)", ["(r2d2:1.3)", "(ratio 16:9.5)"]),
        ("(red\n and blue:1.1)", ["(red and blue:1.1)"]),
        ("a ((red)) circle", ["((red))"]),
        ("(red)1.4 or (blue)++ or (green)--", ["(red)1.4", "(blue)++", "(green)--"]),
        ("a [red] circle", ["[red]"]),
        ("[red:blue:0.5] [cat|dog]", ["[red:blue:0.5]", "[cat|dog]"]),
        ("a circle BREAK a square", ["BREAK"]),
        ("a circle AND a square AND a star", ["AND"]),
        ("embedding:easynegative, blurry", ["embedding:easynegative"]),
        (
            "a circle\nNegative prompt: blurry\nSteps: 25, Sampler: Euler a, CFG scale:"
            " 7, Seed: 1, Size: 512x512, Model hash: ab12, Clip skip: 2",
            [
                "Negative prompt:",
                "Steps: 25",
                "Sampler: Euler",
                "CFG scale: 7",
                "Seed: 1",
                "Size: 512x512",
                "Model hash: ab12",
                "Clip skip: 2",
            ],
        ),
        ("a circle Steps: 20, Sampler: DDIM", ["Steps: 20", "Sampler: DDIM"]),
    ],
)
def test_notation_of_other_programs(text: str, expected: list[str]) -> None:
    assert foreign_words(text) == expected
    for field in ("prompt", "negative_prompt"):
        (note,) = notes(**{"prompt": "a circle", field: text})
        assert note.startswith(f"{field} has notation of other programs")
        assert all(word in note for word in expected[:5])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a circle (red) on a plate (white, round)",
        "a portrait (1920s) at night (10:30), format (16:9), scale (1:2)",
        "photo of a cat (f/1.8, 35mm), a dog (Rex)",
        "a nested (very (very) red) circle",
        "a break and a circle, Rock and Roll",
        "A CAT AND A DOG",
        "AND",
        "a < b, 3 > 2, <3, a heart: red",
        "stone steps: 3 of them, a sampler of food",
        "C++ on a screen, a well-known street -- at night",
        "size: large, seed: a pumpkin, model: Anna",
        r"a circle \(red\), \[blue\]",
        "ratio: 16:9, time 12:30",
    ],
)
def test_ordinary_text_is_no_notation(text: str) -> None:
    assert foreign_words(text) == []
    assert notes(prompt=text, negative_prompt=text) == []


def test_long_and_many_words_are_shortened() -> None:
    text = f"({'a' * 500}:1.2) " + " ".join(f"[{i}]" for i in range(9))
    note = foreign_words_warning("prompt", text)
    assert note is not None
    assert "[0], [1], [2], [3], [4] and 5 more;" in note
    note = foreign_words_warning("prompt", text.partition(" ")[0])
    assert note is not None
    assert f": ({'a' * 38}…;" in note


@pytest.mark.parametrize("scale", [0, 0.5, 1])
def test_a_negative_prompt_without_guidance(scale: float) -> None:
    (note,) = notes(negative_prompt="blurry", guidance_scale=scale)
    assert note.startswith("negative_prompt has no effect")
    assert f"guidance_scale is {scale:g}" in note
    assert notes(negative_prompt="blurry", guidance_scale=1.01) == []
    assert notes(negative_prompt=" \n", guidance_scale=scale) == []


def test_a_distilled_module_drops_the_negative_prompt_by_its_default() -> None:
    (note,) = notes(motion_module="lightning_4step", negative_prompt="blurry")
    assert note.startswith("negative_prompt has no effect")


@pytest.mark.parametrize(
    "module",
    [
        "animatelcm_sd15",
        "motion_modules/AnimateLCM_sd15_t2v.ckpt",
        "hf://wangfuyun/AnimateLCM/AnimateLCM_sd15_t2v.ckpt@0123456",
    ],
)
def test_a_module_without_its_companion(module: str) -> None:
    defaults = catalog.MOTION_MODULES["animatelcm_sd15"].defaults
    fields = {**defaults, "motion_module": module, "num_frames": 16}
    (note,) = notes(**fields)
    assert f"the LoRA {LCM_LORA} at strength 0.8" in note
    for path in (
        LCM_LORA,
        f"loras/{LCM_LORA}",
        f"hf://wangfuyun/AnimateLCM/{LCM_LORA}@0123456",
        f"https://example.org/{LCM_LORA}?download=1#sha256={'0' * 64}",
    ):
        loras = [{"path": "style.safetensors"}, {"path": path, "strength": 0.8}]
        assert notes(**fields, loras=loras) == []


def test_companions_are_published_with_their_modules() -> None:
    rows = [row for row in catalog.MOTION_MODULES.values() if row.companions]
    assert rows
    for row in rows:
        module = catalog.PUBLISHED_FILES[catalog.file_name(row.file)]
        for companion in row.companions:
            file = catalog.PUBLISHED_FILES[catalog.file_name(companion.file)]
            assert file.target == companion.file
            assert set(module.profiles) <= set(file.profiles)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"motion_module": "shapeworld_lcm"}, []),
        (
            {
                "motion_module": "shapeworld_lcm",
                "scheduler": "ddim",
                "num_inference_steps": 25,
            },
            ["distilled for scheduler lcm, not ddim", "at most 8 steps, not 25"],
        ),
        ({"motion_module": "shapeworld_lcm", "num_inference_steps": 9}, ["not 9"]),
        ({"motion_module": "shapeworld_lcm", "num_inference_steps": 4}, []),
        ({"motion_module": "shapeworld_v3", "scheduler": "lcm"}, ["consistency"]),
        ({"motion_module": "shapeworld/motion_module_v3.safetensors"}, []),
        (
            {
                "motion_module": "shapeworld/motion_module_v3.safetensors",
                "scheduler": "lcm",
            },
            ["consistency"],
        ),
        ({"motion_module": "of/somebody.safetensors", "scheduler": "lcm"}, []),
        (
            {
                "motion_module": "shapeworld_v3",
                "scheduler": "lcm",
                "loras": [{"path": "LCM-LoRA.safetensors"}],
            },
            [],
        ),
    ],
)
def test_schedulers_and_steps_of_distilled_modules(
    fields: dict[str, Any], expected: list[str]
) -> None:
    family, *others = notes("shapeworld", **fields)
    assert "demonstration family" in family
    assert len(others) == len(expected)
    for note, part in zip(others, expected, strict=True):
        assert part in note


@pytest.mark.parametrize("name", catalog.BASE_MODELS["sd15"].motion_modules)
def test_the_defaults_of_every_module_are_what_it_was_made_for(name: str) -> None:
    companions = len(catalog.MOTION_MODULES[name].companions)
    assert len(notes(motion_module=name)) == companions


def test_windows_that_nobody_asked_for_are_a_warning() -> None:
    (warning,) = notes(num_frames=48)
    assert "num_frames 48 is more than v3_sd15_mm can take" in warning
    assert "windows of 16 frames, with 1.33 times the work" in warning
    assert notes(num_frames=48, context=ContextWindows()) == []
    assert notes(num_frames=32) == []


def test_short_windows_are_a_warning() -> None:
    short = ContextWindows(length=8)
    (warning,) = notes(num_frames=48, context=short)
    assert warning.startswith("context.length 8 is short")
    assert notes(num_frames=8, context=short) == []
