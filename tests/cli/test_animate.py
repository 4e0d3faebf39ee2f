"""The CLI: its configs, what they stand for, and clips that it really makes."""

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image, ImageSequence

from animatediff import cli
from animatediff.cli.animate import _save_config
from animatediff.cli.environment import file_name
from animatediff.cli.inference_config import motion_module_version
from animatediff.cli.prompt_config import read_entries, requests
from animatediff.controls.sparsectrl import (
    SparseControl,
    control_images,
    load_sparse_controlnet,
)
from animatediff.errors import InvalidRequest
from animatediff.job.clip import GenerationRequest
from animatediff.pipeline import AnimationPipeline
from animatediff.published import load_weights
from animatediff.sampling.inputs import AnimationInputs
from animatediff.settings import PROJECT_ROOT
from animatediff.video import read_metadata
from lab.golden.reference import model_folder

CONFIGS = PROJECT_ROOT / "configs"

PUBLISHED = {  # entries, prompts of each, guidance scale
    "1_animate/1_1_animate_RealisticVision": (2, 4, 8),
    "1_animate/1_2_animate_FilmVelvia": (2, 4, 8),
    "1_animate/1_3_animate_ToonYou": (2, 4, 7.5),
    "1_animate/1_4_animate_MajicMix": (2, 4, 8),
    "1_animate/1_5_animate_RcnzCartoon": (2, 4, 8),
    "1_animate/1_6_animate_Lyriel": (2, 4, 8),
    "1_animate/1_7_animate_Tusun": (2, 4, 8),
    "2_motionlora/2_motionlora_RealisticVision": (8, 1, 7.5),
    "3_sparsectrl/3_1_sparsectrl_i2v": (4, 2, 8.5),
    "3_sparsectrl/3_2_sparsectrl_rgb_RealisticVision": (2, 2, 8.5),
    "3_sparsectrl/3_3_sparsectrl_sketch_RealisticVision": (2, 2, 8.5),
}
FILES = sorted((CONFIGS / "prompts").glob("*/*.yaml"))


def main(arguments: list[str]) -> int:
    return cli.main(["make", *arguments])


@pytest.fixture(autouse=True)
def in_project(monkeypatch: pytest.MonkeyPatch) -> None:
    """Configs name files from the project's root."""
    monkeypatch.chdir(PROJECT_ROOT)


@pytest.fixture
def sd15_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A models folder with as much of Stable Diffusion 1.5 as a dry run looks at."""
    models = tmp_path / "models"
    (models / "stable-diffusion-v1-5" / "unet").mkdir(parents=True)
    shutil.copy(
        "models/shapeworld/unet/config.json", models / "stable-diffusion-v1-5" / "unet"
    )
    monkeypatch.setenv("ANIMATEDIFF_MODELS_DIR", str(models))
    return models


def test_the_published_configs_are_all_there() -> None:
    ours = {
        file.relative_to(CONFIGS / "prompts").with_suffix("").as_posix()
        for file in FILES
    }
    assert ours == {*PUBLISHED, "0_shapeworld/0_1_shapeworld"}
    for name, (entries, prompts, guidance_scale) in PUBLISHED.items():
        read = read_entries(CONFIGS / "prompts" / f"{name}.yaml")
        assert len(read) == entries
        for entry in read:
            assert (len(entry.prompt), entry.guidance_scale, entry.steps) == (
                prompts,
                guidance_scale,
                25,
            )
            assert len(list(requests(entry, name))) == prompts


@pytest.mark.usefixtures("sd15_is_there")
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_dry_run_of_every_config(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--config", str(file), "--dry-run"]) == 0
    message = capsys.readouterr().out
    entries = yaml.safe_load(file.read_text())
    for i, entry in enumerate(entries):
        assert f"entry {i}\n" in message
        for key in (
            "motion_module",
            "dreambooth_path",
            "lora_model_path",
            "adapter_lora_path",
            "controlnet_path",
        ):
            assert Path(entry.get(key, "")).name in message
    assert "nothing is missing" in message
    if "0_shapeworld" not in str(file):
        monkeypatch.setenv("ANIMATEDIFF_OFFLINE", "1")
        assert main(["--config", str(file), "--dry-run"]) == 1
        message = capsys.readouterr().out
        assert "MISSING: v3_sd15_mm" not in message
        assert (
            "from https://huggingface.co/guoyww/animatediff into the folder"
            " motion_modules" in message
        )


def test_inference_configs_describe_the_three_versions() -> None:
    for version in ("v1", "v2", "v3"):
        assert (
            motion_module_version(
                str(CONFIGS / "inference" / f"inference-{version}.yaml")
            )
            == version
        )


def write(path: Path, *entries: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(list(entries)))
    return path


SMALL = {
    "inference_config": "configs/inference/inference-v3.yaml",
    "motion_module": "models/shapeworld/motion_module_v3.safetensors",
    "pretrained_model_path": "models/shapeworld",
    "steps": 2,
    "guidance_scale": 4.0,
    "L": 4,
    "W": 64,
    "H": 64,
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": ["a", "b", "c"], "seed": [1, 2]}, "entry 0: seed: got 2 values"),
        (
            {"prompt": ["a", "b", "c"], "n_prompt": ["x", "y"]},
            "entry 0: n_prompt: got 2 values",
        ),
        ({"prompt": []}, "prompt"),
        (
            {"controlnet_image_indexes": [0]},
            "no such key; did you mean controlnet_image_indexs? there are prompt",
        ),
        ({"seed": -2}, "seed"),
        ({"seed": 2**64}, "seed"),
        ({"motion_module": "models/shapeworld/none.safetensors"}, "there is no file"),
        ({"inference_config": "configs/inference/none.yaml"}, "none.yaml"),
        (
            {"inference_config": "configs/inference/inference-v2.yaml"},
            "is not a v2 module",
        ),
        ({"W": 65}, "entry 0: W: got 65, allowed: an integer from 64"),
        ({"L": 4097}, "L: got 4097, allowed: an integer from 1 to 4096"),
        (
            {"controlnet_path": "x.ckpt", "controlnet_images": "i.png"},
            "controlnet_config",
        ),
        ({"pretrained_model_path": "models/none"}, "model: got models/none"),
    ],
)
def test_a_wrong_config_is_an_error_that_names_it(
    change: dict[str, Any],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = write(tmp_path / "wrong.yaml", {**SMALL, "prompt": "a", **change})
    assert main(["--config", str(config), "--output", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


@pytest.mark.parametrize("content", ["prompt: x", "- prompt: [", "", "- 5", "\0"])
def test_what_is_no_list_of_entries(content: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(content)
    with pytest.raises(InvalidRequest):
        read_entries(tmp_path / "c.yaml")


FIRST_YEAR = """
Painted:
  base: "b.safetensors"
  path: "style.safetensors"
  lora_alpha: 0.6
  motion_module: [one.ckpt, two.ckpt]
  seed: [11, 12]
  prompt: [a kite, a train]
  n_prompt:
