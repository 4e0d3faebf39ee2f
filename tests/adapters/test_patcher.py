"""What the patcher promises: what the weights are depends on the last stack alone,
whatever came before or failed.
"""

import hashlib
import math
import random
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from animatediff.adapters import patcher
from animatediff.adapters.patcher import WeightPatcher
from animatediff.checkpoints.weight_changes import WeightChange, low_rank
from animatediff.errors import CheckpointError, EngineCorrupted
from animatediff.job.prepared import LoraUse
from animatediff.pipeline import AnimationPipeline
from animatediff.published import load_weights
from lab.counting.fake_cuda import to_fake
from lab.golden.reference import Golden

pytestmark = pytest.mark.slow

STEPS = 500


def fingerprint(pipeline: AnimationPipeline) -> str:
    digest = hashlib.sha256()
    for model in pipeline.models.parts.values():
        for key, tensor in model.state_dict().items():
            digest.update(
                key.encode()
                + tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()
            )
    return digest.hexdigest()


def pipeline_in(dtype: torch.dtype, golden: Path) -> AnimationPipeline:
    return load_weights(
        Golden(golden, dtype).pipeline, golden / "loading" / "mm_v2.ckpt"
    )


@pytest.fixture
def pipeline(golden: Path) -> AnimationPipeline:
    return pipeline_in(torch.float32, golden)


class Fault(BaseException):
    """As a cancellation: not an Exception."""


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """``plan["after"]`` sums go well, then ``plan["error"]`` is raised."""
    plan: dict[str, Any] = {"after": None, "error": Fault}
    real = patcher._sum

    def sum_or_fail(*arguments: Any) -> torch.Tensor:
        if plan["after"] is not None:
            if plan["after"] == 0:
                raise plan["error"]("injected")
            plan["after"] -= 1
        return real(*arguments)

    monkeypatch.setattr(patcher, "_sum", sum_or_fail)
    return plan


Stack = tuple[Path | None, tuple[LoraUse, ...], Path | None]
"""DreamBooth file, LoRAs, VAE file."""


def configure(pipeline: AnimationPipeline, stack: Stack) -> None:
    base, loras, vae = stack
    pipeline.configure_weights(None, base, loras, vae=vae)


