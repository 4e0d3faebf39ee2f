"""Models of a size with random weights: ours, and diffusers' with the same numbers."""

import json
from typing import Any

import torch
from torch import Tensor, nn

from animatediff.checkpoints.diffusers_folder import load_tokenizer
from animatediff.config import V3
from animatediff.families import SD15
from animatediff.families.unet_config import read_unet_config
from animatediff.models.image_model import ImageModel, TextModel
from animatediff.models.motion_module import reset_positional_tables
from animatediff.models.unet import UNet3DConditionModel
from animatediff.models.vae import use_own_layers
from animatediff.pipeline import AnimationPipeline
from lab.bench.sizes import SHAPEWORLD, Run, Size

PEER_NAMES = {
    ".temporal_transformer": "",
    ".attention_blocks.0.": ".attn1.",
    ".attention_blocks.1.": ".attn2.",
    ".norms.0.": ".norm1.",
    ".norms.1.": ".norm2.",
    ".ff_norm.": ".norm3.",
}
"""Parts of the keys of a motion module -> diffusers' names."""
SCALE = 0.7
"""Of random matrices: signals neither vanish nor grow."""


def config_of(size: Size, part: str) -> dict[str, Any]:
    """Return the config of "unet", "vae" or "text_encoder" at a size."""
    changes = {"unet": size.unet, "vae": size.vae, "text_encoder": size.text}[part]
    raw = json.loads((SHAPEWORLD / part / "config.json").read_text(encoding="utf-8"))
    return {**raw, **changes}


def fill(model: nn.Module, run: Run) -> Any:
    """Give a model on the meta device random weights."""
    generator = torch.Generator(run.device).manual_seed(1)
    for module in model.modules():
        for name, tensor in module._parameters.items():
            if tensor is not None:
                numbers = torch.empty(tensor.shape, device=run.device, dtype=run.dtype)
                random_weight(name, numbers, generator)
                module._parameters[name] = nn.Parameter(numbers, requires_grad=False)
        for name, tensor in module._buffers.items():
            if tensor is not None and tensor.is_meta:
                module._buffers[name] = _buffer(tensor, run)
    return model.eval()


def random_weight(key: str, weight: Tensor, generator: torch.Generator) -> Tensor:
    """Fill a weight: matrices as ``SCALE`` says, norms with 1, biases with 0."""
    if weight.ndim < 2:
        return weight.fill_(0.0 if key.endswith("bias") else 1.0)
    scale = SCALE / weight[0].numel() ** 0.5
    return weight.normal_(0, scale, generator=generator)


def _buffer(like: Tensor, run: Run) -> Tensor:
    if like.dtype == torch.long:  # the numbers of a text's positions
        return torch.arange(like.numel(), device=run.device).reshape(like.shape)
    return torch.zeros(like.shape, device=run.device, dtype=run.dtype)


def _channels_last(model: Any) -> Any:
    return model.to(memory_format=torch.channels_last)


def unet(run: Run) -> UNet3DConditionModel:
    """Return our UNet with motion module v3."""

    def make() -> UNet3DConditionModel:
        config = read_unet_config(config_of(run.size, "unet"), SD15)
        with torch.device("meta"):
            model = UNet3DConditionModel(config, V3)
        fill(model, run)
        reset_positional_tables(model, run.device, run.dtype)
        return _channels_last(model)

    return run.once("unet", make)


def peer_unet(run: Run) -> Any:
    """Return diffusers' UNet. Weights of linear layers are the same memory."""
    from diffusers.models.embeddings import SinusoidalPositionalEmbedding
    from diffusers.models.unets.unet_motion_model import UNetMotionModel

    def make() -> Any:
        ours = unet(run)
        with torch.device("meta"):
            peer: Any = UNetMotionModel(
                block_out_channels=ours.config.block_out_channels,
                cross_attention_dim=ours.config.cross_attention_dim,
                norm_num_groups=ours.config.norm_num_groups,
                num_attention_heads=ours.config.num_attention_heads,
                motion_num_attention_heads=8,
                motion_max_seq_length=32,
                use_motion_mid_block=False,
            )
        weights = {
            peer_key(key): each.contiguous() for key, each in ours.state_dict().items()
        }
        loaded = peer.load_state_dict(weights, strict=False, assign=True)
        assert not loaded.unexpected_keys, loaded.unexpected_keys
        assert all(key.endswith("pos_embed.pe") for key in loaded.missing_keys)
        for module in peer.modules():
            if isinstance(module, SinusoidalPositionalEmbedding):
                table: Any = module.pe
                _, length, width = table.shape
                table = SinusoidalPositionalEmbedding(width, length).pe
                module.pe = table.to(run.device, run.dtype)
        return peer.eval().requires_grad_(False)

    return run.once("peer unet", make)


def peer_key(key: str) -> str:
    """Return diffusers' name of a weight of our UNet."""
    if ".motion_modules." in key:
        for name, other in PEER_NAMES.items():
            key = key.replace(name, other)
    return key


def _build_vae(run: Run) -> Any:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    model: Any = AutoencoderKL
    with torch.device("meta"):
        return model.from_config(config_of(run.size, "vae"))


def vae(run: Run) -> Any:
    """Return the VAE as our pipeline has it."""

    def make() -> Any:
        model = fill(_build_vae(run), run)
        use_own_layers(model)
        return _channels_last(model)

    return run.once("vae", make)


def peer_vae(run: Run) -> Any:
    """Return the VAE as diffusers has it."""

    def make() -> Any:
        model = _build_vae(run)
        weights = {
            key: each.contiguous() for key, each in vae(run).state_dict().items()
        }
        model.load_state_dict(weights, assign=True)
        return model.eval().requires_grad_(False)

    return run.once("peer vae", make)


def text_encoder(run: Run) -> Any:
    """Return CLIP's text model, which both pipelines use."""
    from transformers import CLIPTextConfig, CLIPTextModel

    def make() -> Any:
        with torch.device("meta"):
            config = CLIPTextConfig(**config_of(run.size, "text_encoder"))
            model = CLIPTextModel(config)
        return fill(model, run)

    return run.once("text encoder", make)


def tokenizer() -> Any:
    """Return the embedded family's tokenizer, which both pipelines use."""
    (text,) = SD15.text_encoders
    return load_tokenizer(SHAPEWORLD / text.tokenizer, text)


def pipeline(run: Run) -> AnimationPipeline:
    """Return our pipeline."""

    def make() -> AnimationPipeline:
        text = TextModel("text_encoder", tokenizer(), text_encoder(run))
        return AnimationPipeline(ImageModel(unet(run), vae(run), [text]))

    return run.once("pipeline", make)


def peer_pipeline(run: Run) -> Any:
    """Return diffusers' pipeline."""
    from diffusers.pipelines.animatediff.pipeline_animatediff import AnimateDiffPipeline
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    def make() -> Any:
        kind: Any = AnimateDiffPipeline
        peer = kind(
            vae=peer_vae(run),
            text_encoder=text_encoder(run),
            tokenizer=tokenizer(),
            unet=peer_unet(run),
            motion_adapter=None,
            scheduler=DDIMScheduler(**SD15.noise_schedule),
        )
        peer.set_progress_bar_config(disable=True)
        return peer

    return run.once("peer pipeline", make)
