"""LoRAs come and go with the jobs of a warm worker."""

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from animatediff.engine import Engine
from animatediff.progress import ignore
from animatediff.serving.job import JobRunner
from animatediff.serving.storage import LocalStorage
from animatediff.settings import Settings
from animatediff.video import read_metadata
from schemas import JobOutput, parse_job_input, render_job_output

SMALL = {
    "prompt": "a red circle",
    "num_frames": 4,
    "num_inference_steps": 2,
    "seed": 5,
    "format": "png_zip",
}
ATTENTION = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
MODULE = "down_blocks.0.motion_modules.0.temporal_transformer"
TEMPORAL = f"{MODULE}.transformer_blocks.0.attention_blocks.0"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    (folder / "shapeworld").symlink_to(Settings().models_dir / "shapeworld")
    (folder / "loras").mkdir()
    generator = torch.Generator().manual_seed(0)

    def pair(down: str, up: str, width: int = 32) -> dict[str, torch.Tensor]:
        return {
            down: torch.randn(4, width, generator=generator),
            up: torch.randn(32, 4, generator=generator),
        }

    kohya = "lora_unet_" + ATTENTION.replace(".", "_")
    style = pair(f"{kohya}.lora_down.weight", f"{kohya}.lora_up.weight")
    style["surplus"] = torch.zeros(1)
    save_file(style, folder / "loras" / "style.safetensors")
    motion = pair(
        f"{TEMPORAL}.processor.to_v_lora.down.weight",
        f"{TEMPORAL}.processor.to_v_lora.up.weight",
    )
    save_file(motion, folder / "loras" / "zoom.safetensors")
    v2 = {
        key.replace("down_blocks.0", "mid_block"): torch.randn(
            tensor.shape, generator=generator
        )
        for key, tensor in motion.items()
    }
    save_file({**motion, **v2}, folder / "loras" / "v2.safetensors")
    save_file(
        pair("unet.elsewhere.lora_A.weight", "unet.elsewhere.lora_B.weight"),
        folder / "loras" / "no.safetensors",
    )
    (folder / "loras" / "cut.safetensors").write_bytes(
        (folder / "loras" / "style.safetensors").read_bytes()[:300]
    )
    (folder / "loras" / "empty.ckpt").write_bytes(b"")
    (folder / "loras" / "code.ckpt").write_bytes(
        b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00true\x85R."
    )
    return folder


@pytest.fixture(scope="module")
def runner(models: Path, tmp_path_factory: pytest.TempPathFactory) -> JobRunner:
    settings = Settings(models_dir=models)
    storage = LocalStorage(tmp_path_factory.mktemp("out"))
    return JobRunner(
        Engine(settings), storage, settings, parse_job_input, render_job_output
    )


def run(runner: JobRunner, *loras: dict[str, Any]) -> dict[str, Any]:
    job = {"id": "job", "input": {**SMALL, "loras": list(loras)}}
    return runner.run(job, ignore, threading.Event())


def pixels(runner: JobRunner, *loras: dict[str, Any]) -> bytes:
    """The frames of a job with ``loras``, on the runner's warm engine."""
    engine = runner.engine
    request = engine.prepare(parse_job_input({**SMALL, "loras": list(loras)}))
    return engine.generate(request).video.frames.tobytes()


STYLE = {"path": "loras/style.safetensors", "strength": 0.5}
ZOOM = {"path": "loras/zoom.safetensors", "strength": 0.5}


@pytest.mark.slow
def test_what_a_job_shows_depends_on_its_loras_alone(
    runner: JobRunner, models: Path
) -> None:
    stacks = [(), (STYLE,), (ZOOM,), (STYLE, ZOOM), ({**STYLE, "strength": -0.5},)]
    fresh = []
    for stack in stacks:
        alone = Engine(Settings(models_dir=models))
        fresh.append(
            alone.generate(
                alone.prepare(parse_job_input({**SMALL, "loras": list(stack)}))
            ).video.frames.tobytes()
        )
    assert len(set(fresh)) == len(stacks)
    for i in (0, 1, 2, 3, 1, 4, 0, 3, 0):
        assert pixels(runner, *stacks[i]) == fresh[i]


