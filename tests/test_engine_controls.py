"""SparseCtrl, DreamBooth, VAE and textual inversion as fields of a job, on a warm
engine.
"""

import base64
import io
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from animatediff.config import SPARSECTRL_RGB, SPARSECTRL_SCRIBBLE
from animatediff.engine import Engine
from animatediff.models.sparse_controlnet import SparseControlNetModel
from animatediff.pipeline import AnimationPipeline
from animatediff.progress import ignore
from animatediff.serving.job import JobRunner
from animatediff.serving.storage import LocalStorage
from animatediff.settings import Settings
from animatediff.video import read_metadata
from schemas import JobOutput, parse_job_input, render_job_output

pytestmark = pytest.mark.slow

SMALL = {
    "prompt": "a red circle",
    "num_frames": 4,
    "num_inference_steps": 2,
    "seed": 5,
    "format": "png_zip",
}
EMBEDDED = Settings().models_dir / "shapeworld"


def png(colour: str, size: tuple[int, int] = (64, 64)) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", size, colour).save(content, "PNG")
    return content.getvalue()


def in_base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


@pytest.fixture(scope="module")
def settings(
    shapeworld: AnimationPipeline, tmp_path_factory: pytest.TempPathFactory
) -> Settings:
    """The embedded family, with random SparseCtrl branches, another VAE and a textual
    inversion beside it.
    """
    folder = tmp_path_factory.mktemp("models")
    (folder / "shapeworld").symlink_to(EMBEDDED)
    for kind, control in {
        "rgb": SPARSECTRL_RGB,
        "scribble": SPARSECTRL_SCRIBBLE,
    }.items():
        torch.manual_seed(3)
        control = replace(control, embedding_channels=(8, 16, 24, 32))
        branch = SparseControlNetModel(shapeworld.unet.config, control)
        tensors = {
            k: t if t.any() else torch.randn_like(t) * 0.05
            for k, t in branch.state_dict().items()
        }
        save_file(tensors, folder / f"{kind}.safetensors")
    vae = load_file(EMBEDDED / "vae" / "diffusion_pytorch_model.safetensors")
    save_file(
        {key: tensor * 0.9 for key, tensor in vae.items()}, folder / "vae.safetensors"
    )
    text = shapeworld.texts.models[0]
    table = text.encoder.get_input_embeddings().weight
    blue = text.tokenizer("blue", add_special_tokens=False).input_ids
    save_file({"emb_params": table[blue].clone()}, folder / "azure.safetensors")
    (folder / "inputs").mkdir()
    (folder / "inputs" / "green.png").write_bytes(png("green"))
    return Settings(
        models_dir=folder, input_dir=folder / "inputs", cache_dir=folder / "cache"
    )


