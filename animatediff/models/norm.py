"""The norms of UNet, motion modules, SparseCtrl and VAE, with their weights."""

from torch import Tensor, nn

from ..kernels.normalization import add_layer_norm, group_norm, layer_norm


class LayerNorm(nn.LayerNorm):
    """LayerNorm of the last axis."""

    def forward(self, input: Tensor, table: Tensor | None = None) -> Tensor:
        """Map (b f, n, c) to (b f, n, c), see ``layer_norm``."""
        return layer_norm(input, self.weight, self.bias, self.eps, table)

    def after(
        self, x: Tensor, residual: Tensor, table: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return x + residual and the norm of that, see ``add_layer_norm``."""
        return add_layer_norm(x, residual, self.weight, self.bias, self.eps, table)


class GroupNorm(nn.GroupNorm):
    """``group_norm`` with its weights."""

    def forward(
        self,
        input: Tensor,
        across_frames: int = 1,
        silu: bool = False,
        added: Tensor | None = None,
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
            added=added,
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
