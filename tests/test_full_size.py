"""SD 1.5 at its real size, float16, 512x512x16, on a CUDA device that computes nothing
(see lab/counting/fake_cuda.py).

What it finds: a tensor left on the CPU, a dtype that does not fit, a wait for the
device in a step, needless work.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from animatediff.conditioning.conditions import Conditions
from animatediff.config import (
    SPARSECTRL_RGB,
    SPARSECTRL_SCRIBBLE,
    V1,
    V2,
    V3,
    MotionModuleConfig,
    SparseControlNetConfig,
)
from animatediff.families import SD15
from animatediff.memory import Work
from animatediff.models.image_model import ImageModel
from animatediff.models.unet import UNet3DConditionModel
from animatediff.pipeline import AnimationPipeline
from animatediff.progress import Progress
from animatediff.sampling.inputs import AnimationInputs
from animatediff.settings import PROJECT_ROOT
from lab.counting import memory as count_memory
from lab.counting.fake_cuda import (
    DEVICE,
    PlainScheduler,
    run_with_gradients,
    to_fake,
)
from lab.counting.memory import EnoughSteps

STEPS = 2


@pytest.fixture
def mode(fake_cuda: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeTensorMode]:
    del fake_cuda
    monkeypatch.setattr("animatediff.sampling.steps.make_scheduler", PlainScheduler)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        yield mode


def denoise(
    mode: FakeTensorMode, motion: MotionModuleConfig, guidance_scale: float
) -> float:
    """Run a few steps; TFLOP of one step, without what is computed once a job."""
    with torch.device("meta"):
        unet = UNet3DConditionModel(SD15.unet_config, motion)
    to_fake(unet, mode, torch.float16)
    vae = SimpleNamespace(
        config=SimpleNamespace(block_out_channels=(128, 256, 512, 512))
    )
    pipeline = AnimationPipeline(ImageModel(unet, vae))
    inputs = AnimationInputs(
        "", width=512, height=512, num_inference_steps=25, guidance_scale=guidance_scale
    )
    texts = 2 if guidance_scale > 1 else 1
    conditions = Conditions(
        torch.empty(texts, 77, 768, device=DEVICE, dtype=torch.float16)
    )
    counted: list[float] = []

    def count(progress: Progress) -> None:
        latents = progress.latents
        assert latents is not None
        assert latents.device == DEVICE
        assert latents.dtype == torch.float32
        counted.append(counter.get_total_flops() / 1e12)
        if progress.step == STEPS:
            # before the verdict on NaN is read, which is no number here
            raise EnoughSteps

    counter = FlopCounterMode(display=False)
    with counter, pytest.raises(EnoughSteps):
        pipeline.denoise(inputs, conditions, report=count)
    return counted[-1] - counted[-2]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("motion", "tflop"), [(V1, 35.35), (V2, 35.50), (V3, 35.35)], ids=["v1", "v2", "v3"]
)
def test_step_costs_what_the_architecture_needs(
    mode: FakeTensorMode, motion: MotionModuleConfig, tflop: float
) -> None:
    """Counted on diffusers' UNet: 35.50 (v2), 35.35 (v1, v3).

    0.094 of it are text keys and values, here no step's. What comes before the first
    attention to the text, 0.67 for one of the two prompts, is computed for both.
    """
    got = denoise(mode, motion, 7.5)
    print(f"one step, 512x512x16, guidance: {got:.3f} TFLOP")
    assert got == pytest.approx(tflop - 0.094 - 0.67, abs=0.02)


@pytest.mark.slow
def test_no_guidance_is_half(mode: FakeTensorMode) -> None:
    assert denoise(mode, V3, 1.0) == pytest.approx((35.35 - 0.094) / 2, abs=0.01)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("work", "controls", "lean"),
    [
        (Work(16, 512, 512), [], False),
        (Work(16, 512, 512), [], True),
        (Work(16, 512, 512, texts=1), [], False),
        (Work(24, 768, 512), [SPARSECTRL_RGB], False),
        (Work(16, 512, 512), [SPARSECTRL_SCRIBBLE, SPARSECTRL_RGB], False),
        (Work(16, 512, 512), [SPARSECTRL_SCRIBBLE, SPARSECTRL_RGB], True),
    ],
    ids=["text", "lean", "one text", "rgb", "two branches", "lean, two branches"],
)
@pytest.mark.usefixtures("fake_cuda")
def test_memory_model_says_what_is_counted(
    work: Work, controls: list[SparseControlNetConfig], lean: bool
) -> None:
    work = replace(work, controls=len(controls))
    model = count_memory.memory_model(V3, controls)
    counted = (
        count_memory.count_denoise(work, V3, controls, lean=lean) + model.weight_bytes
    )
    message = model.needed_lean(work) if lean else model.needed(work, 1)
    print(f"counted {counted / 1e9:.2f} GB, said {message / 1e9:.2f} GB")
    assert message == pytest.approx(counted, rel=0.03)


@pytest.mark.slow
@pytest.mark.usefixtures("fake_cuda")
def test_more_windows_need_no_more_memory_than_their_latents() -> None:
    counted = [
        count_memory.count_denoise(Work(frames, 512, 512, window=16), V3)
        for frames in (17, 28)
    ]
    latents = 11 * 4 * 64 * 64 * 4  # in float32
    assert counted[1] - counted[0] <= 5 * latents


@pytest.mark.slow
@pytest.mark.parametrize(("chunk", "size"), [(4, 512), (1, 1024)])
@pytest.mark.usefixtures("fake_cuda")
def test_memory_model_knows_the_decoder(chunk: int, size: int) -> None:
    model = count_memory.memory_model(V3)
    counted = count_memory.count_decode(chunk, size, size) + model.weight_bytes
    only_decoder = replace(model, unet_width=0)
    assert only_decoder.needed(Work(chunk, size, size), chunk) == pytest.approx(
        counted, rel=0.03
    )


@pytest.mark.slow
@pytest.mark.usefixtures("fake_cuda")
def test_training_runs_in_mixed_precision(capfd: pytest.CaptureFixture[str]) -> None:
    """Forward, backward and the optimizer for a v3 motion module, on a clip at a time:
    it fits a card of 16 GB.
    """
    keys = Path(__file__).parent / "data" / "keys" / "motion_module_v3.json"
    values = sum(map(math.prod, json.loads(keys.read_text()).values()))
    config = str(PROJECT_ROOT / "configs" / "training" / "motion.yaml")
    assert (
        run_with_gradients("lab.counting.training", [config, "--batch-size", "1"]) == 0
    )
    *_, row = capfd.readouterr().out.strip().splitlines()
    print(row)
    what, size, _, precision, trained, gigabytes, _ = (
        cell.strip() for cell in row.strip("|").split("|")
    )
    assert (what, size, precision) == ("motion", "1 x 16", "fp16")
    assert float(trained) == pytest.approx(values / 1e6, abs=0.1)
    in_all = 4 * 4 * values  # weights, their average, and two moments of the optimizer
    assert in_all / 1e9 < float(gigabytes) < 16