@pytest.fixture(scope="module")
def runner(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> JobRunner:
    storage = LocalStorage(tmp_path_factory.mktemp("out"))
    return JobRunner(
        Engine(settings), storage, settings, parse_job_input, render_job_output
    )


def run(runner: JobRunner, **fields: Any) -> dict[str, Any]:
    return runner.run(
        {"id": "job", "input": {**SMALL, **fields}},
        ignore,
        threading.Event(),
    )


def pixels(engine: Engine, **fields: Any) -> bytes:
    return engine.generate(
        engine.prepare(parse_job_input({**SMALL, **fields}))
    ).video.frames.tobytes()


GREEN, RED = in_base64(png("green")), in_base64(png("red"))
RGB = {"path": "rgb.safetensors", "images": [GREEN], "frame_indices": [0]}
SCRIBBLE = {
    "path": "scribble.safetensors",
    "images": [GREEN, RED],
    "frame_indices": [0, -1],
}
JOBS: list[dict[str, Any]] = [
    {},
    {"controls": [RGB]},
    {"controls": [{**RGB, "images": [RED]}]},
    {"controls": [{**RGB, "frame_indices": [2]}]},
    {"controls": [{**RGB, "strength": 0.5}]},
    {"controls": [{**RGB, "end": 0.5}]},
    {"controls": [SCRIBBLE]},
    {"controls": [RGB, SCRIBBLE]},
    {"vae": "vae.safetensors"},
    {"prompt": "an azure circle", "embeddings": [{"path": "azure.safetensors"}]},
    {"prompt": "an azure circle"},
]


def test_what_a_job_shows_depends_on_it_alone(
    runner: JobRunner, settings: Settings
) -> None:
    fresh = [pixels(Engine(settings), **job) for job in JOBS]
    assert len(set(fresh)) == len(JOBS)
    for i in (7, 0, 8, 1, 9, 10, 6, 5, 4, 3, 2, 0, 7):
        assert pixels(runner.engine, **JOBS[i]) == fresh[i], i


def test_what_a_picture_lost_is_a_warning_of_the_job(runner: JobRunner) -> None:
    drawing = io.BytesIO()
    Image.new("RGBA", (64, 64), (0, 128, 0, 128)).save(drawing, "PNG")
    images = [GREEN, in_base64(drawing.getvalue())]
    control = {**RGB, "images": images, "frame_indices": [0, -1]}
    warnings = run(runner, controls=[RGB, control])["warnings"]
    assert "controls.1.images.1: its transparent parts become white" in warnings
    assert not [note for note in warnings if "images.0" in note]


def test_a_job_of_too_many_pixels_names_the_picture(
    settings: Settings, tmp_path: Path
) -> None:
    settings = settings.replace(max_picture_megapixels=0.01)
    runner = JobRunner(
        Engine(settings),
        LocalStorage(tmp_path),
        settings,
        parse_job_input,
        render_job_output,
    )
    error = run(runner, controls=[RGB, SCRIBBLE])["error"]
    assert (error["code"], error["field"]) == (
        "INVALID_REQUEST",
        "controls.1.images.1",
    )


def test_an_embedding_is_the_word_that_it_was_made_of(runner: JobRunner) -> None:
    azure = pixels(
        runner.engine,
        prompt="a azure circle",
        embeddings=[{"path": "azure.safetensors"}],
    )
    assert azure == pixels(runner.engine, prompt="a blue circle")
    named = [{"path": "azure.safetensors", "token": "<x>"}]
    assert azure == pixels(runner.engine, prompt="a <x> circle", embeddings=named)


def test_an_image_by_path_is_that_by_base64(runner: JobRunner) -> None:
    by_path = pixels(runner.engine, controls=[{**RGB, "images": ["green.png"]}])
    assert by_path == pixels(runner.engine, controls=[RGB])
    data_uri = f"data:image/png;base64,{GREEN}"
    assert by_path == pixels(runner.engine, controls=[{**RGB, "images": [data_uri]}])


def test_a_branch_at_rest_changes_nothing(runner: JobRunner) -> None:
    plain = pixels(runner.engine)
    assert pixels(runner.engine, controls=[{**RGB, "strength": 0}]) == plain
    assert pixels(runner.engine, controls=[{**RGB, "start": 0.9, "end": 1.0}]) == plain


def test_only_the_branches_of_the_last_job_are_kept(runner: JobRunner) -> None:
    pixels(runner.engine, controls=[RGB, SCRIBBLE])
    assert len(runner.engine.models.controls) == 2
    kept = dict(runner.engine.models.controls)
    pixels(runner.engine, controls=[SCRIBBLE])
    assert list(runner.engine.models.controls.items()) == list(kept.items())[1:]
    pixels(runner.engine)
    assert not runner.engine.models.controls


def test_the_output_and_the_file_say_what_took_part(runner: JobRunner) -> None:
    answer = run(
        runner,
        vae="vae.safetensors",
        embeddings=[{"path": "azure.safetensors"}],
        controls=[RGB, SCRIBBLE],
    )
    output = JobOutput.model_validate(answer)
    assert output.vae is not None
    assert (output.vae.name, output.dreambooth) == ("vae.safetensors", None)
    assert [(part.name, part.frame_indices) for part in output.controls] == [
        ("rgb.safetensors", (0,)),
        ("scribble.safetensors", (0, -1)),
    ]
    assert output.embeddings[0].name == "azure.safetensors"
    assert any(
        "its word azure is in no prompt that is read" in warning
        for warning in output.warnings
    )
    metadata = read_metadata(Path(output.url.removeprefix("file://")))
    assert metadata["controls"] == answer["controls"]
    images = metadata["request"]["controls"][0]["images"]
    assert images[0].startswith("sha256:")
    assert GREEN not in str(metadata)


@pytest.mark.parametrize(
    ("fields", "code", "message"),
    [
        ({"controls": [{**RGB, "images": []}]}, "INVALID_REQUEST", "controls.0.images"),
        (
            {"controls": [{**RGB, "images": ["?"]}]},
            "INVALID_REQUEST",
            "controls.0.images.0",
        ),
        (
            {"controls": [{**RGB, "images": [in_base64(b"no picture")]}]},
            "INVALID_REQUEST",
            "controls.0.images.0",
        ),
        (
            {"controls": [{**RGB, "images": [in_base64(png("red")[:60])]}]},
            "INVALID_REQUEST",
            "controls.0.images.0",
        ),
        (
            {"controls": [{**RGB, "images": ["none.png"]}]},
            "ASSET_UNAVAILABLE",
            "none.png",
        ),
        (
            {"controls": [{**RGB, "images": ["../azure.png"]}]},
            "INVALID_REQUEST",
            "below the input folder",
        ),
        (
            {"controls": [{**RGB, "images": ["https://127.0.0.1/x.png"]}]},
            "ASSET_UNAVAILABLE",
            "not a public one",
        ),
        ({"controls": [{**RGB, "frame_indices": [4]}]}, "INVALID_REQUEST", "-4 to 3"),
        (
            {"controls": [{**RGB, "frame_indices": [0, 1]}]},
            "INVALID_REQUEST",
            "one for each of 1 images",
        ),
        (
            {"controls": [{**SCRIBBLE, "frame_indices": [3, -1]}]},
            "INVALID_REQUEST",
            "every frame once",
        ),
        (
            {"controls": [{**RGB, "start": 0.6, "end": 0.5}]},
            "INVALID_REQUEST",
            "controls.0.start",
        ),
        (
            {"controls": [{**RGB, "path": "vae.safetensors"}]},
            "CHECKPOINT_MISMATCH",
            "it is VAE",
        ),
        (
            {"controls": [{**RGB, "strengh": 1}]},
            "INVALID_REQUEST",
            "controls.0.strengh",
        ),
        ({"controls": [RGB] * 5}, "INVALID_REQUEST", "controls"),
        ({"vae": "rgb.safetensors"}, "CHECKPOINT_MISMATCH", "it is SparseCtrl rgb"),
        ({"dreambooth": "vae.safetensors"}, "CHECKPOINT_MISMATCH", "it is VAE"),
        ({"dreambooth": "none.safetensors"}, "ASSET_UNAVAILABLE", "dreambooth"),
        (
            {"embeddings": [{"path": "rgb.safetensors"}]},
            "CHECKPOINT_MISMATCH",
            "not a textual inversion",
        ),
        (
            {"embeddings": [{"path": "azure.safetensors"}] * 2},
            "INVALID_REQUEST",
            "embeddings.1.token",
        ),
        ({"motion_module": "rgb.safetensors"}, "CHECKPOINT_MISMATCH", "SparseCtrl"),
        ({"motion_module": "mm_sd_v16"}, "INVALID_REQUEST", "v3_sd15_mm"),
        ({"motion_module_version": "v2"}, "INVALID_REQUEST", "v3 for shapeworld_v3"),
        ({"model": "sd16"}, "INVALID_REQUEST", "sd15, shapeworld"),
    ],
)
def test_a_refused_job_changes_nothing(
    fields: dict[str, Any], code: str, message: str, runner: JobRunner
) -> None:
    before = pixels(runner.engine, controls=[RGB])
    error = run(runner, **fields)["error"]
    assert error["code"] == code
    assert message in error["message"]
    assert pixels(runner.engine, controls=[RGB]) == before


def test_a_motion_module_by_its_file(runner: JobRunner, settings: Settings) -> None:
    by_name = pixels(runner.engine)
    content = load_file(EMBEDDED / "motion_module_v3.safetensors")
    path = "without_table.safetensors"
    save_file(
        {key: tensor for key, tensor in content.items() if not key.endswith(".pe")},
        settings.models_dir / path,
    )
    assert (
        pixels(runner.engine, motion_module=path, motion_module_version="v3") == by_name
    )
    as_v1 = pixels(runner.engine, motion_module=path, motion_module_version="v1")
    assert as_v1 != by_name  # GroupNorm over all frames
    assert pixels(runner.engine) == by_name
    assert "may be v1 or v3" in run(runner, motion_module=path)["error"]["message"]


def test_a_given_version_is_held_against_a_file_with_a_published_name(
    runner: JobRunner, settings: Settings
) -> None:
    named = settings.models_dir / "motion_modules" / "v3_sd15_mm.safetensors"
    named.parent.mkdir()
    named.symlink_to(EMBEDDED / "motion_module_v3.safetensors")
    by_name = pixels(runner.engine)
    assert (
        pixels(
            runner.engine,
            motion_module="motion_modules/v3_sd15_mm.safetensors",
            motion_module_version="v3",
        )
        == by_name
    )
    assert pixels(runner.engine, motion_module="v3_sd15_mm.ckpt") == by_name
    error = run(runner, motion_module="v3_sd15_mm.ckpt", motion_module_version="v2")[
        "error"
    ]
    assert (error["code"], "is not a v2 module" in error["message"]) == (
        "CHECKPOINT_MISMATCH",
        True,
    )
