"""A damaged, empty, foreign or hostile file of every kind: its own error, and the next
job as on a fresh engine.
"""

import base64
import io
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from animatediff.checkpoints.files import read_weights
from animatediff.engine import Engine
from animatediff.progress import ignore
from animatediff.serving.job import JobRunner
from animatediff.serving.storage import LocalStorage
from animatediff.settings import Settings
from lab.golden.reference import model_folder
from schemas import parse_job_input, render_job_output

Weights = dict[str, Tensor]


def picture() -> str:
    content = io.BytesIO()
    Image.linear_gradient("L").convert("RGB").save(content, "PNG")
    return base64.b64encode(content.getvalue()).decode()


KINDS: Mapping[
    str, tuple[str, Callable[[str], dict[str, Any]]]
] = {  # a good file, and the job field that names one
    "motion module": (
        "loading/mm_v2.ckpt",
        lambda path: {"motion_module": path, "motion_module_version": "v2"},
    ),
    "DreamBooth": (
        "loading/dreambooth_ldm.safetensors",
        lambda path: {"dreambooth": path},
    ),
    "VAE": ("common/vae.safetensors", lambda path: {"vae": path}),
    "LoRA": (
        "loading/kohya_lora.safetensors",
        lambda path: {"loras": [{"path": path}]},
    ),
    "domain adapter": (
        "loading/v3_adapter.ckpt",
        lambda path: {"loras": [{"path": path}]},
    ),
    "MotionLoRA": (
        "loading/motion_lora_A.ckpt",
        lambda path: {"loras": [{"path": path}]},
    ),
    "textual inversion": (
        "",
        lambda path: {"embeddings": [{"path": path, "token": "boat"}]},
    ),
    "SparseCtrl": (
        "sparsectrl_rgb/weights.safetensors",
        lambda path: {"controls": [{"path": path, "images": [picture()]}]},
    ),
}


def empty(_good: Weights, path: Path) -> Path:
    path.with_suffix(".safetensors").write_bytes(b"")
    return path.with_suffix(".safetensors")


def text(_good: Weights, path: Path) -> Path:
    path.with_suffix(".safetensors").write_text("<html>404: not found</html>\n" * 100)
    return path.with_suffix(".safetensors")


def truncated(good: Weights, path: Path) -> Path:
    target = path.with_suffix(".safetensors")
    save_file(good, target)
    target.write_bytes(target.read_bytes()[: target.stat().st_size // 2])
    return target


def truncated_pickle(good: Weights, path: Path) -> Path:
    target = path.with_suffix(".ckpt")
    torch.save(good, target)
    target.write_bytes(target.read_bytes()[: target.stat().st_size // 2])
    return target


def corrupted(good: Weights, path: Path) -> Path:
    target = path.with_suffix(".safetensors")
    save_file(good, target)
    content = bytearray(target.read_bytes())
    content[20:60] = bytes(byte ^ 0x55 for byte in content[20:60])
    target.write_bytes(content)
    return target


def without_tensors(_good: Weights, path: Path) -> Path:
    save_file({}, path.with_suffix(".safetensors"))
    return path.with_suffix(".safetensors")


def hostile(_good: Weights, path: Path) -> Path:
    """A pickle that would make a file if it were allowed to run."""
    target = path.with_suffix(".ckpt")
    trace = path.with_suffix(".trace")

    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (trace,)

    torch.save({"state_dict": Payload()}, target)
    return target


def foreign(_good: Weights, path: Path) -> Path:
    save_file(
        {"encoder.layers.0.weight": torch.ones(4, 4)}, path.with_suffix(".safetensors")
    )
    return path.with_suffix(".safetensors")


def of_other_widths(good: Weights, path: Path) -> Path:
    wider = {
        key: torch.cat([tensor, tensor], dim=-1) if tensor.ndim > 1 else tensor
        for key, tensor in good.items()
    }
    save_file(wider, path.with_suffix(".safetensors"))
    return path.with_suffix(".safetensors")


def not_a_number(good: Weights, path: Path) -> Path:
    spoilt = {
        k: t * float("nan") if t.is_floating_point() and not k.endswith("alpha") else t
        for k, t in good.items()
    }
    save_file(spoilt, path.with_suffix(".safetensors"))
    return path.with_suffix(".safetensors")


DAMAGES: Mapping[Callable[[Weights, Path], Path], str] = {
    empty: "it is empty",
    text: "it is a web page",
    truncated: "cut short or damaged",
    truncated_pickle: "cannot be read as weights",
    corrupted: "cannot be read as weights",
    without_tensors: "holds no weights",
    hostile: "wants to run code",
    foreign: "",
    of_other_widths: "",
    not_a_number: "holds NaN or infinity in",
}


@pytest.fixture(scope="module")
def good(golden: Path) -> dict[str, Weights]:
    width = load_file(golden / "common" / "text_encoder.safetensors")[
        "text_model.final_layer_norm.weight"
    ].numel()
    weights = {
        kind: read_weights(golden / file) for kind, (file, _) in KINDS.items() if file
    }
    weights = {
        kind: {k: t.clone().contiguous() for k, t in tensors.items()}
        for kind, tensors in weights.items()
    }
    return {**weights, "textual inversion": {"emb_params": torch.randn(2, width)}}


@pytest.fixture(scope="module")
def stack(
    golden: Path, good: dict[str, Weights], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """A job that uses a good file of every kind."""
    folder = tmp_path_factory.mktemp("good")
    save_file(good["textual inversion"], folder / "embedding.safetensors")
    fields: dict[str, Any] = {
        "prompt": "a boat on the sea",
        "num_frames": 4,
        "width": 96,
        "height": 96,
        "num_inference_steps": 2,
        "seed": 5,
        "format": "png_zip",
        "model": str(model_folder(golden / "common", folder / "base")),
        "loras": [],
    }
    for file, field in KINDS.values():
        for name, value in field(
            str(golden / file if file else folder / "embedding.safetensors")
        ).items():
            fields[name] = fields[name] + value if name == "loras" else value
    return fields


@pytest.fixture(scope="module")
def settings() -> Settings:
    return Settings(any_path=True)


@pytest.fixture(scope="module")
def runner(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> JobRunner:
    storage = LocalStorage(tmp_path_factory.mktemp("out"))
    return JobRunner(
        Engine(settings), storage, settings, parse_job_input, render_job_output
    )


def pixels(engine: Engine, fields: dict[str, Any]) -> bytes:
    return engine.generate(
        engine.prepare(parse_job_input(fields))
    ).video.frames.tobytes()


@pytest.fixture(scope="module")
def fresh(settings: Settings, stack: dict[str, Any]) -> bytes:
    return pixels(Engine(settings), stack)


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("kind", KINDS)
def test_a_bad_file_is_refused_and_leaves_nothing_behind(
    kind: str,
    damage: Callable[[Weights, Path], Path],
    good: dict[str, Weights],
    stack: dict[str, Any],
    fresh: bytes,
    runner: JobRunner,
    tmp_path: Path,
) -> None:
    path = damage(good[kind], tmp_path / "bad")
    job = {"id": "j", "input": {**stack, **KINDS[kind][1](str(path))}}
    error = runner.run(job, ignore, threading.Event()).get("error", {})
    assert error["code"] == "CHECKPOINT_MISMATCH"
    assert path.name in error["message"]
    assert DAMAGES[damage] in error["message"]
    assert str(tmp_path) not in str(error)
    assert not (tmp_path / "bad.trace").exists()
    assert pixels(runner.engine, stack) == fresh
