"""Stable Diffusion 1.x, and the embedded demonstration model of the same architecture.

Sources: arXiv 2112.10752 and the published ``unet/config.json``; for the motion
modules, the published inference configs.
"""

from ..config import ANIMATELCM, V1, V2, V3, UNet3DConfig
from .base import (
    UNET_PREFIX,
    VAE_PREFIX,
    BaseModel,
    Companion,
    Family,
    JobDefaults,
    MemoryFactors,
    ModelPart,
    MotionModule,
    PreviewFactors,
    TextEncoder,
)

_DEFAULTS = JobDefaults(512, 512, 16, 25, 7.5)
_SHAPEWORLD_DEFAULTS = JobDefaults(64, 64, 16, 25, 4.0)

_SD_PREVIEW = PreviewFactors(
    (
        (0.149, 0.1035, 0.104),
        (0.0935, 0.143, 0.0865),
        (-0.079, 0.0945, 0.132),
        (-0.092, -0.1355, -0.2365),
    ),
    (0.5, 0.5, 0.5),
)
"""Kevin Turner's factors for SD 1.4, for values of 0..1 in place of -1..1.

Source: "Decoding latents to RGB without upscaling", discuss.huggingface.co, 2022.
"""
_SHAPEWORLD_PREVIEW = PreviewFactors(
    (
        (-0.178, -0.266, -0.235),
        (0.617, 0.705, 0.629),
        (-0.771, -0.962, -0.998),
        (-0.291, -0.417, -0.372),
    ),
    (0.744, 0.745, 0.698),
    0.94,
)
"""Written by ``scripts.fit_preview`` for six clips; error 36.6 of 255."""

_BASE_MODELS = {
    "sd15": BaseModel(
        "stable-diffusion-v1-5",
        "Stable Diffusion 1.5",
        (
            "v3_sd15_mm",
            "mm_sd_v15_v2",
            "mm_sd_v15",
            "mm_sd_v14",
            "animatelcm_sd15",
            "lightning_4step",
        ),
        _DEFAULTS,
        preview=_SD_PREVIEW,
    ),
    "shapeworld": BaseModel(
        "shapeworld",
        "shapeworld, the embedded demonstration family",
        ("shapeworld_v3", "shapeworld_v2", "shapeworld_lcm"),
        _SHAPEWORLD_DEFAULTS,
        note="made with the embedded demonstration family 'shapeworld' (moving"
        " shapes), not with Stable Diffusion",
        preview=_SHAPEWORLD_PREVIEW,
    ),
}

_MOTION_MODULES = {
    "v3_sd15_mm": MotionModule(
        "motion_modules/v3_sd15_mm.ckpt", "v3", "AnimateDiff v3"
    ),
    "mm_sd_v15_v2": MotionModule(
        "motion_modules/mm_sd_v15_v2.ckpt", "v2", "AnimateDiff v2"
    ),
    "mm_sd_v15": MotionModule(
        "motion_modules/mm_sd_v15.ckpt", "v1", "AnimateDiff v1, trained on SD 1.5"
    ),
    "mm_sd_v14": MotionModule(
        "motion_modules/mm_sd_v14.ckpt", "v1", "AnimateDiff v1, trained on SD 1.4"
    ),
    "animatelcm_sd15": MotionModule(
        "motion_modules/AnimateLCM_sd15_t2v.ckpt",
        "animatelcm",
        "AnimateLCM, 4 to 8 steps",
        {"scheduler": "lcm", "num_inference_steps": 6, "guidance_scale": 1.5},
        most_steps=8,
        companions=(Companion("loras/AnimateLCM_sd15_t2v_lora.safetensors", 0.8),),
    ),
    "lightning_4step": MotionModule(
        "motion_modules/animatediff_lightning_4step_diffusers.safetensors",
        "v2",
        "AnimateDiff-Lightning, 4 steps",
        {
            "scheduler": "euler_trailing",
            "num_inference_steps": 4,
            "guidance_scale": 1.0,
        },
        most_steps=4,
    ),
    "shapeworld_v3": MotionModule(
        "shapeworld/motion_module_v3.safetensors", "v3", "the embedded family's module"
    ),
    "shapeworld_v2": MotionModule(
        "shapeworld/motion_module_v2.safetensors",
        "v2",
        "the embedded family's, v2's shape",
    ),
    "shapeworld_lcm": MotionModule(
        "shapeworld/motion_module_lcm.safetensors",
        "v3",
        "the embedded family's, 4 to 8 steps",
        {"scheduler": "lcm", "num_inference_steps": 8, "guidance_scale": 1.0},
        most_steps=8,
    ),
}

SD15 = Family(
    name="SD 1.5",
    text_width=768,
    context_width=768,
    motion_levels=4,
    unet=ModelPart(
        "unet", UNET_PREFIX, ("unet", "diffusion_model", "model_diffusion_model")
    ),
    vae=ModelPart("vae", VAE_PREFIX),
    text_encoders=(
        TextEncoder(
            "text_encoder",
            "cond_stage_model.transformer.",
            ("te", "te1", "text_encoder", "cond_stage_model_transformer"),
            "text_model.",
        ),
    ),
    unet_config=UNet3DConfig(),
    unet_constants={
        "act_fn": "silu",
        "center_input_sample": False,
        "class_embed_type": None,
        "addition_embed_type": None,
        "dual_cross_attention": False,
        "only_cross_attention": False,
        "downsample_padding": 1,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "mid_block_scale_factor": 1,
        "resnet_time_scale_shift": "default",
        "time_embedding_type": "positional",
        "transformer_layers_per_block": 1,
        "upcast_attention": False,
        "use_linear_projection": False,
    },
    pixels_per_latent=8,
    motion_versions={"v1": V1, "v2": V2, "v3": V3, "animatelcm": ANIMATELCM},
    motion_fallbacks=("v2", "v3"),
    noise_schedule={
        # The motion modules were trained on "linear"; the image model itself was
        # trained on "scaled_linear".
        "num_train_timesteps": 1000,
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "linear",
        "steps_offset": 1,
        "prediction_type": "epsilon",
    },
    memory=MemoryFactors(denoise=18.2, residuals=5.3, condition=1.0, decode=6.1),
    base_models=_BASE_MODELS,
    motion_modules=_MOTION_MODULES,
)
"""The one family of today. DreamBooth models, LoRAs and motion modules of SD 1.4 fit it
too.
"""
