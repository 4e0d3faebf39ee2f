"""One class each for down, middle and up blocks; spatial attention is on or off, motion
slots are filled or empty.
"""

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..config import UNet3DConfig
from .attention import Attention, FeedForward, merge_heads, split_heads
from .context import FrameContext
from .motion_module import VanillaTemporalModule
from .resnet import Downsample, ResnetBlock, Upsample, group_norm


class CrossAttention(Attention):
    """Attention to the text. Keys and values depend on the prompt alone, so they come
    from FrameContext.text.
    """

    index = 0
    """Place among the UNet's cross-attentions: where its keys and values stand in
    FrameContext.text.
    """

    def attend_to_text(self, tokens: Tensor, context: FrameContext) -> Tensor:
        """(b f, n, d) -> (b f, n, d). All frames of a video ask as one long sequence:
        the text is not repeated.
        """
        keys, values = context.text[self.index]
        queries = split_heads(
            self.to_q(tokens).unflatten(0, (keys.shape[0], -1)).flatten(1, 2),
            self.heads,
        )
        attended = merge_heads(context.attend(queries, keys, values))  # (b, f n, d)
        return self.to_out[0](attended).reshape(tokens.shape)


class TransformerBlock(nn.Module):
    def __init__(self, dim: int, heads: int, text_dim: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn1 = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim)
        self.attn2 = CrossAttention(dim, heads, text_dim)
        self.norm3 = nn.LayerNorm(dim)
        self.ff = FeedForward(dim)

    def forward(self, tokens: Tensor, context: FrameContext) -> Tensor:
        """(b f, n, d) -> (b f, n, d)"""
        tokens = tokens + self.attn1.attend_to_self(self.norm1(tokens), context.attend)
        tokens = tokens + self.attn2.attend_to_text(self.norm2(tokens), context)
        return tokens + self.ff(self.norm3(tokens))


class PointwiseConv(nn.Conv2d):
    """A 1x1 convolution, with SD 1.5's parameter shape (c_out, c_in, 1, 1), applied to
    tokens.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 1)

    def forward(self, input: Tensor) -> Tensor:
        """(b f, n, c) -> (b f, n, c)"""
        return nn.functional.linear(input, self.weight.flatten(1), self.bias)


class SpatialTransformer(nn.Module):
    """Attention within each frame and to the text. Its GroupNorm is per frame in every
    version.
    """

    def __init__(self, channels: int, heads: int, text_dim: int, groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, eps=1e-6)
        self.proj_in = PointwiseConv(channels)
        self.transformer_blocks = nn.ModuleList(
            [TransformerBlock(channels, heads, text_dim)]
        )
        self.proj_out = PointwiseConv(channels)

    def forward(self, x: Tensor, context: FrameContext) -> Tensor:
        """(b f, c, h, w) -> (b f, c, h, w), both channels_last, so image <-> tokens are
        views
        """
        tokens = (
            group_norm(self.norm, x).permute(0, 2, 3, 1).flatten(1, 2)
        )  # (b f, h w, c)
        tokens = self.proj_in(tokens)
        for block in self.transformer_blocks:
            tokens = block(tokens, context)
        image = self.proj_out(tokens).unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)
        return x + image


class Layers(nn.Module):
    """What down, middle and up blocks share: resnets, each followed by attention (or
    none) and a motion slot.

    ``motion_modules`` entries are None until an adapter fills them: the image model
    alone.
    """

    resnets_without_layer = 0

    gradient_checkpointing = False
    """In training: compute a layer again on the way back instead of keeping what it
    made.
    """

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
        heads = config.num_attention_heads[level]
        self.channels = channels
        self.resnets = nn.ModuleList(
            ResnetBlock(width, channels, config.time_embed_dim, groups, eps)
            for width in channels_in
        )
        num_layers = len(channels_in) - self.resnets_without_layer
        if attends:
            self.attentions = nn.ModuleList(
                SpatialTransformer(channels, heads, config.cross_attention_dim, groups)
                for _ in range(num_layers)
            )
        self.attends = attends
        self.motion_modules = nn.ModuleList([None] * num_layers)  # pyright: ignore[reportArgumentType]

    def layer(self, i: int, x: Tensor, context: FrameContext) -> Tensor:
        """Resnet ``i`` and what follows it. (b f, c_in, h, w) -> (b f, c, h, w)"""
        if self.gradient_checkpointing and torch.is_grad_enabled():
            result = checkpoint(
                lambda x: self.attend(i, self.resnets[i](x, context), context),
                x,
                use_reentrant=False,
            )
            assert isinstance(result, Tensor)
            return result
        x = self.resnets[i](
            x, context
        )  # under the old name: what went in is not needed while attention runs
        return self.attend(i, x, context)

    def attend(self, i: int, x: Tensor, context: FrameContext) -> Tensor:
        """What follows resnet ``i``: spatial attention, then motion. (b f, c, h, w) ->
        (b f, c, h, w)
        """
        if self.attends:
            x = self.attentions[i](x, context)
        motion = self.motion_modules[i]
        if isinstance(motion, VanillaTemporalModule):
            x = motion(x, context.num_frames, context.attend)
        return x


class DownBlock(Layers):
    def __init__(self, config: UNet3DConfig, level: int) -> None:
        widths = config.block_out_channels
        inside = [widths[max(level - 1, 0)]] + [widths[level]] * (
            config.layers_per_block - 1
        )
        super().__init__(
            config, inside, widths[level], level, config.attention_blocks[level]
        )
        last = level == len(widths) - 1
        self.downsamplers = None if last else nn.ModuleList([Downsample(widths[level])])

    def forward(self, x: Tensor, context: FrameContext) -> tuple[Tensor, list[Tensor]]:
        """(b f, c_in, h, w) -> the block's output, and what the up path will need of it"""
        skips = []
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
        width = config.block_out_channels[-1]
        super().__init__(
            config,
            [width, width],
            width,
            len(config.block_out_channels) - 1,
            attends=True,
        )

    def forward(self, x: Tensor, context: FrameContext) -> Tensor:
        """(b f, c, h, w) -> (b f, c, h, w)"""
        return self.resnets[1](self.layer(0, x, context), context)


class UpBlock(Layers):
    def __init__(self, config: UNet3DConfig, level: int) -> None:
        """``level`` counts from the top (largest) resolution, as for down blocks; the
        first up block has the last.
        """
        widths = config.block_out_channels
        below = widths[min(level + 1, len(widths) - 1)]
        skips = [widths[level]] * config.layers_per_block + [widths[max(level - 1, 0)]]
        inside = [below] + [widths[level]] * config.layers_per_block
        joined = [a + b for a, b in zip(inside, skips, strict=True)]
        super().__init__(
            config, joined, widths[level], level, config.attention_blocks[level]
        )
        self.upsamplers = (
            None if level == 0 else nn.ModuleList([Upsample(widths[level])])
        )

    def forward(self, x: Tensor, skips: list[Tensor], context: FrameContext) -> Tensor:
        """Takes its skip connections off the end of ``skips``. (b f, c_in, h, w) -> (b
        f, c, 2 h, 2 w)
        """
        for i in range(len(self.resnets)):
            x = self.layer(i, torch.cat([x, skips.pop()], dim=1), context)
        if self.upsamplers is not None:
            height, width = skips[-1].shape[2:]
            x = self.upsamplers[0](x, (height, width))
        return x