def test_a_stack_that_is_loaded_is_not_loaded_again(
    runner: JobRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels(runner, STYLE)
    monkeypatch.setattr(
        "animatediff.adapters.stack.read_lora", None
    )  # would fail if it were called
    pixels(runner, STYLE)


@pytest.mark.slow
def test_frames_do_not_depend_on_the_spelling(runner: JobRunner, models: Path) -> None:
    torch.manual_seed(2)
    down, up = torch.randn(4, 32), torch.randn(32, 4)
    attention, layer = ATTENTION.rsplit(".", 1)
    ldm = "input_blocks_1_1_transformer_blocks_0_attn1_to_q"
    module, end = TEMPORAL.rsplit(".temporal_transformer", 1)
    adapter = module + end.replace("attention_blocks.0", "attn1")
    spellings = {
        ("style", "lora_{}.weight", "down", "up"): (
            f"lora_unet_{ATTENTION.replace('.', '_')}.",
            f"lora_unet_{ldm}.",
        ),
        ("style", "lora_{}.weight", "A", "B"): (f"base_model.model.{ATTENTION}.",),
        ("style", "lora.{}.weight", "down", "up"): (f"{ATTENTION}.",),
        ("style", "{}.weight", "down", "up"): (f"{attention}.processor.{layer}_lora.",),
        ("zoom", "{}.weight", "down", "up"): (
            f"{TEMPORAL}.processor.to_v_lora.",
            f"unet.{adapter}.processor.to_v_lora.",
        ),
        ("zoom", "lora_{}.weight", "A", "B"): (f"unet.{adapter}.to_v.",),
    }
    frames: dict[str, set[bytes]] = {"style": {pixels(runner)}, "zoom": set()}
    for (kind, ends, first, second), stems in spellings.items():
        for stem in stems:
            weights = {
                stem + ends.format(half): tensor
                for half, tensor in ((first, down), (second, up))
            }
            save_file(weights, models / "loras" / "spelled.safetensors")
            made = pixels(runner, {"path": "loras/spelled.safetensors"})
            frames[kind].add(made)
    assert (len(frames["style"]), len(frames["zoom"])) == (2, 1)
    assert frames["style"].isdisjoint(frames["zoom"])


def test_the_output_and_the_file_name_the_loras(runner: JobRunner) -> None:
    output = JobOutput.model_validate(run(runner, STYLE, ZOOM))
    assert [(lora.name, lora.strength) for lora in output.loras] == [
        (STYLE["path"], 0.5),
        (ZOOM["path"], 0.5),
    ]
    assert any(
        "style.safetensors: 1 keys fit no layer" in warning
        for warning in output.warnings
    )
    path = Path(output.url.removeprefix("file://"))
    assert read_metadata(path)["loras"] == [lora.model_dump() for lora in output.loras]
    assert not any("fit no layer" in warning for warning in run(runner)["warnings"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "code", "message"),
    [
        ("loras/absent.safetensors", "ASSET_UNAVAILABLE", "below the models folder"),
        ("loras/cut.safetensors", "CHECKPOINT_MISMATCH", "cannot be read"),
        ("loras/empty.ckpt", "CHECKPOINT_MISMATCH", "cannot be read"),
        ("loras/code.ckpt", "CHECKPOINT_MISMATCH", "cannot be read"),
        ("loras/no.safetensors", "CHECKPOINT_MISMATCH", "fits no layer"),
        ("loras/v2.safetensors", "CHECKPOINT_MISMATCH", "MotionLoRA for a v2"),
        (
            "shapeworld/vae/diffusion_pytorch_model.safetensors",
            "CHECKPOINT_MISMATCH",
            "it is VAE",
        ),
        ("../loras/style.safetensors", "INVALID_REQUEST", "loras.0.path"),
        ("/loras/style.safetensors", "INVALID_REQUEST", "loras.0.path"),
        ("loras\\style.safetensors", "INVALID_REQUEST", "loras.0.path"),
        ("loras/style.txt", "INVALID_REQUEST", "loras.0.path"),
        ("a" * 280 + ".ckpt", "ASSET_UNAVAILABLE", "below the models folder"),
    ],
)
def test_a_refused_lora_changes_nothing(
    path: str, code: str, message: str, runner: JobRunner
) -> None:
    before = pixels(runner, STYLE)
    error = run(runner, {"path": path})["error"]
    assert error["code"] == code
    assert message in error["message"]
    assert pixels(runner, STYLE) == before


@pytest.mark.parametrize(
    "lora",
    [
        {},
        {"path": ""},
        {"path": "x.ckpt", "strength": 11},
        {"path": "x.ckpt", "weight": 1},
    ],
)
def test_wrong_fields_are_named(lora: dict[str, Any], runner: JobRunner) -> None:
    error = run(runner, lora)["error"]
    assert error["code"] == "INVALID_REQUEST"
    assert error["field"].startswith("loras.0.")


@pytest.mark.slow
def test_memory_that_runs_out_while_patching(
    runner: JobRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = pixels(runner)

    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("injected")

    with monkeypatch.context() as patch:
        patch.setattr("animatediff.adapters.patcher._sum", full)
        assert run(runner, STYLE)["error"]["code"] == "OUT_OF_MEMORY"
    assert pixels(runner) == plain
