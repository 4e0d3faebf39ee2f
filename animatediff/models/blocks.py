"""One class each for down, middle and up blocks.

Spatial attention is on or off; motion slots are filled or empty.
"""

from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint  # pyright: ignore[reportUnknownVariableType]

from ..config import MotionModuleConfig, UNet3DConfig
from ..kernels.normalization import add_repeated
from .attention import (
    Attention,
    AttentionFunction,
    FeedForward,
    merge_heads,
    split_heads,
    to_image,
    to_tokens,
)
from .context import FrameContext, KeysValues
from .motion_module import VanillaTemporalModule
from .norm import GroupNorm, LayerNorm
from .resnet import Downsample, ResnetBlock, Upsample


class CrossAttention(Attention):
    """Attention to the text, whose keys and values depend on the prompt alone."""

    def attend_to_text(
        self,
        tokens: Tensor,
        text: KeysValues,
        num_frames: int,
        attend: AttentionFunction,
    ) -> Tensor:
        """Attend from tokens (b f, n, d) to k texts for each video: (k b f, n, d).

        ``text`` has the keys and values of k b texts. All frames of a video query as
        one long sequence, so the text is not repeated.
        """
        keys, values = text
        videos = self.to_q(tokens).unflatten(0, (-1, num_frames))
        queries = split_heads(videos.flatten(1, 2), self.heads)
        texts = keys.shape[0] // queries.shape[0]
        if texts > 1:
            queries = queries.repeat(texts, 1, 1, 1)
        attended = merge_heads(attend(queries, keys, values))  # (k b, f n, d)
        return self.to_out[0](attended).reshape(-1, *tokens.shape[1:])


class TransformerBlock(nn.Module):
    """Attention within a frame, attention to the text, feed-forward."""

    def __init__(self, dim: int, heads: int, text_dim: int) -> None:
        super().__init__()
        self.norm1 = LayerNorm(dim)
        self.attn1 = Attention(dim, heads)
        self.norm2 = LayerNorm(dim)
        self.attn2 = CrossAttention(dim, heads, text_dim)
        self.norm3 = LayerNorm(dim)
        self.ff = FeedForward(dim)

    def forward(
        self,
        tokens: Tensor,
        text: KeysValues,
        num_frames: int,
        attend: AttentionFunction,
    ) -> Tensor:
        """Map tokens (b f, n, d) and k b texts to (k b f, n, d)."""
        attended = self.attn1.attend_to_self(self.norm1(tokens), attend)
        tokens, normed = self.norm2.after(attended, tokens)
        attended = self.attn2.attend_to_text(normed, text, num_frames, attend)
        tokens, normed = self.norm3.after(attended, tokens)
        del attended  # the gate below needs the most memory of all
        return tokens + self.ff(normed)


class PointwiseConv(nn.Conv2d):
    """A 1x1 convolution on tokens, with the parameter shape (c_out, c_in, 1, 1)."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 1)  # pyright: ignore[reportUnknownMemberType]

    def forward(self, input: Tensor) -> Tensor:
        """Map tokens (b f, n, c) to (b f, n, c)."""
        return nn.functional.linear(input, self.weight.flatten(1), self.bias)


class SpatialTransformer(nn.Module):
    """Attention within each frame and to the text.

    Its GroupNorm is per frame in every motion-module version.
    """

    def __init__(self, channels: int, heads: int, text_dim: int, groups: int) -> None:
        super().__init__()
        self.norm = GroupNorm(groups, channels, eps=1e-6)
        self.proj_in = PointwiseConv(channels)
        block = TransformerBlock(channels, heads, text_dim)
        self.transformer_blocks = nn.ModuleList([block])
        self.proj_out = PointwiseConv(channels)

    def forward(
        self, x: Tensor, text: KeysValues, num_frames: int, attend: AttentionFunction
    ) -> Tensor:
        """Map (b f, c, h, w) and k b texts to (k b f, c, h, w).

        Both are channels_last, so that turning an image into tokens and back is a view.
        """
        tokens = self.proj_in(to_tokens(self.norm(x)))
        for block in self.transformer_blocks:
            tokens = block(tokens, text, num_frames, attend)
        return add_repeated(to_image(self.proj_out(tokens), x.shape[2:]), x)


class Layers(nn.Module):
    """The base of down, middle and up blocks.

    Each resnet is followed by attention (or none) and a motion slot. An entry of
    ``motion_modules`` is None until ``set_motion`` fills it.
    """

    resnets_without_layer = 0

    first_resnet = first_attention = 0
    """Places of the first ones in ``FrameContext.time`` and ``FrameContext.text``."""

    gradient_checkpointing = False
    """In training: recompute a layer on the way back instead of keeping its results."""

    def __init__(
        self,
        config: UNet3DConfig,
        channels_in: list[int],
        channels: int,
        level: int,
        attends: bool,
    ) -> None:
        super().__init__()
        groups, eps = config.norm_num_groups, config.norm_eps
        heads, text_dim = config.num_attention_heads[level], config.cross_attention_dim
        self.channels = channels
        self.resnets = nn.ModuleList(
            ResnetBlock(width, channels, config.time_embed_dim, groups, eps)
            for width in channels_in
        )
        count = len(channels_in) - self.resnets_without_layer
        if attends:
            self.attentions = nn.ModuleList(
                SpatialTransformer(channels, heads, text_dim, groups)
                for _ in range(count)
            )
        self.attends = attends
        self.motion_modules = nn.ModuleList([None] * count)  # pyright: ignore[reportArgumentType]

    def set_motion(self, motion: MotionModuleConfig | None) -> None:
        """Fill the block's motion slots with new modules, or empty them."""
        for i in range(len(self.motion_modules)):
            module = motion and VanillaTemporalModule(self.channels, motion)
            setattr(self.motion_modules, str(i), module)

    def layer(self, i: int, x: Tensor, context: FrameContext) -> Tensor:
        """Run resnet ``i`` and its attention: (b f, c_in, h, w) to (b f, c, h, w)."""
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return self._recomputed_layer(i, x, context)
        x = self.resnet(i, x, context)  # each frees what the one before took
        x = self.attend(i, x, context)
        return self.move(i, x, context)

    def resnet(self, i: int, x: Tensor, context: FrameContext) -> Tensor:
        """Run resnet ``i``: (b f, c_in, h, w) to (b f, c, h, w)."""
        time = context.time[self.first_resnet + i]
        across_frames = context.num_frames if context.cross_frame_norm else 1
        return self.resnets[i](x, time, context.num_frames, across_frames)

    def _recomputed_layer(self, i: int, x: Tensor, context: FrameContext) -> Tensor:
        def run(x: Tensor) -> Tensor:
            x = self.attend(i, self.resnet(i, x, context), context)
            return self.move(i, x, context)

        return cast(Tensor, checkpoint(run, x, use_reentrant=False))

    def attend(self, i: int, x: Tensor, context: FrameContext) -> Tensor:
        """Run spatial attention ``i``, if any, on (b f, c, h, w)."""
        if not self.attends:
            return x
        text = context.text[self.first_attention + i]
        return self.attentions[i](x, text, context.num_frames, context.attend)

    def move(self, i: int, x: Tensor, context: FrameContext) -> Tensor:
        """Run motion module ``i``, if any, on (b f, c, h, w)."""
        motion = self.motion_modules[i]
        if not isinstance(motion, VanillaTemporalModule):
            return x
        return motion(x, context.num_frames, context.attend)


