from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from animatediff.checkpoints.single_file import SingleFile, read_single_file
from animatediff.errors import CheckpointError
from animatediff.families import SD15
from animatediff.pipeline import AnimationPipeline
from lab.golden.reference import Golden


@pytest.fixture(scope="module")
def pipeline(golden: Path) -> AnimationPipeline:
    return Golden(golden, torch.float32).pipeline


@pytest.fixture(scope="module")
def weights(golden: Path) -> dict[str, torch.Tensor]:
    return load_file(golden / "loading" / "dreambooth_ldm.safetensors")


def read(pipeline: AnimationPipeline, path: Path) -> SingleFile:
    return read_single_file(
        path,
        SD15,
        pipeline.weights.patcher.shapes(),
        pipeline.unet.config.layers_per_block,
        pipeline.vae.config,
    )


def test_every_weight_is_found(pipeline: AnimationPipeline, golden: Path) -> None:
    image_model = read(pipeline, golden / "loading" / "dreambooth_ldm.safetensors")
    assert image_model.tensors.keys() == pipeline.weights.patcher.shapes().keys()
    assert (image_model.name, image_model.absent, image_model.unused) == (
        "dreambooth_ldm.safetensors",
        (),
        (),
    )


def test_a_pickle_around_a_state_dict_is_the_same(
    pipeline: AnimationPipeline,
    weights: dict[str, torch.Tensor],
    golden: Path,
    tmp_path: Path,
) -> None:
    torch.save({"state_dict": weights, "global_step": 3}, tmp_path / "x.ckpt")
    ours = read(pipeline, tmp_path / "x.ckpt").tensors
    theirs = read(pipeline, golden / "loading" / "dreambooth_ldm.safetensors").tensors
    assert all(torch.equal(ours[address], theirs[address]) for address in theirs)