Plain:
  path: "model.ckpt"
  base: ""
  motion_module: one.ckpt
  prompt: a kite
"""


def first_year(folder: Path, text: str) -> list[GenerationRequest]:
    file = folder / "old.yml"
    file.write_text(text)
    entries = read_entries(file)
    return [job for entry in entries for job in requests(entry, "entry")]


def test_entries_with_names_list_motion_modules(tmp_path: Path) -> None:
    """Each module makes every prompt; ``path`` is a LoRA where it has a ``base``."""
    jobs = first_year(tmp_path, FIRST_YEAR)
    assert [(job.motion_module, job.prompt, job.seed) for job in jobs] == [
        ("one.ckpt", "a kite", 11),
        ("one.ckpt", "a train", 12),
        ("two.ckpt", "a kite", 11),
        ("two.ckpt", "a train", 12),
        ("one.ckpt", "a kite", None),
    ]
    painted, plain = jobs[0], jobs[-1]
    assert painted.dreambooth == "b.safetensors"
    assert [(lora.path, lora.strength) for lora in painted.loras] == [
        ("style.safetensors", 0.6)
    ]
    assert (plain.dreambooth, plain.loras) == ("model.ckpt", ())


def test_the_first_name_of_the_adapters_scale(tmp_path: Path) -> None:
    text = '- {domain_lora_scale: 0.3, adapter_lora_path: a.ckpt, prompt: "",'
    text += ' dreambooth_path: "", path: "", motion_module_lora_configs: ~}'
    (job,) = first_year(tmp_path, text)
    assert [(lora.path, lora.strength) for lora in job.loras] == [("a.ckpt", 0.3)]
    assert (job.prompt, job.dreambooth) == ("", None)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("{prompt: a, pth: x}", "entry A: pth: .* did you mean path"),
        ("{prompt: a, domain_lora_scal: 1}", "did you mean .*_lora_scale"),
        ("{prompt: a, domain_lora_scale: x}", 'entry A: domain_lora_scale: got "x"'),
        ("{prompt: a, path: 5}", "entry A: path: got 5"),
        ("{prompt: a, motion_module: [m, 5]}", "entry A: motion_module: got 5"),
        (
            "{prompt: a, path: x, dreambooth_path: y}",
            "one of path and dreambooth_path, not both",
        ),
        (
            "{prompt: a, domain_lora_scale: 1, adapter_lora_scale: 1}",
            "one of domain_lora_scale and adapter_lora_scale, not both",
        ),
        ("5", "entry A: input"),
    ],
)
def test_a_wrong_entry_with_a_name(entry: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=message):
        first_year(tmp_path, f"A: {entry}")


def test_the_first_inference_configs_are_read(tmp_path: Path) -> None:
    text = (CONFIGS / "inference" / "inference-v2.yaml").read_text()
    first = "  motion_module_decoder_only: false\n  motion_module_type"
    assert "  motion_module_type" in text
    (tmp_path / "i.yaml").write_text(text.replace("  motion_module_type", first))
    assert motion_module_version(str(tmp_path / "i.yaml")) == "v2"


def test_the_saved_config_keeps_prompts_and_no_secret(tmp_path: Path) -> None:
    signed = "https://example.org/a.safetensors?signature=S3CRET"
    prompt = "see https://example.org/?a=b"
    entry = {
        "prompt": prompt,
        "motion_module": signed,
        "controlnet_images": [signed],
        "motion_module_lora_configs": [{"path": f"{signed}#sha256={'a' * 64}"}],
    }
    entries = read_entries(write(tmp_path / "signed.yaml", entry))
    _save_config(tmp_path / "config.yaml", entries, {0: [7]})
    saved = (tmp_path / "config.yaml").read_text()
    assert "S3CRET" not in saved
    assert yaml.safe_load(saved) == [
        {
            "prompt": [prompt],
            "motion_module_lora_configs": [
                {"path": f"https://example.org/a.safetensors#sha256={'a' * 64}"}
            ],
            "controlnet_images": ["https://example.org/a.safetensors"],
            "motion_module": "https://example.org/a.safetensors",
            "random_seed": [7],
        }
    ]


@pytest.mark.slow
def test_the_embedded_family_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The shipped config: two entries, two sizes, four clips."""
    config = CONFIGS / "prompts" / "0_shapeworld" / "0_1_shapeworld.yaml"
    assert main(["--config", str(config), "--output", str(tmp_path)]) == 0
    (folder,) = tmp_path.iterdir()
    assert folder.name.startswith("0_1_shapeworld-")
    clips = sorted((folder / "sample").iterdir())
    assert len(clips) == 2 * 4
    assert {path.suffix for path in clips} == {".gif", ".mp4"}
    assert {path.name for path in folder.iterdir()} == {
        "sample",
        "config.yaml",
        *(
            f"sample-{size}{suffix}"
            for size in ("64x64x16", "96x64x8")
            for suffix in (".gif", ".mp4")
        ),
    }
    with Image.open(folder / "sample-64x64x16.gif") as grid:
        assert grid.size == (3 * 66 + 2, 68)
        assert sum(1 for _ in ImageSequence.Iterator(grid)) == 16
    saved = yaml.safe_load((folder / "config.yaml").read_text())
    assert [entry["random_seed"] for entry in saved] == [[4, 1, 3], [5]]
    printed = capsys.readouterr().out.split("\n")
    assert all(str(path) in printed for path in clips)
    metadata = read_metadata(clips[0].with_suffix(".mp4"))
    assert metadata["request"]["seed"] == 4