class DownBlock(Layers):
    """Layers of one resolution, then a halving, except at the lowest resolution."""

    def __init__(self, config: UNet3DConfig, level: int) -> None:
        widths = config.block_out_channels
        width, above = widths[level], widths[max(level - 1, 0)]
        channels_in = [above] + [width] * (config.layers_per_block - 1)
        attends = config.attention_blocks[level]
        super().__init__(config, channels_in, width, level, attends)
        is_lowest = level == len(widths) - 1
        self.downsamplers = None if is_lowest else nn.ModuleList([Downsample(width)])

    def forward(self, x: Tensor, context: FrameContext) -> tuple[Tensor, list[Tensor]]:
        """Map (b f, c_in, h, w) to the block's output and its skip connections."""
        skips: list[Tensor] = []
        for i in range(len(self.resnets)):
            x = self.layer(i, x, context)
            skips.append(x)
        if self.downsamplers is not None:
            x = self.downsamplers[0](x)
            skips.append(x)
        return x, skips


class MidBlock(Layers):
    """Resnet, attention, motion (v2 only), resnet."""

    resnets_without_layer = 1

    def __init__(self, config: UNet3DConfig) -> None:
        level = len(config.block_out_channels) - 1
        width = config.block_out_channels[level]
        super().__init__(config, [width, width], width, level, attends=True)

    def set_motion(self, motion: MotionModuleConfig | None) -> None:
        """Fill the slot where this version has a module for the middle block."""
        super().set_motion(motion if motion and motion.use_mid_block else None)

    def forward(self, x: Tensor, context: FrameContext) -> Tensor:
        """Map (b f, c, h, w) to (b f, c, h, w)."""
        return self.resnet(1, self.layer(0, x, context), context)


def _joined(features: list[Tensor]) -> Tensor:
    x, skip = features.pop(), features.pop()
    return torch.cat([x, skip], dim=1)


class UpBlock(Layers):
    """Layers of one resolution on joined skip connections, then a doubling.

    ``level`` counts from the top resolution, as for down blocks. The first up block has
    the last level.
    """

    def __init__(self, config: UNet3DConfig, level: int) -> None:
        widths = config.block_out_channels
        width, count = widths[level], config.layers_per_block
        above, below = (
            widths[max(level - 1, 0)],
            widths[min(level + 1, len(widths) - 1)],
        )
        from_below = [below] + [width] * count
        from_skips = [width] * count + [above]
        joined = [a + b for a, b in zip(from_below, from_skips, strict=True)]
        super().__init__(config, joined, width, level, config.attention_blocks[level])
        self.upsamplers = None if level == 0 else nn.ModuleList([Upsample(width)])

    def forward(self, features: list[Tensor], context: FrameContext) -> Tensor:
        """Map (b f, c_in, h, w) to (b f, c, 2 h, 2 w).

        At the end of ``features``, that takes the place of the input and of the skip
        connections before it. Nothing else holds them, so each is freed at its use.
        """
        for i in range(len(self.resnets)):
            features.append(self.layer(i, _joined(features), context))
        if self.upsamplers is not None:
            x = features.pop()
            height, width = features[-1].shape[2:]
            features.append(self.upsamplers[0](x, (height, width)))
        return features[-1]
