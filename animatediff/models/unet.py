"""UNet3DConditionModel: SD 1.5's image UNet applied to every frame, with motion modules
between its layers.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import MotionModuleConfig, UNet3DConfig
from .blocks import UpBlock
from .context import ControlResiduals, TextContext, TimeContext
from .encoder import VideoEncoder
from .resnet import group_norm


class UNet3DConditionModel(VideoEncoder):
    """Predicts the noise in video latents (arXiv 2307.04725).

    ``motion`` None builds the image model alone; its motion slots can be filled later.
    State-dict keys are SD 1.5's plus the published motion modules'. ``predict`` runs
    one step on what ``encode_text`` and ``embed_timesteps`` gave.
    """

    def __init__(
        self,
        config: UNet3DConfig,
        motion: MotionModuleConfig | None = None,
        attention: str = "sdpa",
    ) -> None:
        super().__init__(config, attention)
        widths = config.block_out_channels
        self.up_blocks = nn.ModuleList(
            UpBlock(config, level) for level in reversed(range(len(widths)))
        )
        self.conv_norm_out = nn.GroupNorm(
            config.norm_num_groups, widths[0], eps=config.norm_eps
        )
        self.conv_out = nn.Conv2d(widths[0], config.out_channels, 3, padding=1)
        self.number_layers()
        self.set_motion(motion)

    def forward(
        self, sample: Tensor, timestep: Tensor | float, encoder_hidden_states: Tensor
    ) -> Tensor:
        """Noise in ``sample`` (b, c, f, h, w) at ``timestep`` (one for all, or (b,))
        given text (b, m, d).
        """
        timesteps = torch.as_tensor(timestep).reshape(-1)
        return self.predict(
            sample,
            self.embed_timesteps(timesteps),
            self.encode_text(encoder_hidden_states),
        )

    def predict(
        self,
        sample: Tensor,
        time: TimeContext,
        text: TextContext,
        control: ControlResiduals | None = None,
    ) -> Tensor:
        """As ``forward``, with timestep (rows of ``embed_timesteps``) and text
        (``encode_text``) computed before.

        ``control`` is added to the skip connections and to the middle block's output
        (arXiv 2302.05543, section 3.2).
        """
        batch, _, num_frames, _, _ = sample.shape
        context = self.context(num_frames, time, text)
        x = (
            sample.transpose(1, 2)
            .flatten(0, 1)
            .contiguous(memory_format=torch.channels_last)
        )  # (b f, c, h, w)
        skips, x = self.encode(self.conv_in(x), context)
        if control is not None:
            skips = [
                skip + added for skip, added in zip(skips, control.down, strict=True)
            ]
            x = x + control.mid
        for block in self.up_blocks:
            x = block(x, skips, context)
        x = F.silu(
            group_norm(
                self.conv_norm_out, x, num_frames if self.cross_frame_norm else 1
            )
        )
        return self.conv_out(x).unflatten(0, (batch, num_frames)).transpose(1, 2)