@pytest.mark.slow
def test_drawn_seeds_are_written_down_and_repeat_the_clip(tmp_path: Path) -> None:
    config = write(
        tmp_path / "drawn.yaml",
        {**SMALL, "prompt": ["a red circle", "a blue square"], "seed": -1},
    )
    arguments = ["--config", str(config), "--format", "png_zip", "--output"]
    assert main([*arguments, str(tmp_path / "first")]) == 0
    (first,) = (tmp_path / "first").iterdir()
    (entry,) = yaml.safe_load((first / "config.yaml").read_text())
    assert len(set(entry["random_seed"])) == 2
    write(config, {**SMALL, "prompt": entry["prompt"], "seed": entry["random_seed"]})
    assert main([*arguments, str(tmp_path / "second")]) == 0
    (second,) = (tmp_path / "second").iterdir()
    for path in (first / "sample").iterdir():
        assert path.read_bytes() == (second / "sample" / path.name).read_bytes()


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        ("a b c d e f g h i j k l", "a-b-c-d-e-f-g-h-i-j"),
        ("night/day: a \\ cat", "nightday-a-cat"),
        ("...", "clip"),
        ("é" * 300, "é" * 60),
    ],
)
def test_file_names(prompt: str, name: str) -> None:
    assert file_name(prompt) == name


