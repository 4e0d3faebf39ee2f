"""UNet3DConditionModel: an image UNet applied to every frame of a video.

Motion modules between its layers connect the frames.
"""

import torch
from torch import Tensor, nn

from ..config import MotionModuleConfig, UNet3DConfig
from .blocks import UpBlock
from .context import ControlResiduals, FrameContext, TextContext, TimeContext
from .encoder import VideoEncoder, repeated
from .norm import GroupNorm


class UNet3DConditionModel(VideoEncoder):
    """Predicts the noise in video latents (arXiv 2307.04725).

    Without ``motion`` it is the image model alone; its motion slots can be filled
    later. State-dict keys are those of diffusers' image UNet and those of published
    motion modules. ``predict`` runs one step on the results of ``encode_text`` and
    ``embed_timesteps``.
    """

    def __init__(
        self,
        config: UNet3DConfig,
        motion: MotionModuleConfig | None = None,
        attention: str = "sdpa",
    ) -> None:
        super().__init__(config, attention)
        widths = config.block_out_channels
        levels = reversed(range(len(widths)))
        self.up_blocks = nn.ModuleList(UpBlock(config, level) for level in levels)
        self.conv_norm_out = GroupNorm(
            config.norm_num_groups, widths[0], eps=config.norm_eps
        )
        self.conv_out = nn.Conv2d(widths[0], config.out_channels, 3, padding=1)
        self.number_layers()
        self.set_motion(motion)

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float,
        encoder_hidden_states: Tensor,
    ) -> Tensor:
        """Predict the noise in ``sample`` (b, c, f, h, w), given text (b, m, d).

        ``timestep`` is one for all videos, or (b,).
        """
        time = self.embed_timesteps(torch.as_tensor(timestep).reshape(-1))
        return self.predict(sample, time, self.encode_text(encoder_hidden_states))

    def predict(
        self,
        sample: Tensor,
        time: TimeContext,
        text: TextContext,
        control: ControlResiduals | None = None,
    ) -> Tensor:
        """Predict the noise in ``sample`` (b, c, f, h, w), with all else precomputed.

        ``time`` is a row of ``schedule`` or the result of ``embed_timesteps``, ``text``
        that of ``encode_text``. With k b texts, the noise is (k b, c, f, h, w): all
        videos with the first b texts come first. ``control`` is added to the features.
        """
        context = self.context(sample.shape[2], time, text)
        images = text[0][0].shape[0] * context.num_frames
        features = [repeated(x, images) for x in self.encode(sample, context)]
        if control is not None:
            features = control.added_to(features)
        return self.decode(features, context)

    def encode(self, sample: Tensor, context: FrameContext) -> list[Tensor]:
        """Compute the features of ``sample`` (b, c, f, h, w), see ``descend``."""
        frames = sample.transpose(1, 2).flatten(0, 1)  # (b f, c, h, w)
        frames = frames.contiguous(memory_format=torch.channels_last)
        return self.descend(self.conv_in(frames), context)

    def decode(self, features: list[Tensor], context: FrameContext) -> Tensor:
        """Turn the features into the predicted noise, (b, c, f, h, w).

        The list is empty afterwards, so that each feature is freed after its last use.
        """
        for block in self.up_blocks:
            block(features, context)
        x = features.pop()
        across_frames = context.num_frames if self.cross_frame_norm else 1
        x = self.conv_norm_out(x, across_frames, silu=True)
        return self.conv_out(x).unflatten(0, (-1, context.num_frames)).transpose(1, 2)
