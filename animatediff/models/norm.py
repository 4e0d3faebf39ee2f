"""GroupNorm, the one definition for UNet, motion modules, SparseCtrl and VAE."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def group_norm(
    x: Tensor,
    groups: int,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    silu: bool = False,
    *,
    across_frames: int = 1,
) -> Tensor:
    """Normalise (b f, c, h, w) per group of channels; the result is channels_last.

    Source: arXiv 1803.08494. Statistics are per frame, or, with ``across_frames`` = f,
    over all f frames of a video. Motion modules v1 were trained with the latter
    (``use_inflated_groupnorm: false`` in the published config). ``weight`` and ``bias``
    are (c,). With ``silu``, x * sigmoid(x) of the result is returned.
    """
    if across_frames > 1:
        videos = torch.unflatten(x, 0, (-1, across_frames))
        x = videos.transpose(1, 2)  # (b, c, f, h, w)
    normalise = _normalise_on_cpu if x.is_cpu else torch.group_norm
    x = normalise(x, groups, weight, bias, eps)
    if across_frames > 1:
        x = x.transpose(1, 2).flatten(0, 1)
    x = x.contiguous(memory_format=torch.channels_last)
    return F.silu(x, inplace=not x.requires_grad) if silu else x


def _normalise_on_cpu(
    x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float
) -> Tensor:
    """Do as torch.group_norm on (n, c, ...), with a variance that keeps its digits.

    torch 2.13's CPU kernel for channels_last has the variance as E[x^2] - E[x]^2, where
    a large mean cancels the digits of a small deviation; its backward pass crashes. The
    kernel for contiguous tensors has neither fault, and costs two copies.
    """
    if torch.is_grad_enabled() or x.dtype in (torch.float16, torch.bfloat16):
        return torch.group_norm(x.contiguous(), groups, weight, bias, eps)
    column = (-1, *(1 for _ in x.shape[2:]))  # (c, 1, 1)
    centred = x - _group_means(x, groups)
    squares = centred.square()
    deviation = (_group_means(squares, groups) + eps).sqrt()
    scale = weight.view(column) / deviation
    return torch.addcmul(bias.view(column), centred, scale, out=squares)


def _group_means(x: Tensor, groups: int) -> Tensor:
    """Average (n, c, ...) over each group and all positions: (n, c, 1, ...)."""
    means = x.mean(tuple(range(2, x.ndim)), keepdim=True)
    grouped = torch.unflatten(means, 1, (groups, -1))
    return grouped.mean(2, keepdim=True).expand_as(grouped).flatten(1, 2)


class GroupNorm(nn.GroupNorm):
    """``group_norm`` with its weights."""

    def forward(
        self, input: Tensor, across_frames: int = 1, silu: bool = False
    ) -> Tensor:
        """Map (b f, c, h, w) to (b f, c, h, w), channels_last.

        Tensors without height and width go to torch, whose kernel is exact for them.
        """
        if input.ndim != 4:
            return super().forward(input)
        return group_norm(
            input,
            self.num_groups,
            self.weight,
            self.bias,
            self.eps,
            silu,
            across_frames=across_frames,
        )


def use_own_group_norm(model: nn.Module) -> None:
    """Let the GroupNorms of a foreign model compute with ``group_norm``.

    Weights, names and hooks of the model's tensors stay as they are.
    """
    for parent in model.modules():
        for name, child in list(parent.named_children()):
            if type(child) is nn.GroupNorm:
                setattr(parent, name, _same_norm(child))


def _same_norm(norm: nn.GroupNorm) -> GroupNorm:
    same = GroupNorm(norm.num_groups, norm.num_channels, norm.eps, device="meta")
    same.weight, same.bias = norm.weight, norm.bias
    return same.train(norm.training)
