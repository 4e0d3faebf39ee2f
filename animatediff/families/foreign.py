"""Models that do not run here, and the marks by which a refusal can name them."""

from .base import UNET_PREFIX, ModelMarks

_DEEPER_ATTENTION = r"(attentions_\d+|(input|output)_blocks_\d+_1|middle_block_1)"
"""Stands before the transformer blocks of a UNet, in diffusers' or LDM names."""

OTHER_MODELS = (
    ModelMarks(
        "Flux",
        single_file_marks=("double_blocks.", f"{UNET_PREFIX}double_blocks."),
        latent_channels=16,
        lora_mark=r"double_blocks_\d|single_(transformer_)?blocks_\d",
    ),
    ModelMarks(
        "SD 3",
        single_file_marks=("joint_blocks.", f"{UNET_PREFIX}joint_blocks."),
        latent_channels=16,
        lora_mark=r"joint_blocks_\d|(^|_)(te3|text_encoder_3)_",
    ),
    ModelMarks(
        "a diffusion transformer",
        lora_mark=r"^(transformer|unet|diffusion_model)_(transformer_)?blocks_\d",
    ),
    ModelMarks(
        "SDXL",
        single_file_marks=("conditioner.embedders.", f"{UNET_PREFIX}label_emb."),
        embedding_keys=frozenset({"clip_l", "clip_g"}),
        motion_levels=3,
        lora_mark=rf"^(te2|text_encoder_2)_|{_DEEPER_ATTENTION}_transformer_blocks_[1-9]"
        r"|up_blocks_0_attentions|output_blocks_[0-2]_1_(transformer|proj|norm)"
        r"|(^|_)(label_emb|add_embedding)_",
        context_width=2048,
    ),
    ModelMarks(
        "SD 2",
        single_file_marks=("cond_stage_model.model.",),
        text_width=1024,
        lora_mark=r"^(te|text_encoder)_text_model_encoder_layers_(1[2-9]|2\d)_",
        context_width=1024,
    ),
)
"""In the order of their marks for LoRAs: a layer of a later one may occur in an earlier
one too.
"""