def test_parts_may_be_absent(
    pipeline: AnimationPipeline, weights: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    save_file(
        {k: v for k, v in weights.items() if k.startswith("model.")},
        tmp_path / "x.safetensors",
    )
    image_model = read(pipeline, tmp_path / "x.safetensors")
    assert {model for model, _ in image_model.tensors} == {"unet"}
    assert image_model.absent == ("vae", "text_encoder")
    warnings = pipeline.configure_weights(None, tmp_path / "x.safetensors", ())
    assert [text.split(" has no ")[1].split(":")[0] for text in warnings] == [
        "vae",
        "text_encoder",
    ]
    pipeline.weights.patcher.restore()


BESIDE = {  # as trainers leave it in their files
    "betas": torch.zeros(1000),
    "alphas_cumprod_prev": torch.zeros(1000),
    "sqrt_one_minus_alphas_cumprod": torch.zeros(1000),
    "sqrt_recipm1_alphas_cumprod": torch.zeros(1000),
    "posterior_mean_coef1": torch.zeros(1000),
    "posterior_log_variance_clipped": torch.zeros(1000),
    "logvar": torch.zeros(1000),
    "model_ema.diffusion_modelinput_blocks00weight": torch.zeros(1),
    "model_ema.num_updates": torch.zeros(()),
    "first_stage_model.loss.logvar": torch.zeros(()),
    "first_stage_model.loss.discriminator.main.0.weight": torch.zeros(1),
    "cond_stage_model.transformer.text_model.embeddings.position_ids": torch.zeros(
        1, 77
    ),
}
SURPLUS = (
    "model.diffusion_model.no_such_part.weight",
    "first_stage_model.no_such_part.weight",
    "cond_stage_model.transformer.text_projection.weight",
    "cond_stage_model.logit_scale",
    "note",
)


def test_a_model_of_the_velocity_is_sampled_as_one(
    pipeline: AnimationPipeline, weights: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    family = pipeline.family.noise_schedule
    assert pipeline.weights.noise_schedule == family
    marks = {"v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}
    save_file({**weights, **marks}, tmp_path / "v.safetensors")
    assert pipeline.configure_weights(None, tmp_path / "v.safetensors", ()) == ()
    schedule = pipeline.weights.noise_schedule
    assert schedule["prediction_type"] == "v_prediction"
    assert schedule["rescale_betas_zero_snr"] is True
    assert schedule["beta_schedule"] == family["beta_schedule"]
    save_file(weights, tmp_path / "x.safetensors")
    pipeline.configure_weights(None, tmp_path / "x.safetensors", ())
    assert pipeline.weights.noise_schedule == family
    pipeline.configure_weights(None, None, ())
    assert pipeline.weights.noise_schedule == family


def test_left_over_keys_are_told_and_noise_is_not(
    pipeline: AnimationPipeline, weights: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    surplus = {key: torch.zeros(2) for key in SURPLUS}
    save_file({**weights, **BESIDE, **surplus}, tmp_path / "x.safetensors")
    image_model = read(pipeline, tmp_path / "x.safetensors")
    assert set(image_model.unused) == set(SURPLUS)
    assert image_model.tensors.keys() == pipeline.weights.patcher.shapes().keys()
    (warning,) = pipeline.configure_weights(None, tmp_path / "x.safetensors", ())
    assert (
        warning == f"x.safetensors: 5 keys fit no layer and are not used"
        f" ({', '.join(image_model.unused[:3])})"
    )
    pipeline.weights.patcher.restore()


@pytest.mark.parametrize(
    "key",
    [
        "model.diffusion_model.input_blocks.2.0.op.bias",
        "model.diffusion_model.output_blocks.1.1.conv.bias",
        "first_stage_model.encoder.down.0.downsample.conv.bias",
    ],
)
def test_a_resampler_without_its_bias_is_not_whole(
    key: str,
    pipeline: AnimationPipeline,
    weights: dict[str, torch.Tensor],
    tmp_path: Path,
) -> None:
    save_file(
        {k: v for k, v in weights.items() if k != key}, tmp_path / "x.safetensors"
    )
    with pytest.raises(CheckpointError):
        read(pipeline, tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    "prefix",
    ["model.diffusion_model.", "first_stage_model.", "cond_stage_model.transformer."],
)
def test_a_part_must_be_whole(
    prefix: str,
    pipeline: AnimationPipeline,
    weights: dict[str, torch.Tensor],
    tmp_path: Path,
) -> None:
    for harm in ("lacking", "other shape"):
        key = next(
            key
            for key in sorted(weights)
            if key.startswith(prefix) and key.endswith("norm1.weight")
        )
        changed = {k: v for k, v in weights.items() if k != key}
        if harm == "other shape":
            changed[key] = torch.zeros(3)
        save_file(changed, tmp_path / "x.safetensors")
        with pytest.raises(CheckpointError):
            read(pipeline, tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("conditioner.embedders.0.transformer.x", "SDXL"),
        ("cond_stage_model.model.x", "SD 2"),
        ("lora_unet_x.lora_down.weight", "not a single file of SD 1.5"),
    ],
)
def test_other_models_are_named(
    key: str, message: str, pipeline: AnimationPipeline, tmp_path: Path
) -> None:
    save_file({key: torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match=message):
        read(pipeline, tmp_path / "x.safetensors")


UNET = "model.diffusion_model."
TO_K = f"{UNET}input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight"


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({TO_K: torch.zeros(640, 2048)}, "a model of SDXL; one of SD 1.5 is expected"),
        ({TO_K: torch.zeros(640, 1024)}, "a model of SD 2; one of SD 1.5 is expected"),
        ({f"{UNET}label_emb.0.0.weight": torch.zeros(1)}, "a model of SDXL"),
        ({f"{UNET}double_blocks.0.x": torch.zeros(1)}, "a model of Flux"),
        ({"double_blocks.0.x": torch.zeros(1)}, "a model of Flux"),
        ({f"{UNET}joint_blocks.0.x": torch.zeros(1)}, "a model of SD 3"),
        (
            {f"{UNET}input_blocks.0.0.weight": torch.zeros(320, 9, 3, 3)},
            "a model for inpainting; one that makes pictures from words alone",
        ),
        (
            {f"{UNET}input_blocks.0.0.weight": torch.zeros(320, 8, 3, 3)},
            "a model for editing by instructions",
        ),
    ],
)
def test_models_without_their_text_encoder_are_named(
    weights: dict[str, torch.Tensor],
    message: str,
    pipeline: AnimationPipeline,
    tmp_path: Path,
) -> None:
    save_file(weights, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match=f"^x.safetensors is {message}"):
        read(pipeline, tmp_path / "x.safetensors")