def other_methods(folder: Path, pipeline: AnimationPipeline) -> list[Path]:
    """A file for each method, all of which change the same layers."""
    torch.manual_seed(1)
    keys = [
        key
        for key, tensor in pipeline.unet.state_dict().items()
        if key.endswith(("attn1.to_q.weight", "conv1.weight", "conv_shortcut.weight"))
        and tensor.shape[1] % 2 == 0
    ][::4]
    methods: dict[str, dict[str, torch.Tensor]] = {
        name: {} for name in ("LoHa", "LoKr", "DoRA", "IA3", "difference")
    }
    for key in keys:
        rows, columns, *rest = pipeline.unet.state_dict()[key].shape
        size = columns * math.prod(rest)
        layer = "lora_unet_" + key.removesuffix(".weight").replace(".", "_")
        layers = {
            "LoHa": {f"hada_w{i}_a": (rows, 2) for i in (1, 2)}
            | {f"hada_w{i}_b": (2, size) for i in (1, 2)},
            "LoKr": {"lokr_w1": (2, 2), "lokr_w2": (rows // 2, columns // 2, *rest)},
            "DoRA": {
                "lora_down.weight": (2, columns, *rest),
                "lora_up.weight": (rows, 2),
                "dora_scale": (rows, 1),
            },
            "IA3": {"weight": (rows,), "on_input": ()},
            "difference": {"diff": (rows, columns, *rest)},
        }
        for method, parts in layers.items():
            for part, shape in parts.items():
                tensor = torch.randn(shape) / 5 if shape else torch.zeros(())
                methods[method][f"{layer}.{part}"] = tensor
    paths = [folder / f"{method}.safetensors" for method in methods]
    for path, weights in zip(paths, methods.values(), strict=True):
        save_file(weights, path)
    return paths


def random_stack(
    chance: random.Random, folder: Path, vae: Path, others: list[Path]
) -> Stack:
    base = folder / "dreambooth_ldm.safetensors" if chance.random() < 0.3 else None
    names = [
        "kohya_lora.safetensors",
        "v3_adapter.ckpt",
        "motion_lora_A.ckpt",
        "motion_lora_B_wrapped.ckpt",
    ]
    files = [*(folder / name for name in names), *others]
    chosen = chance.sample(files, chance.randint(0, 4))
    loras = tuple(
        LoraUse(
            file=str(n),
            strength=chance.choice((0.5, 1.0)),
            ignore_file_alpha=chance.random() < 0.5,
        )
        for n in chosen
    )
    return base, loras, vae if chance.random() < 0.3 else None


def test_weights_depend_on_the_stack_alone(
    golden: Path, tmp_path: Path, failing: dict[str, Any]
) -> None:
    chance = random.Random(0)
    folder = golden / "loading"
    pipeline, twin = (pipeline_in(torch.float16, golden) for _ in range(2))
    corrupt = tmp_path / "corrupt.safetensors"
    corrupt.write_bytes((folder / "kohya_lora.safetensors").read_bytes()[:9000])
    clean = fingerprint(pipeline)
    storages = [tensor.data_ptr() for tensor in pipeline.unet.state_dict().values()]
    vae = tmp_path / "vae.safetensors"
    weights = load_file(golden / "common" / "vae.safetensors")
    save_file({key: tensor * 0.5 for key, tensor in weights.items()}, vae)
    others = other_methods(tmp_path, twin)
    pool = [random_stack(chance, folder, vae, others) for _ in range(25)]
    expected: dict[Any, str] = {}
    for (
        stack
    ) in pool:  # each once, on a pipeline that has seen nothing but its base before
        configure(twin, stack)
        expected[stack] = fingerprint(twin)
        configure(twin, (stack[0], stack[1][::-1], stack[2]))
        assert fingerprint(twin) == expected[stack]  # whatever the order of its LoRAs
        twin.weights.patcher.restore()
        assert fingerprint(twin) == clean
    assert len(set(expected.values())) > 15
    last = clean
    faults = {"memory": 0, "cancel": 0, "corrupt": 0, "none": 0}
    for _ in range(STEPS):
        stack = chance.choice(pool)
        fault = chance.choices(list(faults), weights=(1, 1, 1, 7))[0]
        if fault == "corrupt":
            with pytest.raises(CheckpointError):
                configure(
                    pipeline,
                    (stack[0], (*stack[1], LoraUse(str(corrupt))), stack[2]),
                )
            assert fingerprint(pipeline) == last  # found before anything was written
        elif fault == "none":
            configure(pipeline, stack)
            last = expected[stack]
            assert fingerprint(pipeline) == last
        else:
            error = torch.OutOfMemoryError if fault == "memory" else Fault
            failing.update(after=chance.randint(0, 60), error=error)
            failed = False
            with suppress(error):
                failed = True
                configure(pipeline, stack)
                failed = False  # the stack had fewer weights than that
            failing["after"] = None
            last = clean if failed else expected[stack]
            assert fingerprint(pipeline) == last
        faults[fault] += 1
    assert min(faults.values()) >= 20
    assert [
        tensor.data_ptr() for tensor in pipeline.unet.state_dict().values()
    ] == storages
    pipeline.weights.patcher.restore()
    assert fingerprint(pipeline) == clean
    assert pipeline.weights.patcher.host_bytes == 0


def test_changes_are_sums_of_what_each_file_does_alone(
    golden: Path, tmp_path: Path
) -> None:
    """In proportion to its strength, with every method: the sum of several files is
    that of their changes of the original weights, a DoRA's too.
    """
    pipeline = pipeline_in(torch.float64, golden)
    files = other_methods(tmp_path, pipeline)

    def change(*strengths: float) -> dict[str, torch.Tensor]:
        loras = [
            LoraUse(str(path), strength=strength)
            for path, strength in zip(files, strengths, strict=True)
        ]
        pipeline.configure_weights(None, None, loras)
        state = pipeline.unet.state_dict()
        return {key: tensor - clean[key] for key, tensor in state.items()}

    clean = {key: t.clone() for key, t in pipeline.unet.state_dict().items()}
    each = [change(*(float(i == k) for k in range(5))) for i in range(5)]
    together = change(0.5, -1.0, 2.0, 0.25, 1.5)
    changed = {key for key, tensor in together.items() if tensor.any()}
    assert len(changed) > 3
    for key, tensor in together.items():
        parts = zip((0.5, -1.0, 2.0, 0.25, 1.5), each, strict=True)
        expected = sum(strength * alone[key] for strength, alone in parts)
        assert torch.allclose(tensor, torch.as_tensor(expected), rtol=1e-9, atol=1e-9)
        assert all(alone[key].any() for alone in each) == (key in changed)


def test_copies_on_the_host_are_bounded(
    pipeline: AnimationPipeline, golden: Path
) -> None:
    models = pipeline.models.parts.values()
    size = sum(
        t.numel() * t.element_size()
        for model in models
        for t in model.state_dict().values()
    )
    lora = LoraUse(str(golden / "loading" / "kohya_lora.safetensors"))
    for _ in range(3):
        pipeline.configure_weights(
            None, golden / "loading" / "dreambooth_ldm.safetensors", [lora]
        )
        assert 0 < pipeline.weights.patcher.host_bytes <= size
        assert pipeline.weights.host_bytes <= pipeline.weights.patcher.host_bytes + size
    pipeline.configure_weights(None, None, [lora])
    assert pipeline.weights.host_bytes == pipeline.weights.patcher.host_bytes
    assert 0 < pipeline.weights.patcher.host_bytes < size / 2


def test_a_base_that_stays_is_neither_read_nor_written_again(
    pipeline: AnimationPipeline,
    golden: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    base = tmp_path / "base.safetensors"
    base.write_bytes((golden / "loading" / "dreambooth_ldm.safetensors").read_bytes())
    lora = LoraUse(str(golden / "loading" / "motion_lora_A.ckpt"))
    pipeline.configure_weights(None, base, [])
    written: list[Any] = []
    real = patcher._write
    with monkeypatch.context() as patch:
        patch.setattr(
            "animatediff.adapters.stack.read_single_file", None
        )  # would fail if it were called
        patch.setattr(
            patcher,
            "_write",
            lambda live, value: (written.append(1), real(live, value)),
        )
        pipeline.configure_weights(None, base, [lora])
        touched = len(written)
        pipeline.configure_weights(None, base, [])
    assert 0 < touched < len(pipeline.weights.patcher.shapes()) / 4
    assert len(written) == 2 * touched
    changed = load_file(base)
    save_file({key: tensor * 0.5 for key, tensor in changed.items()}, base)
    before = fingerprint(pipeline)
    pipeline.configure_weights(None, base, [])
    assert (
        fingerprint(pipeline) != before
    )  # another content under the same name is read


def test_a_failed_restore_poisons(
    pipeline: AnimationPipeline, golden: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lora = LoraUse(str(golden / "loading" / "kohya_lora.safetensors"))
    pipeline.configure_weights(None, None, [lora])

    def broken(*_: Any) -> None:
        raise RuntimeError("the device is gone")

    with monkeypatch.context() as patch:
        patch.setattr(patcher, "_write", broken)
        with pytest.raises(EngineCorrupted):
            pipeline.configure_weights(None, None, [])
    for _ in range(2):  # and stays so, though writing works again
        with pytest.raises(EngineCorrupted):
            pipeline.configure_weights(None, None, [lora])


def test_names_and_shapes_are_checked_before_anything_is_written(
    pipeline: AnimationPipeline,
) -> None:
    clean = fingerprint(pipeline)
    change = WeightChange(
        ("unet", "no.such.weight"),
        low_rank,
        {"down": torch.zeros(1, 4), "up": torch.zeros(4, 1)},
    )
    with pytest.raises(CheckpointError, match="no weight"):
        pipeline.weights.patcher.apply(
            {("unet", "conv_in.bias"): torch.ones(32)}, [patcher.Change(change, 1.0)]
        )
    with pytest.raises(CheckpointError, match="replacement"):
        pipeline.weights.patcher.apply({("unet", "conv_in.bias"): torch.ones(31)}, [])
    assert fingerprint(pipeline) == clean


def test_nothing_carries_over_between_calls(
    pipeline: AnimationPipeline, golden: Path
) -> None:
    folder = golden / "loading"
    clean = fingerprint(pipeline)
    load_weights(
        pipeline,
        dreambooth_model_path=folder / "dreambooth_ldm.safetensors",
        lora_model_path=folder / "kohya_lora.safetensors",
        motion_module_lora_configs=[
            {"path": folder / "motion_lora_A.ckpt", "alpha": 0.5}
        ],
    )
    assert fingerprint(pipeline) != clean
    load_weights(pipeline, folder / "mm_v2.ckpt")
    assert fingerprint(pipeline) == clean


def test_a_refused_motion_module_leaves_everything(
    pipeline: AnimationPipeline, golden: Path, tmp_path: Path
) -> None:
    folder = golden / "loading"
    load_weights(pipeline, lora_model_path=folder / "kohya_lora.safetensors")
    before = fingerprint(pipeline)
    weights = torch.load(folder / "mm_v2.ckpt", weights_only=True)
    del weights["down_blocks.0.motion_modules.0.temporal_transformer.proj_in.bias"]
    torch.save(weights, tmp_path / "lacking.ckpt")
    with pytest.raises(CheckpointError, match="1 missing"):
        load_weights(pipeline, tmp_path / "lacking.ckpt")
    assert fingerprint(pipeline) == before


def test_whole_slots_that_a_file_leaves_out_are_empty_and_said(
    pipeline: AnimationPipeline, golden: Path
) -> None:
    with pytest.warns(UserWarning, match="no weights for .* motion modules"):
        load_weights(pipeline, golden / "loading" / "mm_v2_wrapped.ckpt", "v2")
    slots = {
        key.split(".temporal")[0]
        for key in pipeline.unet.state_dict()
        if ".motion_modules." in key
    }
    assert slots
    assert all(slot.startswith("down_blocks.1.") for slot in slots)


@pytest.mark.usefixtures("fake_cuda")
def test_copies_stay_on_a_gpu_that_has_room() -> None:
    """Four layers of 2, 4, 6 and 8 bytes, with room for 7."""
    with FakeTensorMode() as mode:
        layers = {
            str(size): nn.Linear(size, 1, bias=False, device="meta")
            for size in range(1, 5)
        }
        model = to_fake(nn.ModuleDict(layers), mode, torch.float16)
        weights = WeightPatcher({"unet": model})
        replacements = {
            ("unet", key): tensor.clone() for key, tensor in model.state_dict().items()
        }
        weights.apply(replacements, (), spare=7)
        assert (weights.device_bytes, weights.host_bytes) == (2 + 4, 6 + 8)
        assert weights.move_copies_to_host()
        assert (weights.device_bytes, weights.host_bytes) == (0, 20)
        assert not weights.move_copies_to_host()
        weights.apply(replacements, (), spare=100)
        assert weights.device_bytes == 0
        weights.restore()
        assert weights.host_bytes == 0
        weights.apply(replacements, (), spare=100)
        assert (weights.device_bytes, weights.host_bytes) == (20, 0)