@pytest.fixture
def reference_config(golden: Path, tmp_path: Path) -> tuple[Path, list[dict[str, Any]]]:
    """A config that uses every file of the reference data's loading and sparsectrl
    folders.
    """
    base = model_folder(golden / "common", tmp_path / "base")
    loading = golden / "loading"
    picture = tmp_path / "picture.png"
    Image.linear_gradient("L").convert("RGB").resize((120, 96)).save(picture)
    case = json.loads((golden / "pipeline_sparsectrl_rgb" / "case.json").read_text())
    small = {
        "pretrained_model_path": str(base),
        "inference_config": "configs/inference/inference-v2.yaml",
        "motion_module": str(loading / "mm_v2.ckpt"),
        "prompt": case["prompt"],
        "n_prompt": case["negative_prompt"],
        "steps": 2,
        "seed": 3,
        "L": 6,
        "W": 96,
        "H": 96,
    }
    stacked = {
        "dreambooth_path": str(loading / "dreambooth_ldm.safetensors"),
        "lora_model_path": str(loading / "kohya_lora.safetensors"),
        "lora_alpha": 0.6,
        "adapter_lora_path": str(loading / "v3_adapter.ckpt"),
        "adapter_lora_scale": 0.5,
        "motion_module_lora_configs": [
            {"path": str(loading / "motion_lora_A.ckpt"), "alpha": 0.8},
            {"path": str(loading / "motion_lora_B_wrapped.ckpt"), "alpha": 0.4},
        ],
    }

    def control(kind: str, indices: list[int]) -> dict[str, Any]:
        name = "latent" if kind == "rgb" else "image"
        return {
            "controlnet_path": str(
                golden / f"sparsectrl_{kind}" / "weights.safetensors"
            ),
            "controlnet_config": f"configs/inference/sparsectrl/{name}_condition.yaml",
            "controlnet_images": [str(picture)] * len(indices),
            "controlnet_image_indexs": indices,
        }

    entries = [
        small,
        {**small, **stacked},
        {**small, **control("rgb", [0, -1])},
        {**small, **stacked, **control("scribble", [0])},
        {**small, "motion_module": str(loading / "mm_v2_module_prefix.ckpt")},
        {**small, "motion_module": str(loading / "mm_v2_wrapped.ckpt")},
        small,
    ]
    return write(tmp_path / "reference.yaml", *entries), entries


def by_python(entry: dict[str, Any]) -> torch.Tensor:
    """The frames (f, h, w, 3) of ``entry``, by the Python interface and on a pipeline
    of its own.
    """
    pipeline = AnimationPipeline.from_pretrained(entry["pretrained_model_path"])
    names = (
        "adapter_lora_path",
        "adapter_lora_scale",
        "lora_model_path",
        "lora_alpha",
        "motion_module_lora_configs",
    )
    load_weights(
        pipeline,
        entry["motion_module"],
        "v2",
        dreambooth_model_path=entry.get("dreambooth_path", ""),
        **{name: entry[name] for name in names if name in entry},
    )
    controls = []
    if path := entry.get("controlnet_path"):
        branch = load_sparse_controlnet(path, pipeline.unet)
        with Image.open(entry["controlnet_images"][0]) as picture:
            pictures = [picture.convert("RGB")] * len(entry["controlnet_images"])
        images = control_images(branch, pipeline.vae, pictures, 96, 96)
        controls = [SparseControl(branch, images, entry["controlnet_image_indexs"])]
    inputs = AnimationInputs(
        entry["prompt"], entry["n_prompt"], 6, 96, 96, 2, 7.5, seeds=(3,)
    )
    latents = pipeline.denoise(inputs, pipeline.encode(inputs, controls))
    return pipeline.decode_frames(latents)[0]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.* which do nothing")
def test_files_of_the_reference_data_from_one_config(
    reference_config: tuple[Path, list[dict[str, Any]]], tmp_path: Path
) -> None:
    """Each clip of the one warm engine is that of a fresh pipeline: all files act, and
    nothing carries over.
    """
    config, entries = reference_config
    arguments = [
        "--config",
        str(config),
        "--output",
        str(tmp_path / "out"),
        "--format",
        "png_zip",
        "--dtype",
        "float32",
    ]
    assert main(arguments) == 0
    (folder,) = (tmp_path / "out").iterdir()
    assert len(list((folder / "control_images").iterdir())) == 3
    seen = set()
    for number, entry in enumerate(entries):
        (archive,) = (folder / "sample").glob(f"{number}-*.zip")
        frames = frames_of(archive)
        assert (frames == by_python(entry).numpy()).all(), f"entry {number}"
        seen.add(frames.tobytes())
    assert len(seen) == len(entries) - 1  # the first and the last are the same


def frames_of(archive: Path) -> np.ndarray:
    """The frames (f, h, w, 3) of a png_zip file."""
    with zipfile.ZipFile(archive) as pictures:
        names = sorted(name for name in pictures.namelist() if name.endswith(".png"))
        return np.stack(
            [
                np.asarray(Image.open(pictures.open(name)).convert("RGB"))
                for name in names
            ]
        )
