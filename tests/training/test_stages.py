"""Every stage on tiny models: it learns, ends as a file that is known for what it is,
and the file does something.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from small_runs import MakeConfig
from torch import Tensor

from animatediff.checkpoints.detect import FileKind, detect
from animatediff.checkpoints.files import read_weights
from animatediff.checkpoints.motion_module import read_motion_module
from animatediff.controls.sparsectrl import SparseControl, load_sparse_controlnet
from animatediff.errors import CheckpointError, ConfigurationError
from animatediff.families import SD15
from animatediff.pipeline import AnimationPipeline
from animatediff.published import load_weights
from animatediff.sampling.inputs import AnimationInputs
from animatediff.training.config import StageName, TrainConfig
from animatediff.training.export import Origin
from animatediff.training.feeding import GlobalBatch, Reader, Slot
from animatediff.training.learners import Batch, Learner
from animatediff.training.stages import STAGES, build_learner, open_clips

pytestmark = pytest.mark.slow

INPUTS = AnimationInputs(
    "a red circle on a black background",
    num_frames=2,
    width=64,
    height=64,
    num_inference_steps=2,
    guidance_scale=1.0,
)
RATES = {"lora": 3e-2, "domain_adapter": 3e-2, "motion_lora": 3e-2, "sparsectrl": 5e-3}
"""Of learning, where it is not 1e-3: what begins at zero has a way to go."""
KINDS = {
    "text_to_image": FileKind(
        "single file (LDM)", "SD 1.5", parts=("unet", "vae", "text encoder")
    ),
    "image": FileKind(
        "single file (LDM)", "SD 1.5", parts=("unet", "vae", "text encoder")
    ),
    "lora": FileKind("LoRA", "kohya", (4,)),
    "domain_adapter": FileKind(
        "LoRA", "attention processors, as of a domain adapter", (4,)
    ),
    "motion": FileKind("motion module", "v3", parts=("positional table of 32",)),
    "motion_lora": FileKind("MotionLoRA", "v1 or v3", (4,)),
    "sparsectrl": FileKind("SparseCtrl", "rgb"),
    "lcm": FileKind("motion module", "v3", parts=("positional table of 32",)),
}


def prepared(config: TrainConfig, learner: Learner, count: int = 2) -> Batch:
    reader = Reader(open_clips(config), sketches=config.model.control == "scribble")
    return learner.prepare(
        [reader[Slot(0, i, 0, i)] for i in range(count)], torch.device("cpu")
    )


def trained(config: TrainConfig, steps: int = 5) -> tuple[Learner, list[float]]:
    """A learner after ``steps`` on one batch, and its losses."""
    learner = build_learner(config, GlobalBatch(config.batch_size))
    batch = prepared(config, learner)
    optimizer = torch.optim.AdamW(
        learner.trained().values(), lr=RATES.get(config.stage, 1e-3)
    )
    losses = []
    for _ in range(steps):
        loss = learner(batch).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert optimizer.state.keys() == set(
        learner.trained().values()
    )  # none is left out by the loss
    return learner, losses


def clip_of(pipeline: AnimationPipeline, controls: Any = ()) -> Tensor:
    return pipeline.denoise(INPUTS, pipeline.encode(INPUTS, controls))


@pytest.fixture
def pipeline(family: Path) -> AnimationPipeline:
    return load_weights(
        AnimationPipeline.from_pretrained(family), family / "motion_module.safetensors"
    )


def test_the_table_has_every_stage_of_the_config() -> None:
    assert tuple(STAGES) == get_args(StageName)


def _with_model(pipeline: AnimationPipeline, files: list[Path]) -> Tensor:
    folder, single = files
    load_weights(pipeline, dreambooth_model_path=single)
    from_single = clip_of(pipeline)
    pipeline.unet.set_motion(None)
    assert torch.equal(
        clip_of(pipeline), clip_of(AnimationPipeline.from_pretrained(folder))
    )  # the same model
    return from_single


def _with_new_model(_pipeline: AnimationPipeline, files: list[Path]) -> Tensor:
    image = AnimationPipeline.from_pretrained(files[0])
    return clip_of(image)


def _with_lora(pipeline: AnimationPipeline, files: list[Path]) -> Tensor:
    return clip_of(load_weights(pipeline, lora_model_path=files[0], lora_alpha=1.0))


def _with_adapter(pipeline: AnimationPipeline, files: list[Path]) -> Tensor:
    return clip_of(load_weights(pipeline, adapter_lora_path=files[0]))


def _with_motion(pipeline: AnimationPipeline, files: list[Path]) -> Tensor:
    return clip_of(load_weights(pipeline, files[0]))


def _with_motion_lora(pipeline: AnimationPipeline, files: list[Path]) -> Tensor:
    return clip_of(
        load_weights(
            pipeline, motion_module_lora_configs=[{"path": files[0], "alpha": 1.0}]
        )
    )


def _with_control(pipeline: AnimationPipeline, files: list[Path]) -> Tensor:
    branch = load_sparse_controlnet(files[0], pipeline.unet)
    return clip_of(pipeline, [SparseControl(branch, torch.rand(1, 4, 1, 8, 8))])


USES: dict[str, Callable[[AnimationPipeline, list[Path]], Tensor]] = {
    "text_to_image": _with_new_model,
    "image": _with_model,
    "lora": _with_lora,
    "domain_adapter": _with_adapter,
    "motion": _with_motion,
    "motion_lora": _with_motion_lora,
    "sparsectrl": _with_control,
    "lcm": _with_motion,
}


@pytest.mark.parametrize("stage", USES)
def test_a_stage_learns_and_its_file_changes_a_clip(
    stage: StageName,
    make_config: MakeConfig,
    pipeline: AnimationPipeline,
    tmp_path: Path,
) -> None:
    config = make_config(stage, optimizer={"lr": RATES.get(stage, 1e-3)})
    learner, losses = trained(config)
    assert losses[-1] < 0.97 * losses[0]
    files = STAGES[stage].export(learner, config, tmp_path, Origin(stage, "0123", 5))
    assert detect(read_weights(files[-1])) == KINDS[stage]
    with safe_open(files[-1], framework="pt") as file:
        assert file.metadata() == {
            "format": "pt",
            "stage": stage,
            "config_hash": "0123",
            "steps": "5",
        }
    before = clip_of(pipeline)
    after = USES[stage](pipeline, files)
    assert after.isfinite().all()
    assert (after - before).abs().max() > 1e-4


def test_items_with_a_part_of_the_motion_teach_that_part_of_the_strength(
    make_config: MakeConfig,
) -> None:
    shots = [{"camera": "zoom_in", "amount": 0.5}, {"camera": "zoom_in"}]
    config = make_config("motion_lora", data={"shots": shots}, batch_size=8)
    learner: Any = build_learner(config, GlobalBatch(8))
    ups = [
        parameter
        for name, parameter in learner.named_parameters()
        if ".lora_B." in name
    ]
    with torch.no_grad():
        for up in ups:
            up.normal_(std=0.3)
        batch = prepared(config, learner, 8)
        together = learner(batch)
        assert set(batch["strength"].tolist()) == {0.5, 1.0}
        alone = []
        kept = [up.clone() for up in ups]
        for place, strength in enumerate(batch.pop("strength")):
            for up, whole in zip(ups, kept, strict=True):
                up.copy_(whole * strength)
            alone.append(
                learner(
                    {name: tensor[place : place + 1] for name, tensor in batch.items()}
                )
            )
    assert torch.allclose(together, torch.cat(alone), rtol=1e-4)


@pytest.mark.parametrize("version", ["v1", "v2", "v3"])
def test_new_motion_modules_of_each_version(
    version: str, make_config: MakeConfig, tmp_path: Path
) -> None:
    config = make_config(
        "motion", model={"motion_module": "new", "motion_module_version": version}
    )
    learner: Any = build_learner(config, GlobalBatch(2))
    assert all(".motion_modules." in name for name in learner.trained())
    assert learner(prepared(config, learner)).isfinite().all()
    files = STAGES["motion"].export(learner, config, tmp_path, Origin("motion", "0", 0))
    assert (
        read_motion_module(files[0], SD15).config == learner.unet.motion
    )  # without being told the version


def test_motion_module_begins_with_another_one(
    make_config: MakeConfig, family: Path, tmp_path: Path
) -> None:
    file = family / "motion_module.safetensors"
    begun = {
        "motion_module": "new",
        "motion_module_version": "v2",
        "motion_module_from": str(file),
    }
    config = make_config("motion", model=begun)
    learner: Any = build_learner(config, GlobalBatch(2))
    (grown,) = STAGES["motion"].export(
        learner, config, tmp_path, Origin("motion", "0", 0)
    )
    before, after = (
        read_motion_module(file, SD15).tensors,
        read_motion_module(grown, SD15).tensors,
    )
    assert all(torch.equal(tensor, after[key]) for key, tensor in before.items())
    new = after.keys() - before.keys()
    assert new
    assert all(key.startswith("mid_block.") for key in new)
    # the middle one adds nothing yet
    batch, v3 = (
        prepared(config, learner),
        build_learner(make_config("motion"), GlobalBatch(2)),
    )
    assert torch.allclose(learner(batch), v3(batch), atol=1e-4)


def test_motion_module_of_another_model_is_no_beginning(
    make_config: MakeConfig, family: Path, tmp_path: Path
) -> None:
    tensors = dict(read_weights(family / "motion_module.safetensors"))
    key = "down_blocks.0.motion_modules.0.temporal_transformer.norm.weight"
    file = tmp_path / "wider.safetensors"
    save_file({**tensors, key: torch.ones(48)}, file)
    begun = {
        "motion_module": "new",
        "motion_module_version": "v3",
        "motion_module_from": str(file),
    }
    with pytest.raises(
        CheckpointError,
        match=rf"wider.safetensors .* \({key} \(48,\) instead of \(32,\)\)",
    ):
        build_learner(make_config("motion", model=begun), GlobalBatch(2))


def test_scribbles(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config(
        "sparsectrl", model={"control": "scribble"}, data={"two_objects": 0.0}
    )
    learner, losses = trained(config, 3)
    batch = prepared(config, learner)
    condition = batch["condition"]
    assert condition.shape == (2, 4, 2, 64, 64)
    shown = condition[:, 3].amax(dim=(2, 3)) == 1
    assert (shown.sum(dim=1) >= 1).all()
    assert (
        (condition[:, :3].amax(dim=(1, 3, 4)) > 0.8) == shown
    ).all()  # white lines there, nothing elsewhere
    assert losses[-1] < losses[0]
    files = STAGES["sparsectrl"].export(
        learner, config, tmp_path, Origin("sparsectrl", "0", 0)
    )
    assert detect(read_weights(files[0])) == FileKind("SparseCtrl", "scribble")


def test_a_new_branch_is_the_encoder_and_adds_nothing(make_config: MakeConfig) -> None:
    config = make_config("sparsectrl")
    learner: Any = build_learner(config, GlobalBatch(2))
    batch = prepared(config, learner)
    without = learner.unet(
        learner.noise.add_noise(batch["latents"], batch["noise"], batch["timesteps"]),
        batch["timesteps"],
        batch["text"],
    )
    expected = ((without - batch["noise"]) ** 2).flatten(1).mean(dim=1)
    assert torch.allclose(learner(batch), expected, atol=1e-6)
    assert torch.equal(
        learner.branch.down_blocks[1].resnets[0].conv1.weight,
        learner.unet.down_blocks[1].resnets[0].conv1.weight,
    )


def test_the_autoencoder(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config("vae")
    learner, losses = trained(config)
    assert losses[-1] < losses[0]
    clips = open_clips(config)
    learner.before_export(clips)
    (folder,) = STAGES["vae"].export(learner, config, tmp_path, Origin("vae", "0", 5))
    assert (
        detect(read_weights(folder / "diffusion_pytorch_model.safetensors")).kind
        == "VAE, diffusers layout"
    )
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    vae: Any = AutoencoderKL.from_pretrained(folder)
    with torch.no_grad():
        latents = (
            vae.encode(clips.item(0, 0)["pixels"]).latent_dist.mean
            * vae.config.scaling_factor
        )
    assert 0.3 < float(latents.std()) < 3
    (shown,) = learner.show(clips)
    assert shown.frames.shape == (1, 128, 512, 3)
    assert shown.frames.dtype == np.uint8


def test_only_the_decoder(make_config: MakeConfig) -> None:
    learner: Any = build_learner(
        make_config("vae", vae={"decoder_only": True}), GlobalBatch(2)
    )
    assert {name.split(".")[1] for name in learner.trained()} == {
        "decoder",
        "post_quant_conv",
    }
    before = learner.vae.config.scaling_factor
    learner.before_export(open_clips(make_config("vae")))
    assert learner.vae.config.scaling_factor == before


def test_the_text_encoder(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config("text_encoder", text={"unknown": 1.0})
    learner, losses = trained(config, 20)
    assert losses[-1] < 0.5 * losses[0]
    assert set(learner.measure(open_clips(config))) >= {
        "accuracy_colour",
        "accuracy_shape",
        "accuracy_motion",
    }
    (folder,) = STAGES["text_encoder"].export(
        learner, config, tmp_path, Origin("text_encoder", "0", 5)
    )
    from animatediff.checkpoints import diffusers_folder

    encoder = diffusers_folder.load_text_encoder(
        folder, SD15.text_encoders[0], torch.device("cpu"), torch.float32
    )
    tokenizer = diffusers_folder.load_tokenizer(
        tmp_path / "tokenizer", SD15.text_encoders[0]
    )
    table = encoder.get_input_embeddings().weight
    known, unknown, other = (
        tokenizer(word).input_ids[1] for word in ("circle", "hippopotamus", "telephone")
    )
    assert torch.equal(table[unknown], table[other])
    assert not torch.equal(table[known], table[unknown])


def test_a_teacher_a_student_and_a_target_share_the_image_model(
    make_config: MakeConfig,
) -> None:
    learner: Any = build_learner(make_config("lcm"), GlobalBatch(2))
    student, teacher = (
        dict(learner.unet.named_parameters()),
        dict(learner.teacher.named_parameters()),
    )
    for name, parameter in student.items():
        assert (teacher[name] is parameter) == (".motion_modules." not in name)
    assert set(learner.carried()) == {
        f"target.{name.removeprefix('unet.')}" for name in learner.trained()
    }
    with torch.no_grad():
        for parameter in learner.trained().values():
            parameter.add_(1)
    before = {name: tensor.clone() for name, tensor in learner.carried().items()}
    learner.after_step()
    moved = [
        (tensor - before[name]).mean().item()
        for name, tensor in learner.carried().items()
    ]
    assert moved == pytest.approx([0.05] * len(moved), abs=1e-5)  # 1 - target_decay


@pytest.mark.parametrize("stage", ["motion", "image", "sparsectrl"])
def test_gradient_checkpointing_changes_no_gradient(
    stage: str, make_config: MakeConfig
) -> None:
    gradients = []
    for recompute in (False, True):
        learner = build_learner(
            make_config(stage, gradient_checkpointing=recompute), GlobalBatch(2)
        )
        if stage == "sparsectrl":  # nothing passes its zeros at the start
            torch.nn.init.ones_(learner.branch.controlnet_mid_block.weight)  # pyright: ignore
        learner(prepared(make_config(stage), learner)).mean().backward()
        gradients.append(
            {name: parameter.grad for name, parameter in learner.trained().items()}
        )
    assert gradients[0].keys() == gradients[1].keys()
    assert all(
        torch.equal(gradients[0][name], gradients[1][name]) for name in gradients[0]
    )


def test_named_parameters_alone(make_config: MakeConfig) -> None:
    config = make_config("image", model={"trainable": ["attn2.to_k", "attn2.to_v"]})
    names = build_learner(config, GlobalBatch(2)).trained()
    assert names
    assert all("attn2.to_k" in name or "attn2.to_v" in name for name in names)


@pytest.mark.parametrize(
    ("stage", "changes", "message"),
    [
        (
            "motion",
            {"model": {"motion_module": None}},
            "model.motion_module: the stage motion needs it",
        ),
        ("motion", {"model": {"base": None}}, "model.base"),
        (
            "motion",
            {"model": {"motion_module_from": "other.ckpt"}},
            'motion_module must be "new"',
        ),
        (
            "text_to_image",
            {"model": {"unet": {"cross_attention_dim": 32}}},
            "got 32, allowed: 64",
        ),
        (
            "image",
            {"model": {"trainable": ["no.such"]}},
            "model.trainable: it selects no parameter",
        ),
        (
            "lcm",
            {"model": {"motion_module": "new"}},
            "a new module cannot be distilled",
        ),
        ("sparsectrl", {"model": {"control": None}}, "model.control"),
    ],
)
def test_what_a_stage_needs(
    stage: str, changes: dict[str, Any], message: str, make_config: MakeConfig
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        build_learner(make_config(stage, **changes), GlobalBatch(2))
